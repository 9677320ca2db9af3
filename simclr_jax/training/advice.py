"""Warn the user in time, once each, about a run that is unlikely to learn."""

import logging

from ml_collections import ConfigDict

from simclr_jax.config import chance
from simclr_jax.objectives.representations import COLLAPSED

log = logging.getLogger("simclr_jax")

# Fewer steps hardly train anything.
FEW_STEPS = 200
# BatchNorm statistics of fewer views are noise.
FEW_VIEWS = 16
# The loss should be below chance after this share of the run.
SHARE_OF_RUN, LEAST_STEPS = 0.1, 10


def chance_levels(config: ConfigDict) -> dict[str, float]:
    """The metrics of a network that cannot tell images apart; see `config.chance.levels`."""
    return chance.levels(config.loss.name, config.batch_size)


def warn_before(config: ConfigDict, total_steps: int) -> None:
    """Warn about a run that is too short, or whose BatchNorm sees too few views."""
    if total_steps < FEW_STEPS:
        log.warning(
            "Only %d steps: fewer than %d hardly train an encoder. Raise config.epochs, or lower config.batch_size (now %d).",
            total_steps,
            FEW_STEPS,
            config.batch_size,
        )
    views = 2 * config.batch_size // config.microbatches
    if views < FEW_VIEWS:
        log.warning(
            "BatchNorm sees only %d views at a time, which is noise below %d: raise config.batch_size%s.",
            views,
            FEW_VIEWS,
            ", or lower config.microbatches" if config.microbatches > 1 else "",
        )


class LearningWatch:
    """Looks at a run after a tenth of it, and warns once if the loss is still at chance or h has collapsed.

    Args:
      config: of the run.
      total_steps: of the run.
    """

    def __init__(self, config: ConfigDict, total_steps: int):
        self._chance = chance_levels(config).get("loss")
        self._from_step, self._total, self._done = max(SHARE_OF_RUN * total_steps, LEAST_STEPS), total_steps, False

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        """Look at the metrics of a logged step."""
        if self._done or step < self._from_step:
            return
        self._done = True
        if metrics["deviation_h"] < COLLAPSED:
            log.warning(
                "After %d of %d steps all images have practically the same representation (deviation_h is %.1e, and 1 if they "
                "are spread evenly): the network has collapsed. Start anew with a lower config.optimizer.learning_rate or a "
                "longer warm-up.",
                step,
                self._total,
                metrics["deviation_h"],
            )
        elif self._chance is not None and metrics["loss"] >= self._chance:
            log.warning(
                "After %d of %d steps the loss is %.2f; guessing gives %.2f. The network has not begun to learn: lower "
                "config.optimizer.learning_rate, warm up for longer, or look at views.png whether the views are too hard.",
                step,
                self._total,
                metrics["loss"],
                self._chance,
            )
