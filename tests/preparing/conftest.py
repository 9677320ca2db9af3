"""Images in the forms that `simclr_jax.prepare` reads."""

import io
import json
import pathlib
import tarfile

from helpers import write_image
import numpy as np
import pytest

from simclr_jax.runtime import cli

pytest.importorskip("array_record", reason="the extra records is not installed")


@pytest.fixture
def prepare(tmp_path):
    """`prepare(IMAGES, *flags)`: runs the command in this process. Returns the output and its `records.json`."""

    def run(images, *words, output="records"):
        output = tmp_path / output
        words = ("--processes=1", *words)
        return output, cli.call("prepare", f"--images={images}", f"--output={output}", *words)

    return run


def encoded(seed, size=(20, 24), kind="JPEG", **options):
    """An image file."""
    path = write_image(pathlib.Path(options.pop("folder")) / f"{seed}.{kind.lower()}", seed, size, **options)
    return path.read_bytes()


@pytest.fixture
def write_tar(tmp_path):
    """`write_tar(NAME, [{"jpg": bytes, "cls": b"3"}, ...])`: an example in each dictionary."""

    def write(name, examples, mode="w"):
        path = tmp_path / "tars" / name
        path.parent.mkdir(exist_ok=True)
        with tarfile.open(path, mode) as tar:
            for number, parts in enumerate(examples):
                for extension, content in parts.items():
                    member = tarfile.TarInfo(f"some/{number:05d}.{extension}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        return path

    return write


@pytest.fixture
def write_parquet(tmp_path):
    """`write_parquet(NAME, images, labels)`: as Hugging Face's datasets write it, with names of classes or without."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    def write(name, images, labels=None, class_names=None, column="image"):
        path = tmp_path / "parquet" / name
        path.parent.mkdir(exist_ok=True)
        columns = {column: [{"bytes": image, "path": f"{number}.jpg"} for number, image in enumerate(images)]}
        features = {column: {"_type": "Image"}}
        if labels is not None:
            columns["label"] = labels
            features["label"] = {"_type": "ClassLabel", "names": class_names} if class_names else {"_type": "Value"}
        table = pyarrow.table(columns | {"size": np.arange(len(images))})
        info = {"info": {"features": features}} if class_names else {}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
        parquet.write_table(table, path)
        return path

    return write


@pytest.fixture
def jpegs(tmp_path):
    """Twelve different JPEG files."""
    return [encoded(seed, folder=tmp_path / "jpegs") for seed in range(12)]
