"""Exports compute what the network here computes, and leave nothing behind if they do not."""

import json
import shutil

from absl import flags
from etils import epath
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np
import pytest

import simclr_jax
from simclr_jax import config as config_lib
from simclr_jax import export
from simclr_jax.config.choices import EXPORT_FORMATS
from simclr_jax.errors import UserError
from simclr_jax.interchange import exported
from simclr_jax.interchange import imported
from simclr_jax.interchange import infer
from simclr_jax.interchange import onnx_graph
from simclr_jax.interchange import programs
from simclr_jax.interchange import torch_files
from simclr_jax.interchange.weights import Weights
from simclr_jax.models.networks import make_encoder
from simclr_jax.runtime import cli
from simclr_jax.runtime import tools
from simclr_jax.training import state as state_lib

NETWORKS = {
    "plain": {"depth": 18, "stem": "imagenet"},
    "bottleneck": {"depth": 50, "stem": "cifar"},
    "wide stem": {"depth": 18, "stem": "cifar_wide"},
    "selective": {"depth": 50, "stem": "imagenet", "sk_ratio": 0.0625},
    "selective cifar": {"depth": 50, "stem": "cifar", "sk_ratio": 0.0625},
    "torch": {
        "depth": 18,
        "stem": "imagenet",
        "padding": "torch",
        "stage1_projection": False,
        "input_mean": (0.485, 0.456, 0.406),
        "input_std": (0.229, 0.224, 0.225),
    },
}


def weights_of(model, classes=None, seed=0, head="none"):
    """Random weights, with BatchNorm statistics as after a training."""
    config = config_lib.pretrain()
    config.model.update(width=0.25, **model)
    config.head.kind = head
    config.data.update(image_size=64, eval_crop=1.0)
    random = np.random.default_rng(seed)
    tensors = {}
    for name, shape in infer.network_shapes(config, classes).items():
        values = random.normal(size=shape) * (0.1 if len(shape) == 1 else np.sqrt(2 / np.prod(shape[:-1])))
        tensors[name] = (np.abs(values) + 0.5 if name.endswith(("scale", "var")) else values).astype(np.float32)
    return Weights(config, classes, tensors, step=7)


def network_of(model, classes=None):
    weights = weights_of(model, classes)
    config = weights.config
    config.model.sk_ratio = config.model.sk_ratio or 0.0
    parts = ({}, {})
    for name, tensor in weights.tensors.items():
        parts[name.endswith(("/mean", "/var"))][name] = tensor
    params, stats = (infer.unflatten(jax.tree.map(jnp.asarray, part)) for part in parts)
    graph = state_lib.graph_of(lambda rngs: make_encoder(config, rngs))

    @jax.jit
    def apply(images):
        h = state_lib.merge(graph, params["encoder"], stats["encoder"])(images, train=False)
        if classes is None:
            return {"h": h}
        return {"h": h, "logits": h @ params["classifier"]["kernel"] + params["classifier"]["bias"]}

    names = None if classes is None else [f"class {number}" for number in range(classes)]
    return exported.ExportedNetwork(config.model, weights.tensors, 64, apply, names)


def difference(ours, theirs):
    return max(np.abs(theirs[name] - ours[name]).max() / np.abs(ours[name]).max() for name in theirs)


@pytest.mark.interop
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
@pytest.mark.parametrize("kind", NETWORKS)
def test_onnx_computes_the_same_for_any_size(tmp_path, kind, dtype):
    network = network_of(NETWORKS[kind], classes=5)
    onnx_graph.write(network, dtype, epath.Path(tmp_path / "x.onnx"))
    random = np.random.default_rng(1)
    for shape in ((3, 64, 64, 3), (1, 97, 65, 3)):
        images = random.integers(0, 256, shape, np.uint8)
        images = images if dtype == np.uint8 else images.astype(np.float32) / 255
        theirs = onnx_graph.run(epath.Path(tmp_path / "x.onnx"), images)
        assert theirs.keys() == {"h", "logits"}
        assert difference(network.outputs(images), theirs) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_programs_compute_the_same_for_any_batch(tmp_path, dtype):
    network, path = network_of(NETWORKS["plain"], classes=5), epath.Path(tmp_path / "program")
    for write, run in (
        (programs.write_stablehlo, programs.run_stablehlo),
        (programs.write_saved_model, programs.run_saved_model),
    ):
        write(network, dtype, path)
        for count in (1, 5):
            images = np.repeat(exported.example_images(network, dtype)[:1], count, axis=0)
            if run is programs.run_saved_model and not jax.__version__.startswith("0.10."):
                with pytest.raises(UserError, match="cannot read the programs that JAX"):
                    run(path, images)
                continue
            assert difference(network.outputs(images), run(path, images)) < 1e-5
        (path.rmtree if path.is_dir() else path.unlink)()


def test_a_state_dict_has_torchvisions_names_and_layout(tmp_path):
    network = network_of(NETWORKS["torch"], classes=5)
    tensors = torch_files.state_dict(network)
    assert tensors["conv1.weight"].shape == (16, 3, 7, 7)
    assert tensors["fc.weight"].shape == (5, 128)
    assert "layer1.0.downsample.0.weight" not in tensors
    assert tensors["layer2.0.downsample.1.num_batches_tracked"] == 0
    kernel = network.tensors["encoder/stage2_block1/conv1/kernel"]
    np.testing.assert_array_equal(tensors["layer2.0.conv1.weight"], kernel.transpose(3, 2, 0, 1))


@pytest.mark.slow
@pytest.mark.parametrize("kind", NETWORKS)
def test_the_module_beside_the_weights_computes_the_same(tmp_path, kind):
    """In PyTorch where it is installed; the tensors are compared in any case."""
    network, path = network_of(NETWORKS[kind], classes=5), epath.Path(tmp_path / "x")
    torch_files.write_safetensors(network, path)
    compile((path / "simclr_resnet.py").read_text(), "simclr_resnet.py", "exec")
    images = exported.example_images(network, np.float32)
    theirs = torch_files.run(network, path, images)
    if theirs is not None:
        assert difference(network.outputs(images), theirs) < 1e-5


def test_stock_networks_need_no_module(tmp_path):
    model = ConfigDict(NETWORKS["torch"] | {"width": 1.0, "sk_ratio": 0.0, "input_mean": (0.0,) * 3})
    network = network_of(NETWORKS["torch"])
    assert not network.is_stock, "its width is another"
    assert exported.ExportedNetwork(model, {}, 64, lambda images: {}).is_stock
    model.padding = "same"
    assert not exported.ExportedNetwork(model, {}, 64, lambda images: {}).is_stock


def test_the_flag_lists_the_formats():
    assert set(EXPORT_FORMATS) == set(export.FORMATS)


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    """A workdir of pretraining, and one of fine-tuning with five classes."""
    root = tmp_path_factory.mktemp("export")
    for name, classes in (("pretrained", None), ("finetuned", 5)):
        imported.write(weights_of(NETWORKS["plain"], classes), "h", epath.Path(root / name), {})
    return root


@pytest.mark.slow
@pytest.mark.parametrize(("run", "outputs"), [("pretrained", {"h"}), ("finetuned", {"h", "logits"})])
@pytest.mark.parametrize("form", [pytest.param("onnx", marks=pytest.mark.interop), "stablehlo", "safetensors"])
def test_the_command_exports_and_proves_it(workdirs, tmp_path, run, outputs, form):
    words = (f"--pretrained={workdirs / run}", f"--format={form}", f"--output={tmp_path / 'x'}")
    differences = cli.call("export", *words)
    if form != "safetensors":
        assert differences.keys() == outputs
    assert all(value < 1e-5 for value in differences.values())
    card = [] if form == "safetensors" else ["x.README.md"]  # of a folder it is in it
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x", *card], "nothing else is left"
    with pytest.raises(UserError, match="exists: --overwrite replaces it"):
        cli.call("export", *words)
    cli.call("export", *words, "--overwrite")


def contents_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("form", "output", "message"),
    [
        ("onnx", "photos", "photos would be replaced, but is not an earlier export as onnx"),
        ("savedmodel", "photos", "photos would be replaced"),
        ("safetensors", "photos", "photos would be replaced"),
        ("stablehlo", "photos/cat.jpg", "cat.jpg would be replaced"),
        ("onnx", "photos/cat.jpg", "cat.jpg would be replaced"),
        ("safetensors", "photos/cat.jpg", "cat.jpg would be replaced"),
        ("onnx", "new.onnx", "new.onnx.README.md would be replaced, but is not the model card"),
        ("stablehlo", "pretrained", "pretrained would be replaced"),
        ("timm", "pretrained", "pretrained would be replaced"),
        ("safetensors", "pretrained/checkpoints", "is among|would be replaced"),
        ("onnx", "pretrained/checkpoints/7/x.onnx", "is among the checkpoints of the run in"),
        ("pytorch", "exported", "exported would be replaced, but is not an earlier export as pytorch"),
        ("safetensors", "noted", "notes.txt would be replaced, but is not of an earlier export as safetensors"),
    ],
)
def test_only_an_earlier_export_is_replaced(workdirs, tmp_path, form, output, message):
    shutil.copytree(workdirs / "pretrained", tmp_path / "pretrained")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("a photograph")
    (tmp_path / "new.onnx.README.md").write_text("my notes")
    for name in ("exported", "noted"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text("...")
        (tmp_path / name / "README.md").write_text("---\nlibrary_name: simclr_jax\ntags:\n- safetensors\n---\n")
    (tmp_path / "noted" / "notes.txt").write_text("...")
    before = contents_of(tmp_path)
    words = (f"--pretrained={tmp_path}/pretrained", f"--format={form}", f"--output={tmp_path}/{output}", "--overwrite")
    with pytest.raises(UserError, match=message):
        tools.parse_tool(["export", *words], flags.FlagValues(), "export")
    assert contents_of(tmp_path) == before


def test_an_export_that_computes_something_else_is_not_kept(workdirs, tmp_path, monkeypatch):
    def wrong(network, path, images):
        return {name: value + 1 for name, value in network.outputs(images).items()}

    monkeypatch.setitem(export.FORMATS, "onnx", export.Format(onnx_graph.write, wrong))
    with pytest.raises(UserError, match="h of what was written differs by .*nothing is kept"):
        cli.call("export", f"--pretrained={workdirs / 'pretrained'}", "--format=onnx", f"--output={tmp_path / 'x'}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--format=caffe",), "--format=caffe"),
        (("--output=nowhere/x.onnx",), "there is no folder nowhere"),
        (("--output=gs://bucket/x",), "write to a local folder"),
        (("--format=safetensors", "--input=uint8"), "takes floats in"),
        (("--format=timm",), "timm has no network like this one"),
        (("--pretrained=nowhere",), "nowhere"),
    ],
)
def test_mistakes_are_one_line(workdirs, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        cli.call("export", f"--pretrained={workdirs / 'pretrained'}", "--format=onnx", "--output=x", *words)
    assert message in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("features", ["g1", "z"])
@pytest.mark.parametrize("form", [pytest.param("onnx", marks=pytest.mark.interop), "safetensors"])
def test_a_classifier_on_the_head_is_exported_with_its_layers(tmp_path, form, features, caplog):
    """And a class that had no training example keeps the probability 0."""
    weights = weights_of(NETWORKS["plain"], head="nonlinear")
    width = {"g1": 128, "z": 128}[features]
    random = np.random.default_rng(3)
    kernel = random.normal(size=(width, 4)).astype(np.float32)
    kernel[:, 2] = 0
    classifier = {"classifier/kernel": kernel, "classifier/bias": np.array([1, 0, -np.inf, 2], np.float32)}
    weights = Weights(weights.config, 4, weights.tensors | classifier, step=7)
    imported.write(weights, features, epath.Path(tmp_path / "run"), {})
    with caplog.at_level("INFO", "simclr_jax"):
        words = (f"--pretrained={tmp_path / 'run'}", f"--format={form}", f"--output={tmp_path / 'x'}")
        differences = cli.call("export", *words)
    assert "without a training example is -1e+09 instead of -infinity, so their probability is 0: 2." in caplog.text
    assert all(value < 1e-5 for value in differences.values())
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    if form == "onnx":
        logits = onnx_graph.run(epath.Path(tmp_path / "x"), (images / np.float32(255)).astype(np.float32))["logits"]
        ours = simclr_jax.load(tmp_path / "run").predict(images).probabilities
        theirs = np.exp(logits - logits.max(axis=1, keepdims=True))
        np.testing.assert_allclose(theirs / theirs.sum(axis=1, keepdims=True), ours, atol=1e-5)
        assert (theirs[:, 2] == 0).all()
    else:
        assert f'"head_relu": {features == "g1"}' in (tmp_path / "x" / "simclr_resnet.py").read_text()


def test_a_timm_folder_describes_the_network(tmp_path):
    network = network_of(NETWORKS["torch"])
    stock = exported.ExportedNetwork(network.model, network.tensors, 64, network.apply)
    stock.model.width = 1.0  # only its description is looked at
    torch_files.write_timm(stock, epath.Path(tmp_path / "x"))
    about = json.loads((tmp_path / "x" / "config.json").read_text())
    assert about["architecture"] == "resnet18"
    assert about["pretrained_cfg"]["mean"] == list(NETWORKS["torch"]["input_mean"])
