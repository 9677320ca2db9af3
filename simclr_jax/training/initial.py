"""Start a training from the weights of another run."""

import dataclasses
import logging
from typing import Any

from etils import epath
import jax
from ml_collections import ConfigDict

from simclr_jax.config import saved as saved_config
from simclr_jax.errors import UserError
from simclr_jax.runtime import files
from simclr_jax.training import checkpoint
from simclr_jax.training.state import TrainState

log = logging.getLogger("simclr_jax")


@dataclasses.dataclass(frozen=True)
class Start:
    """A checkpoint, and which parts of it to take: "encoder", perhaps "head"."""

    path: epath.Path
    parts: tuple[str, ...]


def config_of_run(workdir: epath.Path) -> ConfigDict | None:
    """The config of the pretraining in this workdir that a run would continue; None where there is none."""
    latest = checkpoint.newest(files.absolute(workdir) / checkpoint.FOLDER)
    return checkpoint.load_config(latest) if latest is not None else None


def find(init_from: str | None, config: ConfigDict, workdir: epath.Path, *, with_head: bool) -> Start | None:
    """The weights to start from; None without, and for a run that continues. Reads only the config of the checkpoint.

    Args:
      init_from: a workdir of any kind of run, or one checkpoint in it.
      config: of the pretraining run that is to start.
      workdir: of that run.
      with_head: take the projection head too, where the checkpoint has one.

    Raises:
      UserError: where there is none, or where its network is another one; names the flags that make it fit.
    """
    if not init_from:
        return None
    if checkpoint.begun(workdir):
        log.info("--init_from is ignored: the run in %s has begun and continues.", workdir)
        return None
    path = checkpoint.find(checkpoint.only_draw(init_from, f"--init_from={init_from!r}"), "--init_from")
    saved = checkpoint.load_config(path, ConfigDict)
    # A run that does not describe its projection head has perhaps only the first layers of one.
    has_head = (path / "head").exists() and "head" in saved and saved.head.kind != "none"
    parts = ("encoder", "head") if with_head and has_head else ("encoder",)
    blocks = {"model": config.model, **({"head": config.head} if "head" in parts else {})}
    wrong = []
    for block, fields in blocks.items():
        for field, value in saved_config.flatten(fields).items():
            there = saved_config.flatten(saved[block]).get(field)
            irrelevant = block == "head" and field == "layers" and config.head.kind == saved.head.kind == "linear"
            if there != value and not irrelevant:
                wrong.append(f"--config.{block}.{field}={_word(there)}")
    if wrong:
        alone = " (or --noinit_head for the encoder alone)" if any("head" in one for one in wrong) else ""
        raise UserError(
            f"--init_from={init_from!r}: the network in {path} is another one than this config's; with {' '.join(wrong)} it "
            f"fits{alone}."
        )
    return Start(path, parts)


def _word(value: Any) -> str:
    return ",".join(f"{one:g}" for one in value) if isinstance(value, list | tuple) else str(value)


def load(start: Start | None, state: TrainState) -> TrainState:
    """`state` with the parameters and BatchNorm statistics of a start, if there is one. The optimiser begins anew."""
    if start is None:
        return state

    def abstract(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree)

    params = {part: abstract(state.params[part]) for part in start.parts}
    batch_stats = {part: abstract(state.batch_stats[part]) for part in start.parts}
    params, batch_stats = checkpoint.load_parts(start.path, params, batch_stats)
    log.info("Starting from the %s of %s.", " and the ".join(start.parts), start.path)
    return dataclasses.replace(state, params=state.params | params, batch_stats=state.batch_stats | batch_stats)
