"""A table replaces an earlier one of the same command, and nothing else."""

from etils import epath
import numpy as np
import pytest

from simclr_jax.errors import UserError
from simclr_jax.inference import tables
from simclr_jax.inference.rows import Rows
from simclr_jax.runtime import earlier_output


def write(path, command, labelled):
    values = np.ones([2, 3], np.float32)
    classes = np.tile(np.arange(3, dtype=np.int32), [2, 1]) if command == "predict" else np.zeros([2, 0], np.int32)
    rows = Rows(["a.jpg", "b,c.jpg"], ["cat", "dog"], np.array([True, False]), values, classes)
    names = ["cat", "dog", "owl"] if command == "predict" else None
    tables.write(path, [rows], tables.Layout(labelled, 3, names, {"step": 1}))


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize(
    ("command", "ending"),
    [("embed", ".csv"), ("embed", ".npz"), ("embed", ".parquet"), ("predict", ".csv"), ("predict", ".parquet")],
)
def test_a_table_of_the_same_command_may_be_replaced(tmp_path, command, ending, labelled):
    path, other = epath.Path(tmp_path / f"x{ending}"), "predict" if command == "embed" else "embed"
    earlier_output.check_file(path, command)
    write(path, command, labelled)
    earlier_output.check_file(path, command)
    for another in (other, "search", "report"):
        with pytest.raises(
            UserError, match=f"x{ending} would be replaced, but is not an earlier .*_jax.{another}: give"
        ):
            earlier_output.check_file(path, another)


@pytest.mark.parametrize(
    "content", [b"path,class,split\na.jpg,cat,train\n", b"path\tlabel\n", b"\xff\xd8\xff", b"PK\x03"]
)
@pytest.mark.parametrize("ending", [".csv", ".npz", ".parquet"])
def test_something_of_the_user_is_not(tmp_path, content, ending):
    path = epath.Path(tmp_path / f"x{ending}")
    path.write_bytes(content)
    for command in ("embed", "predict", "search", "report"):
        with pytest.raises(UserError, match="would be replaced"):
            earlier_output.check_file(path, command)
    path.write_bytes(b"")  # as `mktemp` makes it
    earlier_output.check_file(path, "embed")


def test_arrays_of_the_user_are_not(tmp_path):
    np.savez(tmp_path / "x.npz", path=np.zeros(3), images=np.zeros(3))
    with pytest.raises(UserError, match="would be replaced"):
        earlier_output.check_file(epath.Path(tmp_path / "x.npz"), "embed")
