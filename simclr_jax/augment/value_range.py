"""Whether pixels that are not uint8 are in the range that their type has here, and what to do where they are not."""

import math

import numpy as np

# Beyond [0, 1] by what resizing and sharpening overshoot, and far below any other range that images have.
LEAST, LARGEST = -0.5, 2.0


def problem_of_floats(least: float, largest: float) -> str | None:
    """What is wrong with floats of which these are the least and the largest, and what would be right; None for [0, 1]."""
    if not (math.isfinite(least) and math.isfinite(largest)):
        return "some values are NaN or infinite"
    if least >= LEAST and largest <= LARGEST:
        return None
    values = f"the values go from {least:.4g} to {largest:.4g}"
    if least < LEAST:
        if least >= -1.01 and largest <= 1.01:
            return f"{values}: add 1 and divide by 2"
        return f"{values}, as standardised images have: use the images before that, in [0, 1]"
    if largest < 16:  # no depth of images ends there
        return f"{values}: scale them to [0, 1]"
    return f"{values}: divide by {255 if largest <= 256 else 'the value of white, 65535 for 16 bits'}"


def grey_in_eight_bits(grey: np.ndarray) -> np.ndarray:
    """Grey pixels of 16 bits, or floats in [0, 1], as uint8 of the same shape.

    Args:
      grey: `[height, width]`, of 16 or 32 bits or floats. 32 bits hold values of 16 bits.

    Raises:
      ValueError: for floats outside [0, 1], and for 32 bits that are not 16 bits wide: negative, more than 65535, or at most
        255, which would become black.
    """
    least, largest = grey.min(), grey.max()
    if np.issubdtype(grey.dtype, np.floating):
        problem = problem_of_floats(float(least), float(largest))
        if problem:
            raise ValueError(f"it is grey in floats, which are read in [0, 1], but {problem}")
        top = 1.0
    else:
        if grey.dtype.itemsize > 2 and (least < 0 or largest > 65535 or 0 < largest < 256):
            raise ValueError(
                f"it is grey of 32 bits, which is read in [0, 65535], but the values go from {least} to {largest}: "
                "save it with 8 or 16 bits"
            )
        top = 65535.0
    return np.round(np.clip(grey / top, 0, 1) * 255).astype(np.uint8)
