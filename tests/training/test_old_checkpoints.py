"""A run that version 0.1.0 wrote before its modules moved: today's code reads it, evaluates it, and continues it.

`tests/data_files/run_0_1` is a run of two names of fields that have changed since: its config has no `kind`, and
`noise_deviation` instead of `noise_std`. `features.npz` has what the code of that time made of eight digits.
"""

import pathlib
import shutil

from etils import epath
import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax.errors import UserError
from simclr_jax.evaluation.setup import set_up
from simclr_jax.runtime import cli
from simclr_jax.runtime.run_monitor import RunMonitor
from simclr_jax.training import checkpoint
from simclr_jax.workdir import metrics_file

pytestmark = pytest.mark.slow

OLD = pathlib.Path(__file__).parents[1] / "data_files" / "run_0_1"
SETTINGS = (
    *("--config=digits:epochs=1", "--config.data.image_size=8", "--config.model.width=0.0625", "--config.head.dim=8"),
    *("--config.batch_size=64", "--config.epochs=0.15", "--config.optimizer.warmup_epochs=0.05"),
    *("--config.log_every_steps=1", "--config.checkpoint.keep=1"),
)


@pytest.fixture
def old_run(tmp_path):
    return shutil.copytree(OLD, tmp_path / "run")


def test_its_config_is_read():
    config = checkpoint.load_config(checkpoint.find(str(OLD)))
    assert (config.kind, config.augment.noise_std, config.head.dim) == ("pretrain", 0.2, 8)
    assert "noise_deviation" not in config.augment


@pytest.mark.parametrize("features", ["h", "z"])
def test_its_features_are_the_same(tmp_path, features):
    config = config_lib.linear_probe()
    config.features = features
    setup = set_up(config, epath.Path(tmp_path), str(OLD), config_lib.linear_probe(), RunMonitor())
    outputs = setup.features(setup.test.subset(np.arange(8)))
    np.testing.assert_allclose(outputs.values, np.load(OLD / "features.npz")[features], rtol=1e-4, atol=1e-8)


def test_it_continues(old_run):
    results = cli.call("pretrain", *SETTINGS, "--config.augment.noise_std=0.2", f"--workdir={old_run}")
    assert results["step"] == 4
    assert [line["step"] for line in metrics_file.read(epath.Path(old_run / "metrics.jsonl"))] == [1, 2, 3, 4]


def test_another_value_of_the_renamed_field_is_another_run(old_run):
    with pytest.raises(ValueError, match=r"config.augment.noise_std is 0.1, but that run has 0.2"):
        cli.call("pretrain", *SETTINGS, f"--workdir={old_run}")


@pytest.mark.parametrize("content", ["[1]", "null", '{"a": 1}', '{"kind": "pretrain", "loss": 5}'])
def test_a_damaged_config_is_a_line(old_run, content):
    path = checkpoint.find(str(old_run))
    (path / "config" / "metadata").write_text(content)
    for load in (checkpoint.load_config, checkpoint.load_own_config):
        with pytest.raises(UserError, match=r"/config is damaged \(.+\): use another checkpoint of the run"):
            load(path)
