"""The runs whose encoders are used."""

from helpers import FEW_L2
from helpers import REPOSITORY
from helpers import pretrain_digits
import pytest

from simclr_jax.runtime import cli


@pytest.fixture(autouse=True)
def at_repository(monkeypatch):
    monkeypatch.chdir(REPOSITORY)


@pytest.fixture(scope="session")
def runs(once):
    """A folder with two runs: pretrained and probe."""

    def make(top):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(REPOSITORY)
            pretrain_digits(top / "pretrained")
            cli.call("linear_probe", f"--pretrained={top}/pretrained", f"--workdir={top}/probe", *FEW_L2)

    return once("runs", make)
