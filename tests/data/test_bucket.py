"""Images in a bucket, through TensorFlow's own client: how many requests a listing costs."""

import os
import shutil
import subprocess
import sys

import fake_gcs
from helpers import REPOSITORY
import pytest

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    running, store = fake_gcs.start()
    environment = os.environ | fake_gcs.for_tensorflow(running, tmp_path_factory.mktemp("certificate"))

    def call(program):
        """What a program prints, and the requests that it makes."""
        store.requests.clear()
        setup = "from simclr_jax.data.sources import listing\nfrom simclr_jax.runtime.tensorflow import tf\n"
        command = [sys.executable, "-c", setup + program]
        ran = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=120)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.split(), list(store.requests)

    for number in range(2500):
        store.put(f"lab/photos/train/cat/{number:04}.jpg", b"", {})
    for number in range(3):
        store.put(f"lab/photos/train/dog/{number}.JPG", b"", {})
    for name in ("train/v1.0/a b#?.png", "train/.cache/0.jpg", "notes.txt"):
        store.put(f"lab/photos/{name}", b"", {})
    yield call, store
    running.shutdown()


@pytest.mark.slow
def test_a_listing_costs_a_request_for_each_page(bucket):
    call, _ = bucket
    printed, requests = call(
        "paths = listing.images_below('gs://lab/photos')\n"
        "print(len(paths), len(set(paths)), paths == sorted(paths), paths[0], paths[-2], paths[-1].replace(' ', '_'))"
    )
    assert printed[:3] == ["2504", "2504", "True"]
    assert printed[3:] == [
        "gs://lab/photos/train/cat/0000.jpg",
        "gs://lab/photos/train/dog/2.JPG",
        "gs://lab/photos/train/v1.0/a_b#?.png",
    ]
    # photos, train, cat (3 pages), dog and v1.0, and whether each of the five exists. A walk asks twice about each image too.
    assert len(requests) == 7 + 5


@pytest.mark.slow
def test_folders_and_whether_there_are_images_cost_a_request_for_each_page(bucket):
    call, _ = bucket
    printed, requests = call("print(*listing.folders_in('gs://lab/photos/train'))")
    assert printed == ["cat", "dog", "v1.0"]
    assert len(requests) == 2
    printed, requests = call("print(listing.has_image('gs://lab/photos/train/dog'))")
    assert printed == ["True"]
    assert len(requests) == 2


@pytest.mark.slow
def test_a_walk_of_tensorflow_asks_about_each_file(bucket):
    call, _ = bucket
    printed, requests = call("print(sum(len(names) for _, _, names in tf.io.gfile.walk('gs://lab/photos/train/dog')))")
    assert printed == ["3"]
    assert len(requests) >= 2 * 3, "if this is less, TensorFlow has a better one"
