"""Training a classifier on an encoder, frozen (linear probe, SGD protocol) or not (fine-tuning, from scratch), by labels or by
what a teacher says of the images (distillation)."""

import dataclasses
import functools
from typing import Any

from etils import epath
from flax import nnx
import jax
import numpy as np
import optax

from simclr_jax.data import pipeline
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
from simclr_jax.workdir import writers


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A fine-tuned `Classifier`: its graph, and its parameters and statistics."""

    graph: nnx.GraphDef
    variables: tuple[Any, Any]


class ClassifierTraining:
    """One recipe, for any number of label draws; what is compiled for the first draw serves the others.

    Args:
      setup: data, encoder and config (`optimizer`, `augment`, `epochs`, `batch_size`, perhaps `min_steps`).
      frozen: whether only the classifier is trained. BatchNorm statistics are frozen with the encoder.
      name: for the progress bar.
      teacher: learn from what it says, and not from labels.
      bn_momentum: of the running statistics of BatchNorm; None: pretraining's.
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
            for _, module in nnx.iter_modules(model) if bn_momentum is not None else ():
                if isinstance(module, nnx.BatchNorm):
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

    def _recipe(self, num_examples: int):
        """Optimiser, jitted step and number of steps for a training set of this size."""
        config = self.setup.config
        total_steps = optim.total_steps(num_examples, config.batch_size, config.epochs)
        total_steps = max(total_steps, config.get("min_steps", 0))
        schedule = optim.make_schedule(
            config.optimizer, batch_size=config.batch_size, num_examples=num_examples, steps=total_steps
        )
        optimizer = optim.make_optimizer(config.optimizer, schedule, mask=optim.kernels)
        if self.frozen:
            optimizer = _only_classifier(optimizer)
        if self.teacher is None:
            step_fn = steps.make_classifier_step(self.graph, optimizer, schedule, self.setup.mesh)
        else:
            step_fn = steps.make_distillation_step(
                self.graph, self.teacher.graph, config.temperature, optimizer, schedule, self.setup.mesh
            )
        return optimizer, step_fn, total_steps

    def run(self, rows: np.ndarray, seed: int, workdir: epath.Path) -> dict[str, Any]:
        """Trains on some rows of the training source and tests; for `label_subsets.run_draws`.

        Continues where an earlier call in the same workdir stopped.
        """
        setup, config = self.setup, self.setup.config
        train = setup.train if len(rows) == setup.train.num_examples else setup.train.subset(rows)
        optimizer, step_fn, total_steps = self.recipe(train.num_examples)
        state = state_lib.new_state(
            setup.params | {"classifier": self.init_classifier(seed)}, setup.batch_stats, optimizer, setup.mesh
        )
        checkpoints = Checkpoints(workdir, config)
        state = checkpoints.restore(state)
        setup.write_config()
        start_step = int(state.step)
        bad_images = pipeline.BadImages(train, config.data.max_bad_fraction)
        batches = pipeline.train_batches(
            train,
            config.augment,
            num_views=1,
            size=config.data.image_size,
            shard=pipeline.local_shard(setup.mesh, config.batch_size, start_step),
            seed=seed,
            bad_images=bad_images,
        )
        batches = inputs.global_batches(batches, setup.mesh)
        if self.teacher is not None:
            batches = ((batch, self.teacher.variables) for batch in batches)
        writer = writers.MetricsWriter(workdir, start_step)
        state = loop.fit(
            state,
            step_fn,
            batches,
            start_step=start_step,
            total_steps=total_steps,
            batch_size=config.batch_size,
            log_every=config.log_every_steps,
            checkpoint_every=config.checkpoint.every_steps,
            checkpoints=checkpoints,
            writer=writer,
            bad_images=bad_images,
            monitor=setup.monitor,
            name=self.name,
        )
        writer.close()
        checkpoints.close()
        outputs = setup.outputs(self.forward, state.params, state.batch_stats, setup.test)
        return setup.judge(outputs.values, outputs, workdir) | {
            "step": total_steps,
            "bad_images": distributed.sum_over_processes(bad_images.count) + outputs.unreadable,
        }


def _only_classifier(optimizer):
    """Keeps updates and optimiser state to the classifier; the encoder's gradients are zero, its state would be waste."""

    def part(params):
        return {name: jax.tree.map(lambda _, name=name: name, tree) for name, tree in params.items()}

    others = {name: optax.set_to_zero() for name in ("encoder", "head")}
    return optax.partition({"classifier": optimizer} | others, part)
