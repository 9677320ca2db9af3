"""Plan a pretraining step on a TPU slice before paying for it: memory, time, collectives.

    python -m simclr_jax.plan --config=configs/imagenet.py --topology=v5e:4x4
    python -m simclr_jax.plan --config=configs/imagenet.py:width=4 --topology=v5e:16x16,v4:4x4x8,v6e:8x16
    python -m simclr_jax.plan --config=configs/imagenet.py --topology=v5e:4x4,v5e:16x16 --batch_per_chip=64 --json

Compiles the step of `simclr_jax.pretrain` with the TPU compiler, which needs no TPU: `pip install '.[tpu]'`. That takes one
to three minutes for each topology. Of the data set only its size is read.

The memory is what the compiler has planned. The step time is the sum of the compiler's own estimates (`estimated_cycles` of
the entry computation) divided by the chip's clock: a model, good for comparing configs and slices; see docs/scale.md. The
compiler has no estimate for collectives, so they have their own column, a lower bound: bytes sent over the published rate of
the chip's links. Images/s, utilisation and hours are for the sum of both, as if no collective overlapped with
computation. Checkpoints and evaluation are not included. Below the table it says what each host has to deliver, and how many of
its cores that takes, from the rates of `simclr_jax.input_rate`.
"""

from simclr_jax.runtime import cli

if __name__ == "__main__":
    cli.main("plan")  # answers --help and mistakes before the imports below; does not return


import json
import sys
import time

from absl import flags
import jax
from ml_collections import ConfigDict

from simclr_jax import config as config_lib
from simclr_jax.config import checks as config_checks
from simclr_jax.errors import CompilerCrashed
from simclr_jax.errors import UserError
from simclr_jax.runtime import sharding
from simclr_jax.tpu import compiler as tpu_compiler
from simclr_jax.tpu import input_need
from simclr_jax.tpu import isolation
from simclr_jax.tpu import plan_table
from simclr_jax.tpu import planning
from simclr_jax.training import auto


def run(values: flags.FlagValues) -> list[dict]:
    """Plans for every topology of a command line, prints the plans and returns them.

    Raises:
      UserError: before anything is compiled.
      CompilerCrashed: at the end, where the compiler crashed for one of the topologies.
    """
    jax.config.update("jax_platforms", "cpu")  # whatever this machine has: nothing is computed
    config, as_json = values.config, values.json
    config_checks.check_fields(config, config_lib.pretrain())
    hint = "set it in the config file or on the command line."
    config_checks.require(config, "data.source", "data.image_size", "model.depth", hint=hint)
    names = values.topology
    if config.microbatches == "auto":
        raise UserError(
            "config.microbatches is 'auto', but a plan is for a number: take 1, and it says which number fits."
        )
    configs = [_config_for(config, name, values.batch_per_chip) for name in names]
    sizes = planning.training_set(config, values.num_examples, values.num_classes)
    configs = [
        auto.resolve(one, sizes[0], len(tpu_compiler.topology(name).devices), "tpu")
        for name, one in zip(names, configs, strict=True)
    ]

    entries, hints, crashed, needs = [], [], [], []
    for name, one in zip(names, configs, strict=True):
        try:
            entry, advice = _compile(one, name, *sizes)
        except CompilerCrashed as error:
            text = f"{name}: the TPU compiler {error}, which is a bug in it. Another batch size or slice may work."
            print(f"\n{text}", file=sys.stderr, flush=True)
            crashed.append(name)
            continue
        if entry["images_per_s"] is not None:
            rates, origin = _input_rates(config, values.input_rate)
            entry["input"] = input_need.need(name, entry["images_per_s"], rates)
            if not config.data.resident:
                needs.append(input_need.sentence(name, entry["input"], origin))
        entries.append(entry)
        hints += [advice] if advice else []
        if as_json:
            print(json.dumps(entry), flush=True)
    if entries and not as_json:
        model = f"ResNet-{config.model.depth} ({config.model.width:g}x), {config.data.image_size} px"
        print(f"{model}, {config.compute_dtype}, {configs[0].epochs:g} epochs of {sizes[0]} images:\n")
        print("\n".join([plan_table.table(entries), *([""] * bool(needs)), *needs]))
    for hint in hints:
        print(f"\n{hint}", file=sys.stderr)
    if crashed:
        raise CompilerCrashed(f"crashed for {', '.join(crashed)}")
    return entries


def _input_rates(config: ConfigDict, given: list[str]) -> tuple[tuple[float, ...] | None, str]:
    """Views/s of one core with the augmentation on the host and on the device, and where they are from."""
    if given:
        return tuple(map(float, given)), "--input_rate"
    if config.data.image_size == input_need.MEASURED_SIZE:
        return input_need.MEASURED, "rates of docs/benchmarks.md; measure yours with simclr_jax.input_rate"
    return None, ""


def _config_for(config: ConfigDict, name: str, batch_per_chip: int | None) -> ConfigDict:
    """The config for one topology, checked against its devices."""
    topology = tpu_compiler.topology(name)
    config = config.copy_and_resolve_references()
    if batch_per_chip is not None:
        config.batch_size = batch_per_chip * topology.chips
    try:
        config_checks.check_values(config, len(topology.devices))
        sharding.make_mesh(config.mesh, topology.devices)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    return config


def _compile(config: ConfigDict, name: str, num_examples: int, num_classes: int) -> tuple[dict, str | None]:
    """Plans in another process and prints how long it took."""
    began = time.monotonic()
    print(f"compiling for {name} ...", end="", file=sys.stderr, flush=True)
    planned = isolation.isolated(_plan_and_advise, config, name, num_examples, num_classes)
    print(f" {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return planned


def _plan_and_advise(config: ConfigDict, name: str, num_examples: int, num_classes: int) -> tuple[dict, str | None]:
    jax.config.update("jax_platforms", "cpu")
    topology = tpu_compiler.topology(name)
    entry = planning.plan(config, topology, num_examples, num_classes)
    if entry["fits"]:
        return entry, None
    return entry, planning.advice(config, entry, planning.state_gib(config, topology, num_examples, num_classes))
