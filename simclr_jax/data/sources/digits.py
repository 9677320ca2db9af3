"""The digits that come with scikit-learn: 1,797 handwritten ones of 8x8 pixels (UCI, E. Alpaydin). No download."""

import numpy as np

from simclr_jax.data.sources.base import RandomAccess
from simclr_jax.data.sources.base import of_arrays

CLASS_NAMES = tuple(str(digit) for digit in range(10))


def open_digits(split: str) -> RandomAccess:
    """1,437 training or 360 test images, uint8 `[8, 8, 3]`. Every fifth example, starting with the first, is a test image."""
    from sklearn import datasets

    digits = datasets.load_digits()
    number = np.arange(len(digits.target))
    rows = number[(number % 5 == 0) == (split == "test")]
    images = np.round(digits.images[rows] * (255 / 16)).astype(np.uint8)
    labels = digits.target[rows].astype(np.int32)
    ids = [f"digits/{row}" for row in rows]
    return of_arrays(f"digits, split {split}", np.repeat(images[..., None], 3, axis=-1), labels, CLASS_NAMES, ids)
