"""What a pretraining step would need on a TPU slice, before it is paid for: memory, time, collectives.

    python -m simclr_jax.plan --config=configs/imagenet.py --topology=v5e:4x4
    python -m simclr_jax.plan --config=configs/imagenet.py:width=4 --topology=v5e:16x16,v4:4x4x8,v6e:8x16
    python -m simclr_jax.plan --config=configs/imagenet.py --topology=v5e:4x4,v5e:16x16 --batch_per_chip=64 --json

Compiles the very step of `simclr_jax.pretrain` with the TPU compiler, which needs no TPU: `pip install '.[tpu]'`. That
takes one to three minutes for each topology, and nothing of the data set is read but its size.

The memory is what the compiler has planned. The step time is the sum of the compiler's own estimates (`estimated_cycles`
of the entry computation) over the chip's clock: a model, good for comparing configs and slices; see docs/scale.md. The
compiler has no estimate for collectives: what they take at the published rate of a chip's links stands beside it, as "wires".
Rates, utilisation and hours are those of the sum of both, as if no collective were hidden behind computation. Input,
checkpoints and evaluation are not in it.
"""

from simclr_jax.runtime import cli

if __name__ == "__main__":
    cli.main("plan")  # answers --help and mistakes before the imports below; does not return


from collections.abc import Callable
from concurrent import futures
import json
import multiprocessing
import os
import sys
import threading
import time

from absl import flags
import jax
from ml_collections import ConfigDict
import numpy as np

from simclr_jax import config as config_lib
from simclr_jax.config import checks as config_checks
from simclr_jax.data import sources
from simclr_jax.errors import CompilerCrashed
from simclr_jax.errors import UserError
from simclr_jax.models.networks import SimCLR
from simclr_jax.runtime import sharding
from simclr_jax.tpu import compiler as tpu_compiler
from simclr_jax.training import inputs
from simclr_jax.training import optim
from simclr_jax.training import state as state_lib
from simclr_jax.training import steps

GIB = 1024**3

# Training images and classes of data sets that need not be there for planning.
KNOWN = {"imagenet2012": (1_281_167, 1000), "cifar10": (50_000, 10), "cifar100": (50_000, 100)}


def training_set(config: ConfigDict, num_examples: int | None, num_classes: int) -> tuple[int, int]:
    """Images and classes: as given, as known, or of the data itself.

    Raises:
      UserError: where the data is not here and its size not given.
    """
    if num_examples is not None:
        return num_examples, num_classes
    if config.data.source == "tfds" and config.data.train_split == "train" and config.data.name in KNOWN:
        return KNOWN[config.data.name]
    try:
        if config.data.source == "tfds":
            from simclr_jax.data.sources import tfds

            if not tfds.find_builder(config.data.name, config.data.root).is_prepared():
                raise UserError(f"TFDS {config.data.name} is not prepared here.")  # no reason to download it
        source = sources.open_source(config.data, "train")
    except UserError as error:
        raise UserError(
            f"{error} For planning its size will do: --num_examples=N, and --num_classes=N if it has labels."
        ) from error
    return source.num_examples, len(source.class_names or ())


def plan(config: ConfigDict, topology: tpu_compiler.Topology, num_examples: int, num_classes: int) -> dict:
    """Compiles the step of `config` for `topology`.

    Returns:
      The keys of `--json`. Of a step that does not fit, `step_ms`, `wires_ms`, `utilisation`, `images_per_s`, `hours` and
      `collectives` are None. All are for a chip, but `images_per_s` and `hours`, which are the slice's.

    Raises:
      UserError: where config and topology do not go together.
    """
    chip, chips, devices = topology.chip, topology.chips, len(topology.devices)
    config_checks.check_values(config, devices)
    mesh = sharding.make_mesh(config.mesh, topology.devices)
    jitted, arguments = abstract_step(config, mesh, num_examples, num_classes)
    program = tpu_compiler.compile_step(jitted, *arguments)
    entry = {
        "topology": topology.name,
        "chips": chips,
        "batch_per_chip": config.batch_size // chips,
        "hbm_gib": program.hbm_bytes * chip.devices / GIB,
        "hbm_limit_gib": chip.hbm_gib,
        "fits": program.cycles is not None,
        "flops": step_flops(config, num_examples, num_classes) / chips,
        "step_ms": None,
        "wires_ms": None,
        "utilisation": None,
        "images_per_s": None,
        "hours": None,
        "collectives": program.collectives,
    }
    if program.cycles is not None:
        computing = program.cycles / (chip.clock_ghz * 1e9)
        wires = tpu_compiler.wires_seconds(program.collectives, topology)
        seconds = computing + wires
        total_steps = optim.total_steps(num_examples, config.batch_size, config.epochs)
        entry["step_ms"], entry["wires_ms"] = 1e3 * computing, 1e3 * wires
        entry["utilisation"] = entry["flops"] / (seconds * chip.peak_tflops * 1e12)
        entry["images_per_s"] = config.batch_size / seconds
        entry["hours"] = total_steps * seconds / 3600
    return entry


def step_flops(config: ConfigDict, num_examples: int, num_classes: int) -> float:
    """Floating-point operations of a step for the global batch, before any compiler has changed it.

    Those that are needed once: without what micro-batches and rematerialisation do again.
    """
    one = config.copy_and_resolve_references()
    one.mesh.update(data=1, fsdp=1)
    # What is in a loop would be counted as if it ran once.
    one.microbatches, one.remat, one.loss.method = 1, "none", "dense"
    mesh = sharding.make_mesh(one.mesh, jax.devices("cpu")[:1])
    step, arguments = abstract_step(one, mesh, num_examples, num_classes)
    # For a CPU kernel gradients would be loops as well (models/conv.py).
    return step.trace(*arguments).lower(lowering_platforms=("tpu",)).cost_analysis()["flops"]


def abstract_step(config: ConfigDict, mesh: jax.sharding.Mesh, num_examples: int, num_classes: int):
    """The jitted step of `simclr_jax.pretrain` and its arguments' shapes, dtypes and shardings, for any mesh."""

    def make_model(rngs):
        return SimCLR(config, num_classes if config.online_classifier and num_classes else None, rngs=rngs)

    total_steps = optim.total_steps(num_examples, config.batch_size, config.epochs)
    schedule = optim.make_schedule(
        config.optimizer, batch_size=config.batch_size, num_examples=num_examples, steps=total_steps
    )
    optimizer = optim.make_optimizer(config.optimizer, schedule)
    state = state_lib.abstract_state(make_model, optimizer, mesh)
    batch = inputs.abstract_batch(config, mesh, num_examples)
    step = steps.make_pretrain_step(state_lib.graph_of(make_model), optimizer, schedule, config, mesh)
    return step, (state, batch)


def state_gib(config: ConfigDict, topology: tpu_compiler.Topology, num_examples: int, num_classes: int) -> float:
    """Parameters, statistics and optimiser state on one chip."""
    mesh = sharding.make_mesh(config.mesh, topology.devices)
    _, (state, _) = abstract_step(config, mesh, num_examples, num_classes)
    leaves = jax.tree.leaves(state)
    each = sum(np.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)
    return float(each) * topology.chip.devices / GIB


def advice(config: ConfigDict, entry: dict, state: float) -> str:
    """By how much a step does not fit, and what would make it fit.

    Args:
      config: of the step.
      entry: what `plan` returned.
      state: `state_gib`.
    """
    used, limit, each, chips = entry["hbm_gib"], entry["hbm_limit_gib"], entry["batch_per_chip"], entry["chips"]
    lines = [f"{entry['topology']}: {used - limit:.2f} GiB too much on each chip ({used:.2f} of {limit:.2f} GiB)."]
    # Activations grow with the images on a chip. A tenth is left for what does not (and for the compiler's whims).
    room = 0.9 * limit - state
    if room > 0:
        images = int(each * room / (used - state))
        if images:
            need = -(-config.batch_size // images)
            need = 2 ** (need - 1).bit_length() if chips & (chips - 1) == 0 else need
            lines.append(
                f"About {images} images fit on a chip: take {need} chips, or --config.batch_size={images * chips}."
            )
        parts = next((k for k in range(2, each + 1) if each % k == 0 and each / k <= images), None) if images else None
        if parts and config.microbatches == 1:
            lines.append(f"Or --config.microbatches={parts}, on the chips that are there, for a third more time.")
    if config.compute_dtype == "float32":
        lines.append("--config.compute_dtype=bfloat16 takes about half the memory.")
    if state > limit / 4 and config.mesh.fsdp < chips:
        fsdp = min(8, chips) if config.mesh.fsdp == 1 else min(4 * config.mesh.fsdp, chips)
        lines.append(
            f"Parameters and optimiser state take {state:.2f} GiB of each chip: --config.mesh.fsdp={fsdp} would split "
            "them."
        )
    if len(lines) == 1:
        lines.append("Take a smaller network or image, or a chip with more memory.")
    return "\n  ".join(lines)


COLUMNS = (
    ("topology", "topology", "{}"),
    ("chips", "chips", "{}"),
    ("batch_per_chip", "images/chip", "{}"),
    ("hbm_gib", "HBM GiB", "{:.2f}"),
    ("hbm_limit_gib", "of", "{:.2f}"),
    ("fits", "fits", "{}"),
    ("flops", "TFLOP/chip", "{:.2f}"),
    ("step_ms", "step ms", "{:.1f}"),
    ("wires_ms", "wires ms", "{:.1f}"),
    ("utilisation", "utilisation", "{:.0%}"),
    ("images_per_s", "images/s", "{:,.0f}"),
    ("hours", "hours", "{:.1f}"),
    ("collectives", "collectives (count, MiB)", "{}"),
)


def row(entry: dict) -> list[str]:
    """The cells of an entry, for a table."""
    shown = entry | {"flops": entry["flops"] / 1e12, "fits": "yes" if entry["fits"] else "NO"}
    if entry["collectives"] is not None:
        shown["collectives"] = ", ".join(
            f"{kind} {found['count']}, {found['bytes'] / 2**20:.1f}"
            for kind, found in sorted(entry["collectives"].items())
        )
    return ["-" if shown[key] is None else form.format(shown[key]) for key, _, form in COLUMNS]


def table(entries: list[dict]) -> str:
    """A table of Markdown, with its columns aligned."""
    rows = [[head for _, head, _ in COLUMNS], *(row(entry) for entry in entries)]
    widths = [max(len(cells[number]) for cells in rows) for number in range(len(COLUMNS))]
    # Names to the left, numbers to the right.
    lines = [
        "| "
        + " | ".join(
            cell.ljust(width) if number in (0, len(COLUMNS) - 1) else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        + " |"
        for cells in rows
    ]
    rule = [
        "-" * (width + 1) + ("-" if number in (0, len(COLUMNS) - 1) else ":") for number, width in enumerate(widths)
    ]
    return "\n".join([lines[0], f"|{'|'.join(rule)}|", *lines[1:]])


def run(values: flags.FlagValues) -> list[dict]:
    """Plans for every topology of a command line and prints it.

    Raises:
      UserError: before anything is compiled.
      CompilerCrashed: at the end, where the compiler crashed for one of the topologies.
    """
    jax.config.update("jax_platforms", "cpu")  # whatever this machine has: nothing is computed
    config = values["config"].value
    config_checks.check_fields(config, config_lib.pretrain())
    hint = "set it in the config file or on the command line."
    config_checks.require(config, "data.source", "data.image_size", "model.depth", hint=hint)
    topologies = [tpu_compiler.topology(name) for name in values["topology"].value]
    num_examples, num_classes = training_set(config, values["num_examples"].value, values["num_classes"].value)
    configs = []
    for topology in topologies:
        one = config.copy_and_resolve_references()
        if values["batch_per_chip"].value is not None:
            one.batch_size = values["batch_per_chip"].value * topology.chips
        try:
            config_checks.check_values(one, len(topology.devices))
            sharding.make_mesh(one.mesh, topology.devices)
        except UserError as error:
            raise UserError(f"{topology.name}: {error}") from error
        configs.append(one)

    entries, crashed = [], []
    for one, topology in zip(configs, topologies, strict=True):
        began = time.monotonic()
        print(f"compiling for {topology.name} ...", end="", file=sys.stderr, flush=True)
        try:
            entry, hint = isolated(_plan_and_advise, one, topology.name, num_examples, num_classes)
        except CompilerCrashed as error:
            text = (
                f"{topology.name}: the TPU compiler {error}, which is a bug in it. Another batch size or slice may do."
            )
            print(f"\n{text}", file=sys.stderr, flush=True)
            crashed.append(topology.name)
            continue
        print(f" {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        entries.append((entry, hint))
        if values["json"].value:
            print(json.dumps(entry), flush=True)
    if not values["json"].value and entries:
        model = f"ResNet-{config.model.depth} ({config.model.width:g}x), {config.data.image_size} px"
        print(f"{model}, {config.compute_dtype}, {config.epochs:g} epochs of {num_examples} images:\n")
        print(table([entry for entry, _ in entries]))
    for _, hint in entries:
        if hint:
            print(f"\n{hint}", file=sys.stderr)
    if crashed:
        raise CompilerCrashed(f"crashed for {', '.join(crashed)}")
    return [entry for entry, _ in entries]


def _plan_and_advise(config: ConfigDict, name: str, num_examples: int, num_classes: int) -> tuple[dict, str | None]:
    jax.config.update("jax_platforms", "cpu")
    topology = tpu_compiler.topology(name)
    entry = plan(config, topology, num_examples, num_classes)
    if entry["fits"]:
        return entry, None
    return entry, advice(config, entry, state_gib(config, topology, num_examples, num_classes))


def isolated(function: Callable, *arguments):
    """What a function of a module returns, called in a process of its own: a crash of the compiler ends that one only.

    Raises:
      CompilerCrashed: where the process died.
      Exception: whatever the function raised.
    """
    context = multiprocessing.get_context("spawn")
    with futures.ProcessPoolExecutor(1, mp_context=context, initializer=_end_with_parent) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except futures.process.BrokenProcessPool:
            raise CompilerCrashed("crashed") from None


def _end_with_parent() -> None:
    """A compilation takes minutes and heeds no signal; a command that was stopped should not leave it behind."""

    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
