"""Checkpoints: a thin layer over Orbax.

A checkpoint is a folder `DIR/STEP` with one item for each part: `encoder`, `head`, `classifier` (parameters and
BatchNorm statistics), `optimizer` and `config`, and `classes` where a classifier has class names. So an evaluation reads
only the encoder, and a checkpoint explains itself when it is moved. Orbax writes into a temporary folder and renames it at
the end: a folder with its final name is complete.
"""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

from etils import epath
import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp

from simclr_jax import config as config_lib
from simclr_jax.config import saved as saved_config
from simclr_jax.errors import UserError
from simclr_jax.runtime import hub
from simclr_jax.runtime import quiet
from simclr_jax.training.state import TrainState
from simclr_jax.workdir import files

FOLDER = "checkpoints"


def _save_small_arrays_whole() -> None:
    """Orbax lets each device that holds a copy of an array write a slice of it, and compiles one program for each slice.

    That only pays where the slices are large.
    """
    handler = ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=2**20)
    with quiet.errors_only():  # it warns that there was another handler before
        ocp.type_handlers.register_type_handler(jax.Array, handler, override=True)


def _to_items(state: TrainState) -> dict[str, Any]:
    items = {
        name: {"params": params, "batch_stats": state.batch_stats.get(name, {})}
        for name, params in state.params.items()
    }
    return items | {"optimizer": {"step": state.step, "opt_state": state.opt_state}}


def _from_items(items: dict[str, Any], like: TrainState) -> TrainState:
    optimizer = items["optimizer"]
    return TrainState(
        step=optimizer["step"],
        params={name: items[name]["params"] for name in like.params},
        batch_stats={name: items[name]["batch_stats"] for name in like.batch_stats},
        opt_state=optimizer["opt_state"],
    )


def _abstract(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


class Checkpoints:
    """The checkpoints of one run.

    Args:
      workdir: of the run. Checkpoints go to its folder `checkpoints`.
      config: of the run, saved in each checkpoint. `config.checkpoint` has `keep` (how many of the newest are kept) and
        `keep_every_steps` (the steps that are always kept; 0 for none).
      class_names: of the classifier that is trained, saved in each checkpoint.
    """

    def __init__(
        self, workdir: epath.Path, config: ml_collections.ConfigDict, class_names: Sequence[str] | None = None
    ):
        self._config, self._class_names = config, class_names
        _save_small_arrays_whole()
        self.directory = files.absolute(workdir / FOLDER)  # Orbax takes absolute paths only
        options = ocp.CheckpointManagerOptions(
            max_to_keep=config.checkpoint.keep,
            keep_period=config.checkpoint.keep_every_steps or None,
            enable_async_checkpointing=True,
            create=True,
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def latest(self) -> int | None:
        """The step of the newest complete checkpoint."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState) -> None:
        """Saves in the background; arrays are copied before this returns. A step that is already saved is skipped."""
        latest = self.latest()
        if latest is not None and latest >= step:
            return
        items = {name: ocp.args.StandardSave(item) for name, item in _to_items(state).items()}
        items["config"] = ocp.args.JsonSave(self._config.to_dict())
        if self._class_names is not None:
            items["classes"] = ocp.args.JsonSave({"names": list(self._class_names)})
        self._manager.save(step, args=ocp.args.Composite(**items), force=True)

    def restore(self, state: TrainState) -> TrainState:
        """Reads the newest checkpoint with the shapes and shardings of `state`; returns `state` where there is none.

        Raises:
          UserError: where the checkpoint was written with another config; names the fields.
        """
        step = self.latest()
        if step is None:
            return state
        saved = self._manager.restore(step, args=ocp.args.Composite(config=ocp.args.JsonRestore())).config
        saved = saved_config.from_dict(saved, self._config)
        saved_config.refuse_another_run(
            self.directory,
            saved_config.differences(self._config, saved),
            "Continue it with its own config, or start anew in another --workdir.",
        )
        items = {name: ocp.args.StandardRestore(_abstract(item)) for name, item in _to_items(state).items()}
        return _from_items(self._manager.restore(step, args=ocp.args.Composite(**items)), state)

    def wait(self) -> None:
        """Returns when all saves are on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for all saves."""
        self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def find(pretrained: str, flag: str = "--pretrained") -> epath.Path:
    """The folder of one checkpoint: `pretrained` itself, or the newest one in a workdir.

    Args:
      pretrained: a checkpoint or a workdir, also hf://USER/NAME.
      flag: names the argument in error messages.

    Raises:
      UserError: where there is none.
    """
    path = files.absolute(hub.local(pretrained, f"{flag}={pretrained!r}"))
    if not path.exists():
        raise UserError(f"{flag}={pretrained!r} does not exist.")
    checkpoint = newest(path)
    if checkpoint is not None:
        return checkpoint
    draws = sorted(child.name for child in path.glob("draw_*"))
    if draws:
        raise UserError(
            f"{flag}={pretrained!r} has one network for each subset of the labels: choose one of {', '.join(draws)}, as in "
            f"{flag}={pretrained.rstrip('/')}/{draws[0]}."
        )
    raise UserError(
        f"{flag}={pretrained!r} is neither the workdir of a run with a finished checkpoint "
        f"(a folder {FOLDER}/STEP) nor one checkpoint."
    )


def only_draw(place: str, what: str) -> str:
    """The folder of the one label subset of a run that has one; `place` itself for anything else.

    Args:
      place: a workdir or a checkpoint, also hf://USER/NAME.
      what: begins error messages.

    Raises:
      UserError: where there are several.
    """
    folder = epath.Path(hub.local(place, what))
    draws = sorted(folder.glob("draw_*")) if folder.is_dir() else []
    if len(draws) > 1:
        names = ", ".join(draw.name for draw in draws)
        raise UserError(f"{what} has several draws: choose one of {names}, as in {draws[0]}.")
    return str(draws[0]) if draws else place


def workdir_of(checkpoint: epath.Path) -> epath.Path | None:
    """The workdir that a checkpoint is in; None for one that was copied out of it."""
    return checkpoint.parent.parent if checkpoint.parent.name == FOLDER else None


def write(
    workdir: epath.Path,
    config: ml_collections.ConfigDict,
    step: int,
    variables: tuple[Any, Any],
    class_names: Sequence[str] | None = None,
) -> None:
    """Writes weights that no training of this process made as the checkpoint of a workdir.

    Args:
      workdir: of a run without checkpoints.
      config: saved in the checkpoint, as are `class_names`.
      step: after how many training steps the weights were saved.
      variables: parameters and BatchNorm statistics, each by part: "encoder", perhaps "head", "classifier".
    """
    params, batch_stats = variables
    state = TrainState(
        step=np.asarray(step, np.int32),  # type: ignore[arg-type]  # as saved from any training
        params=params,
        batch_stats=batch_stats,
        opt_state={},
    )
    with Checkpoints(workdir, config, class_names) as checkpoints:
        checkpoints.save(step, state)


def begun(workdir: epath.Path) -> bool:
    """Whether a run in this workdir has a finished checkpoint, from which it continues."""
    return newest(files.absolute(workdir) / FOLDER) is not None


def newest(path: epath.Path) -> epath.Path | None:
    """The checkpoint at `path`: itself, or the newest in this workdir or folder of checkpoints; None where there is none."""
    if (path / "encoder").exists():
        return path
    for directory in (path, path / FOLDER):
        steps = [int(child.name) for child in directory.iterdir() if child.name.isdigit()] if directory.is_dir() else []
        if steps:
            return directory / str(max(steps))
    return None


def step_of(checkpoint: epath.Path) -> int:
    """The training step of a checkpoint, whatever its folder is called."""
    if checkpoint.name.isdigit():
        return int(checkpoint.name)
    args = ocp.args.PyTreeRestore(
        {"step": 0}, restore_args={"step": ocp.RestoreArgs(restore_type=int)}, partial_restore=True
    )
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        return int(checkpointer.restore(checkpoint / "optimizer", args=args)["step"])


def load_config(
    checkpoint: epath.Path, defaults: Callable[[], ml_collections.ConfigDict] = config_lib.pretrain
) -> ml_collections.ConfigDict:
    """The config of a checkpoint. `defaults` makes the config of its kind of run, for fields that it lacks."""
    saved = ocp.Checkpointer(ocp.JsonCheckpointHandler()).restore(checkpoint / "config")
    return saved_config.from_dict(saved, defaults())


def load_own_config(checkpoint: epath.Path) -> ml_collections.ConfigDict:
    """The config of a checkpoint of any kind of run, with the defaults of its kind for fields that it lacks."""
    saved = ocp.Checkpointer(ocp.JsonCheckpointHandler()).restore(checkpoint / "config")
    return saved_config.from_dict(saved, config_lib.defaults(saved_config.upgrade(saved)["kind"]))


def class_names(checkpoint: epath.Path) -> list[str] | None:
    """The names of the classes of the classifier in a checkpoint; None where it does not have them."""
    if not (checkpoint / "classes").exists():
        return None
    return ocp.Checkpointer(ocp.JsonCheckpointHandler()).restore(checkpoint / "classes")["names"]


def shapes(checkpoint: epath.Path, part: str) -> Any:
    """The shapes of one part of a checkpoint, without reading its arrays: `{"params": {...: shape}, "batch_stats": ...}`."""
    with quiet.errors_only():  # Orbax warns that an item has no separate metadata: none has
        tree = ocp.PyTreeCheckpointer().metadata(checkpoint / part).item_metadata.tree
    return jax.tree.map(lambda leaf: tuple(leaf.shape), tree)


def load_classifier(checkpoint: epath.Path) -> tuple[np.ndarray, np.ndarray]:
    """Kernel `[features, classes]` and bias `[classes]` of the linear classifier in a checkpoint, on the host."""
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        path = checkpoint / "classifier"
        args = jax.tree.map(
            lambda _: ocp.RestoreArgs(restore_type=np.ndarray), checkpointer.metadata(path).item_metadata.tree
        )
        params = checkpointer.restore(path, args=ocp.args.PyTreeRestore(restore_args=args))["params"]
    return params["kernel"], params["bias"]


def load_parts(checkpoint: epath.Path, params: dict[str, Any], batch_stats: dict[str, Any]) -> tuple[Any, Any]:
    """Reads some parts of a checkpoint, such as the encoder.

    Args:
      checkpoint: from `find`.
      params, batch_stats: `{"encoder": ...}`, perhaps with `"head"`: shapes, dtypes and shardings to restore.

    Returns:
      The same trees with the saved arrays.
    """
    with ocp.StandardCheckpointer() as checkpointer:
        items = {}
        for name in params:
            target = {"params": params[name], "batch_stats": batch_stats.get(name, {})}
            items[name] = checkpointer.restore(checkpoint / name, target)
    return (
        {name: item["params"] for name, item in items.items()},
        {name: items[name]["batch_stats"] for name in batch_stats},
    )
