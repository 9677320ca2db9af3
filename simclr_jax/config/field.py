"""What the declaration of a config field consists of."""

from collections.abc import Callable
import dataclasses
import math
from typing import Any

import ml_collections
from ml_collections.config_dict import FieldReference
from ml_collections.config_dict import placeholder


@dataclasses.dataclass(frozen=True)
class Bound:
    """The values that a field may have: a text for messages and help, and the test."""

    text: str
    holds: Callable[[Any], bool]


POSITIVE = Bound("positive", lambda value: value > 0)
NOT_NEGATIVE = Bound("at least 0", lambda value: value >= 0)
AT_LEAST_1 = Bound("at least 1", lambda value: value >= 1)
AT_LEAST_2 = Bound("at least 2, because a single image has no negatives", lambda value: value >= 2)
SHARE = Bound("a share in (0, 1]", lambda value: 0 < value <= 1)
SHARE_OR_0 = Bound("a share in [0, 1]", lambda value: 0 <= value <= 1)
PART = Bound("a share in (0, 1)", lambda value: 0 < value < 1)
PROBABILITY = Bound("a probability in [0, 1]", lambda value: 0 <= value <= 1)
DECAY_RATE = Bound("in [0, 1)", lambda value: 0 <= value < 1)
MINUS_1_OR_POSITIVE = Bound("-1 or at least 1", lambda value: value == -1 or value >= 1)
WIDTH = Bound("positive, with 64 * width a whole number", lambda value: value > 0 and float(64 * value).is_integer())
# The keys of JAX and NumPy take more, those of TensorFlow do not.
SEED = Bound("from 0 to 2147483647", lambda value: 0 <= value < 2**31)
SEEDS = Bound(
    "whole numbers from 0 up to 2147483647, at least one, each once",
    lambda value: (
        len(set(value)) == len(value) > 0 and all(isinstance(seed, int) and 0 <= seed < 2**31 for seed in value)
    ),
)
POSITIVE_NUMBERS = Bound(
    "positive numbers, at least one", lambda value: len(value) > 0 and all(number > 0 for number in value)
)
POSITIVE_NUMBERS_OR_NONE = Bound("positive numbers, or none", lambda value: all(number > 0 for number in value))
THREE_NUMBERS = Bound("three numbers, one for each of red, green and blue", lambda value: len(value) == 3)
THREE_POSITIVE = Bound(
    "three positive numbers, one for each of red, green and blue",
    lambda value: len(value) == 3 and all(number > 0 for number in value),
)
NUMBERS_FROM_0 = Bound(
    "numbers from 0 up, at least one", lambda value: len(value) > 0 and all(number >= 0 for number in value)
)


def interval(top: float = math.inf) -> Bound:
    """(low, high) with 0 < low <= high <= top."""
    return Bound(
        f"(low, high) with 0 < low <= high{'' if top == math.inf else f' <= {top:g}'}, as in 0.1,0.9",
        lambda value: len(value) == 2 and 0 < value[0] <= value[1] <= top,
    )


# Fields of `config.model` that are newer than some saved configs, with what such networks have.
NETWORK_OF_THE_REFERENCE = {
    "padding": "same",
    "stage1_projection": True,
    "input_mean": (0.0, 0.0, 0.0),
    "input_std": (1.0, 1.0, 1.0),
}


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of a config.

    Attributes:
      default: its value where nothing else is given. None: it has to be given, or is taken from the pretraining run.
      doc: one or two sentences for --help.
      given_type: of its values; None for the type of the default.
      choices: the values that it may have; empty for any.
      bound: what its values have to satisfy.
      word: a word that it may have instead of a value of its type, as "auto"; empty for none.
    """

    default: Any
    doc: str
    given_type: type | None = None
    choices: tuple[Any, ...] = ()
    bound: Bound | None = None
    word: str = ""

    @property
    def value_type(self) -> type:
        return self.given_type or type(self.default)

    @property
    def type_name(self) -> str:
        """For messages and help, as in "int or auto"."""
        return f"{self.value_type.__name__} or {self.word}" if self.word else self.value_type.__name__

    def problem(self, value: Any) -> str | None:
        """What `value` would have to be, where it is wrong; None where it is right. An unset value (None) is right."""
        if value is None or (self.word and value == self.word):
            return None
        if self.choices:
            return None if value in self.choices else f"one of {', '.join(map(str, self.choices))}"
        if self.bound is None:
            return None
        try:
            return None if self.bound.holds(value) else self.bound.text
        except TypeError:  # such as a word among numbers
            return self.bound.text


# A block of a config: fields and further blocks by name.
Block = dict[str, Any]


def to_config(block: Block) -> ml_collections.ConfigDict:
    """The config with the default value of every field."""
    values = {}
    for name, entry in block.items():
        if isinstance(entry, dict):
            values[name] = to_config(entry)
        elif entry.word:  # ml_collections would refuse a word where the default is a number
            values[name] = FieldReference(entry.default, field_type=object)
        else:
            values[name] = placeholder(entry.given_type) if entry.default is None else entry.default
    return ml_collections.ConfigDict(values)


def flatten(block: Block, prefix: str = "") -> dict[str, Field]:
    """`{"optimizer.name": Field(...), ...}`."""
    flat: dict[str, Field] = {}
    for name, entry in block.items():
        flat |= flatten(entry, f"{prefix}{name}.") if isinstance(entry, dict) else {prefix + name: entry}
    return flat
