"""Open the source that a config names."""

import os
import pathlib

from ml_collections import ConfigDict

from simclr_jax.data.sources.base import Source
from simclr_jax.errors import UserError
from simclr_jax.runtime.heartbeat import working


def open_source(data: ConfigDict, split: str) -> Source:
    """The source of `config.data` for the "train" or "test" split.

    Raises:
      UserError: where the data is missing, empty or not prepared; before any image is read.
    """
    # Each source's module is imported only when it is needed: importing TFDS takes a second.
    if data.source == "digits":
        from simclr_jax.data.sources.digits import open_digits

        return open_digits(split)
    if data.source == "folder":
        from simclr_jax.data.sources.folder import open_folder

        return open_folder(data, split)
    if data.source == "records":
        from simclr_jax.data.sources.records import open_records

        with working(f"opening {data.root}"):
            return open_records(data, split)
    from simclr_jax.data.sources.tfds import open_tfds

    with working(f"opening {data.name}"):
        return open_tfds(data, split)


def check_outside(workdir: os.PathLike | str, data: ConfigDict, *opened: Source) -> None:
    """Refuses a workdir within a folder of images: its pictures would be images of the next run.

    Raises:
      UserError: with both folders.
    """
    if data.source != "folder" or "://" in str(workdir):
        return
    place = pathlib.Path(workdir).resolve()
    for source in opened:
        folder = pathlib.Path(source.name).resolve()
        if place.is_relative_to(folder) and not any(
            part.startswith(".")
            for part in place.relative_to(folder).parts  # images in such folders are not used
        ):
            raise UserError(
                f"--workdir={workdir} is within the images, {source.name}: the pictures in it would become images of the next "
                "run. Take a folder outside."
            )
