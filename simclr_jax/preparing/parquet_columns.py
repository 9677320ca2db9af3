"""Which columns of a Parquet file hold the image and the label. Hugging Face writes it into the metadata of the file."""

import collections
import dataclasses
import json
from typing import Any

from simclr_jax.data.records.files import open_stream
from simclr_jax.errors import UserError
from simclr_jax.errors import nearest
from simclr_jax.runtime import extras


@dataclasses.dataclass(frozen=True)
class Columns:
    """The columns to read.

    Attributes:
      image, label: their names; label None: there is none.
      class_names: of the classes 0, 1, ..., where the file says them.
    """

    image: str
    label: str | None
    class_names: list[str] | None


def find(path: str, image: str | None = None, label: str | None = None) -> Columns:
    """The columns of a file. Only its metadata is read.

    The image is the column `image`, else the only one that the metadata or its type says to be images. The label is the column
    `label`, else the only one that the metadata says to be classes.

    Args:
      path: of the file.
      image, label: from the command line; None: found.

    Raises:
      UserError: where the file is damaged, has no such column, or gives two classes one name.
    """
    extras.check("pyarrow", f"--images={path} needs pyarrow", "records")
    import pyarrow.parquet

    try:
        with open_stream(path) as file:
            schema = pyarrow.parquet.read_schema(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} is not a Parquet file that can be read: {error}.") from error
    features = _features(schema)
    for flag, name in (("image", image), ("label", label)):
        if name is not None and name not in schema.names:
            there = ", ".join(schema.names)
            raise UserError(
                f"--{flag}_column={name}: {path} has no such column{nearest(name, schema.names)}; it has {there}."
            )
    image = image or _choose(
        "image", [name for name in schema.names if _is_image(schema.field(name).type, features.get(name))]
    )
    if image is None:
        raise UserError(
            f"{path} has not one column of images; it has {', '.join(schema.names)}. Name it: --image_column."
        )
    if not _holds_bytes(schema.field(image).type):
        raise UserError(f"--image_column={image}: the column of {path} has no bytes of image files.")
    classes = [name for name in schema.names if features.get(name, {}).get("_type") == "ClassLabel"]
    if label is None:
        label = DEFAULT if DEFAULT in schema.names else _choose(DEFAULT, classes)
    names = features.get(label, {}).get("names") if label else None
    twice = [name for name, count in collections.Counter(names or ()).items() if count > 1]
    if twice:
        raise UserError(
            f"{path}: two classes of the column {label!r} are named {twice[0]!r} in its metadata. Name them apart there, or "
            "write the file without the metadata of Hugging Face, so that the numbers are the names."
        )
    return Columns(image, label, names)


DEFAULT = "label"


def _features(schema: Any) -> dict[str, Any]:
    """What the metadata of Hugging Face says about each column."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return {name: feature for name, feature in features.items() if isinstance(feature, dict)}


def _choose(preferred: str, names: list[str]) -> str | None:
    return preferred if preferred in names else names[0] if len(names) == 1 else None


def _is_image(kind: Any, feature: dict[str, Any] | None) -> bool:
    return (feature or {}).get("_type") == "Image" or (feature is None and _holds_bytes(kind))


def _holds_bytes(kind: Any) -> bool:
    """Whether values are bytes, or pairs of bytes and path."""
    import pyarrow

    if pyarrow.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)
