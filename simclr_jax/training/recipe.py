"""The recipe of a training: what a config, the size of the data and a mesh decide together."""

import dataclasses
import functools
from typing import Any
from typing import NamedTuple

from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict
import optax

from simclr_jax.models.networks import SimCLR
from simclr_jax.training import inputs
from simclr_jax.training import optim
from simclr_jax.training import state as state_lib
from simclr_jax.training import steps
from simclr_jax.training.state import TrainState


class Optimization(NamedTuple):
    """How long to train and by which updates."""

    total_steps: int
    schedule: optax.Schedule
    optimizer: optax.GradientTransformation


def make_optimization(config: ConfigDict, num_examples: int, *, min_steps: int = 0) -> Optimization:
    """Number of steps, learning-rate schedule and optimiser of a run.

    Args:
      config: `optimizer`, `batch_size` and `epochs`.
      num_examples: training images of an epoch.
      min_steps: train for at least this many steps.

    Raises:
      UserError: where the warm-up is longer than the run.
    """
    total_steps = max(optim.total_steps(num_examples, config.batch_size, config.epochs), min_steps)
    schedule = optim.make_schedule(
        config.optimizer, batch_size=config.batch_size, num_examples=num_examples, steps=total_steps
    )
    return Optimization(total_steps, schedule, optim.make_optimizer(config.optimizer, schedule))


@dataclasses.dataclass(frozen=True)
class PretrainRecipe:
    """Contrastive pretraining: schedule, optimiser, network and step, for a mesh of devices that need not exist.

    Attributes:
      config: of the run.
      mesh: over which batch and parameters are split.
      num_examples: training images.
      num_classes: of the online classifier; None: without one.

    Raises:
      UserError: on the first use of what depends on a wrong field.
    """

    config: ConfigDict
    mesh: Mesh
    num_examples: int
    num_classes: int | None = None

    @functools.cached_property
    def optimization(self) -> Optimization:
        return make_optimization(self.config, self.num_examples)

    @property
    def total_steps(self) -> int:
        return self.optimization.total_steps

    def make_model(self, rngs: nnx.Rngs) -> SimCLR:
        return SimCLR(self.config, self.num_classes, rngs=rngs)

    @functools.cached_property
    def graph(self) -> nnx.GraphDef:
        """The static half of the network."""
        return state_lib.graph_of(self.make_model)

    def init_state(self) -> TrainState:
        """The state before the first step, on the mesh: a function of `config.seed`."""
        variables = state_lib.init_variables(self.make_model, self.config.seed, self.mesh)
        return state_lib.new_state(*variables, self.optimization.optimizer, self.mesh)

    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of `init_state`, without computing it."""
        return state_lib.abstract_state(self.make_model, self.optimization.optimizer, self.mesh)

    def abstract_batch(self) -> Any:
        """Shapes, dtypes and shardings of a batch."""
        return inputs.abstract_batch(self.config, self.mesh, self.num_examples)

    @functools.cached_property
    def step(self) -> steps.StepFn:
        """The jitted step; see `steps.make_pretrain_step`."""
        _, schedule, optimizer = self.optimization
        return steps.make_pretrain_step(self.graph, optimizer, schedule, self.config, self.mesh)
