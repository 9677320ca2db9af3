"""The network as a PyTorch state dict with torchvision's names, and where torchvision has no such network a module for it."""

import importlib.resources
import importlib.util
import json
import sys
from typing import Any

from etils import epath
import numpy as np

from simclr_jax.errors import UserError
from simclr_jax.interchange import torch_names
from simclr_jax.interchange.exported import ExportedNetwork
from simclr_jax.runtime import extras

MODULE = "simclr_resnet.py"
TEMPLATE = "simclr_resnet.py.txt"


def state_dict(network: ExportedNetwork) -> dict[str, np.ndarray]:
    """The tensors by torchvision's names, in PyTorch's layout."""
    tensors = {}
    for ours, theirs in torch_names.names(network.skeleton).items():
        tensors[theirs] = np.ascontiguousarray(torch_names.from_ours(network.tensors[ours]))
        if theirs.endswith("running_var"):  # as BatchNorm2d has it, for `strict=True`
            tensors[theirs.replace("running_var", torch_names.COUNTER)] = np.array(0, np.int64)
    for layer in range(network.head_layers):  # of an nn.Sequential: Linear, BatchNorm1d, ReLU
        dense, bn = f"head/dense{layer + 1}", f"head/bn{layer + 1}"
        tensors[f"head.{3 * layer}.weight"] = np.ascontiguousarray(network.tensors[f"{dense}/kernel"].T)
        for ours, theirs in torch_names.BATCH_NORM.items():
            value = network.tensors.get(f"{bn}/{ours}")  # the head's last layer has no offset
            tensors[f"head.{3 * layer + 1}.{theirs}"] = (
                np.zeros_like(network.tensors[f"{bn}/mean"]) if value is None else value
            )
        tensors[f"head.{3 * layer + 1}.{torch_names.COUNTER}"] = np.array(0, np.int64)
    return tensors


def write_safetensors(network: ExportedNetwork, path: epath.Path) -> None:
    """Write model.safetensors, and simclr_resnet.py where torchvision's classes do not fit, to a folder."""
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(_safetensors().save(state_dict(network)))
    _write_module(network, path)


def write_pytorch(network: ExportedNetwork, path: epath.Path) -> None:
    """Write model.pth, a state dict by `torch.save`, otherwise like `write_safetensors`."""
    torch = _torch("--format=pytorch")
    path.mkdir(parents=True)
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in state_dict(network).items()}
    with (path / "model.pth").open("wb") as file:
        torch.save(tensors, file)
    _write_module(network, path)


def write_timm(network: ExportedNetwork, path: epath.Path) -> None:
    """Write a folder that `timm.create_model("local-dir:PATH")` loads.

    Raises:
      UserError: if timm has no such network.
    """
    model = network.model
    if not network.is_stock:
        raise UserError(
            "--format=timm: timm has no network like this one. It needs width 1, the 7x7 stem, no selective kernels, "
            "model.padding=torch and for ResNet-18 and -34 model.stage1_projection=false. --format=safetensors writes any."
        )
    write_safetensors(network, path)
    about = {
        "architecture": f"resnet{model.depth}",
        "num_classes": len(network.class_names or ()),
        "pretrained_cfg": {
            "input_size": [3, network.image_size, network.image_size],
            "mean": list(model.input_mean),
            "std": list(model.input_std),
            "first_conv": "conv1",
            "classifier": "fc",
        },
    }
    (path / "config.json").write_text(json.dumps(about, indent=2) + "\n")


def needs_module(network: ExportedNetwork) -> bool:
    """Whether torchvision's classes do not compute this network, so that simclr_resnet.py is written."""
    return not network.is_stock or any(network.model.input_mean)


def _write_module(network: ExportedNetwork, path: epath.Path) -> None:
    if not needs_module(network):
        return
    model, kernels = network.model, network.tensors
    mixing = (
        [kernels[f"encoder/stage{stage}_block1/conv2/mixing_conv1/kernel"].shape[-1] for stage in range(1, 5)]
        if model.sk_ratio
        else []
    )
    config = {
        "depth": model.depth,
        "channels": int(64 * model.width),
        "stem": model.stem,
        "mixing": mixing,
        "max_pool": model.padding,
        "stage1_projection": network.skeleton.stage1_projection,
        "head": [kernels[f"head/bn{layer + 1}/mean"].size for layer in range(network.head_layers)],
        "head_relu": network.head_relu,
        "classes": len(network.class_names or ()),
        "mean": list(model.input_mean),
        "std": list(model.input_std),
    }
    text = (importlib.resources.files("simclr_jax.interchange") / "templates" / TEMPLATE).read_text()
    lines = "".join(f"    {key!r}: {value!r},\n".replace("'", '"') for key, value in config.items())
    (path / MODULE).write_text(text.replace("CONFIG = {}\n", f"CONFIG = {{\n{lines}}}\n"))


def run(network: ExportedNetwork, path: epath.Path, images: np.ndarray) -> dict[str, np.ndarray] | None:
    """What PyTorch computes with the written files; None where it is not installed.

    Reads the tensors back in any case.

    Raises:
      UserError: if the tensors are not those of the network.
    """
    written = state_dict(network)
    if (path / "model.safetensors").exists():
        found = _safetensors().load((path / "model.safetensors").read_bytes())
        if found.keys() != written.keys() or any(not np.array_equal(found[name], written[name]) for name in found):
            raise UserError(f"{path}: the tensors that were read back are not those that were written.")
    try:
        torch = _torch("")
        model = _module_of(network, path)
    except (ImportError, UserError):
        return None
    floats = images.astype(np.float32) / np.float32(255) if images.dtype == np.uint8 else images
    with torch.no_grad():
        output = model(torch.from_numpy(floats.transpose(0, 3, 1, 2).copy())).numpy()
    return {"logits" if network.class_names is not None else "h": output}


def _module_of(network: ExportedNetwork, path: epath.Path) -> Any:
    """The written module, or torchvision's, with the written weights."""
    torch = _torch("")
    if (path / "model.pth").exists():
        with (path / "model.pth").open("rb") as file:
            weights = torch.load(file, weights_only=True)
    else:
        from safetensors.torch import load

        weights = load((path / "model.safetensors").read_bytes())
    if (path / MODULE).exists():
        spec = importlib.util.spec_from_file_location("simclr_resnet", path / MODULE)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
        try:
            spec.loader.exec_module(module)
        finally:
            sys.dont_write_bytecode = before
        model = module.ResNet(**module.CONFIG)
    else:
        import torchvision

        model = getattr(torchvision.models, f"resnet{network.model.depth}")(num_classes=len(network.class_names or [0]))
        if network.class_names is None:
            model.fc = torch.nn.Identity()
    model.load_state_dict(weights, strict=True)
    return model.eval()


def _safetensors() -> Any:
    return extras.load("safetensors.numpy", "safetensors is not installed", "weights")


def _torch(what: str) -> Any:
    return extras.load("torch", f"{what} needs PyTorch", "torch")
