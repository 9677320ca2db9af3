"""Images that cannot be read: count them, name them, and stop when there are too many."""

import logging

import numpy as np

from simclr_jax.data.sources.base import RandomAccess
from simclr_jax.data.sources.base import Source
from simclr_jax.errors import UserError

log = logging.getLogger("simclr_jax")

# A share of a small data set is less than one image.
ALWAYS_ALLOWED = 10


class BadImages:
    """Counts the images that cannot be read, names each once, and ends the run when there are too many.

    Args:
      source: where the images come from.
      max_fraction: the fraction of the source's examples that may be unreadable; ten may be in any case. 0: not even one.
    """

    def __init__(self, source: Source, max_fraction: float):
        self._source = source
        self._max_fraction = max_fraction
        self._seen: set[int] = set()

    @property
    def count(self) -> int:
        """Distinct unreadable images so far."""
        return len(self._seen)

    def check(self, wanted: np.ndarray, used: np.ndarray, *, replaced: bool) -> None:
        """Checks a batch.

        Args:
          wanted, used: the indices asked for and read, int64 `[batch]`; -1 for none.
          replaced: whether every unreadable image should have been replaced.

        Raises:
          UserError: when there are too many unreadable images, or one could not be replaced.
        """
        for index in wanted[(wanted != used) & (wanted >= 0)]:
            if int(index) not in self._seen:
                self._seen.add(int(index))
                log.warning(
                    "Cannot read the image %s; it is skipped%s.", self._source.describe(int(index)), self.reason(index)
                )
        if self.count > max(self._max_fraction * self._source.num_examples, ALWAYS_ALLOWED * (self._max_fraction > 0)):
            raise UserError(
                f"{self.count} of the {self._source.num_examples} images of {self._source.name} cannot be read, more than "
                f"config.data.max_bad_fraction={self._max_fraction:g} allows (and more than {ALWAYS_ALLOWED}). The last one: "
                f"{self._source.describe(int(wanted[wanted != used][-1]))}"
            )
        if replaced and np.any(used < 0):
            name = self._source.describe(int(wanted[used < 0][0]))
            raise UserError(f"cannot read the image {name}, nor any of its replacements, in {self._source.name}.")

    def reason(self, index: int) -> str:
        """The reason why an image cannot be read, to follow its name; empty where it cannot be had."""
        if not isinstance(self._source, RandomAccess):
            return ""
        from simclr_jax.augment import image_files

        try:
            content = self._source.content(index)
        except OSError as error:
            return f": {error.strerror or error}"
        return f": {image_files.problem(content)}" if isinstance(content, bytes) else ""
