"""Disks that are full, read-only or gone: one line with the path and what is needed, and a separate exit code."""

import errno
import os
import pathlib
import shutil
import socket
import subprocess
import sys

from etils import epath
import pytest

from simclr_jax import errors
from simclr_jax.runtime import cli
from simclr_jax.runtime import storage

ROOT = pathlib.Path(__file__).parents[2]


def chained():
    """As Orbax and TensorStore report it: the cause is named in words, and is not the last error."""
    error = RuntimeError("Checkpoint failed")
    error.__cause__ = ValueError('RESOURCE_EXHAUSTED: Error writing "/run/checkpoints/3/d/x": No space left on device')
    return error


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OSError(errno.ENOSPC, "No space left on device", "/a/b"), "/a/b: No space left on device; make room"),
        (lambda: PermissionError(errno.EACCES, "Permission denied", "/a"), "/a: Permission denied; this user may not"),
        (lambda: OSError(errno.EROFS, "Read-only file system", "/a"), "/a: Read-only file system; the file system can"),
        (lambda: ExceptionGroup("some", [OSError(errno.EFBIG, "x", "/a")]), "/a: File too large; raise the limit"),
        (chained, "/run/checkpoints/3/d/x: No space left on device"),
        (lambda: ValueError("no space for that"), None),
        (lambda: FileNotFoundError(errno.ENOENT, "No such file", "/a"), None),
    ],
)
def test_what_a_disk_is_the_cause_of_is_a_line(make, message):
    problem = storage.problem(make())
    assert problem == message or (message is not None and problem.startswith(message))
    assert message is None or problem.endswith("What was saved before is kept.")


def test_an_error_without_a_path_says_where_the_command_writes():
    full = OSError(errno.ENOSPC, "No space left on device")
    assert storage.problem(full, "--output=/a").startswith("a file (the command writes to --output=/a): No space left")
    full.__cause__ = OSError(errno.ENOSPC, "No space left on device", "/a/b")
    assert storage.problem(full, "--output=/a").startswith("/a/b: No space left")


# In a process whose files may have at most 3,000 bytes.
LIMITED = """
import pathlib, resource, signal, sys
import numpy as np
from etils import epath
from simclr_jax.inference import tables
from simclr_jax.inference.rows import Rows
from simclr_jax.runtime import files, storage

def appended(path):
    file = files.Appending(path)
    file.write(b"x" * 5000)
    file.flush()

rows = Rows(["p"] * 999, [""] * 999, np.ones(999, bool), np.ones([999, 1], np.float32), np.zeros([999, 0], np.int32))
writers = {
    "whole": lambda path: files.write_atomically(path, b"x" * 5000),
    "table": lambda path: tables.write(path, [rows], tables.Layout(False, 1, None, {})),
    "appended": appended,
}
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
for name, write in writers.items():
    folder = epath.Path(sys.argv[1]) / name
    folder.mkdir()
    try:
        write(folder / "a.csv")
        print("no error")
    except OSError as error:
        print(storage.problem(error))
"""


@pytest.mark.slow
def test_a_file_that_cannot_be_written_is_named_and_leaves_nothing_beside_it(tmp_path):
    words = [sys.executable, "-c", LIMITED, str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    for name, line in zip(("whole", "table", "appended"), lines, strict=True):
        assert line.startswith(f"{tmp_path}/{name}/a.csv: File too large")
        assert {path.name for path in (tmp_path / name).iterdir()} <= {"a.csv"}


@pytest.mark.parametrize(
    ("free", "keep", "existing", "message"),
    [
        (10.0, 3, 0, None),
        (4.0, 3, 0, None),
        (3.9, 3, 0, r"has 3.9 GiB free, but 4 checkpoints of 1.0 GiB need 4.0 GiB more: make room.*keep=2\.$"),
        (1.5, 3, 3, None),
        (1.5, 3, 2, r"need 2.0 GiB more: make room, or keep fewer: --config.checkpoint.keep=2\.$"),
        (0.5, 3, 0, r"need 4.0 GiB more: make room\.$"),
    ],
)
def test_room_for_the_checkpoints_is_looked_at_first(tmp_path, monkeypatch, free, keep, existing, message):
    usage = shutil.disk_usage(tmp_path)._replace(free=int(free * 2**30))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    arguments = (epath.Path(tmp_path), 2**30, keep, existing)
    if message is None:
        storage.check_room(*arguments)
    else:
        with pytest.raises(errors.StorageError, match=message):
            storage.check_room(*arguments)
    storage.check_room(epath.Path("gs://bucket/run"), 2**60, 3, 0)


def pretrain(workdir, *words, limited=False):
    """A short pretraining as a user starts it, with files of at most 30 KiB if `limited`: exit code, last line printed."""
    command = [sys.executable, "-m", "simclr_jax.pretrain", "--config=configs/digits.py", f"--workdir={workdir}"]
    fields = {"model.depth": 10, "model.width": 0.125, "data.image_size": 8, "batch_size": 32, "epochs": 0.15}
    fields |= {"optimizer.warmup_epochs": 0, "checkpoint.every_steps": 2, "augment.blur_prob": 0}
    command += [f"--config.{name}={value}" for name, value in fields.items()]
    limit = ["bash", "-c", 'ulimit -f 30; exec "$@"', "bash"] if limited else []
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    done = subprocess.run([*limit, *command, *words], cwd=ROOT, capture_output=True, text=True, env=environment)
    return done.returncode, done.stderr.strip().splitlines()[-1]


@pytest.mark.slow
def test_a_run_beyond_a_quota_keeps_its_checkpoint_and_continues_with_room(tmp_path):
    code, line = pretrain(tmp_path / "run", "--compilation_cache=", limited=True)
    assert (code, line.startswith("error: ")) == (errors.EXIT_STORAGE, True), line
    assert "File too large; raise the limit on the size of files" in line
    code, line = pretrain(tmp_path / "run")
    assert code == 0, line


@pytest.mark.slow
def test_a_workdir_may_have_any_letters(tmp_path):
    workdir = tmp_path / "läufe 2026 {b} %20, 北京"
    code, line = pretrain(workdir)
    assert code == 0, line
    # The libraries that write checkpoints take brackets for patterns; those that read them do not.
    moved = workdir.rename(tmp_path / "moved[1]")
    cli.call("knn", f"--pretrained={moved}", f"--workdir={tmp_path}/knn", "--compilation_cache=")


@pytest.mark.parametrize("name", ["run[1]", "a[b]/run", "what?", "all*"])
def test_a_workdir_that_is_a_pattern_is_refused(tmp_path, name):
    with pytest.raises(errors.UserError, match=r"take a folder without \[ \] \* \? in its path"):
        cli.call("pretrain", "--config=configs/digits.py", f"--workdir={tmp_path / name}")


def test_letters_that_the_locale_lacks_are_refused():
    word = b"--workdir=/tmp/l\xc3\xa4ufe".decode("ascii", errors="surrogateescape")  # as Python has it in such a locale
    with pytest.raises(errors.UserError, match="--workdir=/tmp/läufe: the locale of this terminal .* LC_ALL=C.UTF-8"):
        cli.call("pretrain", "--config=configs/digits.py", word)


@pytest.mark.slow
def test_a_place_that_is_not_ours_is_a_line(tmp_path):
    (tmp_path / "file").write_text("x")
    code, line = pretrain(tmp_path / "file" / "run")
    assert code in (errors.EXIT_STORAGE, errors.EXIT_USER_ERROR), line
    assert line.startswith("error: ")
    assert "file" in line


def test_a_bucket_that_cannot_be_reached_is_a_line():
    try:
        socket.getaddrinfo("no-such-host.invalid", 443)
    except OSError as error:
        wrapped = RuntimeError("of a library")
        wrapped.__cause__ = error
    assert storage.unreachable(wrapped).startswith("the bucket cannot be reached: [Errno")
    assert storage.unreachable(ValueError("a bug")) is None
    text = (
        "Error executing an HTTP request: libcurl code 6 meaning 'Could not resolve hostname'\n\t when reading gs://a/b"
    )
    assert storage.unreachable(RuntimeError(text)).startswith(
        "the bucket cannot be reached: libcurl code 6 meaning 'Could not resolve hostname' when reading gs://a/b. Check"
    )
