"""The training loop: what it moves between host and device, and what it leaves on disk."""

import dataclasses
import itertools
from unittest import mock

from etils import epath
from helpers import compilations
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import pytest

from simclr_jax.training import loop
from simclr_jax.training.state import TrainState
from simclr_jax.workdir import metrics_file


@pytest.fixture(autouse=True)
def few_points(monkeypatch):
    """Otherwise a run of six steps is logged at every step."""
    monkeypatch.setattr(loop, "MIN_POINTS", 1)


def run_of(workdir, batches, total_steps=6):
    """A run of a step that computes next to nothing, which is logged every third step."""

    @jax.jit
    def small_step(state, batch):
        loss = jnp.mean(batch)
        return dataclasses.replace(state, step=state.step + 1), {"loss": loss, "grad_norm": loss}

    monitor = mock.MagicMock()
    monitor.poll.return_value = False
    return loop.TrainingRun(
        name="small",
        config=ConfigDict(
            {"batch_size": 4, "log_every_steps": 3, "checkpoint": {"every_steps": 4, "every_minutes": 0.0}}
        ),
        workdir=epath.Path(workdir),
        state=TrainState(jnp.zeros([], jnp.int32), {}, {}, ()),
        step_fn=small_step,
        total_steps=total_steps,
        batches=iter(batches),
        checkpoints=mock.MagicMock(),
        monitor=monitor,
    )


def test_the_loop_fetches_at_logging_steps_only_and_compiles_once(tmp_path):
    run = run_of(tmp_path, itertools.repeat(jax.device_put(np.ones(4, np.float32))))
    with compilations() as compiled, mock.patch.object(jax, "device_get", wraps=jax.device_get) as fetch:
        state = loop.fit(run)
    assert int(state.step) == 6
    assert compiled == ["small_step"]
    assert fetch.call_count == 3, "logged at 3 and 6, saved at 4 and 6"
    assert [call.args[0] for call in run.checkpoints.save.call_args_list] == [4, 6]
    assert [line["step"] for line in metrics_file.read(run.workdir / "metrics.jsonl")] == [3, 6]


def test_a_batch_in_host_memory_is_refused(tmp_path):
    """It would be copied at every step, while the device waits."""
    run = run_of(tmp_path, itertools.repeat(np.ones(4, np.float32)))
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        loop.fit(run)
    run.checkpoints.wait.assert_called_once_with()


def test_metrics_before_a_failure_are_kept(tmp_path):
    good = jax.device_put(np.ones(4, np.float32))
    run = run_of(tmp_path, [good] * 4)  # and no fifth batch
    with pytest.raises(StopIteration):
        loop.fit(run)
    assert [line["step"] for line in metrics_file.read(run.workdir / "metrics.jsonl")] == [3]
