"""The folders `draw_SEED` of a run, one for each subset of its labels."""

import contextlib

from etils import epath

from simclr_jax.config import saved as saved_config
from simclr_jax.errors import UserError


def of_run(workdir: epath.Path) -> list[epath.Path]:
    """The folders of the label subsets of the run in a workdir, sorted; those that an earlier run left are not among them."""
    names = _names(workdir)
    return [path for path in sorted(workdir.glob("draw_*")) if names is None or path.name in names]


def is_left_over(draw: epath.Path) -> bool:
    """Whether the run in the workdir has other label subsets, so that an earlier one with other settings left this one."""
    names = _names(draw.parent)
    return names is not None and draw.name not in names


def _names(workdir: epath.Path) -> list[str] | None:
    """By the config of the run; None where it says nothing of label subsets, or cannot be read, which is said elsewhere."""
    with contextlib.suppress(UserError, OSError):
        if (workdir / "config.json").exists():
            seeds = saved_config.fields_in(workdir / "config.json").get("label_seeds")
            if isinstance(seeds, list | tuple) and seeds:
                return [f"draw_{seed}" for seed in seeds]
    return None
