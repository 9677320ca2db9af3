"""The augmentation family: one ordered table of its operations, for the host (TensorFlow) and for the device (JAX).

`tf_ops` and `jax_ops` walk the table and supply the operations themselves. The config's checks and `simclr_jax.preview` take
the names from it. This module imports neither TensorFlow nor JAX: its arithmetic works on the arrays of both.

Every random number of a view has a fixed place among the view's draws, `NUM_DRAWS` uniform numbers. So turning one operation
off changes the draws of no other one.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

from ml_collections import ConfigDict

NUM_DRAWS = 24  # a few more than the table uses, for operations to come

# A draw that is below no probability: with it, the operation is not applied.
NEVER = 1.0

# The noise of a view comes from one key in [0, NOISE_KEYS): a float32 draw has 24 bits.
NOISE_KEYS = 2**24

# The value of the square of cutout: the middle of the range.
CUTOUT_VALUE = 0.5

# The operations inside colour jitter.
JITTER_OPS = ("brightness", "contrast", "saturation", "hue")


@dataclasses.dataclass(frozen=True)
class Op:
    """One operation of the family. It is applied to a view where the draw at `gate` is below `config.augment[prob_field]`.

    Attributes:
      name: as in the fields of `config.augment`.
      gate: the place of the draw that decides whether the operation is applied.
      places: the places of the draws that its parameters come from, by name.
      parameters: (draws by name, `config.augment`, side of the views in pixels) to what varies from view to view: float32
        `[n]` by name, or dicts of those. Where an operation takes integers, `tf_ops` and `jax_ops` round these down.
      settings: (`config.augment`, side) to the numbers that all views have in common, by name.
      has_effect: (`config.augment`, side) to whether the operation changes anything when its probability is positive.
    """

    name: str
    gate: int
    places: dict[str, int | slice] = dataclasses.field(default_factory=dict)
    parameters: Callable[[dict[str, Any], ConfigDict, int], dict[str, Any]] = lambda draws, augment, side: {}
    settings: Callable[[ConfigDict, int], dict[str, Any]] = lambda augment, side: {}
    has_effect: Callable[[ConfigDict, int], bool] = lambda augment, side: True

    @property
    def prob_field(self) -> str:
        return f"{self.name}_prob"

    def is_on(self, augment: ConfigDict, side: int) -> bool:
        """Whether any view can be changed. A field that `augment` lacks counts as 0."""
        return augment.get(self.prob_field, 0) > 0 and self.has_effect(augment, side)

    def chosen(self, draws: Any, augment: ConfigDict) -> Any:
        """Which views are changed: draws `[n, NUM_DRAWS]` to bool `[n]`."""
        return draws[:, self.gate] < augment[self.prob_field]

    def drawn(self, draws: Any, augment: ConfigDict, side: int) -> dict[str, Any]:
        """`parameters` from draws `[n, NUM_DRAWS]`, uniform in [0, 1)."""
        return self.parameters({name: draws[:, place] for name, place in self.places.items()}, augment, side)


def jitter_ranges(augment: ConfigDict) -> dict[str, tuple[float, float]]:
    """The range of the parameter of each operation of `JITTER_OPS` that is on.

    `strength` scales all bounds b. Brightness, contrast and saturation are factors in [max(0, 1 - b), 1 + b]; hue is a shift
    in turns, in [-b, b]. A bound of 0 turns an operation off.
    """
    ranges = {}
    for name in JITTER_OPS:
        bound = augment.strength * augment[name]
        if bound > 0:
            ranges[name] = (-bound, bound) if name == "hue" else (max(0.0, 1.0 - bound), 1.0 + bound)
    return ranges


def blur_kernel_size(side: int) -> int:
    """The width in pixels of the blur's kernel for square images of `side` pixels: a tenth, and odd. 23 at 224, 3 at 32."""
    return 2 * ((side // 10) // 2) + 1


def cutout_half_side(side: int, proportion: float) -> int:
    """Half the side of cutout's square, in pixels, for images of `side` pixels. `proportion` is `cutout_side`."""
    return round(proportion * side / 2)


def _between(draw: Any, low: float, high: float) -> Any:
    return low + draw * (high - low)


def _jitter(draws: dict[str, Any], augment: ConfigDict, side: int) -> dict[str, Any]:
    ranges = jitter_ranges(augment)
    columns = {name: JITTER_OPS.index(name) for name in ranges}
    return {
        "factors": {name: _between(draws["factors"][:, columns[name]], *ranges[name]) for name in ranges},
        "order": {name: draws["order"][:, columns[name]] for name in ranges},
    }


# In the order in which they are applied. A bicubic resize leaves values a little outside [0, 1], which the first operations
# still see. Then all views are clipped; the other operations take and leave values in [0, 1].
OPS_BEFORE_CLIP = (
    Op("flip", gate=0),
    Op(
        "rotate", gate=13, places={"turns": 14}, parameters=lambda draws, augment, side: {"turns": draws["turns"] * 4.0}
    ),
    Op(
        "jitter",
        gate=1,
        places={"factors": slice(5, 9), "order": slice(9, 13)},
        parameters=_jitter,
        has_effect=lambda augment, side: bool(jitter_ranges(augment)),
    ),
    Op("grayscale", gate=2),
)
OPS_AFTER_CLIP = (
    Op("sobel", gate=15),
    Op(
        "blur",
        gate=3,
        places={"sigma": 4},
        parameters=lambda draws, augment, side: {"sigma": _between(draws["sigma"], *augment.blur_sigma)},
        settings=lambda augment, side: {"kernel_size": blur_kernel_size(side)},
        has_effect=lambda augment, side: blur_kernel_size(side) > 1,
    ),
    Op(
        "noise",
        gate=16,
        places={"key": 17},
        parameters=lambda draws, augment, side: {"key": draws["key"] * NOISE_KEYS},
        settings=lambda augment, side: {"std": augment.noise_std},
    ),
    Op(
        "cutout",
        gate=18,
        places={"top": 19, "left": 20},
        parameters=lambda draws, augment, side: {name: draw * side for name, draw in draws.items()},
        settings=lambda augment, side: {"half_side": cutout_half_side(side, augment.cutout_side)},
    ),
)
OPS = OPS_BEFORE_CLIP + OPS_AFTER_CLIP
