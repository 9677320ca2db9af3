"""Checksums of a checkpoint: written with it, verified whenever it is read.

Without them a flipped bit on a disk is a wrong parameter that nothing reports. A damaged checkpoint is never used: a run
continues from the newest sound one, an evaluation ends with a line.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from concurrent import futures
import functools
import json
import logging
from typing import Any
from typing import ParamSpec
from typing import TypeVar
import zlib

from etils import epath

from simclr_jax.errors import UserError
from simclr_jax.runtime import distributed
from simclr_jax.runtime import files
from simclr_jax.training.checkpoint.places import FOLDER
from simclr_jax.training.checkpoint.places import all_of
from simclr_jax.training.checkpoint.places import is_step
from simclr_jax.workdir.weights import CHECKSUMS as NAME

log = logging.getLogger("simclr_jax")

# Where damaged checkpoints of a run are moved to, in its workdir.
ASIDE = "damaged_checkpoints"
# Of a checkpoint from which a run continues. One that is evaluated need not have its optimiser.
TO_CONTINUE = ("encoder", "optimizer", "config")
_CHUNK = 2**20

_P = ParamSpec("_P")
_T = TypeVar("_T")


def seal(checkpoint: epath.Path) -> None:
    """Writes the size and the CRC-32 of each file of each part to `checksums.json`."""
    paths = {str(path.relative_to(checkpoint)): path for part in _parts(checkpoint) for path in _files(part)}
    found = dict(zip(paths, _in_threads(_size_and_crc, paths.values()), strict=True))
    files.write_atomically(checkpoint / NAME, json.dumps({"crc32": found}, indent=0, sort_keys=True).encode())


def fault(checkpoint: epath.Path, parts: Iterable[str], *, and_others: bool = False) -> str | None:
    """What is wrong with some parts of a checkpoint, in words; None where they are as they were written.

    Of a checkpoint without checksums, as versions until 0.1.0 wrote them, only whether the parts are there. `and_others`: look
    at all other parts that were written, too.
    """
    if not checkpoint.is_dir():
        return "it is a file, not a folder"
    for part in parts:
        if not (checkpoint / part).is_dir():
            return f"it has no {part}"
    if not (checkpoint / NAME).exists():
        return None
    try:
        sealed = json.loads((checkpoint / NAME).read_text())["crc32"]
        wanted = {name: tuple(value) for name, value in sealed.items() if and_others or name.partition("/")[0] in parts}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"its {NAME} cannot be read"
    for part in parts:
        if not any(name.startswith(f"{part}/") for name in wanted):
            return f"its {NAME} has nothing of {part}"
    found = _in_threads(_size_and_crc, [checkpoint / name for name in wanted])
    for name, value in zip(wanted, found, strict=True):
        if value is None:
            return f"its file {name} is missing or cannot be read"
        if value != wanted[name]:
            return f"its file {name} is not as it was written"
    return None


def check(checkpoint: epath.Path, *parts: str) -> None:
    """Refuses a checkpoint whose parts are damaged.

    Raises:
      UserError: with what is wrong, and the checkpoint before it.
    """
    wrong = fault(checkpoint, parts)
    if wrong:
        raise UserError(f"the checkpoint {checkpoint} is damaged: {wrong}. {_instead(checkpoint)}")


def reader(read: Callable[_P, _T]) -> Callable[_P, _T]:
    """Gives a function whose first argument is a checkpoint a line for the errors of one that cannot be read."""

    @functools.wraps(read)
    def in_a_line(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return read(*args, **kwargs)
        except UserError:
            raise
        except Exception as error:  # Orbax and TensorStore raise many types
            raise unreadable(args[0], error) from error

    return in_a_line


def unreadable(checkpoint: Any, error: Exception) -> UserError:
    """The line for a checkpoint that Orbax cannot read."""
    first = next(iter(str(error).strip().splitlines()), type(error).__name__).partition(". See full")[0]
    return UserError(f"the checkpoint {checkpoint} cannot be read, it may be incomplete: {first[:200]}")


def set_aside_damaged(workdir: epath.Path) -> None:
    """Moves damaged checkpoints of a run away, so that it continues from the newest sound one. All processes call it.

    Looks at the newest checkpoint, and at earlier ones only where later ones are damaged. Nothing is deleted.

    Raises:
      UserError: where a file is in the place of the folder of checkpoints.
    """
    directory = files.absolute(workdir) / FOLDER
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory} is a file, but has to be a folder with the checkpoints: move the file away.")
    if distributed.is_primary():
        moved = []
        for checkpoint in reversed(all_of(directory)):
            wrong = fault(checkpoint, TO_CONTINUE, and_others=True)
            if wrong is None:
                break
            moved.append((checkpoint, wrong, _move(checkpoint, workdir)))
        rest = all_of(directory)
        origin = f"step {rest[-1].name}" if rest else "the beginning: no sound checkpoint is left"
        for checkpoint, wrong, target in moved:
            log.warning(
                "The checkpoint %s is damaged: %s. It is now in %s, and the run continues from %s.",
                checkpoint,
                wrong,
                target,
                origin,
            )
    distributed.decide(True)  # the others wait until all are moved


def _move(checkpoint: epath.Path, workdir: epath.Path) -> epath.Path:
    folder = files.absolute(workdir) / ASIDE
    folder.mkdir(parents=True, exist_ok=True)
    names = (checkpoint.name, *(f"{checkpoint.name}_{number}" for number in range(2, 1000)))
    target = next(folder / name for name in names if not (folder / name).exists())
    checkpoint.rename(target)
    return target


def _instead(checkpoint: epath.Path) -> str:
    before = (
        [one for one in all_of(checkpoint.parent) if int(one.name) < int(checkpoint.name or 0)]
        if (is_step(checkpoint.name))
        else []
    )
    if before:
        return f"The one before it is {before[-1]}; the run's own command continues from the newest sound one."
    return "The run's own command writes it again."


def _parts(checkpoint: epath.Path) -> Iterator[epath.Path]:
    return (child for child in sorted(checkpoint.iterdir()) if child.is_dir())


def _files(folder: epath.Path) -> Iterator[epath.Path]:
    for child in sorted(folder.iterdir()):
        if child.is_dir():
            yield from _files(child)
        else:
            yield child


def _size_and_crc(path: epath.Path) -> tuple[int, int] | None:
    """None where the file cannot be read."""
    size = crc = 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                size, crc = size + len(chunk), zlib.crc32(chunk, crc)
    except OSError:
        return None
    return size, crc


def _in_threads(function: Callable[[Any], Any], values: Iterable[Any]) -> list[Any]:
    with futures.ThreadPoolExecutor(8) as pool:  # zlib and the reads let other threads run
        return list(pool.map(function, values))
