"""ResNet encoders, as SimCLR uses them (paper section 2.2 and appendix B; He et al. 2015).

ResNet v1 with the stride in the 3x3 convolution, BatchNorm momentum 0.9 and epsilon 1e-5, the last BatchNorm scale of
every block initialised to zero, and explicit symmetric padding for strided convolutions. The shortcut of the first
block of *every* stage is a projection, also where the shapes already agree (ResNet-18/34, stage 1): the reference
implementation does so, and its parameter counts show it.
"""

from collections.abc import Callable
import functools
import itertools

from flax import nnx
import jax
import jax.numpy as jnp

from simclr_jax.models import norm
from simclr_jax.models.conv import conv_general_dilated
from simclr_jax.models.selective_kernels import SelectiveKernelConv
from simclr_jax.models.selective_kernels import pool_shortcut

# depth -> (blocks per stage, bottleneck?)
STAGES = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
    200: ((3, 24, 36, 3), True),
}
STEMS = ("imagenet", "cifar")
REMAT = ("none", "block", "stage")

# TensorFlow's VarianceScaling() default, which the reference uses for convolutions.
conv_init = nnx.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


def conv(in_features: int, features: int, kernel: int, stride: int, *, dtype, param_dtype, rngs: nnx.Rngs) -> nnx.Conv:
    """A convolution without bias and with symmetric padding, whatever the stride."""
    pad = (kernel - 1) // 2
    return nnx.Conv(
        in_features,
        features,
        (kernel, kernel),
        strides=(stride, stride),
        padding=((pad, pad), (pad, pad)),
        use_bias=False,
        kernel_init=conv_init,
        conv_general_dilated=conv_general_dilated,
        dtype=dtype,
        param_dtype=param_dtype,
        rngs=rngs,
    )


def batch_norm(features: int, *, zero_scale: bool = False, use_bias: bool = True, dtype, param_dtype, rngs: nnx.Rngs):
    """BatchNorm with the reference's constants. Under `jax.jit` its mean and variance are those of the global batch."""
    return norm.BatchNorm(
        features,
        momentum=0.9,
        epsilon=1e-5,
        use_bias=use_bias,
        scale_init=nnx.initializers.zeros if zero_scale else nnx.initializers.ones,
        dtype=dtype,
        param_dtype=param_dtype,
        rngs=rngs,
    )


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions; the first one strides."""

    expansion = 1

    def __init__(self, in_features: int, features: int, stride: int, project: bool, **kwargs):
        self.conv1 = conv(in_features, features, 3, stride, **kwargs)
        self.bn1 = batch_norm(features, **kwargs)
        self.conv2 = conv(features, features, 3, 1, **kwargs)
        self.bn2 = batch_norm(features, zero_scale=True, **kwargs)
        self.project = project
        if project:
            self.shortcut_conv = conv(in_features, features, 1, stride, **kwargs)
            self.shortcut_bn = batch_norm(features, **kwargs)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        shortcut = x
        if self.project:
            shortcut = self.shortcut_bn(self.shortcut_conv(x), use_running_average=not train)
        x = nnx.relu(self.bn1(self.conv1(x), use_running_average=not train))
        x = self.bn2(self.conv2(x), use_running_average=not train)
        return nnx.relu(x + shortcut)


class BottleneckBlock(nnx.Module):
    """1x1 down, 3x3 (which strides; or selective kernels), 1x1 up to four times the width."""

    expansion = 4

    def __init__(self, in_features: int, features: int, stride: int, project: bool, *, sk_ratio: float = 0.0, **kwargs):
        out_features = features * self.expansion
        self.conv1 = conv(in_features, features, 1, 1, **kwargs)
        self.bn1 = batch_norm(features, **kwargs)
        self.selective = sk_ratio > 0
        if self.selective:
            parts = {"conv": functools.partial(conv, **kwargs), "batch_norm": functools.partial(batch_norm, **kwargs)}
            self.conv2 = SelectiveKernelConv(features, features, stride, sk_ratio, **parts)
        else:
            self.conv2 = conv(features, features, 3, stride, **kwargs)
            self.bn2 = batch_norm(features, **kwargs)
        self.conv3 = conv(features, out_features, 1, 1, **kwargs)
        self.bn3 = batch_norm(out_features, zero_scale=True, **kwargs)
        self.stride, self.project = stride, project
        if project:
            self.shortcut_conv = conv(in_features, out_features, 1, 1 if self.selective else stride, **kwargs)
            self.shortcut_bn = batch_norm(out_features, **kwargs)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
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
    """The encoder f: images to representations h.

    Args:
      depth: 18, 34, 50, 101, 152 or 200.
      width: multiplies every number of channels. The paper uses 1, 2 and 4; a fraction gives a small network for small
        machines, as long as `64 * width` is a whole number.
      stem: "imagenet" (7x7 convolution of stride 2, then 3x3 max pooling of stride 2) or "cifar" (3x3 convolution of
        stride 1, no pooling; paper appendix B.9).
      sk_ratio: above 0, selective kernels in all blocks, with the stem and the shortcuts that SimCLRv2 has with them; 0.0625
        in its paper. For depths from 50 on.
      remat: what is computed again in the backward pass instead of kept in memory: "none"; in every "block" or "stage"
        all but its input.
      dtype: of the computation. Parameters and BatchNorm statistics are `param_dtype`.
      rngs: Flax random number generators, for the initial parameters.
    """

    def __init__(
        self,
        depth: int,
        width: float = 1,
        stem: str = "imagenet",
        *,
        sk_ratio: float = 0.0,
        remat: str = "none",
        dtype=jnp.float32,
        param_dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        if depth not in STAGES:
            raise ValueError(f"ResNet depth {depth} is not one of {sorted(STAGES)}.")
        if stem not in STEMS:
            raise ValueError(f"ResNet stem {stem!r} is not one of {STEMS}.")
        if remat not in REMAT:
            raise ValueError(f"remat {remat!r} is not one of {REMAT}.")
        if width <= 0 or 64 * width != int(64 * width):
            raise ValueError(f"ResNet width {width}: 64 * width must be a positive whole number of channels.")
        blocks, bottleneck = STAGES[depth]
        if sk_ratio < 0 or (sk_ratio > 0 and not bottleneck):
            raise ValueError(
                f"sk_ratio {sk_ratio}: selective kernels need a ratio above 0 and a ResNet of depth 50 or more."
            )
        kwargs = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        block: Callable = BottleneckBlock if bottleneck else BasicBlock
        channels = int(64 * width)
        self.stem = stem
        self.remat = remat
        self.dtype = dtype
        self.deep_stem = stem == "imagenet" and sk_ratio > 0
        if self.deep_stem:  # 3x3 three times instead of 7x7 (He et al. 2018, "ResNet-D")
            self.stem_conv1 = conv(3, channels // 2, 3, 2, **kwargs)
            self.stem_bn1 = batch_norm(channels // 2, **kwargs)
            self.stem_conv2 = conv(channels // 2, channels // 2, 3, 1, **kwargs)
            self.stem_bn2 = batch_norm(channels // 2, **kwargs)
            self.stem_conv = conv(channels // 2, channels, 3, 1, **kwargs)
        elif stem == "imagenet":
            self.stem_conv = conv(3, channels, 7, 2, **kwargs)
        else:
            self.stem_conv = conv(3, channels, 3, 1, **kwargs)
        self.stem_bn = batch_norm(channels, **kwargs)

        # Blocks are plain attributes, so that a parameter's path, and so a checkpoint, reads
        # "stage2_block1/conv1/kernel".
        self.block_names = []
        in_channels = channels
        block_kwargs = kwargs | ({"sk_ratio": sk_ratio} if bottleneck else {})
        for stage, num_blocks in enumerate(blocks):
            features = channels * 2**stage
            for index in range(num_blocks):
                stride = 2 if stage > 0 and index == 0 else 1
                name = f"stage{stage + 1}_block{index + 1}"
                setattr(self, name, block(in_channels, features, stride, project=index == 0, **block_kwargs))
                self.block_names.append(name)
                in_channels = features * block.expansion
        self.block_names = tuple(self.block_names)
        self.num_features = in_channels

    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Float images `[batch, height, width, 3]` in [0, 1] to float32 representations `[batch, num_features]`.

        `train` chooses the BatchNorm statistics: of this batch (and updates the running ones), or the running ones.
        """
        x = images.astype(self.dtype)
        if self.deep_stem:
            x = nnx.relu(self.stem_bn1(self.stem_conv1(x), use_running_average=not train))
            x = nnx.relu(self.stem_bn2(self.stem_conv2(x), use_running_average=not train))
        x = self.stem_conv(x)
        if self.stem == "imagenet":
            # The maximum of BatchNorm and ReLU is theirs of the maximum (of the minimum, where the scale is negative): the
            # same numbers, with a quarter of the pixels to normalise, and to differentiate.
            sign = jnp.where(self.stem_bn.scale[...] < 0, -1, 1)
            x = x * sign.astype(x.dtype)
            mean, var = norm.moments(x)
            factor, offset = self.stem_bn.affine((mean * sign, var) if train else None)
            x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
            x = nnx.relu(self.stem_bn.apply(x, factor * sign, offset))
        else:
            x = nnx.relu(self.stem_bn(x, use_running_average=not train))
        stage_of = (lambda name: name.partition("_")[0]) if self.remat == "stage" else None
        for _, names in itertools.groupby(self.block_names, stage_of):
            run = _run_blocks if self.remat == "none" else nnx.remat(_run_blocks, static_argnums=2)
            x = run(tuple(getattr(self, name) for name in names), x, train)
        return jnp.mean(x, axis=(1, 2), dtype=jnp.promote_types(x.dtype, jnp.float32))


def _run_blocks(blocks: tuple[nnx.Module, ...], x: jax.Array, train: bool) -> jax.Array:
    for block in blocks:
        x = block(x, train=train)
    return x
