"""Model cards, and encoders on the Hugging Face Hub: a stand-in of its client takes the place of the network."""

import json

from fake_hub import FakeHub
from fake_hub import front_matter
from helpers import FEW_L2
import huggingface_hub
import numpy as np
from PIL import Image
import pytest

import simclr_jax
from simclr_jax.errors import UserError
from simclr_jax.inference import encoder as encoder_lib
from simclr_jax.runtime import cli
from simclr_jax.runtime import hub as hub_lib


@pytest.fixture
def hub(tmp_path, monkeypatch):
    fake = FakeHub(tmp_path / "hub")
    fake.install(monkeypatch)
    return fake


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 9, 8, 3), np.uint8)


def export(run, output, *words, form="safetensors"):
    return cli.call("export", f"--pretrained={run}", f"--format={form}", f"--output={output}", *words)


@pytest.mark.slow
def test_a_card_says_what_the_hub_and_a_reader_ask(runs, tmp_path):
    export(runs / "pretrained", tmp_path / "x", "--license=cc-by-4.0")
    text = (tmp_path / "x" / "README.md").read_text()
    fields = front_matter(text)
    assert (fields["library_name"], fields["license"]) == ("simclr_jax", "cc-by-4.0")
    assert fields["pipeline_tag"] == "image-feature-extraction"
    # As the Hub's own reader understands it.
    results = huggingface_hub.ModelCard(text, ignore_metadata_errors=False).data.eval_results
    accuracy = json.loads((runs / "probe" / "results.json").read_text())["top1"]
    (result,) = [one for one in results if one.metric_value == pytest.approx(accuracy, abs=1e-6)]
    assert (result.task_name, result.dataset_name, result.metric_type) == ("linear probe", "digits", "accuracy")
    assert f"| linear probe | digits | 1437 | top-1 | {100 * accuracy:.1f} % | 360 |" in text
    assert f'simclr_jax.load("{runs}/pretrained")' in text
    assert "from simclr_resnet import CONFIG, ResNet" in text
    assert "| `optimizer.learning_rate` |" in text


@pytest.mark.slow
def test_the_lines_of_a_card_run(runs, tmp_path, images):
    export(runs / "probe", tmp_path / "x", form="onnx")
    card = tmp_path / "x.README.md"
    ours, theirs = [part.split("```\n")[0] for part in card.read_text().split("```python\n")[1:]]
    floats = (images[:, :8] / np.float32(255)).astype(np.float32)
    found = {"images": floats}
    exec(theirs, found)
    encoder = simclr_jax.load(runs / "probe")
    np.testing.assert_array_equal(
        np.asarray(found["logits"]).argmax(axis=1), encoder.predict(images[:, :8]).probabilities.argmax(axis=1)
    )
    photos = tmp_path / "PHOTOS"
    photos.mkdir()
    Image.fromarray(images[0]).save(photos / "a.png")
    exec(ours.replace('"PHOTOS"', repr(str(photos))), found)
    assert found["h"].shape == (1, 64)
    assert found["classes"][0] in encoder.class_names


@pytest.mark.slow
@pytest.mark.parametrize("run", ["pretrained", "probe"])
def test_what_is_pushed_loads_and_serves_the_commands(runs, tmp_path, hub, images, run):
    export(runs / run, tmp_path / "x", "--push_to_hub=me/photos", "--private", "--license=mit")
    assert hub.private["me/photos"]
    names = hub.list_repo_files("me/photos")
    assert {"README.md", "config.json", "model.safetensors", "simclr_resnet.py"} <= set(names)
    assert not any(str(runs) in (hub.commits("me/photos")[-1] / name).read_text() for name in names if ".json" in name)
    ours, theirs = simclr_jax.load(runs / run), simclr_jax.load("hf://me/photos")
    np.testing.assert_array_equal(theirs.embed(images), ours.embed(images))
    assert theirs.step == 9
    theirs.features = ours.features = "z"
    np.testing.assert_array_equal(theirs.embed(images), ours.embed(images))
    if run == "probe":
        np.testing.assert_array_equal(theirs.predict(images).probabilities, ours.predict(images).probabilities)
        assert theirs.class_names == ours.class_names
    else:
        words = ("--pretrained=hf://me/photos@1", f"--workdir={tmp_path}/probe", *FEW_L2)
        again = cli.call("linear_probe", *words, "--config.data.source=digits")
        assert again["top1"] == json.loads((runs / "probe" / "results.json").read_text())["top1"]
        assert len(simclr_jax.load(tmp_path / "probe").predict(images).classes) == 5


@pytest.mark.slow
def test_a_push_replaces_what_an_earlier_one_left(runs, tmp_path, hub, images):
    export(runs / "probe", tmp_path / "x", "--push_to_hub=me/photos")
    with pytest.raises(UserError, match=r"has \d+ files, such as .*: --overwrite replaces them"):
        export(runs / "pretrained", tmp_path / "y", "--push_to_hub=me/photos", form="onnx")
    assert not (tmp_path / "y").exists()
    export(runs / "pretrained", tmp_path / "y", "--push_to_hub=me/photos", "--overwrite", form="onnx")
    names = hub.list_repo_files("me/photos")
    assert {"y", ".gitattributes"} <= set(names)
    assert "model.safetensors" not in names
    assert simclr_jax.load("hf://me/photos").class_names is None
    assert simclr_jax.load("hf://me/photos@1").class_names is not None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "state", "message"),
    [
        (("--push_to_hub=photos",), {}, "--push_to_hub=photos: a repository is USER/NAME"),
        (("--push_to_hub=me/a--b",), {}, "--push_to_hub=me/a--b: a repository is USER/NAME"),
        (("--private",), {}, "--private is for --push_to_hub=USER/NAME"),
        (("--license=My own",), {}, "--license=My own: give an identifier"),
        (("--push_to_hub=me/a", "--license=gpl-9"), {}, 'refuses: "license" must be one of'),
        (("--push_to_hub=me/a",), {"user": None}, "you are not logged in to the Hugging Face Hub: log in with"),
        (("--push_to_hub=you/a",), {}, "does not let your token write there"),
        (("--push_to_hub=me/a",), {"network": False}, "cannot be reached.*: Name or service not known"),
        (("--push_to_hub=me/open", "--private"), {}, "the repository exists and is public"),
    ],
)
def test_what_cannot_be_pushed_is_refused_before_the_work(runs, tmp_path, hub, monkeypatch, words, state, message):
    hub.create_repo("me/open", private=False, exist_ok=True)
    for name, value in state.items():
        setattr(hub, name, value)
    monkeypatch.setattr("simclr_jax.export._compare", lambda *_: pytest.fail("it was exported"))
    with pytest.raises(UserError, match=message) as refused:
        export(runs / "pretrained", tmp_path / "x", *words)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("hf://photos", "'hf://photos': a repository is USER/NAME"),
        ("hf://me/photos/checkpoints", "a repository is USER/NAME"),
        ("hf://me/photos@", "after the @ there is a branch, tag or commit"),
        ("hf://me/gone", "there is no such repository on the Hugging Face Hub, or it is private"),
        ("hf://you/secret", "there is no such repository on the Hugging Face Hub, or it is private"),
        ("hf://me/empty@v2", "the repository has no such branch, tag or commit"),
        ("hf://me/empty", "'hf://me/empty': the repository has no run of simclr_jax"),
    ],
)
def test_what_cannot_be_loaded_is_a_line(hub, place, message):
    hub.private["you/secret"] = True
    hub.create_repo("me/empty", private=False, exist_ok=True)
    with pytest.raises(UserError, match=message) as refused:
        encoder_lib.load(place)
    assert "\n" not in str(refused.value)


def test_a_command_refuses_a_bad_place_while_it_parses(tmp_path):
    with pytest.raises(UserError, match="--pretrained='hf://photos': a repository is USER/NAME"):
        cli.call("knn", "--pretrained=hf://photos", f"--workdir={tmp_path}/knn")


def test_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"not installed: pip install 'simclr_jax\[hub\]'"):
        hub_lib.local("hf://me/photos")
