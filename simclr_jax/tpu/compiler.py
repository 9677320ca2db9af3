"""The TPU compiler, without a TPU: libtpu compiles for a slice that is not there, and says what the program would need."""

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

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4}
BYTES |= {"f64": 8, "s64": 8, "u64": 8}


@dataclasses.dataclass(frozen=True)
class Topology:
    """A slice: its name, its chip, how many there are, the neighbours of one in a corner, and JAX's devices for it."""

    name: str
    chip: tpu_chips.Chip
    chips: int
    links: int
    devices: list[jax.Device]


def topology(name: str) -> Topology:
    """The slice with a name such as "v5e:4x4" or "v4:2x2x4".

    Raises:
      UserError: without libtpu, and for a name that is none.
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
        raise UserError(f"--topology={name} is no slice that the TPU compiler knows: {text}") from error
    return Topology(name, chip, math.prod(sizes), tpu_chips.links(chip, sizes), list(description.devices))


def _quiet() -> None:
    """Has libtpu not look for this machine's place on Google's cloud, nor print that it has none, nor want to be alone."""
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
    """What the compiler says of a program, for each device.

    Attributes:
      hbm_bytes: memory at its peak: arguments, results, temporaries.
      cycles: the compiler's estimates, added up over the entry computation; None where the program did not fit. It has none
        for collectives.
      collectives: kind to {"count", "bytes"}, the bytes being those of the results on one device.
    """

    hbm_bytes: float
    cycles: int | None
    collectives: dict[str, dict[str, int]] | None


def compile_step(step: Any, *arguments: Any) -> Program:
    """Compiles a jitted function for the devices that its abstract arguments are placed on."""
    try:
        compiled = step.lower(*arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        # "Used 41.3G of 15.75G hbm", or "temporaries (256.00G) exceeds available HBM (7.48G)".
        pattern = r"(?:Used |\()([\d.]+)([KMGT])\)? (?:of|exceeds available HBM) "
        used = re.search(pattern, str(error))
        if used is None:
            raise
        return Program(float(used[1]) * 1024 ** ("KMGT".index(used[2]) + 1), None, None)
    memory = compiled.memory_analysis()
    used = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    used += memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
    text = compiled.as_text()
    return Program(used, estimated_cycles(text), collectives(text))


def estimated_cycles(hlo: str) -> int:
    """The sum of `estimated_cycles` over the entry computation of a compiled program's text, and over the bodies of its
    loops as often as they run."""
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
    """How many collectives of each kind a compiled program carries out, and the bytes of their results.

    An operation that starts and ends apart is counted once, where it starts: its result is a tuple of operand and
    result, of which the second half counts. One that is done bit by bit within computations beside it stands in each of
    them, always with the same channel: also once.
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
            if "chain_id=" in line:
                channel = re.search(r"channel_id=(\d+)", line)[1]
                if channel in chains:
                    continue
                chains.add(channel)
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
    """What the collectives of a step take at least: their bytes over the links of a chip, at the published rate.

    A sum over chips moves its bytes twice (to where a share of them is added up, and back), all else once. As if all links
    of the chip in a corner carried their full rate in both directions and each collective used all of them.
    """
    moved = sum((2 if kind == "all-reduce" else 1) * found["bytes"] for kind, found in collectives.items())
    rate = topology.links * topology.chip.link_gb_per_s * 1e9
    return moved * topology.chip.devices / rate if rate else 0.0


LOOP = r"while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)"


def _computations(hlo: str) -> tuple[dict[str, list[str]], str]:
    """The lines of every computation of a program's text, by name, and the name of the one it begins with."""
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
    """How often a loop runs whose condition is `counter < constant`, which is how JAX's scan and fori_loop compile."""
    text = "\n".join(condition)
    below = re.search(r"compare\([^,]*, %?([\w.\-]+)\), direction=LT", text)
    constant = below and re.search(rf"%?{re.escape(below[1])} = [^\n]*constant\((\d+)\)", text)
    return int(constant[1]) if constant else 1
