"""Where the checkpoints of a run are: a folder `checkpoints/STEP` in its workdir."""

from etils import epath

from simclr_jax.errors import UserError
from simclr_jax.runtime import files
from simclr_jax.runtime import hub
from simclr_jax.workdir import draws

FOLDER = "checkpoints"
# Orbax writes it last. In a bucket, where folders cannot be renamed, a checkpoint without it is still being written.
_COMMITTED = "commit_success.txt"


def find(pretrained: str, flag: str = "--pretrained") -> epath.Path:
    """The folder of one checkpoint: `pretrained` itself, or the newest one in a workdir or in its only draw.

    Args:
      pretrained: a checkpoint or a workdir, also hf://USER/NAME.
      flag: names the argument in error messages.

    Raises:
      UserError: where there is none.
    """
    path = files.absolute(hub.local(pretrained, f"{flag}={pretrained!r}"))
    if not path.exists():
        raise UserError(f"{flag}={pretrained!r} does not exist.")
    checkpoint = newest(path)
    if checkpoint is not None:
        return checkpoint
    of_draws = draws.of_run(path)
    if len(of_draws) == 1 and (checkpoint := newest(of_draws[0])) is not None:
        return checkpoint
    names = [draw.name for draw in of_draws]
    if len(names) > 1:
        raise UserError(
            f"{flag}={pretrained!r} has one network for each subset of the labels: choose one of {', '.join(names)}, as in "
            f"{flag}={pretrained.rstrip('/')}/{names[0]}."
        )
    raise UserError(
        f"{flag}={pretrained!r} is neither the workdir of a run with a finished checkpoint "
        f"(a folder {FOLDER}/STEP) nor one checkpoint."
    )


def only_draw(place: str, what: str) -> str:
    """The folder of the one label subset of a run that has one; `place` itself for anything else.

    Args:
      place: a workdir or a checkpoint, also hf://USER/NAME.
      what: begins error messages.

    Raises:
      UserError: where there are several.
    """
    folder = epath.Path(hub.local(place, what))
    found = draws.of_run(folder) if folder.is_dir() else []
    if len(found) > 1:
        names = ", ".join(draw.name for draw in found)
        raise UserError(f"{what} has several draws: choose one of {names}, as in {found[0]}.")
    return str(found[0]) if found else place


def workdir_of(checkpoint: epath.Path) -> epath.Path | None:
    """The workdir that a checkpoint is in; None for one that was copied out of it."""
    return checkpoint.parent.parent if checkpoint.parent.name == FOLDER else None


def begun(workdir: epath.Path) -> bool:
    """Whether a run in this workdir has a finished checkpoint, from which it continues."""
    return newest(files.absolute(workdir) / FOLDER) is not None


def newest(path: epath.Path) -> epath.Path | None:
    """The checkpoint at `path`: itself, or the newest in this workdir or folder of checkpoints; None where there is none."""
    if (path / "encoder").exists():
        return path
    for directory in (path, path / FOLDER):
        if found := all_of(directory):
            return found[-1]
    return None


def is_step(name: str) -> bool:
    """Whether a folder of this name can be a checkpoint. Not `isdigit`, which takes "\N{SUPERSCRIPT TWO}" for a digit."""
    return name.isascii() and name.isdecimal()


def all_of(directory: epath.Path) -> list[epath.Path]:
    """What is called as a checkpoint in a folder of checkpoints, ascending by step, sound or not."""
    children = directory.iterdir() if directory.is_dir() else ()
    found = [child for child in children if is_step(child.name)]
    if files.is_remote(directory):
        found = [child for child in found if (child / _COMMITTED).exists()]
    return sorted(found, key=lambda child: int(child.name))
