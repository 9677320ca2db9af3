"""The images of a source in NumPy, for machines without TensorFlow: the twin of `pipeline.eval_batches`."""

from collections.abc import Iterator
import concurrent.futures
import os

import numpy as np

from simclr_jax.augment import numpy_crops
from simclr_jax.augment.image_files import Decoding
from simclr_jax.data.bad_images import BadImages
from simclr_jax.data.order import HostShard
from simclr_jax.data.sources.base import RandomAccess
from simclr_jax.data.sources.base import Source
from simclr_jax.errors import UserError


def eval_batches(
    source: Source, *, size: int, crop: float, shard: HostShard, bad_images: BadImages, decoding: Decoding
) -> Iterator[dict[str, np.ndarray]]:
    """As `pipeline.eval_batches`. Decoding differs by a few levels of uint8, see `augment.numpy_crops`.

    Raises:
      UserError: from `bad_images`; for a source that only TensorFlow can read.
    """
    if not isinstance(source, RandomAccess) or source.read_content is None:
        raise UserError(
            f"{source.name} can only be read by TensorFlow, which is not installed: pip install tensorflow."
        )
    assert shard.num_steps is not None

    def image(index: int) -> np.ndarray | None:
        if index < 0:
            return None
        try:
            return numpy_crops.central_crop(source.content(index), crop, size, decoding)
        except Exception:  # each decoder raises different errors; `bad_images` says which
            return None

    labels = source.all_labels if source.all_labels is not None else np.full(source.num_examples, -1, np.int32)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for step in range(shard.start_step, shard.start_step + shard.num_steps):
            wanted = shard.positions_of_step(step)
            wanted = np.where(wanted < source.num_examples, wanted, -1)
            images = list(pool.map(image, wanted.tolist()))
            index = np.where([pixels is None for pixels in images], -1, wanted)
            label = labels[index]
            label[index < 0] = -1
            bad_images.check(wanted, index, replaced=False)
            blank = np.zeros([size, size, 3], np.uint8)
            yield {
                "image": np.stack([blank if pixels is None else pixels for pixels in images]),
                "label": label.astype(np.int32),
                "index": index,
                "wanted": wanted,
                "mask": index >= 0,
            }
