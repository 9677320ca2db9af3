"""Convolutions and BatchNorms as the reference has them: padding, initial values and constants."""

from flax import nnx
from jax.typing import DTypeLike

from simclr_jax.models import norm
from simclr_jax.models.conv import conv_general_dilated

# TensorFlow's VarianceScaling() default, which the reference uses for convolutions.
conv_init = nnx.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


def conv(
    in_features: int,
    features: int,
    kernel: int,
    stride: int,
    *,
    pad: int | None = None,
    dtype: DTypeLike,
    param_dtype: DTypeLike,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """A convolution without bias, with symmetric padding for every stride: `pad` pixels, or half the kernel."""
    pad = (kernel - 1) // 2 if pad is None else pad
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


def batch_norm(
    features: int,
    *,
    zero_scale: bool = False,
    use_bias: bool = True,
    dtype: DTypeLike,
    param_dtype: DTypeLike,
    rngs: nnx.Rngs,
) -> norm.BatchNorm:
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
