"""The commands on records: pretraining, evaluation, embeddings."""

import json

from helpers import REPOSITORY
from helpers import outcome
from ml_collections import ConfigDict
import numpy as np
import pytest

from simclr_jax.data.sources.records import open_records
from simclr_jax.errors import UserError
from simclr_jax.inference.named_images import open_images
from simclr_jax.runtime import cli

SMALL = (
    f"--config={REPOSITORY}/configs/folder.py:size=12,batch=8,epochs=2",
    "--config.model.depth=10",
    "--config.model.width=0.125",
    "--config.optimizer.warmup_epochs=0.1",
)


@pytest.mark.heavy
def test_a_run_on_records_is_that_on_their_folder(image_folder, prepare, tmp_path):
    output, _ = prepare(image_folder, "--shard_images=5")
    for source, root in (("folder", image_folder), ("records", output)):
        words = (f"--config.data.source={source}", f"--config.data.root={root}")
        cli.call("pretrain", *SMALL, f"--workdir={tmp_path / source}", *words)
    (metrics, step, parts), (expected, steps, weights) = outcome(tmp_path / "records"), outcome(tmp_path / "folder")
    assert (metrics, step) == (expected, steps)
    for key, value in weights["encoder"].items():
        np.testing.assert_equal(parts["encoder"][key], value)
    found = {}
    for source in ("folder", "records"):
        words = (f"--pretrained={tmp_path / source}", f"--workdir={tmp_path / source}_knn", "--config.map_points=0")
        found[source] = cli.call("knn", *words)
    assert found["records"]["top1"] == found["folder"]["top1"]
    table = tmp_path / "table.npz"
    cli.call("embed", f"--pretrained={tmp_path / 'records'}", f"--images={output / 'test'}", f"--output={table}")
    with np.load(table) as arrays:
        assert arrays["path"][0] == "test/cat/0.jpg"
        assert arrays["label"][-1] == "owl"
        assert len(arrays["vector"]) == 12


def test_records_are_images_of_a_command_line(image_folder, prepare):
    output, _ = prepare(image_folder)
    assert open_images(f"{output}/train/").num_examples == 24
    with pytest.raises(UserError, match=r"has the splits train, test: name one of them, as '.*records/train'"):
        open_images(str(output))
    single, _ = prepare(image_folder / "train" / "cat", output="single")
    assert open_images(str(single)).num_examples == 8


def test_records_and_folders_are_not_taken_for_each_other(image_folder, prepare, tmp_path):
    output, _ = prepare(image_folder)
    words = (*SMALL, f"--workdir={tmp_path / 'run'}")
    with pytest.raises(UserError, match="has records of simclr_jax.prepare: add --config.data.source=records"):
        cli.call("pretrain", *words, f"--config.data.root={output}")
    with pytest.raises(UserError, match="has no records.json: .* For a folder of images: --config.data.source=folder"):
        cli.call("pretrain", *words, "--config.data.source=records", f"--config.data.root={image_folder}")
    words = (*words, "--config.data.source=records", f"--config.data.root={output}")
    with pytest.raises(
        UserError, match="has no split valid; it has train, test. Name one with --config.data.train_split"
    ):
        cli.call("pretrain", *words, "--config.data.train_split=valid")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"images": 5}, "split train has 5 images in it, but 24 in its index"),
        ({"class_names": ["a"]}, "split train has 1 class_names, but images of the class number 2"),
        ({"class_names": 5}, "class_names of split train is '5', not a list of names"),
        ({"class_names": [1, 2, 3]}, "not a list of names"),
        ({"class_names": None}, "not a list of names"),
        ({"class_names": ["a", "a", "a"]}, "class_names of split train has a name twice"),
        (None, "has no splits"),
    ],
)
def test_a_list_of_splits_that_its_index_contradicts(image_folder, prepare, fields, reason):
    output, manifest = prepare(image_folder)
    splits = {} if fields is None else {"train": manifest["splits"]["train"] | fields}
    (output / "records.json").write_text(json.dumps(manifest | {"splits": splits}))
    data = ConfigDict({"root": str(output), "train_split": "train", "test_split": None})
    for opened in (lambda: open_records(data, "train"), lambda: open_images(str(output))):
        with pytest.raises(UserError, match=rf"{reason}.*: the command of simclr_jax.prepare that wrote {output} "):
            opened()
