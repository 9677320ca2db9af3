"""Whether a workdir is free for a run: the same command may run in it again, but another run's results are never replaced."""

from collections.abc import Iterator
import logging
import re
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from simclr_jax.config import saved as saved_config
from simclr_jax.errors import UserError
from simclr_jax.runtime import files
from simclr_jax.training import checkpoint
from simclr_jax.training.checkpoint import places
from simclr_jax.workdir import data_record

log = logging.getLogger("simclr_jax")

# Folders in a workdir that are parts of its run.
_PARTS = re.compile(r"draw_\d+|grid|chosen|learning_rates|(damaged_)?checkpoints|tensorboard|profile|compilation_cache")
_OTHER = "take another --workdir, or remove that folder if nobody needs it"


def continues(config: ConfigDict) -> bool:
    """Whether a run with this config continues from what it has saved. Other evaluations compute everything again."""
    return config.kind in ("pretrain", "finetune", "distill") or config.get("protocol") in ("sgd", "finetune")


def check(workdir: epath.Path, config: ConfigDict) -> bool:
    """Refuses a workdir that holds another run than the one with this config.

    A run of this kind that has saved nothing yet, as one that failed in its first steps, does not count.

    Args:
      workdir: of the run that is to start.
      config: of it, as `config.json` will have it; only what a run settles itself may be open.

    Returns:
      Whether the results there are of an earlier checkpoint of the encoder's run: an evaluation that computes everything
      again replaces them.

    Raises:
      UserError: with what differs, and what to do.
    """
    check_kind(workdir, config.kind)
    if not has_outcome(workdir):
        return False
    saved = next(_configs(workdir, config), None)
    if saved is None:
        return False
    config = config.copy_and_resolve_references()
    saved_config.settle_as(config, saved)
    newest = config.get("pretrained")
    newer = not continues(config) and _is_later(newest, saved.get("pretrained"))
    if newer or (not continues(config) and _weights_are_known(workdir)):
        config.pretrained = saved.pretrained
    differing = saved_config.differences(config, saved)
    saved_config.refuse_another_run(workdir, differing, f"Repeat it with its own config, or {_OTHER}.")
    if newer:
        log.info("%s has the results of %s: those of %s replace them.", workdir, saved.pretrained, newest)
    return newer


def check_kind(workdir: epath.Path, kind: str | None) -> None:
    """Refuses a workdir that holds a run of another kind, or is a part of a run.

    Args:
      workdir: of what is to start.
      kind: of it; None: it is no run, so that no run may be there.

    Raises:
      UserError: with the kind, and what to do. Also where config.json is damaged and no checkpoint says what run it is.
    """
    for folder in (path := files.absolute(workdir), *path.parents):
        if _PARTS.fullmatch(folder.name) and _kind_in(folder.parent, quiet=True):
            raise UserError(f"--workdir={workdir} is a part of the run in {folder.parent}: take another --workdir.")
    there = _kind_in(workdir)
    if there not in (None, kind):
        raise UserError(
            f"--workdir={workdir} holds a run of simclr_jax.{there}, whose files would be overwritten: {_OTHER}."
        )


def _kind_in(workdir: epath.Path, *, quiet: bool = False) -> str | None:
    """The kind of the run in a workdir; None where there is none, with `quiet` also where its config.json is damaged."""
    path = workdir / "config.json"
    if path.exists():
        try:
            kind: str = saved_config.fields_in(path, f"take another --workdir, or {saved_config.WRITTEN_AGAIN}")["kind"]
            return kind
        except UserError:
            if not quiet and not checkpoint.begun(workdir):
                raise
    found = None if quiet else next(_configs(workdir, ConfigDict()), None)
    return found.kind if found else None


def _configs(workdir: epath.Path, defaults: ConfigDict) -> Iterator[ConfigDict]:
    """What says of which config the run in a workdir is, most reliable first: checkpoints have checksums."""
    for place in reversed(places.all_of(files.absolute(workdir) / checkpoint.FOLDER)):
        try:
            yield checkpoint.load_config(place, lambda: defaults)
        except UserError:  # damaged: the run continues from an older one
            continue
    if (workdir / "config.json").exists():
        yield saved_config.read(workdir / "config.json", defaults)


def has_outcome(workdir: epath.Path) -> bool:
    """Whether there are results or a checkpoint, of the run or of one of its label subsets."""
    draws = workdir.glob("draw_*") if workdir.exists() else ()
    return any((folder / "results.json").exists() or checkpoint.begun(folder) for folder in (workdir, *draws))


def _is_later(new: str | None, old: str | None) -> bool:
    """Whether a checkpoint is a later one of the same run."""
    if not new or not old:
        return False
    one, other = epath.Path(new), epath.Path(old)
    numbers = all(places.is_step(path.name) for path in (one, other))
    return one.parent == other.parent and numbers and int(one.name) > int(other.name)


def _weights_are_known(workdir: epath.Path) -> bool:
    """Whether `data.json` has the weights of the encoder, so that it tells encoders apart, wherever they are."""
    encoder: dict[str, Any] | None = (data_record.read(workdir) or {}).get("encoder")
    return bool(encoder and encoder.get("weights"))
