"""On which data and encoder the results of an evaluation are."""

from typing import Any

from etils import epath
from ml_collections import ConfigDict

from simclr_jax.data import sources
from simclr_jax.training import checkpoint
from simclr_jax.training import occupied
from simclr_jax.workdir import data_record


def check(
    config: ConfigDict,
    workdir: epath.Path,
    train: sources.Source,
    test: sources.Source,
    path: epath.Path | None,
    seed: int,
    accept: bool,
    newer: bool = False,
) -> dict[str, Any]:
    """The record of an evaluation, for `workdir.data_record`.

    Args:
      config: of the evaluation.
      workdir: where it writes.
      train, test: its images.
      path: the checkpoint of the encoder, if there is one.
      seed: of the weights of an untrained encoder.
      accept: continue on other data.
      newer: whether the encoder may be a later one than that of the results in the workdir.

    Raises:
      UserError: where a training in the workdir would be continued on other data, or results on them replaced.
    """
    of_encoder = checkpoint.identity(path, "encoder") if path and config.init == "pretrained" else {"seed": seed}
    record = {
        "training images": sources.fingerprint(train),
        "test images": sources.fingerprint(test),
        "encoder": of_encoder,
    }
    if config.get("teacher"):
        teacher = checkpoint.only_draw(config.teacher, f"config.teacher={config.teacher!r}")
        record["teacher"] = checkpoint.identity(checkpoint.find(teacher, "--config.teacher"), "classifier")
    computed_again = not occupied.continues(config)
    if computed_again and (not occupied.has_outcome(workdir) or data_record.read(workdir) is None):
        return record
    compared = record | {"encoder": None} if newer else record
    return data_record.check(workdir, compared, accept=accept) | {"encoder": of_encoder}
