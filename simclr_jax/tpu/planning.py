"""Plan a pretraining step on a TPU slice: memory, time, collectives, and advice if it does not fit."""

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np

from simclr_jax.config import checks as config_checks
from simclr_jax.data import sources
from simclr_jax.errors import UserError
from simclr_jax.runtime import sharding
from simclr_jax.tpu import compiler as tpu_compiler
from simclr_jax.training.recipe import PretrainRecipe

GIB = 1024**3

# (training images, classes) of data sets that need not be on this machine for planning.
KNOWN = {"imagenet2012": (1_281_167, 1000), "cifar10": (50_000, 10), "cifar100": (50_000, 100)}


def training_set(config: ConfigDict, num_examples: int | None, num_classes: int) -> tuple[int, int]:
    """The number of training images and classes: as given, from `KNOWN`, or counted in the data.

    Raises:
      UserError: if the data is not on this machine and its size is not given.
    """
    if num_examples is not None:
        return num_examples, num_classes
    if config.data.source == "tfds" and config.data.train_split == "train" and config.data.name in KNOWN:
        return KNOWN[config.data.name]
    try:
        if config.data.source == "tfds":
            from simclr_jax.data.sources import tfds_builder

            if not tfds_builder.find_builder(config.data.name, config.data.root).is_prepared():
                raise UserError(f"TFDS {config.data.name} is not prepared here.")  # no reason to download it
        source = sources.open_source(config.data, "train")
    except UserError as error:
        raise UserError(
            f"{error} Planning needs only its size: --num_examples=N, and --num_classes=N if it has labels."
        ) from error
    return source.num_examples, len(source.class_names or ())


def recipe_of(config: ConfigDict, mesh: Mesh, num_examples: int, num_classes: int) -> PretrainRecipe:
    """The recipe of `simclr_jax.pretrain` for data of this size."""
    classes = num_classes if config.online_classifier and num_classes else None
    return PretrainRecipe(config, mesh, num_examples, classes)


def plan(config: ConfigDict, topology: tpu_compiler.Topology, num_examples: int, num_classes: int) -> dict:
    """Compiles the step of `config` for `topology`.

    Returns:
      The keys of `--json`. If the step does not fit, `step_ms`, `collective_ms`, `utilisation`, `images_per_s`, `hours` and
      `collectives` are None. `images_per_s` and `hours` are for the slice, all other figures for one chip.

    Raises:
      UserError: if the config does not suit the topology.
    """
    chip, chips, devices = topology.chip, topology.chips, len(topology.devices)
    config_checks.check_values(config, devices)
    mesh = sharding.make_mesh(config.mesh, topology.devices)
    recipe = recipe_of(config, mesh, num_examples, num_classes)
    program = tpu_compiler.compile_step(recipe.step, recipe.abstract_state(), recipe.abstract_batch())
    entry = {
        "topology": topology.name,
        "chips": chips,
        "batch_per_chip": config.batch_size // chips,
        "hbm_gib": program.hbm_bytes * chip.devices / GIB,
        "hbm_limit_gib": chip.hbm_gib,
        "fits": program.cycles is not None,
        "flops": step_flops(config, num_examples, num_classes) / chips,
        "step_ms": None,
        "collective_ms": None,
        "utilisation": None,
        "images_per_s": None,
        "hours": None,
        "collectives": program.collectives,
    }
    if program.cycles is not None and program.collectives is not None:
        computing = program.cycles / (chip.clock_ghz * 1e9)
        collective = tpu_compiler.collective_seconds(program.collectives, topology)
        seconds = computing + collective
        entry["step_ms"], entry["collective_ms"] = 1e3 * computing, 1e3 * collective
        entry["utilisation"] = entry["flops"] / (seconds * chip.peak_tflops * 1e12)
        entry["images_per_s"] = config.batch_size / seconds
        entry["hours"] = recipe.total_steps * seconds / 3600
    return entry


def step_flops(config: ConfigDict, num_examples: int, num_classes: int) -> float:
    """The floating-point operations of a step for the global batch, before optimisation by a compiler.

    Operations that micro-batches and rematerialisation repeat are counted once.
    """
    one = config.copy_and_resolve_references()
    one.mesh.update(data=1, fsdp=1)
    # The cost analysis counts the body of a loop once, so there must be no loop.
    one.microbatches, one.remat, one.loss.method = 1, "none", "dense"
    mesh = sharding.make_mesh(one.mesh, jax.devices("cpu")[:1])
    recipe = recipe_of(one, mesh, num_examples, num_classes)
    # For TPU, because on a CPU kernel gradients are loops, too (models/conv.py).
    return (
        recipe.step.trace(recipe.abstract_state(), recipe.abstract_batch())  # type: ignore[attr-defined]
        .lower(lowering_platforms=("tpu",))
        .cost_analysis()["flops"]
    )


def state_gib(config: ConfigDict, topology: tpu_compiler.Topology, num_examples: int, num_classes: int) -> float:
    """The GiB of parameters, batch statistics and optimiser state on one chip."""
    mesh = sharding.make_mesh(config.mesh, topology.devices)
    leaves = jax.tree.leaves(recipe_of(config, mesh, num_examples, num_classes).abstract_state())
    each = sum(np.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)
    return float(each) * topology.chip.devices / GIB


def advice(config: ConfigDict, entry: dict, state: float) -> str:
    """Say by how much a step exceeds the memory, and which changes would make it fit.

    Args:
      config: of the step.
      entry: what `plan` returned.
      state: `state_gib`.
    """
    used, limit, each, chips = entry["hbm_gib"], entry["hbm_limit_gib"], entry["batch_per_chip"], entry["chips"]
    lines = [f"{entry['topology']}: {used - limit:.2f} GiB too much on each chip ({used:.2f} of {limit:.2f} GiB)."]
    # Activations grow with the images on a chip. A tenth of the memory is kept free for everything else.
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
            lines.append(f"Or --config.microbatches={parts} on the same chips, which takes about a third longer.")
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
