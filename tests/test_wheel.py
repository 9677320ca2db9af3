"""The package works where it is installed, without a clone beside it."""

import os
import shutil
import subprocess
import sys

from helpers import REPOSITORY
import pytest

from simclr_jax.workdir import metrics_file

# What a wheel is built from.
SOURCES = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "simclr_jax", "configs")


def pip(*arguments):
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *map(str, arguments)], check=True)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with nothing but the package in it, installed from a wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy, because a build writes into the folder that it builds from
    source.mkdir()
    for name in SOURCES:
        if (REPOSITORY / name).is_dir():
            shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(REPOSITORY / name, source)
    pip("wheel", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source)
    (wheel,) = folder.glob("*.whl")
    pip("install", "--no-index", "--no-deps", "--no-compile", "--target", folder / "site", wheel)
    return folder / "site"


def files_under(folder):
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.mark.slow
def test_the_wheel_has_every_file_of_the_package_and_every_config(installed):
    package = installed / "simclr_jax"
    assert files_under(package / "configs") == files_under(REPOSITORY / "configs")
    shutil.rmtree(shutil.copytree(package, installed.parent / "compared") / "configs")
    assert files_under(installed.parent / "compared") == files_under(REPOSITORY / "simclr_jax")


@pytest.mark.heavy
def test_commands_run_from_another_folder_and_find_their_configs(installed, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}

    def call(*arguments):
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    where = call("-c", "import simclr_jax.config.locate as l; print(l.__file__, l.CONFIGS)")
    assert where == f"{installed}/simclr_jax/config/locate.py {installed}/simclr_jax/configs"
    small = (
        "--config.data.image_size=8",
        "--config.model.depth=10",
        "--config.model.width=0.125",
        "--config.batch_size=64",
    )
    three_steps = ("--config.epochs=0.1", "--config.optimizer.warmup_epochs=0", "--config.log_every_steps=1")
    call("-m", "simclr_jax.pretrain", "--config=digits", "--workdir=run", *small, *three_steps)
    assert [line["step"] for line in metrics_file.read(tmp_path / "run" / "metrics.jsonl")] == [1, 2, 3]
    call("-m", "simclr_jax.knn", "--pretrained=run", "--workdir=run_knn")  # with its default config
    assert (tmp_path / "run_knn" / "results.json").exists()
