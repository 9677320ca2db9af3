"""Files that a crash has torn, or another program has written, are named in one line that says what to do."""

from etils import epath
import pytest

from simclr_jax.errors import UserError
from simclr_jax.runtime import files
from simclr_jax.runtime import trackers
from simclr_jax.workdir import classifiers
from simclr_jax.workdir import predictions

TORN = (b"", b"PK\x03\x04torn", b"\x93NUMPY", b"\x80\x05K\x01.")


@pytest.mark.parametrize("content", TORN)
@pytest.mark.parametrize("module", [classifiers, predictions])
def test_torn_arrays(tmp_path, module, content):
    (tmp_path / module.NAME).write_bytes(content)
    with pytest.raises(UserError, match=rf"{module.NAME} is damaged \(.+\): the .*command of .* writes it again\.$"):
        module.read(epath.Path(tmp_path))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[1]", b"null"])
def test_torn_fields(tmp_path, content):
    path = epath.Path(tmp_path / "a.json")
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a.json is damaged \(.+\): delete it\.$"):
        files.read_json(path, "delete it")


def test_torn_runs_of_trackers(tmp_path):
    (tmp_path / trackers.FILE).write_text("{")
    some = trackers.Trackers([])
    some._trackers["a"] = None
    with pytest.raises(UserError, match="trackers.json is damaged .*: delete it; the trackers then begin a new run"):
        some.start(epath.Path(tmp_path), {})
