"""Selective kernels (Li et al. 2019, arXiv 1903.06586), as SimCLRv2 uses them (section 2; reference tf2/resnet.py)."""

from collections.abc import Callable

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array
from jaxtyping import Float

MIN_MIXING_WIDTH = 32


class SelectiveKernelConv(nnx.Module):
    """Two 3x3 convolutions with BatchNorm and ReLU, mixed by a weighted mean for each image and channel.

    A small network computes the weights, a softmax over the two, from the sum of both outputs averaged over all pixels.

    Args:
      in_features, features: channels in and out.
      stride: of the convolutions.
      ratio: width of that network, as a fraction of `features`, but at least 32 channels. 0.0625 in the paper.
      conv, batch_norm: `layers.conv`, `layers.batch_norm`, with their dtypes and random generators.
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

    def __call__(
        self, x: Float[Array, "batch height width in_features"], *, train: bool
    ) -> Float[Array, "batch out_height out_width features"]:
        """The output is smaller than the input by `stride`."""
        x = nnx.relu(self.bn(self.conv(x), use_running_average=not train))
        a, b = jnp.split(x, 2, axis=-1)
        mixing = jnp.mean(a + b, axis=(1, 2), keepdims=True)
        mixing = nnx.relu(self.mixing_bn(self.mixing_conv1(mixing), use_running_average=not train))
        logits_a, logits_b = jnp.split(self.mixing_conv2(mixing), 2, axis=-1)
        weight = nnx.sigmoid(logits_a - logits_b)  # the softmax over two
        return b + weight * (a - b)


def pool_shortcut(
    x: Float[Array, "batch height width channels"], stride: int
) -> Float[Array, "batch out_height out_width channels"]:
    """The mean of 2x2 pixels before the projection of a shortcut, which then has stride 1 (He et al. 2018, "ResNet-D")."""
    with jax.numpy_dtype_promotion("standard"):  # Flax divides by an array of integers
        if stride == 1:
            return nnx.avg_pool(x, (2, 2), padding="SAME", count_include_pad=False)
        return nnx.avg_pool(x, (2, 2), strides=(stride, stride), padding=((0, 1), (0, 1)))
