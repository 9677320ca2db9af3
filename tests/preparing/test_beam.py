"""`simclr_jax.prepare --runner=...` on Beam's local runner. Apache Beam is an extra that the tests do not install."""

import os
import subprocess
import sys

from helpers import REPOSITORY
from helpers import write_image
import pytest

from simclr_jax.errors import UserError
from simclr_jax.runtime import extras


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.slow
def test_a_pipeline_writes_the_same_files(tmp_path, prepare):
    pytest.importorskip("apache_beam", reason="the extra beam is not installed")
    for split in ("train", "val"):
        for number in range(6):
            write_image(tmp_path / "photos" / split / f"c{number % 2}" / f"{number}.jpg", seed=number, size=(90, 100))
    words = ("--shard_images=2", "--shorter_side=64")
    whole, _ = prepare(tmp_path / "photos", *words, output="whole")
    output = tmp_path / "records"
    command = [
        sys.executable,
        "-m",
        "simclr_jax.prepare",
        f"--images={tmp_path / 'photos'}",
        f"--output={output}",
        *words,
    ]
    # In a separate process: Beam warns about much, and warnings are errors here.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])}
    command += ["--runner=DirectRunner", "--beam_options=--direct_num_workers=1"]
    ran = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert files_of(output) == files_of(whole)
    (output / "records.json").unlink()
    for path in output.rglob("00001-*.array_record"):
        path.unlink()
    # Some files are there, as after a pipeline that was cancelled.
    (output / "preparing.json").write_text("{}")
    refused = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert refused.returncode == 2, refused.stderr
    assert "records of other images or flags" in refused.stderr
    for runner, options in (("DirectRunner", "--direct_num_workers=many"), ("FastRunner", "")):
        wrong = [*command[:-2], "--overwrite", f"--runner={runner}", f"--beam_options={options}"]
        ran = subprocess.run(wrong, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
        assert ran.returncode == 2, ran.stderr
        assert f"error: Beam refuses --runner={runner} --beam_options='{options}': " in ran.stderr
        assert "usage" not in ran.stderr


def test_beam_that_is_missing_is_one_line(tmp_path, prepare, monkeypatch):
    write_image(tmp_path / "photos" / "0.jpg")
    real = extras.importlib.util.find_spec
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None if name == "apache_beam" else real(name))
    with pytest.raises(
        UserError, match=r"--runner=DataflowRunner needs apache_beam, .* pip install 'simclr_jax\[beam\]'"
    ):
        prepare(tmp_path / "photos", "--runner=DataflowRunner")
