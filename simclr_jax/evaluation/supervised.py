"""Train a classifier on an encoder: frozen (linear probe, SGD protocol) or not (fine-tuning, from scratch, distillation)."""

from collections.abc import Iterator
import dataclasses
import functools
import logging
from typing import Any
from typing import NamedTuple

from etils import epath
from flax import nnx
import jax
from ml_collections import ConfigDict
import numpy as np
import optax

from simclr_jax.augment.image_files import Decoding
from simclr_jax.data import pipeline
from simclr_jax.data.sources import Source
from simclr_jax.evaluation.forward import Outputs
from simclr_jax.evaluation.setup import Setup
from simclr_jax.models.heads import LinearClassifier
from simclr_jax.models.init_rngs import InitRngs
from simclr_jax.models.networks import Classifier
from simclr_jax.runtime import distributed
from simclr_jax.runtime import sharding
from simclr_jax.runtime import tensorflow
from simclr_jax.training import inputs
from simclr_jax.training import loop
from simclr_jax.training import optim
from simclr_jax.training import state as state_lib
from simclr_jax.training import steps
from simclr_jax.training.checkpoint import Checkpoints
from simclr_jax.training.recipe import make_optimization
from simclr_jax.workdir import classifiers
from simclr_jax.workdir import data_record

log = logging.getLogger("simclr_jax")


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A fine-tuned `Classifier`: its graph, and its parameters and BatchNorm statistics."""

    graph: nnx.GraphDef
    variables: tuple[Any, Any]


class Recipe(NamedTuple):
    """How to train on a certain number of examples: the config with its batch, the steps, the optimiser, the jitted step."""

    config: ConfigDict
    total_steps: int
    optimizer: optax.GradientTransformation
    step_fn: steps.StepFn


def batch_for(batch_size: int, num_examples: int, devices: int) -> int:
    """The largest batch up to `batch_size` that has no example twice, but at least one for each of the devices."""
    return min(batch_size, max(num_examples // devices, 1) * devices)


class ClassifierTraining:
    """One training recipe for any number of label subsets. The program compiled for the first subset is used for all.

    A batch has at most as many images as there are labels.

    Args:
      setup: data, encoder and config (`optimizer`, `augment`, `epochs`, `batch_size`, perhaps `min_steps`).
      frozen: whether only the classifier is trained. BatchNorm statistics are frozen with the encoder.
      name: for the progress bar.
      teacher: its predictions are the targets instead of labels.
      bn_momentum: of the running statistics of BatchNorm; None for that of pretraining.
      frozen_statistics: whether BatchNorm keeps its statistics, though everything is trained.
      any_rate: whether `train` may be given learning rates.
    """

    def __init__(
        self,
        setup: Setup,
        *,
        frozen: bool,
        name: str,
        teacher: Teacher | None = None,
        bn_momentum: float | None = None,
        frozen_statistics: bool = False,
        any_rate: bool = False,
    ):
        tensorflow.check_installed()  # it makes the views
        self.setup, self.frozen, self.name, self.teacher, self.any_rate = setup, frozen, name, teacher, any_rate

        def make_model(rngs):
            encoder, head = setup.make_parts(rngs)
            model = Classifier(
                encoder, setup.num_classes, head=head, frozen=frozen, frozen_statistics=frozen_statistics, rngs=rngs
            )
            for _, module in nnx.iter_modules(model):
                if isinstance(module, nnx.BatchNorm) and bn_momentum is not None:
                    module.momentum = bn_momentum
            return model

        self.graph = state_lib.graph_of(make_model)
        features = nnx.eval_shape(lambda: make_model(InitRngs(0))).classifier.in_features

        @functools.partial(jax.jit, out_shardings=sharding.replicated(setup.mesh))
        def init_classifier(seed):
            rngs = InitRngs(jax.random.key(seed))
            return state_lib.split(LinearClassifier(features, setup.num_classes, rngs=rngs))[0]

        self.init_classifier = init_classifier
        self.forward = steps.make_forward(self.graph, lambda model, images: model(images, train=False), setup.mesh)
        self.recipe = functools.cache(self._recipe)

    def _recipe(self, num_examples: int) -> Recipe:
        """How to train on this many examples."""
        config, mesh = self.setup.config.copy_and_resolve_references(), self.setup.mesh
        config.batch_size = batch_for(config.batch_size, num_examples, mesh.size)
        if config.batch_size < self.setup.config.batch_size:
            before = self.setup.config.batch_size
            log.info(
                "Batches of %d images instead of %d: there are %d training images.",
                config.batch_size,
                before,
                num_examples,
            )
        optimization = make_optimization(config, num_examples, min_steps=config.get("min_steps", 0))
        optimizer, schedule = optimization.optimizer, optimization.schedule
        optimizer = optim.with_rate_factor(optimizer) if self.any_rate else optimizer
        optimizer = _only_classifier(optimizer) if self.frozen else optimizer
        if self.teacher is None:
            step_fn = steps.make_classifier_step(self.graph, optimizer, schedule, mesh)
        else:
            step_fn = steps.make_distillation_step(
                self.graph, self.teacher.graph, config.temperature, optimizer, schedule, mesh
            )
        return Recipe(config, optimization.total_steps, optimizer, step_fn)

    def run(self, rows: np.ndarray, seed: int, workdir: epath.Path) -> dict[str, Any]:
        """Trains on some rows of the training source and tests; for `label_subsets.evaluate_each`.

        Continues where an earlier call in the same workdir stopped.

        Args:
          rows: of the training source, int `[labels]`.
          seed: of the classifier's initial weights, the order and the augmentation.
          workdir: for checkpoints and metrics.
        """
        state, bad_images = self.train(rows, seed, workdir)
        return self.test(state, workdir, bad_images)

    def train(
        self,
        rows: np.ndarray,
        seed: int,
        workdir: epath.Path,
        *,
        recipe: Recipe | None = None,
        classifier: dict[str, Any] | None = None,
        learning_rate: float | None = None,
    ) -> tuple[state_lib.TrainState, int]:
        """Trains on some rows of the training source.

        Args:
          rows, seed, workdir: as for `run`.
          recipe: None: that for these rows.
          classifier: `kernel` and `bias` to start from; None: random ones.
          learning_rate: in the place of `config.optimizer.learning_rate`.

        Returns:
          The last state, and how many images could not be read.
        """
        setup = self.setup
        train = setup.train if len(rows) == setup.train.num_examples else setup.train.subset(rows)
        recipe = recipe or self.recipe(train.num_examples)
        config = recipe.config
        params = setup.params | {"classifier": self.init_classifier(seed) if classifier is None else classifier}
        state = state_lib.new_state(params, setup.batch_stats, recipe.optimizer, setup.mesh)
        if learning_rate is not None:
            factor = learning_rate / config.optimizer.learning_rate
            state = dataclasses.replace(state, opt_state=optim.set_rate_factor(state.opt_state, factor))
        bad_images = pipeline.BadImages(train, config.data.max_bad_fraction)
        class_names = list(setup.test.class_names or ())
        with Checkpoints(workdir, setup.config, class_names) as checkpoints:
            state = checkpoints.restore(state)
            setup.write_config()
            state = loop.fit(
                loop.TrainingRun(
                    name=self.name,
                    config=config,
                    workdir=workdir,
                    state=state,
                    step_fn=recipe.step_fn,
                    total_steps=recipe.total_steps,
                    batches=self._batches(config, train, int(state.step), seed, bad_images),
                    checkpoints=checkpoints,
                    monitor=setup.monitor,
                    bad_images=bad_images,
                )
            )
        if self.frozen:
            gather = jax.jit(lambda tree: tree, out_shardings=sharding.replicated(setup.mesh))
            weights = jax.device_get(gather(state.params["classifier"]))
            # The frozen encoder is that of the first checkpoint, with whatever data the run was continued.
            first = [*setup.data.get(data_record.BEFORE, []), setup.data][0].get("encoder")
            saved = classifiers.SavedClassifier(
                weights["kernel"], weights["bias"], class_names, config.features, encoder=first
            )
            classifiers.write(workdir, saved)
        return state, distributed.sum_over_processes(bad_images.count)

    def outputs(self, state: state_lib.TrainState, source: Source) -> Outputs:
        """The logits of all examples of a source."""
        return self.setup.outputs(self.forward, state.params, state.batch_stats, source)

    def test(self, state: state_lib.TrainState, workdir: epath.Path, bad_images: int = 0) -> dict[str, Any]:
        """The accuracy on the test images. Writes the predictions to `workdir`.

        Args:
          state: of the training.
          workdir: of the label subset.
          bad_images: how many training images could not be read.
        """
        outputs = self.outputs(state, self.setup.test)
        results = self.setup.score(outputs.values, outputs, workdir)
        return results | {"step": int(state.step), "bad_images": bad_images + outputs.unreadable}

    def _batches(
        self, config: ConfigDict, train: Source, start_step: int, seed: int, bad_images: pipeline.BadImages
    ) -> Iterator[dict[str, jax.Array] | tuple[dict[str, jax.Array], Any]]:
        """Global batches of single views; with a teacher, each beside the teacher's variables."""
        mesh = self.setup.mesh
        host_batches = pipeline.train_batches(
            train,
            config.augment,
            num_views=1,
            size=config.data.image_size,
            shard=pipeline.local_shard(mesh, config.batch_size, start_step),
            seed=seed,
            bad_images=bad_images,
            decoding=Decoding.of(config.data),
        )
        for batch in inputs.global_batches(host_batches, mesh):
            yield batch if self.teacher is None else (batch, self.teacher.variables)


def _only_classifier(optimizer):
    """Limits updates and optimiser state to the classifier: the encoder's gradients are zero, its state would be wasted."""

    def part(params):
        return {name: jax.tree.map(lambda _, name=name: name, tree) for name, tree in params.items()}

    others = {name: optax.set_to_zero() for name in ("encoder", "head")}
    return optax.partition({"classifier": optimizer} | others, part)
