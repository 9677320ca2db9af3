"""Representations of many images, in a table: a path, a label if there is one, and a vector for each.

    python -m simclr_jax.embed --pretrained=runs/photos --images=PHOTOS --output=photos.parquet
    python -m simclr_jax.embed --pretrained=runs/photos --images=list.txt --output=photos.npz --features=z
    python -m simclr_jax.embed --pretrained=runs/cifar10 --images=tfds:cifar10:test --output=cifar10.csv

Images are prepared as an evaluation prepares them. Their number is not limited by memory. If it is interrupted, the same
command continues; until then the rows are in OUTPUT.partial. Parquet has a column `vector` of fixed-size lists, which polars,
pandas, DuckDB and Hugging Face datasets read. An .npz file has the arrays path, label and vector.
"""

from simclr_jax.runtime import cli

if __name__ == "__main__":
    cli.main("embed")  # answers --help and mistakes before the imports below; does not return


from absl import flags

from simclr_jax.inference import command


def run(values: flags.FlagValues) -> dict[str, int]:
    """Writes the table of a command line. Returns `images` and `unreadable`, their numbers."""
    return command.run(values, values.pretrained, "--pretrained", values.features)
