"""What several test files share: small data, small runs, meshes."""

import contextlib
import pathlib
import threading
import zlib

from etils import epath
from hypothesis import settings
import jax
from ml_collections import ConfigDict
import numpy as np
import orbax.checkpoint as ocp
from PIL import Image

from simclr_jax.runtime import cli
from simclr_jax.runtime import sharding
from simclr_jax.training import state as state_lib
from simclr_jax.workdir import metrics_file

# For hypothesis: few examples, the same ones in every run.
LAWS = settings(max_examples=20, deadline=None, derandomize=True, database=None)

REPOSITORY = pathlib.Path(__file__).parent.parent
SHARED = REPOSITORY.parent / "shared"


def mesh_of(count, fsdp=1):
    """A mesh of the first `count` simulated devices."""
    return sharding.make_mesh(ConfigDict({"data": -1, "fsdp": fsdp}), jax.devices()[:count])


def some_variables(make_model, mesh):
    """Parameters and statistics for a step: kernels of He's scale, and scales of one, so that every parameter matters.

    NumPy draws them, because to compile the initialisers takes longer than many a test.
    """

    def value(path, leaf):
        name = path[-1].key
        if name in ("scale", "var"):
            return np.ones(leaf.shape, leaf.dtype)
        if leaf.ndim < 2:
            return np.zeros(leaf.shape, leaf.dtype)
        rng = np.random.default_rng(zlib.crc32(jax.tree_util.keystr(path).encode()))
        return (rng.normal(size=leaf.shape) * np.sqrt(2 / np.prod(leaf.shape[:-1]))).astype(leaf.dtype)

    abstract = state_lib.abstract_variables(make_model, mesh)
    values = jax.tree_util.tree_map_with_path(value, abstract)
    return jax.device_put(values, jax.tree.map(lambda leaf: leaf.sharding, abstract))


# For evaluations: the digits and a small network, untrained.
UNTRAINED = (
    "--config.init=random",
    "--config.data.source=digits",
    "--config.data.image_size=8",
    "--config.data.eval_crop=1.0",
    "--config.model.depth=10",
    "--config.model.width=0.125",
)

# A linear probe by L-BFGS that takes a second.
FEW_L2 = ("--config.lbfgs.l2_values=1", "--config.lbfgs.l2_min=1e5", "--config.lbfgs.max_iterations=50")


def pretrain_digits(workdir):
    """Nine steps of pretraining such a network."""

    cli.call(
        "pretrain",
        f"--config={REPOSITORY}/configs/digits.py",
        f"--workdir={workdir}",
        "--config.data.image_size=8",
        "--config.model.depth=10",
        "--config.model.width=0.125",
        "--config.batch_size=64",
        "--config.epochs=0.4",
        "--config.optimizer.warmup_epochs=0.1",
    )


@contextlib.contextmanager
def compilations():
    """`with compilations() as names:` lists the jitted functions that are compiled, or loaded from the cache on disk."""
    names = []
    for thread in threading.enumerate():  # of a run that ended before it needed its step
        if thread.name == "compile the step":
            thread.join()

    def listen(event, duration, **about):
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(about.get("fun_name", "").removeprefix("jit(").removesuffix(")"))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield names
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def write_image(path, seed=0, size=(20, 24), mode="RGB", **options):
    """A small image with some structure, so that JPEG keeps it about right."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (4, 5, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize((size[1], size[0]), Image.BILINEAR).convert(mode).save(path, **options)
    return path


# A run of the digits that takes seconds, for `simclr_jax.pretrain`.
TINY = (
    "--config=configs/digits.py",
    "--config.data.image_size=8",
    "--config.model.depth=10",
    "--config.model.width=0.125",
    "--config.batch_size=64",
    "--config.optimizer.warmup_epochs=0.1",
    "--config.log_every_steps=1",
)
# Not the same in two runs.
TIMED = (
    "images_per_second",
    "data_wait_fraction",
    "ms_step",
    "ms_data_wait",
    "ms_checkpoint",
    "ms_evaluation",
)


def last_step(workdir):
    path = epath.Path(workdir / "metrics.jsonl")
    lines = metrics_file.read(path) if path.exists() else []
    return lines[-1]["step"] if lines else 0


def outcome(workdir):
    """All numbers of all steps but the timings, and every array of the last checkpoint."""
    lines = [
        {key: value for key, value in line.items() if key not in TIMED}
        for line in metrics_file.read(epath.Path(workdir / "metrics.jsonl"))
    ]
    newest = max((workdir / "checkpoints").iterdir(), key=lambda path: int(path.name))
    parts = {}
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        for part in ("encoder", "head", "classifier", "optimizer"):
            # As NumPy, whatever devices it was written from.
            tree = checkpointer.metadata(newest / part).item_metadata.tree
            kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            parts[part] = checkpointer.restore(newest / part, args=ocp.args.PyTreeRestore(restore_args=kinds))
    return lines, int(newest.name), parts
