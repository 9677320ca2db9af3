"""Eight simulated devices, the reference vectors, and small things that several tests need."""

import os
import pathlib

# Most of the tests' time is XLA's compiling: without LLVM's optimiser it takes a third, and small steps hardly longer.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Many tests compile the same. Processes that they start inherit the cache.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parent.parent / ".pytest_cache" / "xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

import jax
from ml_collections import ConfigDict
import numpy as np
from PIL import Image
import pytest

from simclr_jax import parallel

REPOSITORY = pathlib.Path(__file__).parent.parent
SHARED = REPOSITORY.parent / "shared"
# For processes that tests start: the devices that are there, compiled as here.
COMPILE_FLAGS = "--xla_backend_optimization_level=0"


@pytest.fixture(scope="session")
def reference():
    """`reference("nt_xent")`: the arrays that the reference implementation produced, or a skip."""

    def load(name):
        path = SHARED / "reference" / f"{name}.npz"
        if not path.exists():
            pytest.skip(f"the reference vectors {path.name} are not here")
        return np.load(path)

    return load


def mesh_of(count, fsdp=1):
    """A mesh of the first `count` simulated devices."""
    return parallel.make_mesh(ConfigDict({"data": -1, "fsdp": fsdp}), jax.devices()[:count])


# For evaluations: the digits and a small network, untrained.
UNTRAINED = (
    "--config.init=random",
    "--config.data.source=digits",
    "--config.data.image_size=8",
    "--config.data.eval_crop=1.0",
    "--config.model.depth=18",
    "--config.model.width=0.125",
)


def pretrain_digits(workdir):
    """Nine steps of pretraining such a network."""
    from simclr_jax import pretrain

    pretrain.BINARY.call(
        f"--config={REPOSITORY}/configs/digits.py",
        f"--workdir={workdir}",
        "--config.data.image_size=8",
        "--config.model.width=0.125",
        "--config.batch_size=64",
        "--config.epochs=0.4",
        "--config.optimizer.warmup_epochs=0.1",
    )


def write_image(path, seed=0, size=(20, 24), mode="RGB", **options):
    """A small image with some structure, so that JPEG keeps it about right."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (4, 5, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize((size[1], size[0]), Image.BILINEAR).convert(mode).save(path, **options)
    return path


@pytest.fixture
def image_folder(tmp_path):
    """root/{train,test}/{cat,dog,owl}/N.EXT: 8 and 4 images a class, in the formats that are read."""
    root = tmp_path / "photos"
    formats = ("jpg", "png", "webp", "jpeg")
    for split, count in (("train", 8), ("test", 4)):
        for number, name in enumerate(("cat", "dog", "owl")):
            for index in range(count):
                seed = 1000 * number + index + (500 if split == "test" else 0)
                write_image(root / split / name / f"{index}.{formats[index % 4]}", seed=seed)
    return root
