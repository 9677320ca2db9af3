"""The report: what it says of some runs, and what a browser makes of it."""

import html.parser
import json
import re
import shutil
import subprocess

from etils import epath
import numpy as np
from PIL import Image
import pytest

from simclr_jax import config as config_lib
from simclr_jax import errors
from simclr_jax import report
from simclr_jax.config import saved as saved_config
from simclr_jax.evaluation import metrics
from simclr_jax.reporting import names
from simclr_jax.reporting import pictures
from simclr_jax.workdir import predictions
from simclr_jax.workdir import runs as saved_runs
from simclr_jax.workdir import weights
from simclr_jax.workdir import writers

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# Without these it would ask the network for this and that by itself.
HEADLESS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--window-size=1200,3000"),
)
NAMES = ["cat", "dog", "<b>&amp;"]


def evaluated(workdir, config, seed=0, classes=3, draws=1, **results):
    """A workdir as an evaluation leaves it, with random scores."""
    config.label_seeds = tuple(range(draws))
    rng, each = np.random.default_rng(seed), []
    for draw in range(draws):
        folder = workdir / f"draw_{draw}"
        folder.mkdir(parents=True)
        labels = np.arange(30, dtype=np.int32) % classes
        scores = rng.normal(size=(30, classes)) + 2 * np.eye(classes)[labels]
        names = NAMES if classes == 3 else [f"class {number}" for number in range(classes)]
        predictions.write(folder, np.arange(30), labels, np.argmax(scores, axis=1), names)
        each.append(metrics.accuracy(scores, labels) | {"labels": 12, "seed": draw})
    means = {key: float(np.mean([one[key] for one in each])) for key in ("top1", "top5", "mean_per_class")}
    spread = float(np.std([one["top1"] for one in each]))
    writers.write_atomically(workdir / "config.json", saved_config.to_json(config))
    writers.write_results(workdir, means | {"top1_std": spread, "n": 30, "draws": each} | results)
    return means


@pytest.fixture
def runs(tmp_path):
    """Two pretraining runs, of which one is not done, and evaluations of the other."""
    top = epath.Path(tmp_path) / "lab"
    for name, temperature in (("first", 0.1), ("second", 0.5)):
        workdir = top / name / "pretrain"
        (workdir / "checkpoints" / "9").mkdir(parents=True)
        config = config_lib.pretrain()
        config.data.source = "digits"
        config.model.depth = 18
        config.loss.temperature = temperature
        writers.write_atomically(workdir / "config.json", saved_config.to_json(config))
        lines = [{"step": step, "loss": 10 - step / 20, "contrastive_top1": step / 200} for step in range(20, 101, 20)]
        writers.write_atomically(workdir / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
        views = np.random.default_rng(0).integers(0, 255, (8, 2, 8, 8, 3)).astype(np.uint8)
        pictures.contact_sheet(views, workdir / "views.png")
    writers.write_results(
        top / "first" / "pretrain", {"top1": 0.5, "top5": 0.9, "loss": 5.0, "seconds": 12.0, "step": 100}
    )
    found = {}
    for init in ("pretrained", "random"):
        config = config_lib.finetune()
        config.init = init
        config.pretrained = "x" if init == "pretrained" else None
        config.optimizer.learning_rate = 0.1 if init == "random" else 0.03
        found[init] = evaluated(top / "first" / f"finetune_{init}", config, seed=len(init), draws=3)
    config = config_lib.knn()
    config.features = "z"
    found["knn"] = evaluated(top / "first" / "knn", config, classes=40)
    return top, found


class Parser(html.parser.HTMLParser):
    """The page's tables as text, its links, and what it would load."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.loads, self.anchors, self.ids, self._cell = [], [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.loads += [attributes[name] for name in ("src", "data", "srcset") if name in attributes]
        self.loads += [attributes["href"]] if tag == "link" else []
        self.anchors += [attributes["href"]] if tag == "a" else []
        self.ids += [attributes["id"]] if "id" in attributes else []
        assert tag != "script"
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self._cell = ""

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.rows[-1].append(self._cell)
            self._cell = None

    def handle_data(self, data):
        if self._cell is not None:
            self._cell += data


def test_what_it_says(runs, tmp_path):
    top, found = runs
    assert len(report.write([str(top)], str(tmp_path / "page.html"))) == 5
    text = (tmp_path / "page.html").read_text()
    page = Parser(text)
    rows = {tuple(row[:2]): row for row in page.rows if len(row) > 1}

    # Results against the untrained baseline, which has another learning rate.
    row = rows["first/finetune_pretrained", "fine-tuning"]
    ours, theirs = (100 * found[init]["top1"] for init in ("pretrained", "random"))
    assert row[2] == "12 \N{MULTIPLICATION SIGN} 3 subsets"
    assert row[3].startswith(f"{ours:.1f} ± ")
    assert row[4].startswith(f"{theirs:.1f} ± ")
    assert row[5:] == [f"{ours - theirs:+.1f}", "100.0", f"{100 * found['pretrained']['mean_per_class']:.1f}"]
    row = rows["first/knn", "nearest neighbours of z"]
    assert row[3:6] == [f"{100 * found['knn']['top1']:.1f}", "", ""]

    # Pretraining, done and not done, and in what they differ: in nothing else.
    assert rows["first/pretrain", "ResNet-18 (1x)"][5:7] == ["100", "12 s"]
    assert rows["second/pretrain", "ResNet-18 (1x)"][5:8] == ["100", "at step 100", "5.000"]
    differing = [row for row in page.rows if len(row) == 3 and row[0] == "loss.temperature"]
    assert differing == [["loss.temperature", "0.1", "0.5"]]
    assert not [row for row in page.rows if len(row) == 3 and row[0] == "loss.normalize"]

    # The confusion matrix: one of three draws with three classes; of forty, the worst ones only.
    made = [predictions.read(top / "first" / "finetune_pretrained" / f"draw_{draw}") for draw in range(3)]
    counts = sum(one.confusion() for one in made)
    (row,) = (row for row in page.rows if row[0] == NAMES[2] and len(row) == 4)
    assert row[1:] == [f"{share:.0f}" if share else "" for share in 100 * counts[2] / counts[2].sum()]
    assert "20 most frequent of the 40 classes' confusions" in html.unescape(text)

    # Self-contained, and its links lead somewhere.
    assert len([load for load in page.loads if load.startswith("data:image/png")]) == 1, "the same views are shown once"
    assert all(load.startswith("data:") for load in page.loads)
    assert page.anchors
    assert {anchor.removeprefix("#") for anchor in page.anchors} <= set(page.ids)
    assert text.count("<svg") == 1


def test_a_run_by_itself_and_one_that_has_only_begun(runs, tmp_path):
    top, _ = runs
    (top / "second" / "pretrain" / "metrics.jsonl").write_text('{"step": 20, "loss": 9.0}\n{"step": 40, "lo')
    report.write([str(top / "second" / "pretrain"), str(top / "first" / "knn")], str(tmp_path / "page.html"))
    rows = Parser((tmp_path / "page.html").read_text()).rows
    assert [row[5:9] for row in rows if row[0] == "second/pretrain"][:1] == [["20", "at step 20", "9.000", ""]]


def test_the_page_begins_with_what_came_out(runs, tmp_path):
    top, _ = runs
    config = config_lib.linear_probe()
    config.pretrained = str(top / "first" / "pretrain" / "checkpoints" / "9")
    top1 = evaluated(top / "first" / "probe", config)["top1"]
    statement = {"about": "learned", "answer": "yes", "text": "It has learned <for sure>."}
    verdict = {"score": 0.5, "score_untrained": 0.125, "statements": [statement]}
    (top / "first" / "pretrain" / "verdict.json").write_text(json.dumps(verdict))
    report.write([str(top)], str(tmp_path / "page.html"))
    text = html.unescape((tmp_path / "page.html").read_text())
    section = text[text.index("What came out") : text.index("<h2>Results")]
    first, second = section.split("second/pretrain</a>")
    assert "has been trained for 100 steps of 4,096 images. Its loss is 5.00, below the 18.02 of guessing" in first
    assert f"is right for {top1:.1%} of the test images." in first
    assert "It has learned <for sure>. The score without labels is 0.50 of 1, untrained 0.12." in first
    assert "is in training, so far for 100 steps" in second
    assert "score" not in second


def test_what_is_of_replaced_weights_is_not_among_what_came_out(runs, tmp_path, caplog):
    top, _ = runs
    workdir = top / "first" / "pretrain"
    sums = workdir / "checkpoints" / "9" / "checksums.json"
    config = config_lib.linear_probe()
    config.pretrained = str(sums.parent)
    top1 = evaluated(top / "first" / "probe", config)["top1"]
    sums.write_text('{"crc32": {"encoder/a": [3, 5]}}')
    of_now = {"encoder": weights.of_files(sums.parent, "encoder")}
    (top / "first" / "probe" / "data.json").write_text(json.dumps({"training images": {"images": 3}} | of_now))
    verdict = {"score": 0.5, "score_untrained": 0.125, "statements": [], "pretrained": str(sums.parent)} | of_now
    (workdir / "verdict.json").write_text(json.dumps(verdict))
    said = [f"is right for {top1:.1%} of the test images.", "The score without labels is 0.50"]
    report.write([str(top)], str(tmp_path / "page.html"))
    assert [text in (tmp_path / "page.html").read_text() for text in said] == [True, True]
    sums.write_text('{"crc32": {"encoder/a": [3, 6]}}')
    report.write([str(top)], str(tmp_path / "page.html"))
    assert [text in (tmp_path / "page.html").read_text() for text in said] == [False, False]
    for path in (top / "first" / "probe", workdir / "verdict.json"):
        assert f"{path} is of weights that are no longer in {sums.parent}" in caplog.text


def test_label_subsets_of_an_earlier_run_are_not_counted(tmp_path):
    evaluated(epath.Path(tmp_path) / "probe", config_lib.linear_probe(), draws=3)
    config = tmp_path / "probe" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"label_seeds": [0, 2]}))
    (run,) = saved_runs.find([str(tmp_path)])
    assert [draw.name for draw in run.draws()] == ["draw_0", "draw_2"]


def test_names_of_classes_are_shown_as_they_are(tmp_path, recwarn):
    odd = ["$a_{$", "_background", "\u732b\u72ac", "<b>", "100 %\\x"]
    features, labels = np.random.default_rng(0).normal(size=(15, 4)), np.arange(15) % 5
    pictures.embedding_map(features, labels, odd, epath.Path(tmp_path / "map.png"))
    many = [*odd, *(f"_{number}" for number in range(30))]
    pictures.embedding_map(features, labels, many, epath.Path(tmp_path / "named.png"))
    images, nearest = np.zeros((5, 4, 4, 3), np.uint8), np.zeros((5, 1, 4, 4, 3), np.uint8)
    pictures.neighbours(images, odd, nearest, [[name] for name in odd], epath.Path(tmp_path / "neighbours.png"))
    lines = [{"step": step, "loss": 1.0} for step in (1, 2)]
    assert pictures.curves_svg(dict.fromkeys(odd, lines)).startswith("<svg")
    assert [str(one.message) for one in recwarn if "Glyph" in str(one.message)] == []


def test_a_legend_has_every_name(tmp_path):
    figure = pictures.new_figure(3, 3)
    axes = figure.add_subplot()
    shown = ["_hidden", "$x^2$", "\u732b", "cat"]
    names.legend(axes, [axes.scatter([0], [0]) for _ in shown], shown)
    texts = axes.get_legend().get_texts()
    assert [text.get_parse_math() for text in texts] == [False] * 4
    assert [texts[place].get_text() for place in (0, 1, 3)] == ["_hidden", "$x^2$", "cat"]
    assert texts[2].get_text() in ("\u732b", "class 2")  # a font that has it may be installed


@pytest.mark.parametrize("points", [3, 4])
def test_a_map_of_one_class_and_few_images(tmp_path, points):
    features = np.random.default_rng(0).normal(size=(points, 4))
    pictures.embedding_map(features, np.zeros(points, int), ["only"], epath.Path(tmp_path / "map.png"))
    assert Image.open(tmp_path / "map.png").size[0] > 300


def test_an_evaluation_of_one_class_and_one_image(tmp_path):
    workdir = epath.Path(tmp_path) / "one"
    (workdir / "draw_0").mkdir(parents=True)
    predictions.write(workdir / "draw_0", np.arange(1), np.zeros(1, np.int32), np.zeros(1, np.int32), ["only"])
    writers.write_atomically(workdir / "config.json", saved_config.to_json(config_lib.knn()))
    draw = {"top1": 1.0, "top5": 1.0, "mean_per_class": 1.0, "labels": 1, "seed": 0}
    writers.write_results(workdir, draw | {"top1_std": 0.0, "n": 1, "draws": [draw]})
    report.write([str(workdir)], str(tmp_path / "page.html"))
    assert ["only", "100"] in Parser((tmp_path / "page.html").read_text()).rows


@pytest.mark.parametrize(
    ("workdirs", "output", "message"),
    [
        (["nowhere"], "page.html", "--workdirs: the folder nowhere does not exist"),
        (["empty"], "page.html", "there is no run in empty"),
        (["lab"], "no/page.html", "--output=no/page.html: there is no folder no"),
    ],
)
def test_mistakes_are_told(runs, tmp_path, monkeypatch, workdirs, output, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(errors.UserError, match=message):
        report.write(workdirs, output)


def test_only_an_earlier_report_is_replaced(runs, tmp_path):
    page = tmp_path / "page.html"
    for title in ("first", "second"):
        report.write([str(runs[0])], str(page), title)
    assert "<h1>second</h1>" in page.read_text()
    for content in ("<!doctype html><h1>mine</h1>", "mine"):
        page.write_text(content)
        with pytest.raises(errors.UserError, match="page.html would be replaced, but is not an earlier output"):
            report.write([str(runs[0])], str(page))
        assert page.read_text() == content


def test_names_with_commas_and_odd_characters_are_folders_and_text(tmp_path):
    top = epath.Path(tmp_path)
    for name in ("a=1,b=2", "a=1", "<i>\u9e1f$x_{$"):
        evaluated(top / name, config_lib.knn())
    one, two, odd = (str(top / name) for name in ("a=1,b=2", "a=1", "<i>\u9e1f$x_{$"))
    assert report.split_folders(f"{one},{two}") == [one, two]
    assert report.split_folders(f"{two},nowhere") == [two, "nowhere"]
    report.write([one, two, odd], str(tmp_path / "page.html"))
    rows = Parser((tmp_path / "page.html").read_text()).rows
    assert {row[0] for row in rows} >= {"a=1,b=2", "a=1", "<i>\u9e1f$x_{$"}


def browse(path, profile, *arguments):
    command = [BROWSER, *HEADLESS, f"--user-data-dir={profile}", *arguments, path.as_uri()]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")
def test_in_a_real_browser(runs, tmp_path):
    report.write([str(runs[0])], str(tmp_path / "page.html"))
    looked = tmp_path / "looked.html"
    script = """<script>addEventListener("load", () => {
        const loaded = performance.getEntriesByType("resource").map((entry) => entry.name)
        document.body.dataset.seen = JSON.stringify({
            images: [...document.images].map((image) => image.naturalWidth),
            drawings: [...document.querySelectorAll("svg")].map((svg) => svg.getBoundingClientRect().width),
            loaded: loaded.filter((name) => !name.startsWith("data:")),
            overflow: document.documentElement.scrollWidth - innerWidth,
            text: document.body.innerText,
        })
    })</script></body>"""
    looked.write_text((tmp_path / "page.html").read_text().replace("</body>", script))
    dom = browse(looked, tmp_path / "profile", "--dump-dom", "--virtual-time-budget=5000")
    seen = json.loads(html.unescape(re.search(r'data-seen="([^"]*)"', dom).group(1)))
    assert min(seen["images"]) > 500
    assert min(seen["drawings"]) > 300
    assert seen["loaded"] == []
    assert seen["overflow"] <= 0
    assert "Confusion matrix" in seen["text"]
    assert NAMES[2] in seen["text"], "names are shown as they are"

    browse(tmp_path / "page.html", tmp_path / "profile", f"--screenshot={tmp_path / 'page.png'}")
    pixels = np.asarray(Image.open(tmp_path / "page.png").convert("RGB")).astype(int)
    assert pixels.shape == (3000, 1200, 3)
    green = (pixels[..., 1] > pixels[..., 0] + 40) & (pixels[..., 1] > pixels[..., 2] + 20)
    assert green.sum() > 500, "the diagonal of the confusion matrix"
    assert (pixels.sum(axis=2) < 300).sum() > 5000, "text"


def test_links_in_a_circle_and_to_a_run_count_it_once(tmp_path):
    top = epath.Path(tmp_path) / "lab"
    evaluated(top / "here" / "run", config_lib.knn())
    for name, target in (("latest", "."), ("again", "."), ("best", "here/run")):
        (tmp_path / "lab" / name).symlink_to(target)
    assert [run.path.name for run in saved_runs.find([str(top)])] == ["run"]
    assert len(saved_runs.find([str(top), str(top / "latest")])) == 1


def test_what_evaluated_a_checkpoint_is_counted_once(tmp_path):
    config = config_lib.knn()
    config.pretrained = "/some/checkpoints/9"
    evaluated(epath.Path(tmp_path) / "knn", config)
    (tmp_path / "a_link").symlink_to("knn")
    found = saved_runs.evaluations(epath.Path("/some/checkpoints/9"), [epath.Path(tmp_path)])
    assert [run.name for run in found] == ["knn"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("first/knn/results.json", b'{"top1": 0.'),
        ("first/knn/results.json", b"[]"),
        ("first/knn/results.json", b"{}"),
        ("first/knn/results.json", b'{"a": 1}'),
        ("first/knn/results.json", b'{"top1": "high", "n": 3}'),
        ("first/knn/results.json", b'{"top1": 0.5, "n": 3, "draws": [1]}'),
        ("first/pretrain/results.json", b'{"a": 1}'),
        ("first/pretrain/results.json", b'{"seconds": null}'),
        ("first/knn/config.json", b'{"kind": "k'),
        ("first/knn/config.json", b"{}"),
        ("first/knn/config.json", b'{"a": 1}'),
        ("first/knn/config.json", b'{"kind": "knn"}'),
        ("first/knn/config.json", b'{"kind": 5}'),
        ("first/knn/config.json", b'{"kind": "knn", "data": 5}'),
        ("first/pretrain/verdict.json", b"{}"),
        ("first/pretrain/verdict.json", b"\xff"),
        ("first/pretrain/views.png", b"\x89PNG\r\n\x1a\n"),
        ("first/knn/draw_0/predictions.npz", b"PK\x03\x04"),
    ],
)
def test_a_damaged_file_is_named_and_the_rest_is_shown(tmp_path, caplog, name, content):
    top = epath.Path(tmp_path) / "first"
    evaluated(top / "knn", config_lib.knn())
    evaluated(top / "finetune", config_lib.finetune())
    (top / "pretrain").mkdir(parents=True)
    writers.write_atomically(top / "pretrain" / "config.json", saved_config.to_json(config_lib.pretrain()))
    (tmp_path / name).write_bytes(content)
    with caplog.at_level("WARNING", "simclr_jax"):
        found = report.write([str(top)], str(tmp_path / "page.html"))
    assert f"{tmp_path / name} is damaged" in caplog.text
    assert {run.path.name for run in found} == {"knn", "finetune", "pretrain"} - (
        {"knn"} if "config" in name else set()
    )
    assert any(row[:1] == ["finetune"] for row in Parser((tmp_path / "page.html").read_text()).rows)


def test_metrics_that_are_no_numbers_are_left_out(runs, tmp_path, caplog):
    path = runs[0] / "second" / "pretrain" / "metrics.jsonl"
    with open(path, "a") as file:
        file.write(json.dumps({"step": 120, "loss": None, "contrastive_top1": "x"}) + "\n")
    with caplog.at_level("WARNING", "simclr_jax"):
        report.write([str(runs[0])], str(tmp_path / "page.html"))
    assert f"{path} has values that are no numbers, at step 120 first" in caplog.text
    assert caplog.text.count("no numbers") == 1
