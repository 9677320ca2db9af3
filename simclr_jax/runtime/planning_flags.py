"""The flags of the commands that plan: `plan` and `input_rate`."""

from collections.abc import Sequence
import math

from absl import flags

from simclr_jax.errors import UserError
from simclr_jax.runtime.flags import define_config


def define_plan(argv: Sequence[str], values: flags.FlagValues) -> None:
    define_config(argv, values)
    text = "Slices, as in v5e:4x4,v4:4x4x4: chip version and how many chips in each dimension."
    flags.DEFINE_list("topology", [], text, flag_values=values)
    flags.DEFINE_bool("json", False, "Print a JSON object in a line for each topology.", flag_values=values)
    text = "Images on each chip, instead of config.batch_size: to compare slices of different sizes."
    flags.DEFINE_integer("batch_per_chip", None, text, lower_bound=1, flag_values=values)
    text = "Number of training images, for data that is not on this machine."
    flags.DEFINE_integer("num_examples", None, text, lower_bound=1, flag_values=values)
    text = "Number of classes of the online classifier then; 0: no labels."
    flags.DEFINE_integer("num_classes", 0, text, lower_bound=0, flag_values=values)

    text = (
        "Views/s that one core of a host makes with the augmentation on the host and on the device: two numbers, as "
        "simclr_jax.input_rate prints them. Default, for 224 px only: those of docs/benchmarks.md."
    )
    flags.DEFINE_list("input_rate", [], text, flag_values=values)


def check_plan(values: flags.FlagValues) -> None:
    words: list[str] = values["input_rate"].value or []
    try:
        right = not words or (len(words) == 2 and all(0 < float(word) < math.inf for word in words))
    except ValueError:
        right = False
    if not right:
        raise UserError(
            f"--input_rate={','.join(words)}: give two positive numbers, views/s of one core with the augmentation on the host "
            "and on the device, as simclr_jax.input_rate prints them."
        )


def define_input_rate(argv: Sequence[str], values: flags.FlagValues) -> None:
    define_config(argv, values)
    flags.DEFINE_float("seconds", 10.0, "How long each of the two is measured.", lower_bound=0.1, flag_values=values)
    flags.DEFINE_bool("json", False, "Print one JSON object.", flag_values=values)
