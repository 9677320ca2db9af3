"""What guessing reaches: the metrics of a network that cannot tell images apart."""

import math


def levels(loss: str, batch_size: int) -> dict[str, float]:
    """The metrics where all similarities are equal, by name.

    With batch size B each view has one positive among 2B - 1 candidates, so the NT-Xent loss, summed over both directions, is
    2 log(2B - 1). The other losses have no such level here. The contrastive metrics compare a first view with the B second
    views.

    Args:
      loss: `config.loss.name`.
      batch_size: `config.batch_size`.
    """
    found = {"contrastive_top1": 1 / batch_size, "contrastive_entropy": math.log(batch_size)}
    return found | ({"loss": 2 * math.log(2 * batch_size - 1)} if loss == "nt_xent" else {})
