"""What can be known of a pretrained encoder without labels: did it learn, has it collapsed, what does it rely on.

    python -m simclr_jax.verdict --pretrained=runs/photos
    python -m simclr_jax.verdict --pretrained=runs/photos --images=OTHER_PHOTOS --workdir=runs/verdict

Takes 1,000 of the images that the run was pretrained on, or of `--images`. It measures the representations (RankMe, LiDAR,
alignment, uniformity, neighbours of views) and asks questions such as "which image is this crop of?", each also of the same
network untrained and of colour histograms. It shows through which augmentation, at which strength, images are still
recognised. It ends in plain sentences and a score from 0 to 1. Writes verdict.json to the run's workdir, or to `--workdir`,
and pictures of the images that the network finds alike: similar_pairs.png and clusters.png.
docs/verdict.md says what each number is, and what is known of how far the score can be trusted.
"""

from simclr_jax.runtime import cli
from simclr_jax.workdir import metrics_file

if __name__ == "__main__":
    cli.main("verdict")  # answers --help and mistakes before the imports below; does not return


import json
import logging
from typing import Any

from absl import flags
from etils import epath
import numpy as np

from simclr_jax.data import sources
from simclr_jax.data.sources.base import Source
from simclr_jax.diagnosis import alike
from simclr_jax.diagnosis.examine import examine
from simclr_jax.diagnosis.measures import changed
from simclr_jax.diagnosis.representations import Images
from simclr_jax.diagnosis.table import text_of
from simclr_jax.errors import UserError
from simclr_jax.inference.encoder import Encoder
from simclr_jax.inference.encoder import load
from simclr_jax.inference.named_images import open_images
from simclr_jax.reporting import pictures
from simclr_jax.reporting.summary import VERDICT
from simclr_jax.runtime import files
from simclr_jax.runtime import run_monitor
from simclr_jax.runtime import sharding
from simclr_jax.runtime.heartbeat import working
from simclr_jax.training import checkpoint
from simclr_jax.training import occupied

log = logging.getLogger("simclr_jax")

LEAST_IMAGES = 20
EARLIER = 3  # checkpoints besides the newest one
PAIRS, TYPICAL = 10, 8  # that are drawn: pairs, and images of a cluster


def run(values: flags.FlagValues) -> dict[str, Any]:
    """Examines the run of a command line; returns the content of verdict.json."""
    run_monitor.use_compilation_cache(values.compilation_cache)
    encoder = load(values.pretrained, flag="--pretrained")
    if encoder.config.kind != "pretrain":
        raise UserError(
            f"--pretrained={values.pretrained} is a run of simclr_jax.{encoder.config.kind}: the verdict is on pretraining."
        )
    place = checkpoint.find(values.pretrained)
    of_run = checkpoint.workdir_of(place)
    folder = files.absolute(values.workdir) if values.workdir else of_run
    if folder is None:
        raise UserError(
            f"--workdir is missing: {values.pretrained} is a checkpoint outside a run's workdir, so say where to write "
            f"{VERDICT}."
        )
    if folder != of_run:
        occupied.check_kind(folder, None)
    source = _open(encoder, values)
    count = min(values.count, source.num_examples)
    if count < LEAST_IMAGES:
        raise UserError(f"{source.name} has {source.num_examples} images; the verdict needs at least {LEAST_IMAGES}.")
    _check_earlier(folder, of_run, {"name": source.name, "count": count})
    images = Images(source, count, encoder.config.data, sharding.rounded_up(values.batch_size, encoder.mesh))
    _check_differ(images)
    log.info("Examining %s on %d images of %s.", encoder, count, source.name)
    metrics = of_run / "metrics.jsonl" if of_run else None
    lines = metrics_file.read(metrics) if metrics is not None and metrics.exists() else []
    verdict, h = examine(encoder, _earlier(place) if of_run else [], images, lines, op_images=values.op_images)
    verdict |= {"pretrained": str(place), "encoder": checkpoint.identity(place, "encoder")}
    folder.mkdir(parents=True, exist_ok=True)
    _draw(h, images, folder)
    files.write_atomically(folder / VERDICT, (json.dumps(verdict, indent=1) + "\n").encode())
    print(text_of(verdict), flush=True)
    log.info(
        "%s has all numbers; similar_pairs.png and clusters.png beside it show what the network finds alike.",
        folder / VERDICT,
    )
    return verdict


def _check_earlier(folder: epath.Path, of_run: epath.Path | None, images: dict[str, Any]) -> None:
    """Refuses to replace a verdict on another run, or on other images."""
    path = folder / VERDICT
    if not path.exists():
        return
    earlier = files.read_json(path, "remove it, or take another --workdir")
    place = checkpoint.workdir_of(epath.Path(earlier.get("pretrained", "")))
    if folder != of_run and place != of_run:
        raise UserError(f"{path} is of another run, {place}: remove it, or take another --workdir.")
    if earlier.get("images", images) != images:
        raise UserError(f"{path} is on {earlier['images']}, not on {images}: remove it, or take another --workdir.")


def _check_differ(images: Images) -> None:
    """Refuses images that are all the same: every network would look collapsed."""
    first = None
    for batch in images.views(changed({}), 1):  # mostly ends with the first one
        first = batch[:1] if first is None else first
        if np.any(batch != first):
            return
    raise UserError(
        f"all {images.count} images of {images.source.name} are the same: the verdict needs different ones."
    )


def _draw(h: np.ndarray, images: Images, folder: epath.Path) -> None:
    """Pictures of the most similar pairs, and of clusters."""
    with working("drawing which images are alike"):
        shown = np.concatenate(list(images.views(changed({}), 1)))[:, 0]
        pairs = alike.pictures_of(alike.similar_pairs(h, PAIRS), shown, 2)
        pictures.groups(pairs, f"The {len(pairs)} most similar pairs", folder / "similar_pairs.png")
        clusters = alike.pictures_of(alike.clusters(h), shown, TYPICAL)
        pictures.groups(clusters, "Clusters, the most typical images first", folder / "clusters.png")


def _open(encoder: Encoder, values: flags.FlagValues) -> Source:
    data = encoder.config.data
    if values.images:
        return open_images(values.images, values.data_dir or (data.root if data.source == "tfds" else None))
    if data.source is None:
        raise UserError(f"--images is missing: {values.pretrained} does not say what images it was pretrained on.")
    return sources.open_source(data, "train")


def _earlier(place: epath.Path) -> list[Encoder]:
    """Some of the checkpoints of the run before this one, ascending."""
    steps = sorted(int(path.name) for path in place.parent.iterdir() if path.name.isdecimal())
    before = [step for step in steps if step < int(place.name)]
    return [load(place.parent / str(step)) for step in before[-EARLIER:]]
