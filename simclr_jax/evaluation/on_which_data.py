"""On which data and encoder the results of an evaluation are."""

from typing import Any

from etils import epath
from ml_collections import ConfigDict

from simclr_jax.data import sources
from simclr_jax.training import checkpoint
from simclr_jax.workdir import data_record


def check(
    config: ConfigDict,
    workdir: epath.Path,
    train: sources.Source,
    test: sources.Source,
    path: epath.Path | None,
    seed: int,
    accept: bool,
) -> dict[str, Any]:
    """The record of an evaluation, for `workdir.data_record`.

    Args:
      config: of the evaluation.
      workdir: where it writes.
      train, test: its images.
      path: the checkpoint of the encoder, if there is one.
      seed: of the weights of an untrained encoder.
      accept: continue a training on other data.

    Raises:
      UserError: where a training in the workdir would be continued on other data. Other runs compute everything again.
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
    continues = config.kind in ("finetune", "distill") or config.get("protocol") in ("sgd", "finetune")
    return data_record.check(workdir, record, accept=accept) if continues else record
