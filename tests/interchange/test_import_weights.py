"""Checkpoints of the reference, made here: everything in them arrives, and every other command reads the result."""

import json

from helpers import SHARED
from helpers import TINY
from made_weights import in_layout
from made_weights import state_dict
from made_weights import tensors_for
from made_weights import write_checkpoint
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors.numpy

from simclr_jax import config as config_lib
from simclr_jax.errors import UserError
from simclr_jax.interchange import prove
from simclr_jax.interchange import source
from simclr_jax.interchange import tf1_names
from simclr_jax.interchange import tf2_names
from simclr_jax.interchange import weights
from simclr_jax.interchange.base import Options
from simclr_jax.interchange.infer import flatten
from simclr_jax.interchange.layers import Skeleton
from simclr_jax.runtime import cli
from simclr_jax.runtime.tensorflow import tf
from simclr_jax.training import checkpoint

DIGITS = ("--config.data.source=digits", "--config.data.image_size=8", "--config.data.eval_crop=1.0")


def import_(place, workdir, *flags):
    return cli.call("import_weights", f"--source={place}", f"--workdir={workdir}", *flags)


def saved(workdir):
    """Every array of the imported checkpoint by its path."""
    path = checkpoint.find(str(workdir))
    found = {}
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        for part in ("encoder", "head", "classifier"):
            if (path / part).exists():
                item = checkpointer.restore(path / part)
                found |= {
                    f"{part}/{name}": array for tree in item.values() if tree for name, array in flatten(tree).items()
                }
    return found


def write_tf1(prefix, skeleton, more=None, **fields):
    tensors = tensors_for(skeleton, **fields)
    return tensors, write_checkpoint(prefix, in_layout(tf1_names.names(skeleton), tensors) | (more or {}))


def assert_same(found, tensors):
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name], tensor, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("skeleton", "fields"),
    [
        (Skeleton(50, classifier=True), {"width": 0.25}),  # SimCLRv1
        (Skeleton(50, selective=True, head=3), {}),  # SimCLRv2, pretrained
        (Skeleton(18, "cifar", head=2), {"width": 1.0}),
        (Skeleton(18, head=1, linear_head=True, classifier=True), {}),
    ],
    ids=["v1", "v2", "cifar", "linear head"],
)
@pytest.mark.parametrize("layout", [tf1_names, tf2_names])
def test_every_tensor_arrives(tmp_path, layout, skeleton, fields):
    tensors = tensors_for(skeleton, **fields)
    place = write_checkpoint(tmp_path / "model.ckpt-7", in_layout(layout.names(skeleton), tensors))
    record = import_(place, tmp_path / "run", *(["--classifier_input=h"] if skeleton.classifier else []))
    assert_same(saved(tmp_path / "run"), tensors)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    model = {key: config["model"][key] for key in ("depth", "stem", "sk_ratio", "width")}
    width = fields.get("width", 0.125)
    sk_ratio = 0.0625 if skeleton.selective else 0.0
    assert model == {"depth": skeleton.depth, "stem": skeleton.stem, "sk_ratio": sk_ratio, "width": width}
    assert config["kind"] == ("finetune" if skeleton.classifier else "pretrain")
    assert record["ignored"] == {}
    assert record["layout"] == layout.__name__.rpartition(".")[2].removesuffix("_names")


def test_optimiser_and_moving_averages_are_named_as_ignored(tmp_path):
    skeleton = Skeleton(18, head=2)
    names = tf1_names.names(skeleton)
    tensors = tensors_for(skeleton)
    slots = {f"{name}/Momentum": np.zeros(3, np.float32) for name in names.values()}
    averages = {f"ema_model/{name}": np.zeros(3, np.float32) for name in names.values()}
    more = slots | averages | {"global_step": np.asarray(250228, np.int64)}
    place = write_checkpoint(tmp_path / "model.ckpt-250228", in_layout(names, tensors) | more)
    record = import_(f"{place}.index", tmp_path / "run")
    assert sum(len(found) for found in record["ignored"].values()) == len(more)
    assert_same(saved(tmp_path / "run"), tensors)
    assert checkpoint.step_of(checkpoint.find(str(tmp_path / "run"))) == 250228


def test_the_graph_tells_the_input_of_the_classifier(tmp_path):
    skeleton = Skeleton(18, head=3, classifier=True)
    _, place = write_tf1(tmp_path / "model.ckpt-1", skeleton)
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, (None, 8), name="base_model/final_avg_pool")
        for layer in range(3):
            with tf.compat.v1.name_scope(f"head_contrastive/nl_{layer}/dense/"):
                x = tf.matmul(x, tf.zeros((8, 8)), name="MatMul")
            if layer == 0:
                selected = tf.nn.relu(x)
        with tf.compat.v1.name_scope("head_supervised/linear_layer/dense/"):
            tf.matmul(selected, tf.zeros((8, 5)), name="MatMul")
        tf.compat.v1.train.export_meta_graph(f"{place}.meta")
    import_(place, tmp_path / "run")
    config = checkpoint.load_config(checkpoint.find(str(tmp_path / "run")), config_lib.finetune)
    assert (config.features, config.head.layers) == ("g1", 3)


@pytest.mark.heavy
def test_other_commands_read_it(tmp_path):
    skeleton = Skeleton(18, head=2, classifier=True)
    _, place = write_tf1(tmp_path / "model.ckpt-1", skeleton, classes=10)
    run = tmp_path / "run"
    import_(place, run, "--classifier_input=g1")
    for command, features, flags in (
        ("knn", "h", ("--config.map_points=0", "--config.shown_images=0")),
        ("linear_probe", "z", ("--config.lbfgs.l2_values=2", "--config.lbfgs.max_iterations=5")),
        ("linear_probe", "h", ("--config.protocol=stored",)),
        ("finetune", "g1", ("--config.label_fraction=0.1", "--config.epochs=1", "--config.batch_size=64")),
    ):
        words = (
            f"--pretrained={run}",
            f"--workdir={tmp_path / (command + features)}",
            f"--config.features={features}",
            *DIGITS,
            *flags,
        )
        assert cli.call(command, *words)["n"] == 360
    moved = run.rename(tmp_path / "moved")
    words = (f"--config.teacher={moved}", f"--workdir={tmp_path / 'distill'}", "--config.init=random", *DIGITS)
    results = cli.call("distill", *words, "--config.epochs=0.2", "--config.optimizer.warmup_epochs=0.0")
    assert 0 <= results["teacher_top1"] <= 1


@pytest.mark.heavy
def test_pretraining_starts_from_it(tmp_path):
    skeleton = Skeleton(18, "cifar", head=2)
    tensors, place = write_tf1(tmp_path / "model.ckpt-9", skeleton, dim=64)
    import_(place, tmp_path / "run")
    # A learning rate of almost 0, so that the weights of the start can be seen in the end.
    flags = (
        *TINY,
        "--config.model.depth=18",
        "--config.head.dim=64",
        "--config.epochs=0.05",
        "--config.optimizer.warmup_epochs=0.01",
        "--config.optimizer.learning_rate=1e-12",
    )
    start = f"--init_from={tmp_path / 'run'}"
    cli.call("pretrain", *flags, f"--workdir={tmp_path / 'both'}", start)
    found = saved(tmp_path / "both")
    for name, tensor in tensors.items():
        if not name.endswith(("/mean", "/var")):
            np.testing.assert_allclose(found[name], tensor, atol=1e-6, err_msg=name)
    alone = cli.call("pretrain", *flags, f"--workdir={tmp_path / 'alone'}", start, "--noinit_head")
    found = saved(tmp_path / "alone")
    np.testing.assert_allclose(found["encoder/stem_conv/kernel"], tensors["encoder/stem_conv/kernel"], atol=1e-6)
    assert np.abs(found["head/dense1/kernel"] - tensors["head/dense1/kernel"]).max() > 1e-3
    assert alone["init_from"] == str(tmp_path / "run")
    words = (*flags, "--config.model.depth=34", "--config.head.dim=32")
    with pytest.raises(
        UserError, match=r"another one.*with --config.model.depth=18 --config.head.dim=64 it fits \(or --noinit_head"
    ):
        cli.call("pretrain", *words, f"--workdir={tmp_path / 'other'}", start)
    assert not (tmp_path / "other").exists()
    (tmp_path / "run").rename(tmp_path / "gone")  # a run that continues does not need it
    cli.call("pretrain", *flags, f"--workdir={tmp_path / 'both'}", start)
    with pytest.raises(UserError, match=r"--init_from=.* does not exist"):
        cli.call("pretrain", *flags, f"--workdir={tmp_path / 'third'}", start)


@pytest.mark.slow
@pytest.mark.parametrize("stem", ["imagenet", "cifar", "cifar_wide"])
def test_safetensors(tmp_path, stem):
    skeleton = Skeleton(18, stem, stage1_projection=False)
    tensors = tensors_for(skeleton)
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(state_dict(skeleton, tensors), path)
    more = ["--format=solo-learn"] if stem == "cifar_wide" else []
    if more:
        below = {f"backbone.{name}": tensor for name, tensor in state_dict(skeleton, tensors).items()}
        safetensors.numpy.save_file(below, path)
    import_(path, tmp_path / "run", *more)
    assert_same(saved(tmp_path / "run"), tensors)
    config = checkpoint.load_config(checkpoint.find(str(tmp_path / "run")))
    assert (config.kind, config.model.stem, config.model.padding) == ("pretrain", stem, "torch")
    assert config.model.stage1_projection is False
    if not more:
        assert config.model.input_mean == (0.485, 0.456, 0.406)


SHARED_FILES = {
    "tf2_r18/saved_model": "tf2_r18",
    "tf2_r18/checkpoint_dir": "tf2_r18",
    "tf1_r18/model.ckpt-225206": "tf1_r18",
    "tf1_r50_sk/model.ckpt-225206": "tf1_r50_sk",
}


@pytest.mark.shared_data
@pytest.mark.slow
@pytest.mark.parametrize("place", SHARED_FILES)
def test_files_of_the_reference_give_its_outputs(tmp_path, place):
    archive = SHARED / "weights" / f"{SHARED_FILES[place]}.tar.xz"
    if not archive.exists():
        pytest.skip(f"{archive.name} is not here")
    import tarfile

    with tarfile.open(archive) as file:
        file.extractall(tmp_path, filter="data")
    opened = source.open_source(str(tmp_path / place))
    ours = weights.read(opened, Options())
    outputs = np.load(tmp_path / SHARED_FILES[place] / "outputs.npz")
    features = prove.features_of(ours, outputs["images"])
    features["logits"] = prove.logits_of(ours, features["h"])
    for name, theirs in {"h": "final_avg_pool", "z": "proj_head_output", "logits": "logits_sup"}.items():
        assert prove.difference(features[name], outputs[theirs]) < 1e-5
    if opened.module is not None:
        record = import_(tmp_path / place, tmp_path / "run")
        assert record["largest_relative_difference"].keys() == {"h", "z", "logits"}
        assert max(record["largest_relative_difference"].values()) < 1e-5
