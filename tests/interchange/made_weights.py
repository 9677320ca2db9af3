"""Weights of small networks, written as other programs write them."""

from ml_collections import ConfigDict
import numpy as np

from simclr_jax import config as config_lib
from simclr_jax.interchange import infer
from simclr_jax.interchange import torch_names
from simclr_jax.interchange.layers import Skeleton
from simclr_jax.runtime.tensorflow import tf


def config_for(skeleton: Skeleton, width=0.125, dim=16, **model) -> ConfigDict:
    config = config_lib.pretrain()
    config.model.update(depth=skeleton.depth, width=width, sk_ratio=0.0625 if skeleton.selective else 0.0)
    config.model.update(stem=skeleton.stem, stage1_projection=skeleton.stage1_projection, **model)
    config.head.kind = ("linear" if skeleton.linear_head else "nonlinear") if skeleton.head else "none"
    config.head.update(layers=skeleton.head or 2, dim=dim)
    return config


def tensors_for(skeleton: Skeleton, classes=5, seed=0, **fields) -> dict[str, np.ndarray]:
    """Random weights by our names; variances and scales positive."""
    rng = np.random.default_rng(seed)
    shapes = infer.network_shapes(config_for(skeleton, **fields), classes if skeleton.classifier else None)
    found = {}
    for name, shape in shapes.items():
        if name.endswith(("/var", "/scale")):
            found[name] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        else:
            fan_in = max(int(np.prod(shape[:-1])), 1) if len(shape) > 1 else 100
            found[name] = (rng.normal(size=shape) / np.sqrt(fan_in)).astype(np.float32)
    return found


def write_checkpoint(prefix, tensors: dict[str, np.ndarray]) -> str:
    """A TensorFlow checkpoint with these names."""
    names = sorted(tensors)
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tf.constant(tensors[name]) for name in names],
    )
    return str(prefix)


def in_layout(names: dict[str, str], tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {names[ours]: tensor for ours, tensor in tensors.items()}


def state_dict(skeleton: Skeleton, tensors: dict[str, np.ndarray], place=None) -> dict[str, np.ndarray]:
    """In PyTorch's names and layout, with its counters."""
    names = torch_names.names(skeleton, place)
    found = {names[ours]: np.ascontiguousarray(torch_names.from_ours(tensor)) for ours, tensor in tensors.items()}
    counters = [name.replace("running_var", "num_batches_tracked") for name in found if name.endswith("running_var")]
    return found | {name: np.asarray(7) for name in counters}
