"""The runs of unlike quality on which `benchmarks.verdict` checks the verdict: settings of the paper in small, and failures."""

import dataclasses
import pathlib

# Fields of the config, by name; and settings of them, by name.
Fields = dict[str, object]
Settings = dict[str, Fields]

# A ResNet-18 of an eighth of the width at 16 px: a run takes one to three minutes of a CPU core.
TINY: Fields = {
    "model.width": 0.125,
    "data.resident": True,
    "log_every_steps": 10,
    "checkpoint.every_minutes": 0,
}

# From the base of a data set to a run: the questions of the paper, and what is broken on purpose.
LENGTHS: Settings = {f"epochs_{epochs:g}": {"epochs": epochs} for epochs in (0.5, 2.0, 5.0, 12.0, 25.0)}
TEMPERATURES: Settings = {f"temperature_{t:g}": {"loss.temperature": t} for t in (0.02, 0.1, 1.0)}
HEADS: Settings = {f"head_{kind}": {"head.kind": kind} for kind in ("none", "linear")}
LOSSES: Settings = {name: {"loss.name": name} for name in ("nt_logistic", "margin_triplet")}
BATCHES: Settings = {f"batch_{batch}": {"batch_size": batch} for batch in (32, 512)}
_NO_COLOUR: Fields = {"augment.jitter_prob": 0.0, "augment.grayscale_prob": 0.0}
COMPOSITIONS: Settings = {
    "crop_alone": _NO_COLOUR,
    "colour_alone": {"augment.crop": False, "augment.flip_prob": 0.0},
    "no_augmentation": _NO_COLOUR | {"augment.crop": False, "augment.flip_prob": 0.0},
    "noise_alone": _NO_COLOUR | {"augment.crop": False, "augment.flip_prob": 0.0, "augment.noise_prob": 1.0},
    "mild_crop": {"augment.crop_area": (0.6, 1.0)},
    "tiny_crop": {"augment.crop_area": (0.1, 0.15)},
    "rotation_added": {"augment.rotate_prob": 1.0},
    "strength_2": {"augment.strength": 2.0},
    "drowned_in_noise": {"augment.noise_prob": 1.0, "augment.noise_std": 1.0},
}
RATES: Settings = {f"learning_rate_{rate:g}": {"optimizer.learning_rate": rate} for rate in (0.01, 10.0, 1000.0)}
ADAMW: Fields = {"optimizer.name": "adamw", "optimizer.scaling": "none"}
ADAM: Settings = {f"adamw_{rate:g}": ADAMW | {"optimizer.learning_rate": rate} for rate in (0.001, 1.0)}
EVERYTHING = LENGTHS | TEMPERATURES | HEADS | LOSSES | BATCHES | COMPOSITIONS | RATES | ADAM


@dataclasses.dataclass(frozen=True)
class Run:
    """One pretraining run.

    Attributes:
      dataset: the name of its images.
      name: of the setting.
      config: the config file with its arguments.
      fields: of the config, that differ from it.
    """

    dataset: str
    name: str
    config: str
    fields: Fields

    @property
    def place(self) -> pathlib.PurePath:
        """The folder of the run below the output."""
        return pathlib.PurePath(self.dataset, self.name)

    def flags(self) -> list[str]:
        """The command line of its pretraining, without the workdir."""
        return [f"--config={self.config}", *(f"--config.{name}={_text(value)}" for name, value in self.fields.items())]


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value).replace(" ", "")


def digits() -> list[Run]:
    """Runs on the digits; unless they are about length, 25 epochs of 11 steps."""
    base = TINY | {"epochs": 25.0, "optimizer.warmup_epochs": 0.25}
    return [Run("digits", name, "configs/digits.py", base | fields) for name, fields in EVERYTHING.items()]


def folder(dataset: str, root: pathlib.Path) -> list[Run]:
    """Runs on a folder of small images of one size with train/CLASS and test/CLASS; 12 epochs of 31 steps for 4,000 images."""
    base = TINY | {"epochs": 12.0, "optimizer.warmup_epochs": 0.25}
    config = f"configs/cifar10_small.py:root={root}"
    return [Run(dataset, name, config, base | fields) for name, fields in EVERYTHING.items()]
