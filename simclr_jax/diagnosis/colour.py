"""The colour histogram of an image: the shortcut that the paper warns of, as a representation to compare with."""

import numpy as np

BINS = 16  # of each channel alone
JOINT = 4  # of each channel, of all three at once


def histogram(images: np.ndarray) -> np.ndarray:
    """Colour histograms whose cosine similarity says how similar the colours of two images are.

    Crops of an image have similar histograms, which alone may solve the contrastive task (paper section 3.1, figure 6). A
    histogram is one of each channel and one of all three channels together. The square roots make the scalar product of two
    of them the Bhattacharyya coefficient.

    Args:
      images: uint8 `[n, height, width, 3]`.

    Returns:
      float32 `[n, 3 * BINS + JOINT ** 3]`, of norm 1.
    """
    pixels = images.reshape(len(images), -1, 3).astype(np.int64)
    single = [_shares(pixels[..., channel] * BINS // 256, BINS) for channel in range(3)]
    coarse = pixels * JOINT // 256
    joint = _shares((coarse[..., 0] * JOINT + coarse[..., 1]) * JOINT + coarse[..., 2], JOINT**3)
    return np.sqrt(np.concatenate([*single, joint], axis=1) / 4).astype(np.float32)


def _shares(bins: np.ndarray, number: int) -> np.ndarray:
    """The share of the pixels in each bin: int `[n, pixels]` to `[n, number]`."""
    rows = np.arange(len(bins))[:, None] * number
    return np.bincount((rows + bins).ravel(), minlength=len(bins) * number).reshape(len(bins), number) / bins.shape[1]
