"""The runs whose encoders are used."""

import shutil

from helpers import FEW_L2
from helpers import REPOSITORY
import pytest

from simclr_jax.runtime import cli


@pytest.fixture(autouse=True)
def at_repository(monkeypatch):
    monkeypatch.chdir(REPOSITORY)


@pytest.fixture(scope="session")
def runs(once, digits_run):
    """A folder with two runs: pretrained and probe."""

    def make(top):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(REPOSITORY)
            shutil.copytree(digits_run, top / "pretrained")
            cli.call("linear_probe", f"--pretrained={top}/pretrained", f"--workdir={top}/probe", *FEW_L2)

    return once("runs", make)
