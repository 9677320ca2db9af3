"""The registry of the kinds of runs. Each is a command, `python -m simclr_jax.NAME`."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of run.

    Attributes:
      name: of its command, and the value of `config.kind`.
      title: for reports.
      default_config: the file in `configs/` that is used without --config; None where one has to be given.
      evaluates: whether it evaluates a pretrained encoder, given by --pretrained.
    """

    name: str
    title: str
    default_config: str | None
    evaluates: bool


KINDS = {
    kind.name: kind
    for kind in (
        Kind("pretrain", "pretraining", None, evaluates=False),
        Kind("transfer", "transfer", "transfer.py", evaluates=True),
        Kind("linear_probe", "linear probe", "linear_probe.py", evaluates=True),
        Kind("knn", "nearest neighbours", "knn.py", evaluates=True),
        Kind("transform_probe", "transform probe", "transform_probe.py", evaluates=True),
        Kind("distill", "distillation", "distill.py", evaluates=True),
        Kind("finetune", "fine-tuning", "finetune.py", evaluates=True),
    )
}
