"""Save the state of a run, and continue from it."""

from collections.abc import Sequence
from typing import Any

from etils import epath
import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp

from simclr_jax.config import saved as saved_config
from simclr_jax.errors import StorageError
from simclr_jax.runtime import distributed
from simclr_jax.runtime import files
from simclr_jax.runtime import quiet
from simclr_jax.runtime import storage
from simclr_jax.training.checkpoint.integrity import seal
from simclr_jax.training.checkpoint.integrity import set_aside_damaged
from simclr_jax.training.checkpoint.integrity import unreadable
from simclr_jax.training.checkpoint.places import FOLDER
from simclr_jax.training.checkpoint.places import all_of
from simclr_jax.training.checkpoint.reading import load_config
from simclr_jax.training.state import TrainState


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
        self._saving = 0  # the step that is being written
        _save_small_arrays_whole()
        set_aside_damaged(workdir)
        self.directory = files.absolute(workdir / FOLDER)  # Orbax takes absolute paths only
        options = ocp.CheckpointManagerOptions(
            max_to_keep=config.checkpoint.keep,
            keep_period=config.checkpoint.keep_every_steps or None,
            enable_async_checkpointing=True,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
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
        if not files.is_remote(self.directory) and not self.directory.is_dir():
            raise StorageError(
                f"{self.directory} is gone: somebody removed or moved it while the run was writing there. Put it back, and "
                "the same command continues."
            )
        items = {name: ocp.args.StandardSave(item) for name, item in _to_items(state).items()}
        items["config"] = ocp.args.JsonSave(self._config.to_dict())
        if self._class_names is not None:
            items["classes"] = ocp.args.JsonSave({"names": list(self._class_names)})
        self._manager.wait_until_finished()  # one at a time, as Orbax has it: `_seal` has to know which one
        self._saving = step
        self._manager.save(step, args=ocp.args.Composite(**items), force=True)

    def check_room(self, state: TrainState) -> None:
        """Refuses a disk without room for the checkpoints that will be there at the same time.

        Raises:
          StorageError: says what is needed.
        """
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(_to_items(state)))
        storage.check_room(self.directory, size, self._config.checkpoint.keep, len(all_of(self.directory)))

    def _seal(self) -> None:
        """Called by Orbax in its thread when all files are written, before the folder gets its final name."""
        if distributed.is_primary():
            for child in self.directory.iterdir():
                if child.name.partition(".")[0] == str(self._saving):  # with Orbax's suffix, as long as it is temporary
                    seal(child)

    def restore(self, state: TrainState) -> TrainState:
        """Reads the newest checkpoint with the shapes and shardings of `state`; returns `state` where there is none.

        Raises:
          UserError: where the checkpoint was written with another config; names the fields.
        """
        step = self.latest()
        if step is None:
            return state
        checkpoint = self.directory / str(step)
        saved = load_config(checkpoint, lambda: self._config)
        saved_config.refuse_another_run(
            self.directory,
            saved_config.differences(self._config, saved),
            "Continue it with its own config, or start anew in another --workdir.",
        )
        items = {name: ocp.args.StandardRestore(_abstract(item)) for name, item in _to_items(state).items()}
        try:
            return _from_items(self._manager.restore(step, args=ocp.args.Composite(**items)), state)
        except Exception as error:  # Orbax and TensorStore raise many types
            raise unreadable(checkpoint, error) from error

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
