"""The figure of a sweep: which values it takes, what it draws, and what is refused."""

import csv

from etils import epath
from helpers import REPOSITORY
import numpy as np
from PIL import Image
import pytest
from sweeps import finish as finish_stage

from launch import sweep
from launch import sweep_figure
from launch import sweep_file
from launch.sweep_figure import Figure
from simclr_jax.errors import UserError

pytestmark = pytest.mark.usefixtures("at_repository")

TEXT = """
'''Some.'''
from launch.sweep_figure import Figure
FIGURE = Figure({kind!r}, {{"probe.top1": "probe", "loss": "loss"}}, x="temperature", log={kind!r} == "lines")
def sweep():
    for series in ("cat", "dog"):
        for place in {places}:
            for seed in (0, 1):
                yield {{
                    "run": "pretrain --config=configs/digits.py",
                    "config.loss.normalize": series == "cat",
                    "config.loss.temperature": float(place) if str(place)[0].isdigit() else 0.1 * ord(place[0]),
                    "config.seed": seed,
                    "then": {{"probe": "linear_probe"}},
                    "figure": (series, place),
                    "paper": {{"probe.top1": 0.5 + 0.01 * len(str(place))}},
                }}
"""


def load(tmp_path, kind="lines", places=(0.1, 10)):
    (tmp_path / "some.py").write_text(TEXT.format(kind=kind, places=places))
    return sweep_file.load(str(tmp_path / "some.py"), str(tmp_path / "W"))


def finish(runs, top1):
    """As if the runs had been carried out; `top1` of their numbers."""
    for number, run in enumerate(runs):
        for stage in run.stages:
            finish_stage(stage, top1=top1(number) if stage.follow_up else 0.0)


def test_values_are_gathered_by_places_over_seeds(tmp_path):
    runs = load(tmp_path).runs
    assert sweep_figure.values_of(runs, "probe.top1") == {}
    finish(runs[:5], lambda number: number / 10)
    found = sweep_figure.values_of(runs, "probe.top1")
    assert found.keys() == {("cat", 0.1), ("cat", 10), ("dog", 0.1)}
    assert found["cat", 10] == pytest.approx([20, 30])
    assert found["dog", 0.1] == pytest.approx([40])
    assert sweep_figure.values_of(runs, "top1")["cat", 10] == [0, 0]
    assert sweep_figure.published(runs, "probe.top1")["dog", 0.1] == pytest.approx([53])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "places"), [("lines", (0.1, 10)), ("bars", ("ox", "hen")), ("matrix", ("cat", "dog"))]
)
def test_it_is_drawn_beside_the_papers(kind, places, tmp_path, monkeypatch):
    loaded = load(tmp_path, kind, places)
    assert not sweep_figure.draw(loaded.figure, loaded.runs, epath.Path(tmp_path) / "none.png")
    finish(loaded.runs, lambda number: 0.3 + number / 100)
    drawn = []
    save = sweep_figure.pictures.save

    def look(figure, path):
        drawn.extend(figure.axes)
        save(figure, path)

    monkeypatch.setattr(sweep_figure.pictures, "save", look)
    assert sweep.run(["sweep", f"--sweep={tmp_path / 'some.py'}", f"--workdir={tmp_path / 'W'}", "--collect"]) == 0
    assert [axes.get_title() for axes in drawn] == ["probe", "probe, in the paper"]
    pixels = np.asarray(Image.open(tmp_path / "W" / "results.png").convert("RGB"))
    assert pixels.std() > 10
    ours, theirs = drawn
    if kind == "lines":
        x, means = ours.lines[0].get_data()
        np.testing.assert_allclose(np.array(x, float), places)
        np.testing.assert_allclose(np.array(means, float), [30.5, 32.5])
        lower = np.array(ours.lines[1].get_ydata(), float)
        np.testing.assert_allclose(lower, np.array([30.5, 32.5]) - np.std([0, 1], ddof=1))
    if kind == "bars":
        assert [bar.get_height() for bar in theirs.patches] == pytest.approx([52, 53] * 2)
    if kind == "matrix":
        (image,) = ours.images
        np.testing.assert_allclose(np.array(image.get_array()), [[30.5, 32.5], [34.5, 36.5]])
        assert len(ours.texts) == 4, "one for each cell"

    with (tmp_path / "W" / "results.csv").open() as file:
        row = next(csv.DictReader(file))
    assert float(row["paper.probe.top1"]) == pytest.approx(0.5 + 0.01 * len(str(places[0])))
    text = (tmp_path / "W" / "results.md").read_text()
    assert "paper.probe.top1" in text
    assert "30.5 +- 0.7 | 5" in text, "mean and spread of ours, and the paper's without one"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FIGURE = 3", "FIGURE is 3, but should be a launch.sweep_figure.Figure"),
        ("from launch.sweep_figure import Figure\nFIGURE = Figure('bars', {})", "no run has a place in it"),
        ("from launch.sweep_figure import Figure\nFIGURE = Figure('pie', {})", "but not of 'pie'"),
    ],
)
def test_mistakes_are_told(text, message, tmp_path):
    item = {"run": "pretrain --config=configs/digits.py", "config.seed": 1}
    (tmp_path / "some.py").write_text(f"{text}\ndef sweep():\n    yield {item!r}\n")
    with pytest.raises(UserError, match=message):
        sweep_file.load(str(tmp_path / "some.py"), "W")


@pytest.mark.parametrize(
    ("extra", "message"), [({"figure": "a"}, "'figure' is 'a', but should be"), ({"paper": 0.5}, "'paper' is 0.5")]
)
def test_mistakes_of_a_run_are_told(extra, message, tmp_path):
    item = {"run": "pretrain --config=configs/digits.py", "config.seed": 1} | extra
    (tmp_path / "some.py").write_text(f"def sweep():\n    yield {item!r}\n")
    with pytest.raises(UserError, match=message):
        sweep_file.load(str(tmp_path / "some.py"), "W")


def test_a_matrix_shows_a_pair_on_both_sides_of_the_diagonal():
    axes = sweep_figure.pictures.new_figure(3, 3).add_subplot()
    sweep_figure._matrix(axes, {("crop", "crop"): [1.0], ("crop", "blur"): [2.0, 4.0], ("blur", "blur"): [5.0]})
    np.testing.assert_allclose(np.array(axes.images[0].get_array()), [[1, 3], [3, 5]])
    assert sorted(text.get_text() for text in axes.texts) == ["1.0", "3.0\n\N{PLUS-MINUS SIGN}1.4"] + [
        "3.0\n\N{PLUS-MINUS SIGN}1.4",
        "5.0",
    ]


def test_every_sweep_of_the_paper_has_a_figure():
    names = {path.stem for path in (REPOSITORY / "configs" / "sweeps").glob("*.py")} - {
        "common",
        "transfer",
    }
    for name in names:
        arg = ":configs" if name in ("semi_supervised", "transformations") else ""
        loaded = sweep_file.load(f"configs/sweeps/{name}.py{arg}", "W")
        assert isinstance(loaded.figure, Figure), name
        assert all(run.place for run in loaded.runs), name
