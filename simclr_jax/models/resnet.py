"""ResNet encoders as SimCLR uses them (paper section 2.2 and appendix B; He et al. 2015).

ResNet v1 with the stride in the 3x3 convolution, BatchNorm momentum 0.9 and epsilon 1e-5, the last BatchNorm scale of
every block initialised to zero, and explicit symmetric padding for strided convolutions. The shortcut of the first
block of *every* stage is a projection, even where the shapes already agree (ResNet-18/34, stage 1), as in the reference
implementation and its parameter counts. Where PyTorch's networks differ, an argument of `ResNet` gives theirs.
"""

import functools
import itertools
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array
from jaxtyping import Float
import numpy as np

from simclr_jax.config import choices
from simclr_jax.models import norm
from simclr_jax.models.layers import batch_norm
from simclr_jax.models.layers import conv
from simclr_jax.models.selective_kernels import SelectiveKernelConv
from simclr_jax.models.selective_kernels import pool_shortcut

# depth -> (blocks per stage, bottleneck?). ResNet-10 is not in the paper: for laptops, and for the tests.
STAGES = {
    10: ((1, 1, 1, 1), False),
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
    200: ((3, 24, 36, 3), True),
}


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions; the first one has the stride."""

    expansion = 1

    def __init__(self, in_features: int, features: int, stride: int, project: bool, **kwargs: Any):
        self.conv1 = conv(in_features, features, 3, stride, **kwargs)
        self.bn1 = batch_norm(features, **kwargs)
        self.conv2 = conv(features, features, 3, 1, **kwargs)
        self.bn2 = batch_norm(features, zero_scale=True, **kwargs)
        self.project = project
        if project:
            self.shortcut_conv = conv(in_features, features, 1, stride, **kwargs)
            self.shortcut_bn = batch_norm(features, **kwargs)

    def __call__(
        self, x: Float[Array, "batch height width channels"], *, train: bool
    ) -> Float[Array, "batch out_height out_width features"]:
        shortcut = x
        if self.project:
            shortcut = self.shortcut_bn(self.shortcut_conv(x), use_running_average=not train)
        x = nnx.relu(self.bn1(self.conv1(x), use_running_average=not train))
        x = self.bn2(self.conv2(x), use_running_average=not train)
        return nnx.relu(x + shortcut)


class BottleneckBlock(nnx.Module):
    """A 1x1 convolution, a 3x3 one with the stride (or selective kernels), and a 1x1 one to four times the width."""

    expansion = 4

    def __init__(
        self, in_features: int, features: int, stride: int, project: bool, *, sk_ratio: float = 0.0, **kwargs: Any
    ):
        out_features = features * self.expansion
        self.conv1 = conv(in_features, features, 1, 1, **kwargs)
        self.bn1 = batch_norm(features, **kwargs)
        self.selective = sk_ratio > 0
        self.conv2: nnx.Module
        if self.selective:
            self.conv2 = SelectiveKernelConv(
                features,
                features,
                stride,
                sk_ratio,
                conv=functools.partial(conv, **kwargs),
                batch_norm=functools.partial(batch_norm, **kwargs),
            )
        else:
            self.conv2 = conv(features, features, 3, stride, **kwargs)
            self.bn2 = batch_norm(features, **kwargs)
        self.conv3 = conv(features, out_features, 1, 1, **kwargs)
        self.bn3 = batch_norm(out_features, zero_scale=True, **kwargs)
        self.stride, self.project = stride, project
        if project:
            self.shortcut_conv = conv(in_features, out_features, 1, 1 if self.selective else stride, **kwargs)
            self.shortcut_bn = batch_norm(out_features, **kwargs)

    def __call__(
        self, x: Float[Array, "batch height width channels"], *, train: bool
    ) -> Float[Array, "batch out_height out_width features"]:
        shortcut = x
        if self.project:
            if self.selective:
                shortcut = pool_shortcut(shortcut, self.stride)
            shortcut = norm.conv1x1_bn(self.shortcut_conv, self.shortcut_bn, shortcut, train=train)
        x = nnx.relu(self.bn1(self.conv1(x), use_running_average=not train))
        x = (
            self.conv2(x, train=train)
            if self.selective
            else nnx.relu(self.bn2(self.conv2(x), use_running_average=not train))
        )
        return norm.conv1x1_bn(self.conv3, self.bn3, x, shortcut, train=train)


class ResNet(nnx.Module):
    """The encoder f: maps images to representations h.

    Args:
      depth: 18, 34, 50, 101, 152 or 200.
      width: multiplies every number of channels. The paper uses 1, 2 and 4. A fraction gives a small network for small
        machines; `64 * width` has to be a whole number.
      stem: "imagenet" (7x7 convolution of stride 2, then 3x3 max pooling of stride 2) or "cifar" (3x3 convolution of
        stride 1, no pooling; paper appendix B.9), or "cifar_wide" (the same with padding 2, as solo-learn has it).
      sk_ratio: above 0, selective kernels in all blocks, with the stem and the shortcuts of SimCLRv2; 0.0625 in its paper.
        Only for depths of 50 and more.
      padding: of the max pool: "same" (the reference's: at the end for even sizes) or "torch" (one pixel on all sides).
      stage1_projection: False: no projection in stage 1 of a ResNet-18 or -34, as in PyTorch.
      input_mean, input_std: the images are normalised by these first; the reference does not.
      remat: which activations the backward pass computes again instead of keeping them in memory: "none", or all but the
        input of every "block" or "stage".
      dtype: dtype of the computation. Parameters and BatchNorm statistics are `param_dtype`.
      rngs: Flax random number generators, for the initial parameters.

    Raises:
      ValueError: for a depth, width, stem, ratio or remat that does not exist.
    """

    def __init__(
        self,
        depth: int,
        width: int | float = 1,
        stem: str = "imagenet",
        *,
        sk_ratio: float = 0.0,
        padding: str = "same",
        stage1_projection: bool = True,
        input_mean: tuple[float, ...] = (0.0, 0.0, 0.0),
        input_std: tuple[float, ...] = (1.0, 1.0, 1.0),
        remat: str = "none",
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        _check_arguments(depth, width, stem, sk_ratio, padding, remat)
        blocks, bottleneck = STAGES[depth]
        kwargs: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        block: type[BottleneckBlock] | type[BasicBlock] = BottleneckBlock if bottleneck else BasicBlock
        channels = int(64 * width)
        self.stem = stem
        self.remat = remat
        self.dtype = dtype
        self.pool_padding: Any = "SAME" if padding == "same" else ((1, 1), (1, 1))
        self.input_mean, self.input_std = input_mean, input_std
        self.deep_stem = stem == "imagenet" and sk_ratio > 0
        if self.deep_stem:  # three 3x3 convolutions instead of 7x7 (He et al. 2018, "ResNet-D")
            self.stem_conv1 = conv(3, channels // 2, 3, 2, **kwargs)
            self.stem_bn1 = batch_norm(channels // 2, **kwargs)
            self.stem_conv2 = conv(channels // 2, channels // 2, 3, 1, **kwargs)
            self.stem_bn2 = batch_norm(channels // 2, **kwargs)
            self.stem_conv = conv(channels // 2, channels, 3, 1, **kwargs)
        elif stem == "imagenet":
            self.stem_conv = conv(3, channels, 7, 2, **kwargs)
        else:
            self.stem_conv = conv(3, channels, 3, 1, pad=2 if stem == "cifar_wide" else 1, **kwargs)
        self.stem_bn = batch_norm(channels, **kwargs)

        # Blocks are plain attributes, so that the path of a parameter in a checkpoint reads
        # "stage2_block1/conv1/kernel".
        block_names = []
        in_channels = channels
        block_kwargs = kwargs | ({"sk_ratio": sk_ratio} if bottleneck else {})
        for stage, num_blocks in enumerate(blocks):
            features = channels * 2**stage
            for index in range(num_blocks):
                stride = 2 if stage > 0 and index == 0 else 1
                project = index == 0 and (stage > 0 or bottleneck or stage1_projection)
                name = f"stage{stage + 1}_block{index + 1}"
                setattr(self, name, block(in_channels, features, stride, project=project, **block_kwargs))
                block_names.append(name)
                in_channels = features * block.expansion
        self.block_names = tuple(block_names)
        self.num_features = in_channels

    def __call__(
        self, images: Float[Array, "batch height width 3"], *, train: bool
    ) -> Float[Array, "batch num_features"]:
        """Images in [0, 1] to representations, in float32 whatever the dtype of the computation (float64 stays float64).

        Args:
          images: RGB images.
          train: normalise by the BatchNorm statistics of this batch and update the running ones, or use the running ones.
        """
        with jax.named_scope("encoder/stem"):
            x = self._stem(self._normalised(images).astype(self.dtype), train=train)
        group_of = _stage_of if self.remat == "stage" else None
        for _, group in itertools.groupby(self.block_names, group_of):
            names = tuple(group)
            run = _run_blocks if self.remat == "none" else nnx.remat(_run_blocks, static_argnums=2)
            with jax.named_scope(f"encoder/{_stage_of(names[0])}"):
                x = run(tuple(getattr(self, name) for name in names), x, train)
        with jax.named_scope("encoder/average_pool"):
            return jnp.mean(x, axis=(1, 2), dtype=np.promote_types(x.dtype, np.float32))

    def _normalised(self, images: Float[Array, "batch height width 3"]) -> Float[Array, "batch height width 3"]:
        if self.input_mean == (0.0, 0.0, 0.0) and self.input_std == (1.0, 1.0, 1.0):
            return images
        dtype = jnp.promote_types(images.dtype, jnp.float32)
        return (images - jnp.asarray(self.input_mean, dtype)) / jnp.asarray(self.input_std, dtype)

    def _stem(
        self, x: Float[Array, "batch height width 3"], *, train: bool
    ) -> Float[Array, "batch out_height out_width channels"]:
        if self.deep_stem:
            x = nnx.relu(self.stem_bn1(self.stem_conv1(x), use_running_average=not train))
            x = nnx.relu(self.stem_bn2(self.stem_conv2(x), use_running_average=not train))
        x = self.stem_conv(x)
        if self.stem != "imagenet":
            return nnx.relu(self.stem_bn(x, use_running_average=not train))
        # Pool before BatchNorm and ReLU: they are monotonic, so they commute with the maximum (with the minimum where the
        # scale is negative). The result is the same, with a quarter of the pixels to normalise and differentiate.
        sign = jnp.where(self.stem_bn.scale[...] < 0, -1, 1)  # type: ignore[index]  # never None here
        x = x * sign.astype(x.dtype)
        mean, var = norm.moments(x)
        factor, offset = self.stem_bn.affine((mean * sign, var) if train else None)
        x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=self.pool_padding)
        return nnx.relu(self.stem_bn.apply(x, factor * sign, offset))


def _check_arguments(depth: int, width: float, stem: str, sk_ratio: float, padding: str, remat: str) -> None:
    if depth not in STAGES:
        raise ValueError(f"ResNet depth {depth} is not one of {sorted(STAGES)}.")
    for name, value, allowed in (
        ("ResNet stem", stem, choices.STEMS),
        ("remat", remat, choices.REMAT),
        ("padding", padding, choices.PADDINGS),
    ):
        if value not in allowed:
            raise ValueError(f"{name} {value!r} is not one of {allowed}.")
    if width <= 0 or 64 * width != int(64 * width):
        raise ValueError(f"ResNet width {width}: 64 * width must be a positive whole number of channels.")
    _, bottleneck = STAGES[depth]
    if sk_ratio < 0 or (sk_ratio > 0 and not bottleneck):
        raise ValueError(
            f"sk_ratio {sk_ratio}: selective kernels need a ratio above 0 and a ResNet of depth 50 or more."
        )


def _stage_of(block_name: str) -> str:
    return block_name.partition("_")[0]


def _run_blocks(
    blocks: tuple[nnx.Module, ...], x: Float[Array, "batch height width channels"], train: bool
) -> Float[Array, "batch out_height out_width features"]:
    for block in blocks:
        x = block(x, train=train)
    return x
