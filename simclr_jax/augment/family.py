"""What the two augmentation families, TensorFlow's and JAX's, have to agree on: the places of their random numbers, sizes.

Every random number of a view has a fixed place in its draw of uniform numbers, so turning one op off leaves what the
others draw as it was.
"""

FLIP, JITTER, GRAYSCALE, BLUR, SIGMA = range(5)
FACTORS = slice(5, 9)
ORDER = slice(9, 13)
ROTATE, TURNS, SOBEL, NOISE, NOISE_KEY, CUTOUT, CUTOUT_DOWN, CUTOUT_RIGHT = range(13, 21)
NUM_DRAWS = 24  # with room for more

# A draw that is below no probability: the op is not done.
NEVER = 1.0

# The noise of a view is made from one draw, which has so many values.
NOISE_KEYS = 2**24

# What cutout leaves: the mean of the range.
CUTOUT_VALUE = 0.5


def blur_kernel_size(side: int) -> int:
    """The width in pixels of the blur for square images of `side` pixels: a tenth, and odd. 23 at 224 px, 3 at 32."""
    return 2 * ((side // 10) // 2) + 1


def cutout_reach(side: int, share: float) -> int:
    """How far the square of cutout reaches from its centre, in pixels, on images of `side` pixels."""
    return round(share * side / 2)
