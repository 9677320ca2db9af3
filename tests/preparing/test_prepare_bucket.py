"""Records in a bucket: written there, continued, and read in ranges, as training reads them from a disk."""

import json
import os
import subprocess
import sys

import fake_gcs
from helpers import REPOSITORY
import numpy as np
import pytest

READ = """
import sys

import numpy as np

from simclr_jax import config as config_lib
from simclr_jax.data import order, pipeline, sources

data = config_lib.pretrain().data
data.update(source="records", root="gs://lab/records")
source = sources.open_source(data, sys.argv[1])
shard = order.HostShard(8, 2)
options = dict(num_views=2, size=12, shard=shard, seed=0, bad_images=pipeline.BadImages(source, 0.0))
batch = next(pipeline.train_batches(source, config_lib.pretrain().augment, **options))
np.savez(sys.argv[2], labels=source.labels, last=source.describe(source.num_examples - 1), **batch)
"""


@pytest.mark.heavy
def test_records_in_a_bucket_are_those_of_a_disk(tmp_path, image_folder, prepare):
    running, store = fake_gcs.start()
    environment = os.environ | fake_gcs.variables(running) | {"PYTHONPATH": str(REPOSITORY)}

    def call(*words):
        command = [sys.executable, *words]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400)

    local, _ = prepare(image_folder, "--shard_images=5")
    words = ("-m", "simclr_jax.prepare", f"--images={image_folder}", "--output=gs://lab/records", "--shard_images=5")
    ran = call(*words, "--processes=1")
    assert ran.returncode == 0, ran.stderr

    def in_bucket():
        return {key.removeprefix("lab/records/"): content for key, (content, _) in store.objects.items() if "." in key}

    expected = {str(path.relative_to(local)): path.read_bytes() for path in local.rglob("*") if path.is_file()}
    assert in_bucket() == expected
    # What a killed command leaves: records without their index, of which one file is missing.
    for name in ("records.json", "train/index.npz", "train/00001-of-00005.array_record"):
        store.delete(f"lab/records/{name}")
    facts = json.loads(expected["records.json"])["facts"]
    store.put("lab/records/preparing.json", json.dumps(facts).encode(), {})
    refused = call("-c", READ, "train", "x.npz")
    assert "'gs://lab/records' is not complete: run its command of simclr_jax.prepare again" in refused.stderr
    ran = call(*words, "--processes=2")
    assert ran.returncode == 0, ran.stderr
    assert in_bucket() == expected

    data_script = READ.replace("gs://lab/records", str(local))
    for name, program in (("bucket.npz", READ), ("disk.npz", data_script)):
        ran = call("-c", program, "train", name)
        assert ran.returncode == 0, ran.stderr
    with np.load(tmp_path / "bucket.npz") as bucket, np.load(tmp_path / "disk.npz") as disk:
        for key in disk:
            np.testing.assert_array_equal(bucket[key], disk[key], err_msg=key)
    store.objects["lab/records/train/00001-of-00005.array_record"] = (b"torn", 1)
    assert "00001-of-00005.array_record is damaged" in call("-c", READ, "train", "x.npz").stderr
    running.shutdown()
