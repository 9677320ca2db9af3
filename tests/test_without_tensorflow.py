"""On a machine without TensorFlow: data in device memory, and everything on frozen features."""

import json
import subprocess
import sys

import numpy as np
import pytest

from simclr_jax.augment import image_files
from simclr_jax.augment import numpy_crops
from simclr_jax.augment import tf_crops
from simclr_jax.augment import tf_ops
from simclr_jax.data import pipeline
from simclr_jax.data import sources
from simclr_jax.data import without_tensorflow
from simclr_jax.data.bad_images import BadImages
from simclr_jax.data.order import HostShard
from simclr_jax.runtime.tensorflow import tf
from tests.helpers import REPOSITORY
from tests.helpers import write_image

# Runs a command in a process that cannot import TensorFlow.
BLOCKED = """
import sys
sys.modules["tensorflow"] = None
import runpy
command, sys.argv = sys.argv[1], sys.argv[1:]
try:
    runpy.run_module(f"simclr_jax.{command}", run_name="__main__")
finally:
    assert sys.modules["tensorflow"] is None
"""
NETWORK = ("--config.model.depth=10", "--config.model.width=0.125", "--config.model.stem=imagenet")


def blocked(*arguments, fails=False):
    command = [sys.executable, "-c", BLOCKED, *arguments]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (result.returncode != 0) == fails, result.stderr
    return result.stderr


def images_in(root, per_class):
    for split, number in (("train", per_class), ("test", 4)):
        for name in ("cat", "dog"):
            for seed in range(number):
                write_image(root / split / name / f"{seed}.jpg", seed=seed + 100 * (name == "dog"), size=(12, 12))
    return root


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_pretraining_neighbours_probe_and_embeddings(tmp_path, kind):
    root = images_in(tmp_path / "images", per_class=16)
    if kind == "npz":
        rng = np.random.default_rng(0)
        root = tmp_path / "images.npz"
        images = rng.integers(0, 256, (40, 12, 12, 3), np.uint8)
        np.savez(root, x_train=images[:32], y_train=np.arange(32) % 2, x_test=images[32:], y_test=np.arange(8) % 2)
    options = (f"--config=configs/folder.py:{root},size=12,batch=16,epochs=2", "--config.data.resident=true")
    blocked("pretrain", *options, *NETWORK, f"--workdir={tmp_path / 'run'}")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert (results["step"], results["n"]) == (5, 8)
    pretrained = f"--pretrained={tmp_path / 'run'}"
    blocked("knn", pretrained, f"--workdir={tmp_path / 'knn'}", "--config.neighbours=3")
    probe = ("--config=configs/linear_probe.py:lbfgs", "--config.lbfgs.l2_values=1")
    blocked("linear_probe", pretrained, f"--workdir={tmp_path / 'probe'}", *probe)
    for name in ("knn", "probe"):
        assert json.loads((tmp_path / name / "results.json").read_text())["n"] == 8
    if kind == "folder":
        blocked("embed", pretrained, f"--images={root}", f"--output={tmp_path / 'vectors.npz'}")
        assert len(np.load(tmp_path / "vectors.npz")["vector"]) == 40


@pytest.mark.slow
@pytest.mark.parametrize("source", ["folder", "tfds"])
def test_what_needs_it_says_so_at_once(tmp_path, source):
    root = images_in(tmp_path / "images", per_class=4)
    options = [f"--config=configs/folder.py:{root},size=12,batch=8,epochs=2", f"--config.data.source={source}"]
    if source == "tfds":
        options += ["--config.data.name=cifar10", "--config.data.resident=true"]
    error = blocked("pretrain", *options, f"--workdir={tmp_path / 'run'}", fails=True)
    assert (
        "error: TensorFlow, which this needs to read its images, is not installed: pip install"
        in error.splitlines()[-1]
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("side", "size"), [(8, 16), (28, 32), (224, 64), (50, 48), (500, 224), (48, 48), (1, 8)])
def test_resizing_is_tensorflows(side, size):
    image = np.random.default_rng(side).integers(0, 256, (side, side + 3, 3), np.uint8)[:, :side]
    expected = tf_crops.resize(tf.constant(image), size)
    np.testing.assert_allclose(numpy_crops.resize(image, size) / 255, expected, atol=1e-6)


@pytest.mark.parametrize("crop", [1.0, 0.875, 0.01])
@pytest.mark.parametrize("shape", [(9, 14), (31, 20), (70, 64)])
def test_central_crops_are_tensorflows(shape, crop):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    expected = tf_ops.to_uint8(tf_crops.resize(tf_crops.central_crop(tf.constant(image), crop), 8)[None])[0]
    actual = numpy_crops.central_crop(image, crop, 8, image_files.DEFAULT_DECODING)
    # Rounding to uint8 may differ where a value is halfway.
    assert np.mean(actual != expected) < 0.02
    np.testing.assert_allclose(actual, expected, atol=1)


def test_batches_are_tensorflows_but_for_the_decoding_of_jpeg(tmp_path, monkeypatch):
    for number in range(7):
        write_image(tmp_path / f"{number}.png", seed=number, size=(12, 12))
    (tmp_path / "3.png").write_bytes(b"torn")
    write_image(tmp_path / "9.jpg", seed=9, size=(100, 90))
    data = {"source": "folder", "root": str(tmp_path), "train_split": "train", "labels": None}
    source = sources.open_source(pipeline.ConfigDict(data), "train")

    def batches(of):
        options = {"size": 12, "crop": 1.0, "decoding": image_files.DEFAULT_DECODING}
        return list(of(source, shard=HostShard(5, num_steps=2), bad_images=BadImages(source, 1.0), **options))

    for actual, expected in zip(batches(without_tensorflow.eval_batches), batches(pipeline.eval_batches), strict=True):
        for key in ("label", "index", "wanted", "mask"):
            np.testing.assert_array_equal(actual[key], expected[key])
            assert actual[key].dtype == expected[key].dtype
        jpeg = expected["wanted"] == 7
        readable = expected["mask"] & ~jpeg
        np.testing.assert_array_equal(actual["image"][readable], expected["image"][readable])
        np.testing.assert_allclose(actual["image"][jpeg].astype(int), expected["image"][jpeg].astype(int), atol=8)
