"""metrics.jsonl, results.json and the files around them."""

import json

from etils import epath
import numpy as np

from simclr_jax.evaluation import metrics
from simclr_jax.reporting import pictures
from simclr_jax.runtime.tensorflow import tf
from simclr_jax.runtime.trackers import Trackers
from simclr_jax.workdir import metrics_file
from simclr_jax.workdir import writers


def test_a_continued_run_writes_every_step_once(tmp_path):
    workdir = epath.Path(tmp_path)
    writer = writers.MetricsWriter(workdir)
    for step in (10, 20, 30):
        writer.write(step, {"loss": step / 10})
    writer.close()
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')  # cut off by a kill
    writer = writers.MetricsWriter(workdir, step=20)
    writer.write(30, {"loss": 3.5})
    writer.close()
    lines = metrics_file.read(workdir / "metrics.jsonl")
    assert [(line["step"], line["loss"]) for line in lines] == [(10, 1.0), (20, 2.0), (30, 3.5)]
    assert list((tmp_path / "tensorboard").iterdir())


def test_results_are_valid_json_whatever_they_hold(tmp_path):
    writers.write_results(epath.Path(tmp_path), {"top1": float("nan"), "draws": [{"l2": float("inf")}], "n": 3})

    def refuse(text):
        raise AssertionError(text)

    results = json.loads((tmp_path / "results.json").read_text(), parse_constant=refuse)
    assert results == {"top1": None, "draws": [{"l2": None}], "n": 3}


def test_accuracy_counts_top_1_and_top_5():
    scores = np.array([[9, 5, 4, 3, 2, 1], [9, 5, 4, 3, 2, 1], [9, 5, 4, 3, 2, 1], [9, 5, 4, 3, 2, 1]], np.float32)
    result = metrics.accuracy(scores, np.array([0, 1, 4, 5], np.int32))
    assert result == {"top1": 0.25, "top5": 0.75, "mean_per_class": 0.25, "n": 4}


def test_pictures_are_written(tmp_path):
    rng = np.random.default_rng(0)
    folder = epath.Path(tmp_path)
    pictures.contact_sheet(rng.integers(0, 255, (5, 2, 16, 16, 3), dtype=np.uint8), folder / "views.png")
    pictures.curves([{"step": step, "loss": 1 / step} for step in (1, 2, 3)], folder / "curves.png")
    labels = np.arange(40) % 12
    pictures.embedding_map(
        rng.normal(size=(40, 8)).astype(np.float32), labels, list("abcdefghijkl"), folder / "map.png"
    )
    for name in ("views.png", "curves.png", "map.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")


def test_a_picture_of_the_workdir_is_shown_in_tensorboard(tmp_path):
    workdir = epath.Path(tmp_path)
    writers.show_picture(workdir, "views", 0, Trackers())  # there is none yet
    assert not (workdir / "tensorboard").exists()
    pictures.contact_sheet(np.zeros((4, 2, 8, 8, 3), np.uint8), workdir / "views.png")
    writers.show_picture(workdir, "views", 7, Trackers())
    (events,) = (tmp_path / "tensorboard").iterdir()
    images = [
        (event.step, value.tag, value.image.height > 8, value.image.encoded_image_string)
        for record in tf.data.TFRecordDataset(str(events)).as_numpy_iterator()
        for event in [tf.compat.v1.Event.FromString(record)]
        for value in event.summary.value
    ]
    assert images == [(7, "views", True, (tmp_path / "views.png").read_bytes())]
