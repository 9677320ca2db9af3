"""What `--images` names: its splits, their classes, and the units into which the work is divided."""

import dataclasses
import hashlib
import itertools
import os
import pathlib
import re
from typing import Any
import zlib

from simclr_jax import config as config_lib
from simclr_jax.data.sources.fingerprint import SMALL_BYTES
from simclr_jax.data.sources.fingerprint import SMALL_EXAMPLES
from simclr_jax.data.sources.folder import DEFAULT_SPLIT
from simclr_jax.data.sources.folder import OTHER_SPLITS
from simclr_jax.data.sources.folder import TEST_SPLITS
from simclr_jax.data.sources.folder import open_folder
from simclr_jax.data.sources.listing import files_below
from simclr_jax.data.sources.listing import files_named
from simclr_jax.data.sources.listing import folders_in
from simclr_jax.data.sources.listing import has_image
from simclr_jax.errors import UserError
from simclr_jax.preparing import parquet_columns
from simclr_jax.preparing.examples import Files
from simclr_jax.preparing.examples import Parquet
from simclr_jax.preparing.examples import Tar
from simclr_jax.preparing.examples import Tfds
from simclr_jax.preparing.examples import Unit
from simclr_jax.runtime.files import is_remote
from simclr_jax.runtime.tensorflow import tf

TARS, PARQUETS = (".tar", ".tar.gz", ".tgz"), (".parquet",)
CONTENTS = "contents"  # a fact that records of earlier versions lack
SPLITS = (DEFAULT_SPLIT, *TEST_SPLITS, *OTHER_SPLITS)
DEFAULT_LABEL_KEY = "label"


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The images of a command line.

    Attributes:
      splits: the units of each split, in order.
      class_names: of the classes 0, 1, ... of each split; None where the labels themselves say it when all are read.
      facts: what decides about the records.
      changed: when a local file was changed last, in seconds since 1970; 0 for other files.
    """

    splits: dict[str, list[Unit]]
    class_names: dict[str, list[str] | None]
    facts: dict[str, Any]
    changed: float = 0.0


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What the flags say about the images.

    Attributes:
      images: a folder, a file, a pattern, or tfds:NAME.
      image_column, label_column: of Parquet files, also the key in the .json files of tars; None: found.
      data_dir: of TFDS.
      shard_images: in a file of records, for folders and TFDS. A tar or a Parquet file becomes one file.
    """

    images: str
    image_column: str | None = None
    label_column: str | None = None
    data_dir: str | None = None
    shard_images: int = 4096


def find(wanted: Wanted) -> Inputs:
    """Finds the images. Only of a few small files the contents are read here, for a checksum.

    Raises:
      UserError: where there are none, or not what the flags say.
    """
    if wanted.images.startswith("tfds:"):
        _check_no_columns(wanted, "TFDS has features, not columns")
        return _tfds(wanted)
    paths = _containers(wanted.images)
    if paths:
        kinds = {ending for path in paths for ending in (*TARS, *PARQUETS) if path.lower().endswith(ending)}
        if kinds <= set(TARS):
            return _tars(wanted, paths)
        if kinds <= set(PARQUETS):
            return _parquets(wanted, paths)
        raise UserError(f"--images={wanted.images!r} has tars and Parquet files: prepare them one after the other.")
    if not tf.io.gfile.isdir(wanted.images):
        problem = "is no folder, tar or Parquet file" if tf.io.gfile.exists(wanted.images) else "does not exist"
        raise UserError(
            f"--images={wanted.images!r} {problem}: give a folder of images, tars or Parquet files, as 'data/*.tar', or "
            "tfds:NAME."
        )
    _check_no_columns(wanted, "a folder of images has class folders, not columns")
    return _folder(wanted)


def _check_no_columns(wanted: Wanted, why: str) -> None:
    for flag in ("image_column", "label_column"):
        if getattr(wanted, flag) is not None:
            raise UserError(f"--{flag}={getattr(wanted, flag)} is for Parquet files and tars: {why}.")


def _containers(images: str) -> list[str]:
    """The sorted tars or Parquet files of a folder, up to two folders deep, of a pattern, or the one that is named."""
    is_folder = tf.io.gfile.isdir(images)
    if is_folder and not is_remote(images):
        found = set(files_below(images, depth=2))
    else:
        patterns = [os.path.join(images, *["*"] * depth) for depth in (1, 2, 3)] if is_folder else _expanded(images)
        found = {
            path for pattern in patterns for path in (tf.io.gfile.glob if is_remote(pattern) else files_named)(pattern)
        }
    paths = sorted(path for path in found if path.lower().endswith((*TARS, *PARQUETS)))
    if paths and is_folder and has_image(images):
        raise UserError(
            f"{images!r} has images and files such as {os.path.basename(paths[0])}: name the ones that you mean, as in "
            f"--images='{os.path.join(images, '*' + os.path.splitext(paths[0])[1])}'."
        )
    if paths and is_folder and not is_remote(images):
        files_below(images, depth=2, quiet=False)  # names what is skipped; of a folder of images, its own listing does
    if not paths and re.search(r"[*?{]", images):
        raise UserError(f"no tar or Parquet file is named {images!r}.")
    return paths


def _expanded(pattern: str) -> list[str]:
    """Names for `{000..012}` and `{a,b}`, as a shell and WebDataset have them."""
    parts = re.split(r"\{([^{}]*)\}", pattern)
    choices: list[list[str]] = []
    for number, part in enumerate(parts):
        bounds = re.fullmatch(r"(\d+)\.\.(\d+)", part) if number % 2 else None
        if bounds:
            first, last = bounds.groups()
            choices.append([f"{value:0{len(first)}d}" for value in range(int(first), int(last) + 1)])
        else:
            choices.append(part.split(",") if number % 2 else [part])
    return ["".join(choice) for choice in itertools.product(*choices)]


def _split_of(path: str, images: str) -> str:
    """The split that a file has as a word in its name, or in that of a folder around it, below what `images` names."""
    # Of a pattern, the folder before the first sign; of one file, its folder. A folder is the beginning of its files.
    top = images if path != images and path.startswith(images) else os.path.dirname(re.split(r"[*?{]", images)[0])
    for part in reversed(path.removeprefix(top).split("/")):
        for word in re.split(r"[^a-z]+", part.lower()):
            if word in SPLITS:
                return word
    return DEFAULT_SPLIT


def _by_split(images: str, paths: list[str], units: list[Unit]) -> dict[str, list[Unit]]:
    """The units of each split, the training split first."""
    splits: dict[str, list[Unit]] = {}
    for path, unit in zip(paths, units, strict=True):
        splits.setdefault(_split_of(path, images), []).append(unit)
    return dict(sorted(splits.items(), key=lambda item: SPLITS.index(item[0])))


def _container_facts(kind: str, paths: list[str]) -> dict[str, Any]:
    sizes = [tf.io.gfile.stat(path).length for path in paths]
    names = [f"{os.path.basename(path)} {size}" for path, size in zip(paths, sizes, strict=True)]
    return {"kind": kind, "files": len(paths), "names and sizes": _digest(names), CONTENTS: _contents(paths, sizes)}


def _contents(paths: list[str], sizes: list[int]) -> str | None:
    """A digest of all contents, where they are as few and small as those that `fingerprint` reads, and local; or None."""
    local = len(paths) <= SMALL_EXAMPLES and not any(is_remote(path) for path in paths)
    if not local or sum(sizes) > SMALL_BYTES:
        return None
    return _digest([f"{zlib.crc32(pathlib.Path(path).read_bytes()):08x}" for path in paths])


def _stats(paths: list[str]) -> tuple[list[int], float]:
    """The sizes of local files, and when one was changed last; -1 and 0 for objects, where they were a request for each."""
    stats = [None if is_remote(path) else os.stat(path) for path in paths]
    sizes = [-1 if stat is None else stat.st_size for stat in stats]
    return sizes, max((stat.st_mtime for stat in stats if stat is not None), default=0.0)


def _digest(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _tars(wanted: Wanted, paths: list[str]) -> Inputs:
    if wanted.image_column is not None:
        raise UserError(f"--image_column={wanted.image_column} is for Parquet files: the images of tars are files.")
    units = [Tar(path, wanted.label_column or DEFAULT_LABEL_KEY) for path in paths]
    first = next(units[0].examples(), None)
    if first is None:
        raise UserError(f"the tar {paths[0]} has no images.")
    if wanted.label_column is not None and first.label is None:
        raise UserError(f"--label_column={wanted.label_column}: {first.name} has no label in a .json file beside it.")
    facts = _container_facts("tars", paths) | {"label_column": wanted.label_column}
    splits = _by_split(wanted.images, paths, list(units))
    return Inputs(splits, dict.fromkeys(splits), facts, _stats(paths)[1])


def _parquets(wanted: Wanted, paths: list[str]) -> Inputs:
    found = [parquet_columns.find(path, wanted.image_column, wanted.label_column) for path in paths]
    differing = next((path for path, columns in zip(paths, found, strict=True) if columns != found[0]), None)
    if differing is not None:
        raise UserError(f"{differing} has other columns or classes than {paths[0]}: prepare them one after the other.")
    splits = _by_split(wanted.images, paths, [Parquet(path, found[0].image, found[0].label) for path in paths])
    facts = _container_facts("parquet", paths) | {"image_column": found[0].image, "label_column": found[0].label}
    return Inputs(splits, {name: found[0].class_names for name in splits}, facts, _stats(paths)[1])


def _folder(wanted: Wanted) -> Inputs:
    root = wanted.images
    data = config_lib.pretrain().data
    data.update(source="folder", root=root)
    names = [name for name in SPLITS if name in folders_in(root)]
    names = names if DEFAULT_SPLIT in names else [DEFAULT_SPLIT]
    splits: dict[str, list[Unit]] = {}
    class_names: dict[str, list[str] | None] = {}
    every: list[str] = []
    inside = os.path.join(root, "")
    for name in names:
        data.train_split = name
        source = open_folder(data, "train")
        paths = list(source.ids or [])
        class_names[name] = list(source.class_names) if source.class_names else None
        labels = None
        if source.class_names is not None:
            labels = [source.class_names[label] for label in source.labels]
        splits[name] = [
            Files(inside, paths[start:stop], labels[start:stop] if labels else None)
            for start, stop in _slices(len(paths), wanted.shard_images)
        ]
        every += paths
    sizes, changed = _stats(every)
    lines = [f"{path.removeprefix(inside)} {size}" for path, size in zip(every, sizes, strict=True)]
    facts = {
        "kind": "folder",
        "images": len(every),
        "names and sizes": _digest(lines),
        CONTENTS: _contents(every, sizes),
    }
    return Inputs(splits, class_names, facts | {"shard_images": wanted.shard_images}, changed)


def _tfds(wanted: Wanted) -> Inputs:
    from simclr_jax.data.sources.tfds_builder import feature_keys
    from simclr_jax.data.sources.tfds_builder import prepared_builder
    from simclr_jax.runtime.tensorflow import tfds

    parts = re.fullmatch(r"tfds:([^:\[\]]+(?::\d+\.[\d.*]+)?)(?::(\w+))?", wanted.images)
    if parts is None:
        raise UserError(f"--images={wanted.images}: give tfds:NAME or tfds:NAME:SPLIT, as in tfds:cifar10:train.")
    name, only = parts.groups()
    builder = prepared_builder(name, wanted.data_dir)
    sizes = {split: info.num_examples for split, info in builder.info.splits.items() if only in (None, split)}
    if not sum(sizes.values()):
        raise UserError(f"TFDS {name} has no split {only}; it has {', '.join(builder.info.splits)}.")
    _, label = feature_keys(builder)
    feature = builder.info.features[label] if label else None
    if isinstance(feature, tfds.features.Sequence):
        raise UserError(f"TFDS {name} has images of several classes, which records cannot hold: use it as it is.")
    splits: dict[str, list[Unit]] = {
        split: [Tfds(name, wanted.data_dir, split, *piece) for piece in _slices(size, wanted.shard_images)]
        for split, size in sizes.items()
        if size
    }
    names = list(feature.names) if feature is not None else None
    facts = {"kind": "tfds", "name": builder.info.full_name, "splits": sizes, "shard_images": wanted.shard_images}
    return Inputs(splits, dict.fromkeys(splits, names), facts)


def _slices(number: int, each: int) -> list[tuple[int, int]]:
    return [(start, min(start + each, number)) for start in range(0, number, each)]
