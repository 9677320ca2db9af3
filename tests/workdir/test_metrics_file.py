"""metrics.jsonl and TensorBoard's files after kills and damage: each step once."""

import json
import logging

from etils import epath
import pytest

from simclr_jax.errors import StorageError
from simclr_jax.runtime.tensorflow import tf
from simclr_jax.workdir import metrics_file
from simclr_jax.workdir import writers


def text_of(*steps):
    return "".join(json.dumps({"step": step, "loss": step / 10}) + "\n" for step in steps).encode()


@pytest.mark.parametrize(
    ("content", "wanted", "foreign"),
    [
        (text_of(10, 20, 30, 40), [10, 20, 30], 0),
        (text_of(10, 20, 30) + b'{"step": 40, "lo', [10, 20, 30], 0),  # torn by a kill
        (text_of(10) + b'{"step": 20, "lo' + text_of(30), [10], 1),  # torn, and then continued
        (text_of(10, 20, 20, 10, 30), [10, 20, 30], 0),
        (text_of(10) + b"\xff\xfe\n" + text_of(20, 30), [10, 20, 30], 1),
        (text_of(10) + b'[1]\n"x"\n{"loss": 2}\n{"step": "7"}\n\n' + text_of(20, 30), [10, 20, 30], 4),
        (bytes(100) + b"\n" + text_of(30), [30], 1),
        (b"", [], 0),
    ],
)
def test_a_run_continues_with_each_step_once(tmp_path, caplog, content, wanted, foreign):
    path = epath.Path(tmp_path / "metrics.jsonl")
    path.write_bytes(content)
    caplog.set_level(logging.WARNING, "simclr_jax")
    metrics_file.mend(path, 30)
    assert path.read_bytes() == text_of(*wanted)
    assert [line["step"] for line in metrics_file.read(path)] == wanted
    kept = tmp_path / "metrics.damaged.jsonl"
    assert (f"had {foreign} lines that are no metrics" in caplog.text) == bool(foreign)
    assert (kept.read_bytes() == content) if foreign else not kept.exists()
    behind = f"ends at step {max(wanted, default=0)}, but the run continues from step 30"
    assert (behind in caplog.text) == (wanted[-1:] != [30])


def test_a_missing_file_is_made(tmp_path, caplog):
    path = epath.Path(tmp_path / "metrics.jsonl")
    metrics_file.mend(path, 0)
    assert path.read_bytes() == b""
    assert not caplog.text


def test_every_reader_takes_a_damaged_file(tmp_path):
    path = epath.Path(tmp_path / "metrics.jsonl")
    path.write_bytes(text_of(10) + b"\xff\n" + text_of(20) + b"{")
    assert [line["step"] for line in metrics_file.read(path)] == [10, 20]


def steps_in_tensorboard(workdir):
    found = []
    for path in sorted((workdir / "tensorboard").iterdir()):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            found += [event.step for value in event.summary.value if value.tag == "loss"]
    return sorted(found)


@pytest.mark.parametrize("tail", [b"", b"\x07", b"torn in the middle of a record"])
def test_each_step_is_in_tensorboard_once_after_kills(tmp_path, tail):
    workdir = epath.Path(tmp_path)
    for start, steps in ((0, (10, 20, 30)), (20, (30, 40)), (20, (30,))):
        writer = writers.MetricsWriter(workdir, step=start)
        for step in steps:
            writer.write(step, {"loss": step / 10})
        writer.close()
        for path in (workdir / "tensorboard").iterdir():
            with path.open("ab") as file:
                file.write(tail)
    writers.MetricsWriter(workdir, step=30).close()
    assert steps_in_tensorboard(workdir) == [10, 20, 30]
    assert [line["step"] for line in metrics_file.read(workdir / "metrics.jsonl")] == [10, 20, 30]


def test_a_file_that_is_gone_under_the_run_is_a_line(tmp_path):
    workdir = epath.Path(tmp_path)
    with writers.MetricsWriter(workdir) as writer:
        writer.write(1, {"loss": 1.0})
        (workdir / "metrics.jsonl").unlink()
        with pytest.raises(StorageError, match="metrics.jsonl is gone: somebody removed or moved it"):
            writer.write(2, {"loss": 1.0})
