"""Eight simulated devices, and the fixtures that several test files share."""

import fcntl
import os
import pathlib

from compile_flags import COMPILE_FLAGS

os.environ.setdefault("XLA_FLAGS", f"--xla_force_host_platform_device_count=8 {COMPILE_FLAGS}")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Many tests compile the same. Processes that they start inherit the cache.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parent.parent / ".pytest_cache" / "xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import shape_checks

shape_checks.install()

from helpers import REPOSITORY
from helpers import SHARED
from helpers import pretrain_digits
from helpers import write_image
import jax
import numpy as np
import pytest


@pytest.fixture(scope="session")
def reference():
    """`reference("nt_xent")`: the arrays that the reference implementation produced, or a skip."""

    def load(name):
        path = SHARED / "reference" / f"{name}.npz"
        if not path.exists():
            pytest.skip(f"the reference vectors {path.name} are not here")
        return np.load(path)

    return load


@pytest.fixture(scope="session")
def once(tmp_path_factory, worker_id):
    """`once("name", make)`: a folder that `make(folder)` filled, once for all workers. Do not change it."""
    top = tmp_path_factory.getbasetemp()
    top = top if worker_id == "master" else top.parent

    def folder_of(name, make):
        folder, done = top / name, top / f"{name}.done"
        with (top / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                make(folder)
                done.touch()
        return folder

    return folder_of


@pytest.fixture(scope="session")
def digits_run(once):
    """The workdir of nine steps of pretraining on the digits."""
    return once("digits_run", pretrain_digits)


@pytest.fixture
def at_repository(monkeypatch):
    """Paths such as configs/digits.py are those of the clone."""
    monkeypatch.chdir(REPOSITORY)


STRICT_ROOMS = {"augment", "models", "objectives", "training"}
# Optax compares step numbers with floats in its schedules and raises floats to their power in AdamW; Flax's BatchNorm is
# not strict in float64.
OF_LIBRARIES = {"test_optim.py", "test_memory_check.py", "test_old_checkpoints.py", "test_norm.py"}


@pytest.fixture(autouse=True)
def strict_promotion(request):
    """An operation on two dtypes is an error, unless one of them is that of a Python number."""
    parts = set(request.path.relative_to(REPOSITORY / "tests").parts)
    strict = parts & STRICT_ROOMS and not parts & OF_LIBRARIES
    with jax.numpy_dtype_promotion("strict" if strict else "standard"):
        yield


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
