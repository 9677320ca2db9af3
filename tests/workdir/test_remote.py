"""A workdir in a bucket: everything that a run writes and reads goes through one path library."""

import json
import os
import subprocess
import sys

from compile_flags import COMPILE_FLAGS
import fake_gcs
from helpers import REPOSITORY
from helpers import TINY
import pytest


@pytest.fixture(scope="module")
def bucket():
    running, store = fake_gcs.start()

    def call(module, *arguments):
        environment = os.environ | fake_gcs.variables(running) | {"XLA_FLAGS": COMPILE_FLAGS, "JAX_PLATFORMS": "cpu"}
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        command = [sys.executable, "-m", f"simclr_jax.{module}", *arguments]
        return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=400)

    yield call, store
    running.shutdown()


@pytest.mark.heavy
def test_a_run_its_continuation_and_an_evaluation(bucket):
    call, store = bucket
    every = "--config.checkpoint.every_steps=4"
    first = call("pretrain", *TINY, "--workdir=gs://lab/run", "--config.epochs=0.3", every)
    assert first.returncode == 0, first.stderr

    def text(name):
        return store.objects[f"lab/{name}"][0].decode()

    assert json.loads(text("run/results.json"))["step"] == 7
    assert json.loads(text("run/config.json"))["batch_size"] == 64
    assert [json.loads(line)["step"] for line in text("run/metrics.jsonl").splitlines()] == list(range(1, 8))
    names = {key.removeprefix("lab/run/") for key in store.objects}
    for pattern in ("checkpoints/7/", "tensorboard/", "compilation_cache/", "views.png", "curves.png"):
        assert any(name.startswith(pattern) for name in names), f"no {pattern} in {sorted(names)[:40]}"
    assert not (REPOSITORY / "gs:").exists(), "a local folder of that name"

    # Continued, as after a preemption: the results are gone, the newest checkpoint is that of step 4.
    for key in [key for key in store.objects if "/checkpoints/7/" in key or key.endswith("results.json")]:
        store.delete(key)
    again = call("pretrain", *TINY, "--workdir=gs://lab/run", "--config.epochs=0.3", every)
    assert again.returncode == 0, again.stderr
    assert "from step 4" in again.stderr
    assert len(json.loads(text("run/environment.json"))) == 2, "an entry for each start"
    assert [json.loads(line)["step"] for line in text("run/metrics.jsonl").splitlines()] == list(range(1, 8))

    knn = call("knn", "--pretrained=gs://lab/run", "--workdir=gs://lab/knn", "--config.map_points=0")
    assert knn.returncode == 0, knn.stderr
    assert json.loads(text("knn/results.json"))["n"] == 360
