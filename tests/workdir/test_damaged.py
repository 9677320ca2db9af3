"""Files that a crash has torn, or another program has written, are named in one line that says what to do."""

from etils import epath
import numpy as np
import pytest

from simclr_jax import config as config_lib
from simclr_jax.config import saved as saved_config
from simclr_jax.errors import UserError
from simclr_jax.inference import saved as inference_saved
from simclr_jax.runtime import files
from simclr_jax.runtime import trackers
from simclr_jax.workdir import classifiers
from simclr_jax.workdir import predictions
from simclr_jax.workdir import runs

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


DAMAGED_CONFIGS = (
    *(b"", b"{", b"null", b"[1]", b"\xff", b"{}", b'{"a": 1}', b'{"kind": "other"}', b'{"kind": [1]}'),
    *(b'{"kind": "linear_probe", "data": 5}', b'{"kind": "linear_probe", "optimizer": [1]}'),
)


@pytest.mark.parametrize("content", DAMAGED_CONFIGS)
def test_damaged_configs(tmp_path, content):
    path = epath.Path(tmp_path / "config.json")
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"config.json is damaged \(.+\): move it away, and the same command"):
        saved_config.read(path, config_lib.linear_probe())
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(UserError, match=r"config.json is damaged \(.+\): delete the folder .* computes it again"):
        runs.earlier_results(epath.Path(tmp_path), config_lib.linear_probe(), "top1")


@pytest.mark.parametrize("content", DAMAGED_CONFIGS[:9])
def test_damaged_configs_of_what_is_loaded(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=r"config.json is damaged \(.+\): move it away, and the same command"):
        inference_saved.find(tmp_path)


@pytest.mark.parametrize("content", ["{}", '{"top1": null}', '{"top1": "x"}'])
def test_earlier_results_without_their_number(tmp_path, content):
    config = config_lib.linear_probe()
    (tmp_path / "config.json").write_text(saved_config.to_json(config))
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(UserError, match="results.json is damaged .it has no top1.: delete the folder"):
        runs.earlier_results(epath.Path(tmp_path), config, "top1")


def classifier(**parts):
    whole = {"kernel": np.ones((4, 3)), "bias": np.array([0, 1, -np.inf]), "class_names": list("abc"), "features": "g1"}
    return classifiers.SavedClassifier(**(whole | parts))


def test_a_classifier_whose_parts_fit(tmp_path):
    classifiers.write(epath.Path(tmp_path), classifier())
    assert classifiers.read(epath.Path(tmp_path)).class_names == list("abc")


@pytest.mark.parametrize(
    ("part", "value", "reason"),
    [
        ("kernel", np.full((4, 3), np.nan), "not finite"),
        ("kernel", np.ones(3), "the shapes do not fit each other: kernel "),
        ("bias", np.array([0, 0, np.inf]), "not finite"),
        ("bias", np.array([0, 0, np.nan]), "not finite"),
        ("bias", np.zeros(1), "the shapes do not fit each other: .*bias "),
        ("class_names", ["a", "b"], "the shapes do not fit each other: .*class_names "),
        ("class_names", "a", "the shapes do not fit each other"),
        ("features", "zz", "features is 'zz', not h, z, g1"),
        ("features", "g", "features is 'g', not h, z, g1"),
    ],
)
def test_a_classifier_whose_parts_do_not_fit(tmp_path, part, value, reason):
    classifiers.write(epath.Path(tmp_path), classifier(**{part: value}))
    with pytest.raises(UserError, match=rf"classifier.npz is damaged \(.*{reason}.*\): the same command of "):
        classifiers.read(epath.Path(tmp_path))


@pytest.mark.parametrize(
    ("predicted", "reason"),
    [([0, 1], "the shapes do not fit"), ([0, 1, 2], "none of the 2"), ([0, -1, 1], "none of the 2")],
)
def test_predictions_whose_parts_do_not_fit(tmp_path, predicted, reason):
    labels = np.array([0, 1, 1])
    predictions.write(epath.Path(tmp_path), np.arange(3), labels, np.array(predicted), ["a", "b"])
    with pytest.raises(UserError, match=rf"predictions.npz is damaged \(.*{reason}"):
        predictions.read(epath.Path(tmp_path))
