"""Compute an output of every image of a source and store it in a file, in parts: what was done survives a kill."""

import dataclasses
import hashlib
import logging
import time
from typing import Any

from etils import epath
import jax
from jax.experimental import multihost_utils
import numpy as np

from simclr_jax.data.bad_images import BadImages
from simclr_jax.data.sources.base import RandomAccess
from simclr_jax.data.sources.base import Source
from simclr_jax.data.sources.fingerprint import digest_of_images
from simclr_jax.errors import Preempted
from simclr_jax.errors import UserError
from simclr_jax.inference import rows as rows_lib
from simclr_jax.inference import tables
from simclr_jax.inference.encoder import Encoder
from simclr_jax.inference.network import PROBABILITIES
from simclr_jax.inference.rows import Parts
from simclr_jax.inference.rows import Rows
from simclr_jax.runtime import distributed
from simclr_jax.runtime.run_monitor import RunMonitor
from simclr_jax.training import checkpoint
from simclr_jax.workdir.progress import ImageProgress

log = logging.getLogger("simclr_jax")

# Rows are stored after this many seconds, or when they take this many bytes.
STORE_SECONDS = 30.0
STORE_BYTES = 2**25
# Classes of a prediction.
TOP = 5


@dataclasses.dataclass(frozen=True)
class Job:
    """What to compute and where to write it.

    Attributes:
      encoder: on the devices of all processes.
      source: the images.
      images: the name of the source, as the user gave it.
      result: a name of features, or `PROBABILITIES`.
      output: the file to write.
      keep_unreadable: whether an image that cannot be read has a row, without values.
      overwrite: replace an existing output, and an unfinished one that was begun without it, or with other facts.
      batch_size: global.
    """

    encoder: Encoder
    source: Source
    images: str
    result: str
    output: epath.Path
    keep_unreadable: bool
    overwrite: bool
    batch_size: int

    def facts(self) -> dict[str, Any]:
        """What decides about the rows."""
        ids = self.source.ids if isinstance(self.source, RandomAccess) else None
        digest = hashlib.sha256("\n".join(ids or []).encode("utf-8", "surrogateescape")).hexdigest()
        data = self.encoder.config.data
        # Of a stream each process reads a piece, so that their number decides which images are in a batch.
        hosts = {} if isinstance(self.source, RandomAccess) else {"processes": jax.process_count()}
        return hosts | {
            "encoder": self.encoder.origin,
            "step": self.encoder.step,
            "weights": checkpoint.digest(self.encoder.variables),
            "classifier": self.encoder.path if self.result == PROBABILITIES else None,
            "features": self.result,
            "compute_dtype": self.encoder.config.compute_dtype,
            "images": self.images,
            "num_images": self.source.num_examples,
            "names": digest[:16],
            "contents": digest_of_images(self.source),
            "image_size": data.image_size,
            "eval_crop": data.eval_crop,
            "unreadable": "null" if self.keep_unreadable else "skip",
            "batch_size": self.batch_size,
        }


def run(job: Job, monitor: RunMonitor) -> dict[str, int]:
    """Computes the rows that are not yet stored and writes the output. All processes of a job call it.

    Returns:
      `images`, and `unreadable`: how many of them cannot be read.

    Raises:
      UserError: where an earlier, unfinished run was another one, or no image can be read.
      Preempted: when the process was asked to stop; the same call continues.
    """
    facts = job.facts()
    distributed.check_agreement(images_and_encoder=str(facts))
    parts = Parts(job.output, facts)
    start = _start(parts, job.overwrite)
    total = job.source.num_examples
    if start:
        log.info("Continuing after %d of %d images.", min(start * job.batch_size, total), total)
    _compute(job, parts, start, monitor)
    if not distributed.is_primary():
        return {"images": total, "unreadable": 0}
    _, readable = parts.counts()
    if not readable:
        parts.remove()
        raise UserError(f"none of the {total} images of {job.source.name} can be read.")
    tables.write(job.output, parts, _layout(job, facts))
    parts.remove()
    return {"images": total, "unreadable": total - readable}


def _start(parts: Parts, overwrite: bool) -> int:
    """The batch to begin with, on all processes as the primary one found it."""
    start, error = -1, None
    if distributed.is_primary():
        try:
            start = parts.open(overwrite)
        except UserError as refused:
            error = refused
    if jax.process_count() > 1:
        start = int(multihost_utils.broadcast_one_to_all(np.array(start, np.int32)))
    if error is not None:
        raise error
    if start < 0:
        raise UserError("process 0 has refused to continue: see its message.")
    return start


def _compute(job: Job, parts: Parts, start: int, monitor: RunMonitor) -> None:
    bad_images = BadImages(job.source, 1.0)  # any number
    batches = job.encoder.batches(
        job.source, job.result, batch_size=job.batch_size, bad_images=bad_images, start_step=start
    )
    waiting: list[Rows] = []
    stored_at = time.monotonic()
    stop = start

    def store() -> None:
        nonlocal start, stored_at
        if waiting and distributed.is_primary():
            parts.add(start, stop, rows_lib.join(waiting))
        waiting.clear()
        start, stored_at = stop, time.monotonic()

    total = job.source.num_examples
    with ImageProgress(
        "embed" if job.result != PROBABILITIES else "predict", start * job.batch_size, total
    ) as progress:
        for batch in batches:
            stop += 1
            if distributed.is_primary():
                waiting.append(_rows(job, batch))
            progress.update(int(np.sum(batch["wanted"] >= 0)))
            size = sum(rows.values.nbytes for rows in waiting)
            asked = monitor.poll()
            if asked or size > STORE_BYTES or time.monotonic() - stored_at > STORE_SECONDS:
                store()
            if asked:
                raise Preempted("asked to stop; the same command continues.")
    store()


def _rows(job: Job, batch: dict[str, np.ndarray]) -> Rows:
    """The rows of a global batch: without padding and, unless they are kept, without unreadable images."""
    chosen = (batch["wanted"] if job.keep_unreadable else batch["index"]) >= 0
    wanted, readable, values = batch["wanted"][chosen], batch["mask"][chosen], batch["output"][chosen]
    source = job.source
    of_source = isinstance(source, RandomAccess) and source.all_labels is not None
    labels = source.labels[wanted] if of_source else batch["label"][chosen]
    classes = np.zeros([len(values), 0], np.int32)
    if job.result == PROBABILITIES:
        classes = np.argsort(-values, axis=1, kind="stable")[:, :TOP].astype(np.int32)
        values = np.take_along_axis(values, classes, axis=1)
    return Rows(
        paths=[source.describe(int(index)) for index in wanted],
        labels=[_label(source, label) for label in labels],
        readable=readable,
        values=values,
        classes=classes,
    )


def _label(source: Source, label: np.ndarray) -> str:
    """The name of a class; several are separated by semicolons."""
    if source.class_names is None:
        return ""
    if np.ndim(label):
        return ";".join(source.class_names[int(number)] for number in np.flatnonzero(label == 1))
    return source.class_names[int(label)] if label >= 0 else ""


def _layout(job: Job, facts: dict[str, Any]) -> tables.Layout:
    names = job.encoder.class_names if job.result == PROBABILITIES else None
    names_of_facts = ("encoder", "step", "features", "compute_dtype", "images", "image_size", "eval_crop")
    return tables.Layout(
        labelled=job.source.class_names is not None,
        width=min(TOP, len(names)) if names is not None else job.encoder.num_features,
        class_names=names,
        about={name: facts[name] for name in names_of_facts},
    )
