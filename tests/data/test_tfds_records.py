"""Data sets of TFDS in its array_record format: read at random, resumed at any step, prepared as records."""

from batches_of import assert_same
from batches_of import batches
import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax.data import order
from simclr_jax.data import pipeline
from simclr_jax.data import sources
from simclr_jax.data.sources.tfds_records import TfdsRecords
from simclr_jax.errors import UserError
from simclr_jax.runtime import cli
from simclr_jax.runtime import extras
from simclr_jax.runtime.tensorflow import tf
from simclr_jax.runtime.tensorflow import tfds

pytest.importorskip("array_record", reason="the extra records is not installed")

SIZE = 12


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A data set `tiles` of 50 and 17 examples, as array_record and as tfrecord, and `parts` with several labels."""
    rng = np.random.default_rng(0)
    photos = [rng.integers(0, 255, (16, 14, 3), dtype=np.uint8) for _ in range(67)]

    def features(several):
        label = tfds.features.ClassLabel(names=["disc", "ring", "star"])
        label = {"labels": tfds.features.Sequence(label)} if several else {"label": label}
        photo = tfds.features.Image(shape=(None, None, 3), encoding_format="png")
        return tfds.features.FeaturesDict({"photo": photo} | label)

    class Tiles(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=features(False))

        def _split_generators(self, _):
            return {"train": self._generate_examples(0, 50), "validation": self._generate_examples(50, 67)}

        def _generate_examples(self, start, stop):
            for number in range(start, stop):
                yield number, {"photo": photos[number], "label": number % 3}

    class Parts(Tiles):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=features(True))

        def _generate_examples(self, start, stop):
            for number in range(start, stop):
                yield number, {"photo": photos[number], "labels": [number % 3, (number + 1) % 3][: 1 + number % 2]}

    folders = {}
    for name, kind, form in (
        ("random", Tiles, "array_record"),
        ("stream", Tiles, None),
        ("parts", Parts, "array_record"),
    ):
        folders[name] = str(tmp_path_factory.mktemp(name))
        config = tfds.download.DownloadConfig(num_shards=3)
        kind(data_dir=folders[name], file_format=form).download_and_prepare(download_config=config)
    return folders


def opened(root, split="train", name="tiles", **fields):
    data = config_lib.pretrain().data
    data.update(source="tfds", name=name, root=root, image_size=SIZE, eval_crop=1.0, **fields)
    return sources.open_source(data, split)


def everything(source):
    bad_images = pipeline.BadImages(source, 0.0)
    steps = -(-source.num_examples // 8)
    read = pipeline.eval_batches(
        source, size=SIZE, crop=1.0, shard=order.HostShard(8, num_steps=steps), bad_images=bad_images
    )
    read = list(read)
    joined = {key: np.concatenate([batch[key] for batch in read]) for key in read[0]}
    return {key: value[joined["mask"]] for key, value in joined.items()}


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "train[7:33]", "train[50%:]+validation"])
def test_any_split_has_the_examples_of_a_stream(stored, split):
    random, stream = (opened(stored[name], "test", test_split=split, memory_mib=0) for name in ("random", "stream"))
    assert isinstance(random, TfdsRecords)
    assert random.num_examples == stream.num_examples
    assert random.class_names == stream.class_names
    np.testing.assert_array_equal(random.labels, stream.labels)
    one, two = everything(random), everything(stream)
    for key in one:
        np.testing.assert_array_equal(one[key], two[key], err_msg=key)
    subset = random.subset(np.array([20, 3]))
    np.testing.assert_array_equal(subset.labels, random.labels[[20, 3]])
    assert subset.ids[1] == random.describe(3)
    assert "tiles-train.array_record-0000" in random.describe(3)
    np.testing.assert_array_equal(everything(subset)["image"][:2], one["image"][[20, 3]])


@pytest.mark.slow
def test_the_order_is_a_permutation_and_resumes_on_any_number_of_hosts(stored):
    source = opened(stored["random"])
    whole = batches(source, count=20, batch_size=10)
    for epoch in range(4):
        index = np.concatenate([batch["index"] for batch in whole[5 * epoch : 5 * epoch + 5]])
        assert sorted(index) == list(range(50))
    np.testing.assert_array_equal(whole[3]["label"], source.labels[whole[3]["index"]])
    assert_same(batches(source, start_step=13, count=7, batch_size=10), whole[13:])
    halves = [batches(source, count=3, batch_size=10, host=host, hosts=2) for host in (0, 1)]
    joined = [{key: np.concatenate([a[key], b[key]]) for key in a} for a, b in zip(*halves, strict=True)]
    assert_same(joined, whole[:3])


def test_examples_with_several_labels_have_them_all(stored):
    source = opened(stored["parts"], name="parts")
    assert source.multi_label
    assert source.labels[:4].tolist() != source.labels[4:8].tolist()
    assert set(source.labels.sum(axis=1)) == {1, 2}
    assert everything(source)["label"].shape == (50, 3)


def test_a_torn_file_and_a_missing_extra_are_one_line(stored, monkeypatch, tmp_path):
    import shutil

    root = shutil.copytree(stored["random"], tmp_path / "copy")
    (path, *_) = root.rglob("*train.array_record-00000*")
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(UserError, match="cannot be read: it is not a complete ArrayRecord file"):
        opened(str(root))
    real = extras.importlib.util.find_spec
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None if name == "pyarrow" else real(name))
    with pytest.raises(
        UserError, match=r"stored as array_record, which needs pyarrow: pip install 'simclr_jax\[records\]'"
    ):
        opened(stored["random"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["random", "stream"])
def test_tfds_is_prepared_with_its_classes(stored, tmp_path, name):
    words = (f"--data_dir={stored[name]}", f"--output={tmp_path / 'records'}", "--processes=1", "--shard_images=20")
    cli.call("prepare", "--images=tfds:tiles", *words)
    data = config_lib.pretrain().data
    data.update(source="records", root=str(tmp_path / "records"))
    for split in ("train", "test"):
        source, expected = sources.open_source(data, split), opened(stored[name], split, memory_mib=0)
        assert source.class_names == ["disc", "ring", "star"]
        np.testing.assert_array_equal(source.labels, expected.labels)
        images = [image for image, _ in expected.encoded()]
        assert [source.fetch(tf.constant(index, tf.int64)).numpy() for index in range(len(images))] == images
    with pytest.raises(UserError, match="has no split test; it has train, validation"):
        cli.call("prepare", "--images=tfds:tiles:test", *words)


def test_several_labels_are_not_prepared(stored, tmp_path):
    words = (f"--data_dir={stored['parts']}", f"--output={tmp_path / 'records'}")
    with pytest.raises(UserError, match="images of several classes, which records cannot hold"):
        cli.call("prepare", "--images=tfds:parts", *words)
