"""The digits that come with scikit-learn: 1,797 handwritten ones of 8x8 pixels (UCI, E. Alpaydin). No download."""

import numpy as np

from simclr_jax.data.sources.base import RandomAccess
from simclr_jax.runtime.tensorflow import tf

CLASS_NAMES = tuple(str(digit) for digit in range(10))


def open_digits(split: str) -> RandomAccess:
    """1,437 training or 360 test images, uint8 `[8, 8, 3]`. Every fifth example, starting with the first, is a test image."""
    from sklearn import datasets

    digits = datasets.load_digits()
    number = np.arange(len(digits.target))
    rows = number[(number % 5 == 0) == (split == "test")]
    images = np.round(digits.images[rows] * (255 / 16)).astype(np.uint8)
    images = tf.constant(np.repeat(images[..., None], 3, axis=-1))
    return RandomAccess(
        name=f"digits, split {split}",
        num_examples=len(rows),
        fetch=lambda index: tf.gather(images, index),
        all_labels=digits.target[rows].astype(np.int32),
        class_names=CLASS_NAMES,
        ids=[f"digits/{row}" for row in rows],
    )
