"""A fixture for sweeps."""

import pytest


@pytest.fixture
def write(tmp_path):
    """`write(text)`: a sweep file, as the value of --sweep."""

    def write(text):
        (tmp_path / "some.py").write_text(text)
        return str(tmp_path / "some.py")

    return write
