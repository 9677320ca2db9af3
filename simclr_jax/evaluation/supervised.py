"""Train a classifier on an encoder: frozen (linear probe, SGD protocol) or not (fine-tuning, from scratch, distillation)."""

from collections.abc import Iterator
import dataclasses
import functools
from typing import Any

from etils import epath
from flax import nnx
import jax
import numpy as np
import optax

from simclr_jax.data import pipeline
from simclr_jax.data.sources import Source
from simclr_jax.evaluation.setup import Setup
from simclr_jax.models.heads import LinearClassifier
from simclr_jax.models.networks import Classifier
from simclr_jax.runtime import distributed
from simclr_jax.runtime import sharding
from simclr_jax.training import inputs
from simclr_jax.training import loop
from simclr_jax.training import optim
from simclr_jax.training import state as state_lib
from simclr_jax.training import steps
from simclr_jax.training.checkpoint import Checkpoints
from simclr_jax.training.recipe import Optimization
from simclr_jax.training.recipe import make_optimization
from simclr_jax.workdir import classifiers


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A fine-tuned `Classifier`: its graph, and its parameters and BatchNorm statistics."""

    graph: nnx.GraphDef
    variables: tuple[Any, Any]


class ClassifierTraining:
    """One training recipe for any number of label subsets. The program compiled for the first subset is used for all.

    Args:
      setup: data, encoder and config (`optimizer`, `augment`, `epochs`, `batch_size`, perhaps `min_steps`).
      frozen: whether only the classifier is trained. BatchNorm statistics are frozen with the encoder.
      name: for the progress bar.
      teacher: its predictions are the targets instead of labels.
      bn_momentum: of the running statistics of BatchNorm; None for that of pretraining.
    """

    def __init__(
        self,
        setup: Setup,
        *,
        frozen: bool,
        name: str,
        teacher: Teacher | None = None,
        bn_momentum: float | None = None,
    ):
        self.setup, self.frozen, self.name, self.teacher = setup, frozen, name, teacher

        def make_model(rngs):
            encoder, head = setup.make_parts(rngs)
            model = Classifier(encoder, setup.num_classes, head=head, frozen=frozen, rngs=rngs)
            for _, module in nnx.iter_modules(model):
                if isinstance(module, nnx.BatchNorm) and bn_momentum is not None:
                    module.momentum = bn_momentum
            return model

        self.graph = state_lib.graph_of(make_model)
        features = nnx.eval_shape(lambda: make_model(nnx.Rngs(0))).classifier.in_features

        @functools.partial(jax.jit, out_shardings=sharding.replicated(setup.mesh))
        def init_classifier(seed):
            rngs = nnx.Rngs(jax.random.key(seed))
            return state_lib.split(LinearClassifier(features, setup.num_classes, rngs=rngs))[0]

        self.init_classifier = init_classifier
        self.forward = steps.make_forward(self.graph, lambda model, images: model(images, train=False), setup.mesh)
        self.recipe = functools.cache(self._recipe)

    def _recipe(self, num_examples: int) -> tuple[Optimization, steps.StepFn]:
        """Optimisation and jitted step for a training set of this size."""
        config, mesh = self.setup.config, self.setup.mesh
        min_steps = config.get("min_steps", 0)
        recipe = make_optimization(config, num_examples, mask=optim.kernel_mask, min_steps=min_steps)
        if self.frozen:
            recipe = recipe._replace(optimizer=_only_classifier(recipe.optimizer))
        if self.teacher is None:
            return recipe, steps.make_classifier_step(self.graph, recipe.optimizer, recipe.schedule, mesh)
        step_fn = steps.make_distillation_step(
            self.graph, self.teacher.graph, config.temperature, recipe.optimizer, recipe.schedule, mesh
        )
        return recipe, step_fn

    def run(self, rows: np.ndarray, seed: int, workdir: epath.Path) -> dict[str, Any]:
        """Trains on some rows of the training source and tests; for `label_subsets.evaluate_each`.

        Continues where an earlier call in the same workdir stopped.

        Args:
          rows: of the training source, int `[labels]`.
          seed: of the classifier's initial weights, the order and the augmentation.
          workdir: for checkpoints and metrics.
        """
        setup, config = self.setup, self.setup.config
        train = setup.train if len(rows) == setup.train.num_examples else setup.train.subset(rows)
        recipe, step_fn = self.recipe(train.num_examples)
        params = setup.params | {"classifier": self.init_classifier(seed)}
        state = state_lib.new_state(params, setup.batch_stats, recipe.optimizer, setup.mesh)
        bad_images = pipeline.BadImages(train, config.data.max_bad_fraction)
        class_names = list(setup.test.class_names or ())
        with Checkpoints(workdir, config, class_names) as checkpoints:
            state = checkpoints.restore(state)
            setup.write_config()
            state = loop.fit(
                loop.TrainingRun(
                    name=self.name,
                    config=config,
                    workdir=workdir,
                    state=state,
                    step_fn=step_fn,
                    total_steps=recipe.total_steps,
                    batches=self._batches(train, int(state.step), seed, bad_images),
                    checkpoints=checkpoints,
                    monitor=setup.monitor,
                    bad_images=bad_images,
                )
            )
        if self.frozen:
            gather = jax.jit(lambda tree: tree, out_shardings=sharding.replicated(setup.mesh))
            weights = jax.device_get(gather(state.params["classifier"]))
            saved = classifiers.SavedClassifier(weights["kernel"], weights["bias"], class_names, config.features)
            classifiers.write(workdir, saved)
        outputs = setup.outputs(self.forward, state.params, state.batch_stats, setup.test)
        return setup.score(outputs.values, outputs, workdir) | {
            "step": recipe.total_steps,
            "bad_images": distributed.sum_over_processes(bad_images.count) + outputs.unreadable,
        }

    def _batches(
        self, train: Source, start_step: int, seed: int, bad_images: pipeline.BadImages
    ) -> Iterator[dict[str, jax.Array] | tuple[dict[str, jax.Array], Any]]:
        """Global batches of single views; with a teacher, each beside the teacher's variables."""
        config, mesh = self.setup.config, self.setup.mesh
        host_batches = pipeline.train_batches(
            train,
            config.augment,
            num_views=1,
            size=config.data.image_size,
            shard=pipeline.local_shard(mesh, config.batch_size, start_step),
            seed=seed,
            bad_images=bad_images,
        )
        for batch in inputs.global_batches(host_batches, mesh):
            yield batch if self.teacher is None else (batch, self.teacher.variables)


def _only_classifier(optimizer):
    """Limits updates and optimiser state to the classifier: the encoder's gradients are zero, its state would be wasted."""

    def part(params):
        return {name: jax.tree.map(lambda _, name=name: name, tree) for name, tree in params.items()}

    others = {name: optax.set_to_zero() for name in ("encoder", "head")}
    return optax.partition({"classifier": optimizer} | others, part)
