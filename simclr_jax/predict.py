"""Classify images: for each a path, its most probable class with the probability, and the next four.

    python -m simclr_jax.predict --finetuned=runs/photos_1pct --images=PHOTOS --output=classes.csv
    python -m simclr_jax.predict --finetuned=runs/photos_probe --images=list.txt --output=classes.parquet

The classifier is that of a fine-tuning, distillation or linear probe. Where a run has several label subsets, name one:
--finetuned=runs/photos_1pct/draw_0. Images are prepared as an evaluation prepares them. If it is interrupted, the same
command continues.
"""

from simclr_jax.runtime import cli

if __name__ == "__main__":
    cli.main("predict")  # answers --help and mistakes before the imports below; does not return


from absl import flags

from simclr_jax.inference import command
from simclr_jax.inference.network import PROBABILITIES


def run(values: flags.FlagValues) -> dict[str, int]:
    """Writes the table of a command line. Returns `images` and `unreadable`, their numbers."""
    return command.run(values, values.finetuned, "--finetuned", PROBABILITIES)
