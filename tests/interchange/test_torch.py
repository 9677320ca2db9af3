"""With PyTorch: its files are read without running code, and its own operations compute the same."""

import os
import pickle

from made_weights import state_dict
from made_weights import tensors_for
import numpy as np
import pytest

from simclr_jax.errors import UserError
from simclr_jax.interchange.layers import Skeleton
from simclr_jax.runtime import cli

pytestmark = pytest.mark.interop
torch = pytest.importorskip("torch")


def save(path, tensors, wrap=lambda tensors: tensors):
    torch.save(wrap({name: torch.from_numpy(np.array(tensor)) for name, tensor in tensors.items()}), path)
    return str(path)


def import_(place, workdir, *flags):
    return cli.call("import_weights", f"--source={place}", f"--workdir={workdir}", *flags)


@pytest.mark.parametrize(
    ("prefix", "wrap", "more", "flags", "layout"),
    [
        ("", lambda found: found, (), (), "torchvision"),
        ("", lambda found: found, (), ("--padding=same",), "torchvision"),
        ("module.", lambda found: {"state_dict_ema": found, "epoch": 3}, (), ("--format=timm",), "timm"),
        ("", lambda found: {"model": found}, (), ("--format=lightly-train",), "lightly-train"),
        (
            "_feature_blocks.",
            lambda found: {"classy_state_dict": {"base_model": {"model": {"trunk": found, "heads": {}}}}},
            (),
            (),
            "vissl",
        ),
        ("backbone.", lambda found: {"state_dict": found}, ("projection_head.layers.0.weight",), (), "lightly"),
        ("encoder.", lambda found: found, ("projector.0.weight", "projector.2.weight"), (), "spijkervet"),
        (
            "backbone.",
            lambda found: {"state_dict": found, "arch": "resnet18"},
            ("backbone.fc.0.weight",),
            (),
            "sthalles",
        ),
        ("encoder.model.", lambda found: {"state_dict": found}, ("projection.model.0.weight",), (), "bolts"),
    ],
    ids=["plain", "reference padding", "timm", "lightly-train", "vissl", "lightly", "spijkervet", "sthalles", "bolts"],
)
@pytest.mark.parametrize("depth", [18, 50])
def test_pytorch_computes_the_same(tmp_path, depth, prefix, wrap, more, flags, layout):
    classifier = prefix in ("", "module.")
    skeleton = Skeleton(depth, stage1_projection=depth > 34, classifier=classifier)
    tensors = {prefix + name: tensor for name, tensor in state_dict(skeleton, tensors_for(skeleton)).items()}
    tensors |= {name: np.zeros((2, 2), np.float32) for name in more}
    record = import_(save(tmp_path / "x.pth", tensors, wrap), tmp_path / "run", *flags)
    assert record["layout"] == layout
    assert record["largest_relative_difference"].keys() == ({"h", "logits"} if classifier else {"h"})
    assert max(record["largest_relative_difference"].values()) < 1e-5
    assert not more or set(more) <= {name for names in record["ignored"].values() for name in names}


def test_code_in_a_file_is_never_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "it_ran"),)

    torch.save({"state_dict": {"conv1.weight": torch.zeros(2)}, "hyper_parameters": Evil()}, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match="holds Python objects besides tensors"):
        import_(tmp_path / "x.ckpt", tmp_path / "run")
    (tmp_path / "y.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError):
        import_(tmp_path / "y.pt", tmp_path / "run")
    assert not (tmp_path / "it_ran").exists()
    assert not (tmp_path / "run").exists()


def test_damaged_and_empty_files(tmp_path):
    place = save(tmp_path / "x.pth", {"conv1.weight": np.zeros(1000, np.float32)})
    whole = (tmp_path / "x.pth").read_bytes()
    (tmp_path / "x.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="damaged, incomplete or not written by torch.save"):
        import_(place, tmp_path / "run")
    torch.save([1, 2], tmp_path / "x.pth")
    with pytest.raises(UserError, match="holds no state dict: it has a list"):
        import_(place, tmp_path / "run")
    torch.save({"epoch": 3}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="holds no state dict: it has epoch"):
        import_(place, tmp_path / "run")
