"""Compile for a TPU slice on a machine without a TPU. libtpu reports the memory, cycles and collectives of the program."""

import dataclasses
import importlib.util
import math
import os
import re
from typing import Any

import jax
from jax.experimental import topologies

from simclr_jax.errors import UserError
from simclr_jax.tpu import chips as tpu_chips
from simclr_jax.training import memory as training_memory

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4}
BYTES |= {"f64": 8, "s64": 8, "u64": 8}


@dataclasses.dataclass(frozen=True)
class Topology:
    """A TPU slice.

    Attributes:
      name: such as "v5e:4x4".
      chip: the properties of each chip.
      chips: the number of chips.
      links: the number of neighbours of a chip in a corner.
      devices: the abstract JAX devices to compile for.
    """

    name: str
    chip: tpu_chips.Chip
    chips: int
    links: int
    devices: list[jax.Device]


def topology(name: str) -> Topology:
    """The slice with a name such as "v5e:4x4" or "v4:2x2x4".

    Raises:
      UserError: if libtpu is not installed, or does not know the name.
    """
    _, chip, sizes = tpu_chips.parse(name)
    options: dict[str, Any] = {"chip_config_name": chip.config_name}
    if math.prod(sizes) == 1:  # a host has four chips otherwise
        options["chips_per_host_bounds"] = (1, 1, 1)
    _quiet()
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("the TPU compiler is not installed: pip install '.[tpu]' (no TPU is needed for planning).")
    try:
        description = topologies.get_topology_desc(platform="tpu", topology_name=name, **options)
    except Exception as error:  # of several types, by libtpu's version
        text = str(error).splitlines()[0]
        raise UserError(f"--topology={name}: the TPU compiler knows no such slice: {text}") from error
    return Topology(name, chip, math.prod(sizes), tpu_chips.links(chip, sizes), list(description.devices))


def _quiet() -> None:
    """Keep libtpu from querying the metadata server of a TPU VM, from logging, and from locking out other processes."""
    for variable, value in {
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
        "TPU_STDERR_LOG_LEVEL": "3",
        "TPU_MIN_LOG_LEVEL": "3",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }.items():
        os.environ.setdefault(variable, value)


@dataclasses.dataclass(frozen=True)
class Program:
    """The compiler's figures for a program, for each device.

    Attributes:
      hbm_bytes: peak memory: arguments, results and temporaries.
      cycles: the sum of the compiler's estimates over the entry computation, which do not include collectives. None if the
        program does not fit.
      collectives: kind to {"count", "bytes"}; the bytes are those of the results on one device. None like `cycles`.
    """

    hbm_bytes: float
    cycles: int | None
    collectives: dict[str, dict[str, int]] | None


def compile_step(step: Any, *arguments: Any) -> Program:
    """Compile a jitted function for the devices of its abstract arguments."""
    try:
        compiled = step.lower(*arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        refused = training_memory.refused_bytes(error)
        if refused is None:
            raise
        return Program(refused, None, None)
    memory = compiled.memory_analysis()
    used = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    used += memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
    text = compiled.as_text()
    return Program(used, estimated_cycles(text), collectives(text))


def estimated_cycles(hlo: str) -> int:
    """Sum `estimated_cycles` over the entry computation of a compiled program. The body of a loop counts once per pass."""
    computations, entry = _computations(hlo)

    def cycles(name: str) -> int:
        total = 0
        for line in computations[name]:
            total += sum(int(number) for number in re.findall(r'"estimated_cycles":"(\d+)"', line))
            loop = re.search(LOOP, line)
            if loop:
                total += _trips(computations[loop[1]]) * cycles(loop[2])
        return total

    return cycles(entry)


def collectives(hlo: str) -> dict[str, dict[str, int]]:
    """Count the collectives of each kind in a compiled program, and the bytes of their results.

    Each is counted once. An asynchronous operation has a start and an end: the start counts. Its result is a tuple of
    operand and result, and only the bytes of the result count. An operation that the compiler splits over several
    computations appears in each of them with the same channel.
    """
    computations, entry = _computations(hlo)
    found: dict[str, dict[str, int]] = {}
    chains: set[str] = set()
    pattern = rf"^\s*(?:ROOT )?%?\S+ = (.*?) ({'|'.join(COLLECTIVES)})(-start)?\("

    def add(name: str, times: int) -> None:
        for line in computations[name]:
            loop = re.search(LOOP, line)
            trips = _trips(computations[loop[1]]) if loop else 1
            for called in re.findall(r"(?:body|calls|to_apply)=%?([\w.\-]+)", line):
                add(called, times * trips)
            match = re.match(pattern, line)
            if not match:
                continue
            shapes, kind, start = match.groups()
            channel = re.search(r"channel_id=(\d+)", line) if "chain_id=" in line else None
            if channel is not None:
                if channel[1] in chains:
                    continue
                chains.add(channel[1])
            sizes = [
                BYTES.get(dtype, 4) * math.prod(int(size) for size in dims.split(",") if size)
                for dtype, dims in re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", shapes)
            ]
            if start and kind != "all-reduce":
                sizes = sizes[len(sizes) // 2 :] if kind != "collective-permute" else sizes[1:2]
            total = found.setdefault(kind, {"count": 0, "bytes": 0})
            total["count"] += times
            total["bytes"] += times * sum(sizes)

    add(entry, 1)
    return found


def collective_seconds(collectives: dict[str, dict[str, int]], topology: Topology) -> float:
    """A lower bound for the time of a step's collectives, in seconds: bytes sent over the published link rate.

    An all-reduce moves its bytes twice (reduce-scatter, then all-gather), every other collective once. The bound assumes that
    each collective uses all links of a corner chip at the full rate in both directions.
    """
    moved = sum((2 if kind == "all-reduce" else 1) * found["bytes"] for kind, found in collectives.items())
    rate = topology.links * topology.chip.link_gb_per_s * 1e9
    return moved * topology.chip.devices / rate if rate else 0.0


LOOP = r"while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)"


def _computations(hlo: str) -> tuple[dict[str, list[str]], str]:
    """The lines of each computation of a compiled program, by name, and the name of the entry computation."""
    found: dict[str, list[str]] = {}
    entry, name = "", None
    for line in hlo.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line)
        if head and not line.startswith(" "):
            name = head[2]
            found[name] = []
            entry = name if head[1] else entry
        elif name:
            found[name].append(line)
    return found, entry


def _trips(condition: list[str]) -> int:
    """The number of passes of a loop with the condition `counter < constant`, as JAX's scan and fori_loop compile to."""
    text = "\n".join(condition)
    below = re.search(r"compare\([^,]*, %?([\w.\-]+)\), direction=LT", text)
    constant = below and re.search(rf"%?{re.escape(below[1])} = [^\n]*constant\((\d+)\)", text)
    return int(constant[1]) if constant else 1
