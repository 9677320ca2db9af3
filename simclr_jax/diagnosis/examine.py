"""Examine an encoder: all measures, the score, and what they mean."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from simclr_jax.diagnosis import augmentations
from simclr_jax.diagnosis import measures as measures_lib
from simclr_jax.diagnosis import progress
from simclr_jax.diagnosis import score as score_lib
from simclr_jax.diagnosis import spectrum
from simclr_jax.diagnosis import statements
from simclr_jax.diagnosis.measures import Seen
from simclr_jax.diagnosis.representations import COLOUR
from simclr_jax.diagnosis.representations import PRETRAINED
from simclr_jax.diagnosis.representations import UNTRAINED
from simclr_jax.diagnosis.representations import Images
from simclr_jax.diagnosis.representations import network_of
from simclr_jax.diagnosis.representations import untrained_network_of
from simclr_jax.inference.encoder import Encoder
from simclr_jax.runtime.heartbeat import working
from simclr_jax.training.advice import chance_levels

PAIR = (PRETRAINED, UNTRAINED)
DIRECTIONS = 20  # of the spectrum, that are written


def examine(
    encoder: Encoder,
    earlier: Sequence[Encoder],
    images: Images,
    lines: Sequence[dict[str, Any]],
    *,
    op_images: int,
) -> tuple[dict[str, Any], np.ndarray]:
    """The content of verdict.json: the score, all measures, and statements about them; and h of the images, `[count, d]`.

    Args:
      encoder: of a pretraining run, or an import.
      earlier: checkpoints of the same run, ascending.
      images: to measure on.
      lines: of its metrics.jsonl; none where there are none.
      op_images: how many of the images the table of operations takes; 0: no table.
    """
    config = encoder.config
    with working("building the networks"):
        pair = [network_of(PRETRAINED, encoder), untrained_network_of(UNTRAINED, encoder)]
        before = [network_of(f"step {one.step}", one) for one in earlier]
    with working("running the networks over views of the images"):
        seen = measures_lib.look([*pair, *before], images, config.augment)
    with working("measuring"):
        measured = {name: measures_lib.measure(seen, name) for name in seen.images}
    for name in PAIR:
        measured[name] |= measures_lib.of_the_run(seen, name, config)
    features = seen.images[PRETRAINED]["h"].shape[-1]
    scores = {name: score_lib.score(measured[name], features) for name in measured if name != COLOUR}
    checkpoints = [
        *({"step": one.step, "score": scores[network.name]} for one, network in zip(earlier, before, strict=True)),
        {"step": encoder.step, "score": scores[PRETRAINED]},
    ]
    chance = chance_levels(config).get("loss")
    doubling = None if chance is None else progress.last_doubling(lines, chance)
    some = dataclasses.replace(images, count=min(images.count, op_images))
    with working("trying each augmentation alone"):
        rows = augmentations.table(pair, some, config.augment) if some.count > 1 else []
    said = _statements(seen, measured, doubling, checkpoints, rows)
    verdict = {
        "score": scores[PRETRAINED],
        "score_untrained": scores[UNTRAINED],
        "parts": score_lib.parts(measured[PRETRAINED], features),
        "step": encoder.step,
        "features": features,
        "images": {"name": images.source.name, "count": images.count},
        "statements": [dataclasses.asdict(statement) for statement in said],
        "measures": measured,
        "spectrum_h": _first(spectrum.spectrum(seen.images[PRETRAINED]["h"][:, 0])),
        "last_doubling": doubling,
        "checkpoints": checkpoints,
        "augmentations": [dataclasses.asdict(row) for row in rows],
    }
    return verdict, seen.images[PRETRAINED]["h"][:, 0]


def _statements(
    seen: Seen,
    measured: Mapping[str, Mapping[str, float]],
    doubling: Mapping[str, float] | None,
    checkpoints: Sequence[Mapping[str, Any]],
    rows: Sequence[augmentations.Row],
) -> list[statements.Statement]:
    right = {name: measures_lib.answers(seen, name) for name in PAIR}
    learned = statements.learned(right[PRETRAINED], right[UNTRAINED])
    count = len(right[PRETRAINED]["own"])
    return [
        learned,
        statements.collapsed(measured[PRETRAINED], measured[UNTRAINED]),
        statements.colour_shortcut(
            measured[PRETRAINED], measured[UNTRAINED], chance=measures_lib.neighbours(count) / (count - 1)
        ),
        statements.improving(doubling, checkpoints),
        *statements.augmentations(rows, learned.answer == "yes"),
    ]


def _first(shares: np.ndarray) -> list[float]:
    return [round(float(share), 6) for share in shares[:DIRECTIONS]]
