"""Write the files of a run: `metrics.jsonl`, TensorBoard summaries, `config.json`, `environment.json`, `results.json`.

Only the primary process writes. On every other process these functions do nothing.
"""

import datetime
import json
import math
import struct
import time
from typing import Any

from etils import epath
from ml_collections import ConfigDict
from tensorboardX import SummaryWriter
from tensorboardX.proto.summary_pb2 import Summary

from simclr_jax.config import saved as saved_config
from simclr_jax.errors import StorageError
from simclr_jax.runtime import distributed
from simclr_jax.runtime import files
from simclr_jax.runtime.trackers import Trackers
from simclr_jax.workdir import data_record
from simclr_jax.workdir import environment
from simclr_jax.workdir import event_files
from simclr_jax.workdir import metrics_file


class MetricsWriter:
    """Append to `metrics.jsonl` and to TensorBoard event files.

    Args:
      workdir: the workdir of the run.
      step: the step of the checkpoint that the run continues from. Later steps are removed from both, because the continued
        run writes them again: each step is there once.
      trackers: get the same metrics.
    """

    def __init__(self, workdir: epath.Path, step: int = 0, trackers: Trackers | None = None):
        self.workdir, self._trackers = workdir, trackers or Trackers()
        self._active = distributed.is_primary()
        if not self._active:
            return
        self._path = workdir / "metrics.jsonl"
        metrics_file.mend(self._path, step)
        event_files.cut_back(workdir / "tensorboard", step)
        self._file = files.Appending(self._path)
        files.let_tensorboardx_write(workdir)
        # A suffix: the name has the second in it, and a file of that name would be overwritten.
        self._summaries = SummaryWriter(str(workdir / "tensorboard"), filename_suffix=f".{time.time_ns()}")

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Append a line `{"step": ..., ...}`. It is on disk at once; in a bucket within a minute and before a checkpoint."""
        if not self._active:
            return
        if not files.is_remote(self._path) and not self._path.exists():
            raise StorageError(
                f"{self._path} is gone: somebody removed or moved it, or the workdir, while the run was writing there. "
                "The same command continues from the newest checkpoint that is there."
            )
        self._file.write((json.dumps({"step": step, **metrics}) + "\n").encode())
        self._file.flush()
        for name, value in metrics.items():
            self._summaries.add_scalar(name, value, step)
        self._summaries.flush()
        self._trackers.log(self.workdir, step, metrics)

    def flush(self) -> None:
        """Store everything written so far, in a bucket too."""
        if self._active:
            self._file.sync()

    def close(self) -> None:
        if not self._active:
            return
        self._file.close()
        self._summaries.close()

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def show_picture(workdir: epath.Path, name: str, step: int, trackers: Trackers) -> None:
    """Show `NAME.png` of the workdir in TensorBoard and in trackers; nothing where there is no such file."""
    path = workdir / f"{name}.png"
    if not distributed.is_primary() or not path.exists():
        return
    content = path.read_bytes()
    width, height = struct.unpack(">II", content[16:24])  # the header of a PNG file
    image = Summary.Image(height=height, width=width, colorspace=4, encoded_image_string=content)
    files.let_tensorboardx_write(workdir)
    # A suffix: the name of an event file has the second in it, and several may be opened in one.
    with SummaryWriter(str(workdir / "tensorboard"), filename_suffix=f".{name}") as summaries:
        summaries.file_writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)
    trackers.picture(name, content, step)


def write_atomically(path: epath.Path, text: str) -> None:
    """Write a small text file whole, on the primary process (`files.write_atomically`)."""
    if distributed.is_primary():
        files.write_atomically(path, text.encode())


def write_config(workdir: epath.Path, config: ConfigDict, started: datetime.datetime) -> None:
    """Write `config.json`, and beside it where the run comes from (`environment.record`)."""
    write_atomically(workdir / "config.json", saved_config.to_json(config))
    environment.record(workdir, started)


def write_results(workdir: epath.Path, results: dict[str, Any]) -> None:
    """Write `results.json`, and add to `results` on which data they are. JSON has no infinity and no NaN: they become null."""
    record = data_record.read(workdir)
    if record is not None:
        results["data"] = record

    def clean(value):
        if isinstance(value, dict):
            return {key: clean(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [clean(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    write_atomically(workdir / "results.json", json.dumps(clean(results), indent=2) + "\n")
