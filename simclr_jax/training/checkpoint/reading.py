"""Read the parts of one checkpoint. What is read is verified first: see `integrity`."""

from collections.abc import Callable
import contextlib
from typing import Any

from etils import epath
import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp

from simclr_jax import config as config_lib
from simclr_jax.config import saved as saved_config
from simclr_jax.runtime import quiet
from simclr_jax.training.checkpoint.integrity import check
from simclr_jax.training.checkpoint.integrity import reader
from simclr_jax.training.checkpoint.places import is_step


@reader
def saved_fields(checkpoint: epath.Path) -> dict[str, Any]:
    """The config of a checkpoint with `kind` and today's names."""
    check(checkpoint, "config")
    with _damage_of(checkpoint):
        return saved_config.upgrade(_json_of(checkpoint))


def _damage_of(checkpoint: epath.Path) -> contextlib.AbstractContextManager[None]:
    return saved_config.damage_of(checkpoint / "config", "use another checkpoint of the run, or move this one away")


def _json_of(checkpoint: epath.Path) -> Any:
    return ocp.Checkpointer(ocp.JsonCheckpointHandler()).restore(checkpoint / "config")


@reader
def step_of(checkpoint: epath.Path) -> int:
    """The training step of a checkpoint, whatever its folder is called."""
    if is_step(checkpoint.name):
        return int(checkpoint.name)
    check(checkpoint, "optimizer")
    args = ocp.args.PyTreeRestore(
        {"step": 0}, restore_args={"step": ocp.RestoreArgs(restore_type=int)}, partial_restore=True
    )
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        return int(checkpointer.restore(checkpoint / "optimizer", args=args)["step"])


def load_config(
    checkpoint: epath.Path, defaults: Callable[[], ml_collections.ConfigDict] = config_lib.pretrain
) -> ml_collections.ConfigDict:
    """The config of a checkpoint. `defaults` makes the config of its kind of run, for fields that it lacks.

    Raises:
      UserError: where it is damaged.
    """
    saved = saved_fields(checkpoint)
    with _damage_of(checkpoint):
        return saved_config.from_dict(saved, defaults())


def load_own_config(checkpoint: epath.Path) -> ml_collections.ConfigDict:
    """The config of a checkpoint of any kind of run, with the defaults of its kind for fields that it lacks.

    Raises:
      UserError: where it is damaged.
    """
    saved = saved_fields(checkpoint)
    with _damage_of(checkpoint):
        return saved_config.from_dict(saved, config_lib.defaults(saved["kind"]))


@reader
def class_names(checkpoint: epath.Path) -> list[str] | None:
    """The names of the classes of the classifier in a checkpoint; None where it does not have them."""
    if not (checkpoint / "classes").exists():
        return None
    check(checkpoint, "classes")
    return ocp.Checkpointer(ocp.JsonCheckpointHandler()).restore(checkpoint / "classes")["names"]


@reader
def shapes(checkpoint: epath.Path, part: str) -> Any:
    """The shapes of one part of a checkpoint, without reading its arrays: `{"params": {...: shape}, "batch_stats": ...}`."""
    check(checkpoint, part)
    with quiet.errors_only():  # Orbax warns that an item has no separate metadata: none has
        tree = ocp.PyTreeCheckpointer().metadata(checkpoint / part).item_metadata.tree
    return jax.tree.map(lambda leaf: tuple(leaf.shape), tree)


@reader
def load_classifier(checkpoint: epath.Path) -> tuple[np.ndarray, np.ndarray]:
    """Kernel `[features, classes]` and bias `[classes]` of the linear classifier in a checkpoint, on the host."""
    check(checkpoint, "classifier")
    # Orbax warns that an item has no separate metadata: none has.
    with quiet.errors_only(), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        path = checkpoint / "classifier"
        args = jax.tree.map(
            lambda _: ocp.RestoreArgs(restore_type=np.ndarray), checkpointer.metadata(path).item_metadata.tree
        )
        params = checkpointer.restore(path, args=ocp.args.PyTreeRestore(restore_args=args))["params"]
    return params["kernel"], params["bias"]


@reader
def load_parts(checkpoint: epath.Path, params: dict[str, Any], batch_stats: dict[str, Any]) -> tuple[Any, Any]:
    """Reads some parts of a checkpoint, such as the encoder.

    Args:
      checkpoint: from `find`.
      params, batch_stats: `{"encoder": ...}`, perhaps with `"head"`: shapes, dtypes and shardings to restore.

    Returns:
      The same trees with the saved arrays.
    """
    check(checkpoint, *params)
    with ocp.StandardCheckpointer() as checkpointer:
        items = {}
        for name in params:
            target = {"params": params[name], "batch_stats": batch_stats.get(name, {})}
            items[name] = checkpointer.restore(checkpoint / name, target)
    return (
        {name: item["params"] for name, item in items.items()},
        {name: items[name]["batch_stats"] for name in batch_stats},
    )
