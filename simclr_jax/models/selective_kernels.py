"""Selective kernels (Li et al. 2019, arXiv 1903.06586), as SimCLRv2 has them (section 2; reference tf2/resnet.py)."""

from collections.abc import Callable

from flax import nnx
import jax
import jax.numpy as jnp

MIN_MIXING_WIDTH = 32


class SelectiveKernelConv(nnx.Module):
    """Two 3x3 convolutions with BatchNorm and ReLU, and for each image and channel a weighted mean of their outputs.

    The weights are a softmax over the two, of a small network that sees the mean of their sum over all pixels.

    Args:
      in_features, features: channels in and out.
      stride: of the convolutions.
      ratio: width of that network, as a share of `features`; at least 32 all the same. 0.0625 in the paper.
      conv, batch_norm: `resnet.conv`, `resnet.batch_norm`, with their dtypes and random generators.
    """

    def __init__(
        self, in_features: int, features: int, stride: int, ratio: float, *, conv: Callable, batch_norm: Callable
    ):
        self.conv = conv(in_features, 2 * features, 3, stride)
        self.bn = batch_norm(2 * features)
        mixing = max(int(features * ratio), MIN_MIXING_WIDTH)
        self.mixing_conv1 = conv(features, mixing, 1, 1)
        self.mixing_bn = batch_norm(mixing)
        self.mixing_conv2 = conv(mixing, 2 * features, 1, 1)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """`[batch, height, width, in_features]` to `[batch, height / stride, width / stride, features]`."""
        x = nnx.relu(self.bn(self.conv(x), use_running_average=not train))
        one, other = jnp.split(x, 2, axis=-1)
        mixing = jnp.mean(one + other, axis=(1, 2), keepdims=True)
        mixing = nnx.relu(self.mixing_bn(self.mixing_conv1(mixing), use_running_average=not train))
        of_one, of_other = jnp.split(self.mixing_conv2(mixing), 2, axis=-1)
        weight = nnx.sigmoid(of_one - of_other)  # the softmax of two
        return other + weight * (one - other)


def pool_shortcut(x: jax.Array, stride: int) -> jax.Array:
    """The mean of 2x2 pixels before a shortcut's projection, which then does not stride (He et al. 2018, "ResNet-D")."""
    if stride == 1:
        return nnx.avg_pool(x, (2, 2), padding="SAME", count_include_pad=False)
    return nnx.avg_pool(x, (2, 2), strides=(stride, stride), padding=((0, 1), (0, 1)))
