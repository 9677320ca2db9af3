"""Measure how long a run takes to start, to save a checkpoint and to restore it.

    python -m benchmarks.startup

`cold` and `warm` run the same command in a separate process: pretraining on the digits for two steps. `warm` uses the
programs that an earlier run compiled (WORKDIR/compilation_cache, as `simclr_jax.pretrain` keeps it); `cold` does not. The
times differ only by compilation: both include imports, opening the data and initialisation.

`checkpoint` initialises the pretraining state of a network, saves it as `simclr_jax.pretrain` does, and restores it into
another state. Sizes are sizes on disk, in the file system of temporary files.
"""

import dataclasses
import pathlib
import subprocess
import sys
import tempfile
import time

from benchmarks import harness

TWO_STEPS = ("--config=configs/digits.py", "--config.epochs=0.1", "--config.optimizer.warmup_epochs=0.05")


def seconds_of_run(folder: pathlib.Path, cache: pathlib.Path) -> float:
    command = [sys.executable, "-m", "simclr_jax.pretrain", *TWO_STEPS]
    flags = [f"--workdir={folder}", f"--compilation_cache={cache}"]
    return harness.timed(lambda: subprocess.run([*command, *flags], cwd=harness.ROOT, check=True, capture_output=True))


def start(options: dict, warm: bool) -> dict:
    del options
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        if warm:
            seconds_of_run(folder / "first", folder / "cache")
        return {"seconds": seconds_of_run(folder / "run", folder / "cache")}


def checkpoint(options: dict) -> dict:
    """Initialise, save and restore a ResNet-50 of `options["width"]`."""
    from etils import epath
    import jax
    import numpy as np

    from simclr_jax import config as config_lib
    from simclr_jax.runtime import sharding
    from simclr_jax.training.checkpoint import Checkpoints
    from simclr_jax.training.recipe import PretrainRecipe

    config = config_lib.pretrain()
    config.model.update(depth=50, width=float(options["width"]))
    mesh = sharding.make_mesh(config.mesh)

    def new_state(seed):
        other = config.copy_and_resolve_references()
        other.seed = seed
        return jax.block_until_ready(PretrainRecipe(other, mesh, 1_281_167, 1000).init_state())

    began = time.perf_counter()
    state = new_state(0)
    initialise = time.perf_counter() - began
    # A momentum of zeros would be compressed to almost nothing. After a step it takes as much space as the parameters.
    noise = jax.jit(lambda x: x + jax.random.normal(jax.random.key(1), x.shape).astype(x.dtype))
    state = dataclasses.replace(state, opt_state=jax.tree.map(noise, state.opt_state))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params["encoder"]))
    with tempfile.TemporaryDirectory() as name:
        checkpoints = Checkpoints(epath.Path(name), config)

        def save():
            checkpoints.save(1, state)
            checkpoints.wait()

        saving = harness.timed(save)
        size = sum(path.stat().st_size for path in pathlib.Path(name).rglob("*") if path.is_file())
        other = new_state(1)
        restored = None

        def restore():
            nonlocal restored
            restored = jax.block_until_ready(checkpoints.restore(other))

        restoring = harness.timed(restore)
        checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    return {
        "seconds": saving,
        "initialise_seconds": initialise,
        "restore_seconds": restoring,
        "gib": size / 2**30,
        "encoder_parameters": parameters,
    }


BENCHMARK = harness.Benchmark(
    name="startup",
    contenders={
        "cold": harness.Contender(lambda options: start(options, warm=False)),
        "warm": harness.Contender(lambda options: start(options, warm=True)),
        "checkpoint": harness.Contender(checkpoint),
    },
    value="seconds",
    more_is_better=False,
    baselines=("cold",),
    columns={
        "seconds (of a checkpoint: to save)": harness.shown("{:.3g}", "seconds"),
        "times as fast as cold": harness.times_as_fast_as("cold"),
        "to initialise": harness.shown("{:.3g}", "initialise_seconds"),
        "to restore": harness.shown("{:.3g}", "restore_seconds"),
        "GiB on disk": harness.shown("{:.2f}", "gib"),
        "M parameters of the encoder": lambda entry: (
            f"{entry['encoder_parameters'] / 1e6:.1f}" if "encoder_parameters" in entry else ""
        ),
    },
)


def main() -> None:
    args = harness.make_parser(__doc__, rounds=3).parse_args()
    cases = [harness.Case("digits, two steps", options={}, contenders=("cold", "warm"), rounds=args.rounds)]
    cases += [
        harness.Case(f"ResNet-50 ({width}x)", options={"width": width}, contenders=("checkpoint",), rounds=1)
        for width in (1, 4)
    ]
    harness.compete(BENCHMARK, [] if args.tables else cases, args)


if __name__ == "__main__" and not harness.is_contender(BENCHMARK):
    main()
