"""What cannot be imported ends in one line that says why, and nothing is written."""

from made_weights import in_layout
from made_weights import state_dict
from made_weights import tensors_for
from made_weights import write_checkpoint
import numpy as np
import pytest
import safetensors.numpy

from simclr_jax.errors import UserError
from simclr_jax.interchange import tf1_names
from simclr_jax.interchange.layers import Skeleton
from simclr_jax.runtime import cli
from simclr_jax.runtime.tensorflow import tf

SMALL = Skeleton(18, head=2, classifier=True)


@pytest.fixture
def refused(tmp_path):
    def check(place, message, *flags):
        with pytest.raises(UserError, match=message) as caught:
            cli.call("import_weights", f"--source={place}", f"--workdir={tmp_path / 'run'}", *flags)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "run").exists()

    return check


@pytest.fixture
def small(tmp_path):
    """Writes a small TF1 checkpoint with some tensors changed."""

    def write(skeleton=SMALL, **changes):
        tensors = in_layout(tf1_names.names(skeleton), tensors_for(skeleton))
        tensors |= {name.replace("__", "/"): value for name, value in changes.items()}
        return write_checkpoint(tmp_path / "model.ckpt-1", {k: v for k, v in tensors.items() if v is not None})

    return write


def test_places(tmp_path, refused):
    refused(tmp_path / "nowhere", "does not exist")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "is a folder without a SavedModel .* it has nothing")
    (tmp_path / "weights.npz").write_bytes(b"x")
    refused(tmp_path / "weights.npz", "no file of weights that is known")
    (tmp_path / "weights.zip").write_bytes(b"x")
    refused(tmp_path / "weights.zip", "Unpack it first")


def test_damaged_files(tmp_path, refused, small):
    place = small()
    data = tmp_path / "model.ckpt-1.data-00000-of-00001"
    whole = data.read_bytes()
    data.write_bytes(whole[: len(whole) // 2])
    refused(place, "cannot be read; it is damaged, incomplete")
    data.unlink()
    refused(place, "cannot be read")
    (tmp_path / "model.ckpt-1.index").write_bytes(b"no index")
    refused(place, "cannot be read")
    (tmp_path / "saved_model.pb").write_bytes(b"no model")
    refused(tmp_path / "saved_model.pb", "cannot be read")


def test_other_networks(tmp_path, refused, small):
    place = write_checkpoint(tmp_path / "other", {"dense/kernel": np.zeros((2, 2), np.float32)})
    refused(place, r"1 tensors in a layout that is not known: dense/kernel, .* nearest known layout is TF1")
    refused(small(base_model__conv2d_3__kernel=None), r"1 missing \(base_model/conv2d_3/kernel\)")
    refused(small(base_model__extra=np.zeros(1, np.float32)), r"1 left over \(base_model/extra\)")
    wrong = np.zeros((3, 3, 8, 9), np.float32)
    refused(small(base_model__conv2d_2__kernel=wrong), r"base_model/conv2d_2/kernel has the shape \[3, 3, 8, 9\]")


def test_values(refused, small):
    nan = np.full((8,), np.nan, np.float32)
    refused(
        small(base_model__batch_normalization__beta=nan), "base_model/batch_normalization/beta has values that are NaN"
    )
    negative = np.full((8,), -1, np.float32)
    place = small(base_model__batch_normalization__moving_variance=negative)
    refused(place, "moving_variance is a variance, but has negative values")


def test_classifiers(refused, small):
    refused(
        small(),
        "--classifier_input=z does not fit: the classifier has 64 inputs. It can be on h or g1",
        "--classifier_input=z",
    )
    wrong = np.zeros((60, 5), np.float32)
    refused(
        small(head_supervised__linear_layer__dense__kernel=wrong),
        "its classifier has 60 inputs, but this network has h of 64",
    )
    refused(small(Skeleton(18)), "has no classifier", "--classifier_input=h")


def test_a_saved_model_of_something_else(tmp_path, refused):
    module = tf.Module()
    module.weight = tf.Variable(1.0, name="weight")
    module.run = tf.function(lambda x: x * module.weight, input_signature=[tf.TensorSpec([None])])
    tf.saved_model.save(module, str(tmp_path / "model"))
    refused(tmp_path / "model", "nearest known layout is a SavedModel of the reference")


def test_flags(tmp_path, refused, small):
    refused(small(), "--padding is for PyTorch state dicts", "--padding=same")
    refused(small(), r"--input_mean=1,2: should be three numbers", "--input_mean=1,2")
    refused(small(), r"--input_std=1,2,0: should be three positive numbers", "--input_std=1,2,0")
    with pytest.raises(UserError, match="--source is missing"):
        cli.call("import_weights", f"--workdir={tmp_path / 'run'}")
    with pytest.raises(UserError, match="--format=keras: should be one of torchvision"):
        cli.call("import_weights", "--source=x", "--workdir=y", "--format=keras")


def test_a_workdir_with_a_run(tmp_path, small):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"holds a run already \(config.json\)"):
        cli.call("import_weights", f"--source={small()}", f"--workdir={tmp_path / 'run'}")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.json"]


def test_state_dicts(tmp_path, refused):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"1234567890")
    refused(path, "cannot be read as safetensors")
    safetensors.numpy.save_file({"vit.weight": np.zeros(2, np.float32)}, path)
    refused(path, r"no ResNet in a layout that is known: it has 1 tensors, vit.weight")
    skeleton = Skeleton(18, stage1_projection=False)
    tensors = state_dict(skeleton, tensors_for(skeleton))
    safetensors.numpy.save_file(tensors, path)
    refused(path, "no ResNet in a layout that is known as vissl", "--format=vissl")
    safetensors.numpy.save_file(tensors | {"layer1.0.se.weight": np.zeros(2, np.float32)}, path)
    refused(path, r"1 left over \(layer1.0.se.weight\)")
