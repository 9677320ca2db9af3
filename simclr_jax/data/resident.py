"""Data sets of small images in device memory: decoded once, split over the devices, and read inside the jitted step.

As in `data.order`, the order is a pure function of (seed, position), but a different one: each epoch is a permutation that is
computed on the device. So the host passes nothing but the step number.
"""

from collections.abc import Callable
import dataclasses
import math
import os
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array
from jaxtyping import Int32
from jaxtyping import Integer
from jaxtyping import UInt8
from jaxtyping import UInt32
import numpy as np

from simclr_jax.augment.image_files import DEFAULT_DECODING
from simclr_jax.augment.image_files import Decoding
from simclr_jax.data import decoded
from simclr_jax.data.sources.base import RandomAccess
from simclr_jax.errors import UserError
from simclr_jax.runtime import sharding

# Separates the order from all other draws with a run's seed.
_SHUFFLE = 0x73687566
# With 8 rounds, some orders of 5 examples are more frequent than the rest; with 16, no order of 6 is (chi-square over 20,000
# epochs).
_ROUNDS = 16


# --- Order ---------------------------------------------------------------------------------------------------------


def _hash(x: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """A bijection of uint32 in which every bit depends on every bit (C. Wellons' "lowbias32")."""
    x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
    return x ^ (x >> 16)


def permuted(positions: Integer[Array, " n"], num_examples: int, seed: int | Integer[Array, ""]) -> Int32[Array, " n"]:
    """The indices of the examples at global positions: each epoch is a new permutation of `num_examples`.

    A Feistel network: an index is a pair of digits, and the rounds alternately shift one digit by a hash of the other one,
    which is always invertible. The digits have base ceil(sqrt(n)) or one less instead of a power of two, so there are hardly
    more pairs than examples. A pair beyond the last example passes through the network again until it is within the range
    (Black and Rogaway 2002, "Ciphers with arbitrary finite domains"). So each position is computed independently.

    Args:
      positions: not negative.
      num_examples: how many examples an epoch has.
      seed: of the run.

    Returns:
      Indices in [0, num_examples).
    """
    positions = positions.astype(jnp.uint32)
    epochs, start = positions // np.uint32(num_examples), positions % np.uint32(num_examples)
    high = math.isqrt(num_examples - 1) + 1
    low = -(-num_examples // high)
    base = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), _SHUFFLE)
    keys = jax.vmap(lambda epoch: jax.random.bits(jax.random.fold_in(base, epoch), (_ROUNDS,), jnp.uint32))(epochs)

    def network(index: UInt32[Array, " n"]) -> UInt32[Array, " n"]:
        first, second = index // np.uint32(low), index % np.uint32(low)
        for number in range(0, _ROUNDS, 2):
            first = (first + _hash(second ^ keys[:, number]) % np.uint32(high)) % np.uint32(high)
            second = (second + _hash(first ^ keys[:, number + 1]) % np.uint32(low)) % np.uint32(low)
        return first * np.uint32(low) + second

    def walk(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        indices, outside = carry
        indices = jnp.where(outside, network(indices), indices)
        return indices, indices >= np.uint32(num_examples)

    indices, _ = jax.lax.while_loop(lambda carry: jnp.any(carry[1]), walk, (start, jnp.ones_like(start, jnp.bool)))
    return indices.astype(jnp.int32)


# --- Images in device memory ---------------------------------------------------------------------------------------


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Resident:
    """Images and labels, split over all devices of a mesh. A pytree: pass it to a jitted function as an argument.

    (A function that closes over it would have the images compiled into it.)

    Attributes:
      images: uint8 `[n, height, width, 3]`, n padded with black images to a multiple of the number of devices.
      labels: int32 `[n]`, -1 for none.
      num_examples: without the padding.
      mesh: over which they are split.
    """

    images: Any  # in transformations of JAX also a tracer, a shape, ...
    labels: Any
    num_examples: int = dataclasses.field(metadata={"static": True})
    mesh: Mesh = dataclasses.field(metadata={"static": True})

    @classmethod
    def put(cls, images: np.ndarray, labels: np.ndarray, mesh: Mesh) -> "Resident":
        """Copies arrays of this host to the devices.

        Each process reads only the rows of its devices, so `images` can be a memory map.

        Args:
          images: uint8 `[n, height, width, 3]`.
          labels: int32 `[n]`.
          mesh: over which to split them.
        """
        return cls._place(lambda start, stop: images[start:stop], images.shape[1:], labels, mesh)

    @classmethod
    def load(cls, source: RandomAccess, mesh: Mesh, decoding: Decoding = DEFAULT_DECODING) -> "Resident":
        """Decodes a source into device memory. Each process decodes only the rows of its devices, one part at a time.

        Raises:
          UserError: where the devices have no room for the images (after reading one image); and as `decoded.as_arrays`.
        """
        shape = decoded.first_shape(source, decoding)
        _check_room(source, shape, mesh)
        return cls._place(
            lambda start, stop: decoded.decode(source, start, stop, shape, decoding),
            shape,
            decoded.labels_of(source),
            mesh,
        )

    @classmethod
    def _place(cls, read: Callable[[int, int], np.ndarray], shape: tuple[int, ...], labels: np.ndarray, mesh: Mesh):
        num_examples = len(labels)
        padded = sharding.rounded_up(num_examples, mesh)
        split = sharding.batch_sharded(mesh)

        def block(read: Callable[[int, int], np.ndarray], index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None
            start, stop, _ = index[0].indices(padded)
            rows = read(min(start, num_examples), min(stop, num_examples))
            missing = stop - start - len(rows)
            return np.pad(rows, [(0, missing)] + [(0, 0)] * (rows.ndim - 1)) if missing else rows

        return cls(
            images=jax.make_array_from_callback((padded, *shape), split, lambda index: block(read, index)),
            labels=jax.make_array_from_callback(
                (padded,), split, lambda index: block(lambda start, stop: labels[start:stop], index)
            ),
            num_examples=num_examples,
            mesh=mesh,
        )

    def batch(
        self, positions: Integer[Array, " batch"], seed: int | Integer[Array, ""]
    ) -> tuple[UInt8[Array, "batch height width 3"], Int32[Array, " batch"]]:
        """The images and labels at global positions, in the order of a seed; inside a jitted function.

        Returns:
          As `take`.
        """
        # Every device computes all of these few numbers. If they were split, each iteration of the loop in `permuted` would
        # wait for all devices.
        positions = jax.lax.with_sharding_constraint(positions, sharding.replicated(self.mesh))
        return self.take(permuted(positions, self.num_examples, seed))

    def take(
        self, indices: Integer[Array, " batch"]
    ) -> tuple[UInt8[Array, "batch height width 3"], Int32[Array, " batch"]]:
        """The images and labels at these indices, inside a jitted function.

        Every device looks up the examples that it holds, and a collective combines them. So one batch is sent between devices,
        never the data set.

        Returns:
          Images and labels, split over all devices.
        """
        whole, split = sharding.replicated(self.mesh), sharding.batch_sharded(self.mesh)
        # Every device needs all indices. If they were split, the compiler might gather the images instead.
        indices = jax.lax.with_sharding_constraint(indices, whole)

        def look_up(array: jax.Array) -> jax.Array:
            return jax.lax.with_sharding_constraint(jnp.take(array, indices, axis=0, mode="clip"), split)

        return look_up(self.images), look_up(self.labels)


def _check_room(source: RandomAccess, shape: tuple[int, ...], mesh: Mesh) -> None:
    """Raises a UserError if the images do not fit into the memory of this process's devices."""
    each = -(-source.num_examples // mesh.size) * math.prod(shape)
    room = min(map(free_bytes, mesh.local_devices))
    if each > room:
        size = " x ".join(map(str, shape))
        raise UserError(
            f"config.data.resident: {source.num_examples} images of {size} take {each / 2**30:.2f} GiB on each of {mesh.size} "
            f"device(s), which have {room / 2**30:.2f} GiB left: take config.data.resident=false, smaller images, or more "
            "devices."
        )


def free_bytes(device: jax.Device) -> int:
    """The free bytes of a device. For a CPU device, an equal part of the machine's memory, used or not."""
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // jax.local_device_count()
