"""Show what the augmentations do to your own images, before a long run.

    python -m simclr_jax.preview --config=configs/folder.py --config.data.root=PHOTOS --workdir=runs/preview

Writes pictures of the first images of a run with this config to the workdir: views.png, pairs of views; op_NAME.png for every
operation of the family alone, at several strengths; histograms.png, the pixel values of crops of an image with and without
colour distortion (paper figure 6: without it, a network can recognise the crops of an image by their histograms alone).
"""

from simclr_jax.runtime import cli

if __name__ == "__main__":
    cli.main("preview")  # answers --help and mistakes before the imports below; does not return


from collections.abc import Sequence
import logging

from etils import epath
from ml_collections import ConfigDict
import numpy as np

from simclr_jax import config as config_lib
from simclr_jax.augment import alone
from simclr_jax.augment.image_files import Decoding
from simclr_jax.config import checks as config_checks
from simclr_jax.data import pipeline
from simclr_jax.data import sources
from simclr_jax.data.order import HostShard
from simclr_jax.reporting import pictures
from simclr_jax.runtime.run_monitor import RunMonitor
from simclr_jax.training import occupied

log = logging.getLogger("simclr_jax")

IMAGES = 6
CROPS = 4  # of an image, in the histograms
PAIRS = 32


class Looker:
    """Views of the first images of a run."""

    def __init__(self, config: ConfigDict):
        self._config = config
        self.source = sources.open_source(config.data, "train")

    def views(self, fields: dict, images: int, num_views: int) -> np.ndarray:
        """uint8 `[images, num_views, size, size, 3]`, made with these changes to `config.augment`."""
        augment = self._config.augment.copy_and_resolve_references()
        augment.update(fields | {"where": "host"})
        batches = pipeline.train_batches(
            self.source,
            augment,
            num_views=num_views,
            size=self._config.data.image_size,
            shard=HostShard(min(images, self.source.num_examples)),
            seed=self._config.seed,
            bad_images=pipeline.BadImages(self.source, 1.0),
            decoding=Decoding.of(self._config.data),
        )
        return next(batches)["views"]

    def sheet(self, op: str, made: Sequence[tuple[str, dict]]) -> tuple[list[str], np.ndarray]:
        """Titles of the columns, and uint8 `[images, columns, size, size, 3]`; the first column is the unchanged image."""
        nothing = alone.NOTHING
        draws = len(made) if op in ("crop", "rotate") else 1  # their columns differ in the draw only
        pictures_of = [self.views(nothing, IMAGES, 1)]
        if draws > 1:
            pictures_of.append(self.views(nothing | made[0][1], IMAGES, draws))
        else:
            pictures_of += [self.views(nothing | fields, IMAGES, 1) for _, fields in made]
        return ["image", *(title for title, _ in made)], np.concatenate(pictures_of, axis=1)


def run(config: ConfigDict, workdir: epath.Path, *, monitor: RunMonitor) -> dict:
    """Draws all pictures and returns their paths by name."""
    config_checks.check_fields(config, config_lib.pretrain())
    config_checks.require(
        config, "data.source", "data.image_size", hint="set it in the config file or on the command line."
    )
    config_checks.check_values(config, 1)
    occupied.check_kind(workdir, None)
    looker = Looker(config)
    sources.check_outside(workdir, config.data, looker.source)
    workdir.mkdir(parents=True, exist_ok=True)
    written = {}

    def path(name: str) -> epath.Path:
        monitor.poll()
        written[name] = str(workdir / f"{name}.png")
        return workdir / f"{name}.png"

    pictures.contact_sheet(looker.views({}, PAIRS, 2), path("views"))
    for op, made in alone.columns(config.augment).items():
        titles, images = looker.sheet(op, made)
        pictures.labelled_sheet(images, titles, f"{op} alone", path(f"op_{op}"))
    crops = alone.NOTHING | {"crop": True}
    colour = {"jitter_prob": 0.8, "grayscale_prob": 0.2, "strength": config.augment.strength or 1.0}
    plain, coloured = (looker.views(fields, 3, CROPS) for fields in (crops, crops | colour))
    pictures.histograms(plain, coloured, path("histograms"))
    log.info("%d pictures are in %s.", len(written), workdir)
    return written
