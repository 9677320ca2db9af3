"""The notebook in docs/ runs."""

import json

from helpers import REPOSITORY
import matplotlib
import pytest


@pytest.mark.heavy
def test_the_notebook_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    cells = json.loads((REPOSITORY / "docs" / "use_the_encoder.ipynb").read_text())["cells"]
    names: dict = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [], "commit it without outputs"
            exec("".join(cell["source"]), names)
    assert "of the test images are right" in capsys.readouterr().out
    assert names["table"]["vector"].shape == (1797, 64)
