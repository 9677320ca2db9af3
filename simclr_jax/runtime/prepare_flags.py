"""The flags of `simclr_jax.prepare`."""

from collections.abc import Sequence
import pathlib

from absl import flags

from simclr_jax.errors import UserError
from simclr_jax.runtime import extras


def define(argv: Sequence[str], values: flags.FlagValues) -> None:
    """Defines them."""
    del argv
    text = (
        "A folder of images; tars of WebDataset or Parquet files with a column of images: a folder, a file, or a pattern as "
        "'data/train-{000..146}.tar'; or tfds:NAME, tfds:NAME:SPLIT. Also in gs://BUCKET/..."
    )
    flags.DEFINE_string("images", None, text, flag_values=values)
    flags.DEFINE_string("output", None, "The folder to write. Also gs://BUCKET/...", flag_values=values)
    text = "Larger images are shrunk until their shorter side has this many pixels; 0: no image is shrunk."
    flags.DEFINE_integer("shorter_side", 512, text, lower_bound=0, flag_values=values)
    text = "Processes that work at the same time; 0: as many as the machine has cores."
    flags.DEFINE_integer("processes", 0, text, lower_bound=0, flag_values=values)
    text = "The column of images in Parquet files. Default: image, or the only one."
    flags.DEFINE_string("image_column", None, text, flag_values=values)
    text = (
        "The column of labels in Parquet files, or the key in the .json files of tars. Default: label, if there is one."
    )
    flags.DEFINE_string("label_column", None, text, flag_values=values)
    flags.DEFINE_string("data_dir", None, "Where TFDS keeps its data sets. Default: TFDS's own.", flag_values=values)
    text = "Images in a file of records, of folders and TFDS. A tar or Parquet file becomes one file of records."
    flags.DEFINE_integer("shard_images", 4096, text, lower_bound=1, flag_values=values)
    text = "Remove what --output has of other images or flags."
    flags.DEFINE_bool("overwrite", False, text, flag_values=values)
    text = "Work on Apache Beam instead of processes here: DataflowRunner, FlinkRunner, SparkRunner, DirectRunner."
    flags.DEFINE_string("runner", None, text, flag_values=values)
    text = "Further options of Beam, as on its command line: '--project=P --region=R'."
    flags.DEFINE_string("beam_options", "", text, flag_values=values)


def check(values: flags.FlagValues) -> None:
    """Refuses values that do not suit.

    Raises:
      UserError: with what would be right.
    """
    output, images = str(values["output"].value), str(values["images"].value)
    if "://" not in output:
        folder = pathlib.Path(output)
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--output={output} is a file, but has to be a folder.")
        if not folder.absolute().parent.is_dir():
            raise UserError(f"--output={output}: there is no folder {folder.parent}.")
        if "://" not in images:
            _check_apart(pathlib.Path(images), folder)
    runner, options = values["runner"].value, values["beam_options"].value
    if options and not runner:
        raise UserError(f"--beam_options={options} is for --runner, which is not given.")
    extras.check("array_record", "to write records needs array_record, which is not installed", "records")
    if runner:
        extras.check("apache_beam", f"--runner={runner} needs apache_beam, which is not installed", "beam")


def _check_apart(images: pathlib.Path, output: pathlib.Path) -> None:
    """Refuses images, or a pattern of them, in the output, and an output in the folder of the images."""
    if _is_in(images, output):
        raise UserError(f"--images={images} is in --output={output}, which may be removed: give another folder.")
    if images.is_dir() and (images.resolve() == output.resolve() or _is_in(output, images)):
        raise UserError(
            f"--output={output} is in --images={images}, which it would become a part of: give another folder."
        )


def _is_in(path: pathlib.Path, folder: pathlib.Path) -> bool:
    """Whether a path, or a pattern, is below a folder, and not the folder itself."""
    return folder.resolve() in path.resolve().parents
