"""Whether what an output would replace is an earlier output of the same command: nothing else is ever removed."""

from collections.abc import Callable
from collections.abc import Iterator
import csv
import fnmatch
import io
import os
import zipfile

from etils import epath

from simclr_jax.config.choices import FILE_FORMATS
from simclr_jax.errors import UserError

CARD = "README.md"
# The beginning of a file, which says what it is.
_HEAD_BYTES = 2**16
# What `simclr_jax.export` writes into a folder, by format, besides the card.
_IN_FOLDER = {
    "safetensors": ("model.safetensors", "simclr_resnet.py"),
    "pytorch": ("model.pth", "simclr_resnet.py"),
    "timm": ("model.safetensors", "simclr_resnet.py", "config.json"),
    "savedmodel": ("saved_model.pb", "fingerprint.pb", "variables/variables.*"),
}
_CACHE = "__pycache__/*.pyc"  # of a simclr_resnet.py that was imported


def card_of(output: str, form: str) -> str:
    """Where the model card of an export is: in its folder, or beside its file."""
    return f"{output}.{CARD}" if form in FILE_FORMATS else f"{output}/{CARD}"


def check_export(output: str, form: str) -> None:
    """Refuses an output of `simclr_jax.export` that is there and is no earlier export in this format, or among checkpoints.

    Raises:
      UserError: with what is there, and what to do.
    """
    path, card = epath.Path(output), epath.Path(card_of(output, form))
    for folder in epath.Path(os.path.realpath(output)).parents:
        if folder.name == "checkpoints" and (folder.parent / "config.json").exists():
            raise UserError(
                f"--output={output} is among the checkpoints of the run in {folder.parent}: give another one."
            )
    of_card = card.is_file() and _is_card(card, form)
    if form in FILE_FORMATS:
        if card.exists() and not of_card:
            raise _refused(card, f"the model card of an earlier export as {form}")
        # ONNX names its producer; StableHLO has the card only.
        made = of_card or (form == "onnx" and path.is_file() and b"simclr_jax" in _head(path)[:64])
        if path.exists() and (path.is_dir() or not made):
            raise _refused(path, f"an earlier export as {form}")
        return
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not of_card:
        raise _refused(path, f"an earlier export as {form}")
    known = (CARD, _CACHE, *_IN_FOLDER[form])
    for name in _files_below(path):
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in known):
            raise _refused(path / name, f"of an earlier export as {form}")


def check_file(output: epath.Path, command: str) -> None:
    """Refuses a table or page that is there and is no earlier output of this command.

    Args:
      output: may be in a bucket. An empty file may be replaced.
      command: "embed", "predict", "search" or "report".

    Raises:
      UserError: with what to do.
    """
    if not output.exists():
        return
    is_ours = _MARKS[command].get("" if command == "report" else output.suffix.lower())
    if output.is_dir() or (output.stat().length and not (is_ours and is_ours(output))):
        raise _refused(output, f"an earlier output of simclr_jax.{command}")


def _refused(path: epath.Path, what: str) -> UserError:
    return UserError(f"{path} would be replaced, but is not {what}: give another --output, or move it away.")


def _head(path: epath.Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD_BYTES)


def _is_card(path: epath.Path, form: str) -> bool:
    head = _head(path)
    return head.startswith(b"---\nlibrary_name: simclr_jax\n") and f"\n- {form}\n".encode() in head


def _files_below(folder: epath.Path, prefix: str = "") -> Iterator[str]:
    """The paths of all files in a folder, relative to it; of links to folders, the links."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not os.path.islink(path):
            yield from _files_below(path, f"{prefix}{path.name}/")
        else:
            yield f"{prefix}{path.name}"


def _columns_of_csv(path: epath.Path) -> list[str]:
    return next(csv.reader(io.StringIO(_head(path).decode("utf-8", "replace"))), [])


def _columns_of_parquet(path: epath.Path) -> list[str]:
    from pyarrow import parquet

    try:
        with path.open("rb") as file:
            schema = parquet.read_schema(file)
    except Exception:  # of many types, where it is something else
        return []
    return list(schema.names) if b"simclr_jax" in (schema.metadata or {}) else []


def _columns_of_npz(path: epath.Path) -> list[str]:
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except (ValueError, OSError, zipfile.BadZipFile):
        return []


def _begin(columns: Callable[[epath.Path], list[str]], *wanted: str) -> Callable[[epath.Path], bool]:
    """Whether a table has these columns first; between `path` and the next there may be `label`."""

    def is_ours(path: epath.Path) -> bool:
        names = columns(path)
        names = names[:1] + names[1 + (names[1:2] == ["label"]) :] if names[:1] == ["path"] else names
        return tuple(names[: len(wanted)]) == wanted

    return is_ours


def _says(text: bytes) -> Callable[[epath.Path], bool]:
    """Whether a page of ours says this at its beginning."""
    return lambda path: (head := _head(path)).startswith(b"<!doctype html>") and text in head


_PREDICTED = ("path", "class", "probability")
# By command and ending of the file: whether it is one that the command has written.
_MARKS: dict[str, dict[str, Callable[[epath.Path], bool]]] = {
    "embed": {
        ".csv": _begin(_columns_of_csv, "path", "v0"),
        ".parquet": _begin(_columns_of_parquet, "path", "vector"),
        ".npz": _begin(_columns_of_npz, "path", "vector", "about"),
    },
    "predict": {
        ".csv": _begin(_columns_of_csv, *_PREDICTED),
        ".parquet": _begin(_columns_of_parquet, *_PREDICTED),
    },
    "search": {
        ".csv": _begin(_columns_of_csv, "group", "rank", "similarity", "path"),
        ".html": _says(b"The number below a picture is its cosine similarity."),
    },
    "report": {"": _says(b". simclr_jax, ")},  # of any ending
}
