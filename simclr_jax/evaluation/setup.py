"""Set up an evaluation of a pretrained encoder: resolve the config, open the data, load the network."""

from collections.abc import Callable
import dataclasses
import functools
import logging
import time
from typing import Any

from etils import epath
from flax import nnx
import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
import numpy as np

from simclr_jax.config import checks as config_checks
from simclr_jax.config import saved as saved_config
from simclr_jax.config.field import NETWORK_OF_THE_REFERENCE
from simclr_jax.data import sources
from simclr_jax.errors import UserError
from simclr_jax.evaluation import metrics
from simclr_jax.evaluation import on_which_data
from simclr_jax.evaluation.forward import Outputs
from simclr_jax.evaluation.forward import run_over
from simclr_jax.evaluation.labelled_data import open_labelled
from simclr_jax.models.heads import ProjectionHead
from simclr_jax.models.networks import make_encoder
from simclr_jax.models.networks import make_head
from simclr_jax.models.resnet import ResNet
from simclr_jax.runtime import distributed
from simclr_jax.runtime import files
from simclr_jax.runtime import sharding
from simclr_jax.runtime.run_monitor import RunMonitor
from simclr_jax.training import checkpoint
from simclr_jax.training import occupied
from simclr_jax.training import state as state_lib
from simclr_jax.training import steps
from simclr_jax.workdir import data_record
from simclr_jax.workdir import predictions
from simclr_jax.workdir import writers

log = logging.getLogger("simclr_jax")


@dataclasses.dataclass(frozen=True, eq=False)
class Setup:
    """An encoder (and perhaps its projection head) with its parameters, labelled data, and where to run.

    `params` and `batch_stats` have the keys "encoder" and, where `config.features` are the head's, "head".
    """

    config: ConfigDict
    workdir: epath.Path
    train: sources.Source
    test: sources.Source
    mesh: Mesh
    monitor: RunMonitor
    pretrain_config: ConfigDict | None
    pretrained_step: int  # 0 where the encoder is untrained
    params: dict[str, Any]
    batch_stats: dict[str, Any]
    began: float  # time.monotonic()
    data: dict[str, Any]  # see `workdir.data_record`

    @property
    def num_classes(self) -> int:
        return len(self.test.class_names or ())

    def write_config(self) -> None:
        """Writes `config.json` and `environment.json`.

        A training does so once it knows that the checkpoints in the workdir are of this config.
        """
        writers.write_config(self.workdir, self.config, self.monitor.started)
        data_record.write(self.workdir, self.data)

    def make_parts(self, rngs: nnx.Rngs) -> tuple[ResNet, ProjectionHead | None]:
        return make_parts(self.config, self.pretrain_config, rngs)

    @functools.cache  # noqa: B019 (a setup lives as long as the process)
    def _forward(self, change: Callable[[jax.Array], jax.Array] | None) -> Callable:
        graph = state_lib.graph_of(lambda rngs: _Features(*self.make_parts(rngs)))
        return steps.make_forward(graph, lambda model, images: model(change(images) if change else images), self.mesh)

    def features(self, source: sources.Source, change: Callable[[jax.Array], jax.Array] | None = None) -> Outputs:
        """h of the frozen encoder, or the output of its head, for every readable example, without augmentation.

        Args:
          source: the examples.
          change: applied to the images first, float32 `[batch, size, size, 3]` in [0, 1].
        """
        return self.outputs(self._forward(change), self.params, self.batch_stats, source)

    def score(self, scores: np.ndarray, test: Outputs, folder: epath.Path) -> dict[str, Any]:
        """The accuracy of class scores, float `[n, classes]`, for the test examples. Writes predictions to `folder`.

        Where examples may have several classes: the mean average precision `map11`, and no file.
        """
        if test.labels.ndim == 2:
            return {"map11": metrics.mean_average_precision(scores, test.labels), "n": len(test.labels)}
        predictions.write(folder, test.index, test.labels, np.argmax(scores, axis=1), self.test.class_names or ())
        return metrics.accuracy(scores, test.labels)

    def outputs(self, forward: Callable, params: Any, batch_stats: Any, source: sources.Source) -> Outputs:
        return run_over(
            forward,
            params,
            batch_stats,
            source,
            data=self.config.data,
            batch_size=self.config.batch_size,
            mesh=self.mesh,
            stop=self.monitor.poll,
        )


class _Features(nnx.Module):
    def __init__(self, encoder: ResNet, head: ProjectionHead | None):
        self.encoder = encoder
        if head is not None:
            self.head = head

    def __call__(self, images: jax.Array) -> jax.Array:
        h = self.encoder(images, train=False)
        return self.head(h, train=False) if hasattr(self, "head") else h


def make_parts(
    config: ConfigDict, pretrain_config: ConfigDict | None, rngs: nnx.Rngs
) -> tuple[ResNet, ProjectionHead | None]:
    """The encoder of an evaluation, and of the projection head what `config.features` needs."""
    encoder = make_encoder(config, rngs)
    if config.features == "h":
        return encoder, None
    assert pretrain_config is not None  # the checks of the config refuse a head without a pretrained encoder
    head = pretrain_config.head
    return encoder, make_head(head, encoder, config.compute_dtype, rngs, output_layer(config.features, head))


def output_layer(features: str, head: ConfigDict) -> int | None:
    """The layer of the projection head for `config.features`: None (the last) for "z", k for "gk".

    Raises:
      UserError: where the head has no such layer.
    """
    if features == "z":
        return None
    layers = {"none": 0, "linear": 1, "nonlinear": head.layers}[head.kind]
    layer = int(features.removeprefix("g"))
    if layer > layers:
        raise UserError(f"config.features is {features!r}, but the projection head has {layers} layer(s).")
    return layer


def set_up(
    config: ConfigDict,
    workdir: epath.Path,
    pretrained: str | None,
    schema: ConfigDict,
    monitor: RunMonitor,
    *,
    train_labels: bool = True,
    multi_label: bool = False,
    unlabelled: bool = False,
) -> Setup:
    """Resolves the config, opens the data, and loads the encoder (or initialises it, `config.init="random"`).

    `config` itself is not changed: the resolved one is `Setup.config`.

    Args:
      config: of the evaluation. Unset fields of `data` and `model` are taken from the pretraining config.
      workdir: of the evaluation.
      pretrained: a pretraining workdir or one checkpoint in it.
      schema: all fields of this kind of evaluation.
      monitor: of the run.
      train_labels: whether training images need labels.
      multi_label: whether an image may have several labels.
      unlabelled: whether no image needs labels; the test images are the training images where there are no other ones.

    Raises:
      UserError: for anything that the user can correct; before anything is computed.
    """
    began = time.monotonic()
    config, path, pretrain_config = _resolve(config, workdir, pretrained, schema)
    newer = occupied.check(workdir, config)
    train, test = open_labelled(config, train_labels, multi_label, unlabelled)
    mesh = sharding.make_mesh(config.mesh)
    params, batch_stats = _load_encoder(config, pretrain_config, path, mesh)
    distributed.check_agreement(
        config=saved_config.to_json(config), training_set=sources.identity(train), test_set=sources.identity(test)
    )
    sources.check_outside(workdir, config.data, train, test)
    seed = _seed(config, pretrain_config)
    data = on_which_data.check(config, workdir, train, test, path, seed, monitor.accept_new_data, newer)
    workdir.mkdir(parents=True, exist_ok=True)
    distributed.check_shared(workdir)
    monitor.trackers.start(workdir, saved_config.flatten(config))
    is_pretrained = config.init == "pretrained"
    origin = f"the encoder of {path}" if is_pretrained else "an untrained encoder (config.init=random)"
    log.info("Evaluating %s on %s.", origin, train.name)
    return Setup(
        config=config,
        workdir=workdir,
        train=train,
        test=test,
        mesh=mesh,
        monitor=monitor,
        pretrain_config=pretrain_config,
        pretrained_step=checkpoint.step_of(path) if is_pretrained else 0,
        params=params,
        batch_stats=batch_stats,
        began=began,
        data=data,
    )


def _resolve(
    config: ConfigDict, workdir: epath.Path, pretrained: str | None, schema: ConfigDict
) -> tuple[ConfigDict, epath.Path | None, ConfigDict | None]:
    """The config with every field filled in and checked, the checkpoint, and the config of its pretraining."""
    config_checks.check_fields(config, schema)
    if pretrained is None and config.init == "pretrained":
        raise UserError(
            "--pretrained is missing: the workdir of a pretraining run. (Or from scratch: --config.init=random.)"
        )
    path = checkpoint.find(pretrained) if pretrained else None
    pretrain_config = checkpoint.load_config(path) if path else None
    if path and files.absolute(workdir) in (files.absolute(pretrained), path.parent.parent):
        raise UserError(
            f"--workdir={workdir} is the pretraining run's own: its config and results would be overwritten."
        )
    if path and config.init == "pretrained":
        _check_same_network(config, pretrain_config, path)
    config = config.copy_and_resolve_references()
    saved_config.inherit(config, pretrain_config)
    begun = workdir / "config.json"
    from_scratch = pretrain_config is None and begun.exists()
    begun_as = saved_config.read(begun, schema, "move it away, or take another --workdir") if from_scratch else None
    saved_config.settle_decoding(config, begun_as)
    config.pretrained = str(path) if path else None
    for field, value in ({"sk_ratio": 0.0} | NETWORK_OF_THE_REFERENCE).items():
        if config.model[field] is None:
            config.model[field] = value
    needed = ("data.source", "data.image_size", "data.eval_crop", "model.depth", "model.width", "model.stem")
    hint = "set it, or give a pretraining run to take it from with --pretrained."
    config_checks.require(config, *needed, hint=hint)
    config_checks.check_values(config, jax.device_count())
    if config.features != "h":
        if pretrain_config is None:
            raise UserError(
                f"config.features={config.features!r} needs --pretrained: the projection head is the pretraining run's."
            )
        if path and pretrain_config.head.kind != "none" and not (path / "head").exists():
            raise UserError(f"config.features={config.features!r}: {path} has no projection head; only h can be used.")
        output_layer(config.features, pretrain_config.head)
    return config, path, pretrain_config


def _check_same_network(config: ConfigDict, pretrain_config: ConfigDict, path: epath.Path) -> None:
    for field in config.model:
        given, saved = config.model[field], pretrain_config.model[field]
        if given is not None and given != saved:
            raise UserError(
                f"config.model.{field} is {given!r}, but the encoder in {path} has {saved!r}: leave it unset."
            )


def _seed(config: ConfigDict, pretrain_config: ConfigDict | None) -> int:
    """Of the weights of an untrained encoder."""
    return config.seed if pretrain_config is None else pretrain_config.seed


def _load_encoder(config: ConfigDict, pretrain_config: ConfigDict | None, path: epath.Path | None, mesh: Mesh):
    def make_model(rngs):
        return _Features(*make_parts(config, pretrain_config, rngs))

    if config.init == "random":
        return state_lib.init_variables(make_model, _seed(config, pretrain_config), mesh)
    return checkpoint.load_parts(path, *state_lib.abstract_variables(make_model, mesh))
