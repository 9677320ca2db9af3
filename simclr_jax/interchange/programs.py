"""The network as a compiled program: StableHLO (`jax.export`) and TensorFlow's SavedModel (`orbax-export`).

Both contain the weights. The batch is free; height and width are those of the evaluation.
"""

from typing import Any

from etils import epath
import jax
from jax import export
import jax.numpy as jnp
import numpy as np

from simclr_jax.errors import UserError
from simclr_jax.interchange.exported import Apply
from simclr_jax.interchange.exported import ExportedNetwork
from simclr_jax.runtime import extras

PLATFORMS = ("cpu", "cuda", "tpu")


def _of(apply: Apply, dtype: Any) -> Apply:
    """The network on images of a dtype, computed in full precision on every platform."""

    def run(images: jax.Array) -> dict[str, jax.Array]:
        with jax.default_matmul_precision("highest"):
            return apply(images.astype(jnp.float32) / 255 if dtype == np.uint8 else images)

    return run


def write_stablehlo(network: ExportedNetwork, dtype: Any, path: epath.Path) -> None:
    """Write one file that `jax.export.deserialize(bytes).call(images)` runs on a CPU, on GPUs of NVIDIA and on TPUs."""
    (batch,) = export.symbolic_shape("batch")
    size = network.image_size
    images = jax.ShapeDtypeStruct((batch, size, size, 3), dtype)
    path.write_bytes(export.export(jax.jit(_of(network.apply, dtype)), platforms=PLATFORMS)(images).serialize())


def run_stablehlo(path: epath.Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """The outputs of a file that `write_stablehlo` wrote."""
    return jax.device_get(export.deserialize(bytearray(path.read_bytes())).call(jnp.asarray(images)))


def write_saved_model(network: ExportedNetwork, dtype: Any, path: epath.Path) -> None:
    """Write a folder that `tf.saved_model.load(path).signatures["serving_default"](images=...)` runs.

    Raises:
      UserError: if orbax-export is not installed.
    """
    orbax_export = extras.load("orbax.export", "SavedModel needs orbax-export", "export")
    from simclr_jax.runtime.tensorflow import tf

    apply, size = _of(network.apply, dtype), network.image_size

    def apply_with_params(params: dict, images: jax.Array) -> dict[str, jax.Array]:
        del params  # they are constants of the program
        return apply(images)

    module = orbax_export.JaxModule({}, apply_with_params, input_polymorphic_shape="batch, ...")
    signature = [tf.TensorSpec([None, size, size, 3], tf.dtypes.as_dtype(dtype), name="images")]
    config = orbax_export.ServingConfig("serving_default", input_signature=signature)
    orbax_export.ExportManager(module, [config]).save(str(path))


def run_saved_model(path: epath.Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """The outputs of a folder that `write_saved_model` wrote.

    Raises:
      UserError: if TensorFlow is too old for what JAX writes.
    """
    from simclr_jax.runtime.tensorflow import tf

    run = tf.saved_model.load(str(path)).signatures["serving_default"]
    try:
        return {name: value.numpy() for name, value in run(images=tf.constant(images)).items()}
    except tf.errors.InvalidArgumentError as error:
        if "deserialize" not in str(error):
            raise
        raise UserError(
            f"TensorFlow {tf.__version__} cannot read the programs that JAX {jax.__version__} writes: install a newer "
            "TensorFlow, or jax 0.10; or export to stablehlo or onnx."
        ) from error
