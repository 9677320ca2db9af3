"""What a training step carries from step to step, and how it begins."""

from collections.abc import Callable
import dataclasses
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import optax

from simclr_jax import parallel


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Step number (int32 scalar), parameters, BatchNorm statistics and optimiser state, all as plain nested dicts."""

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any


def graph_of(make_model: Callable[[nnx.Rngs], nnx.Module]) -> nnx.GraphDef:
    """The static half of a model, without computing its parameters."""
    return nnx.split(nnx.eval_shape(lambda: make_model(nnx.Rngs(0))))[0]


def split(model: nnx.Module) -> tuple[Any, Any]:
    """Parameters and BatchNorm statistics of a model as plain nested dicts."""
    _, params, batch_stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    return nnx.to_pure_dict(params), nnx.to_pure_dict(batch_stats)


def merge(graph: nnx.GraphDef, params: Any, batch_stats: Any) -> nnx.Module:
    """The model with these parameters and statistics; inside a traced function, updates of statistics stay in it."""
    return nnx.merge(graph, nnx.State(params), nnx.State(batch_stats), copy=True)


def abstract_variables(make_model: Callable[[nnx.Rngs], nnx.Module], mesh: Mesh) -> tuple[Any, Any]:
    """Shapes, dtypes and shardings of what `init_variables` returns, without computing it."""

    def abstract(x):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=parallel.replicated(mesh))

    return jax.tree.map(abstract, split(nnx.eval_shape(lambda: make_model(nnx.Rngs(0)))))


def init_variables(make_model: Callable[[nnx.Rngs], nnx.Module], seed: int, mesh: Mesh) -> tuple[Any, Any]:
    """Initial parameters and statistics, replicated over the mesh: a function of the seed alone."""
    init = jax.jit(lambda: split(make_model(nnx.Rngs(seed))), out_shardings=parallel.replicated(mesh))
    return init()


def new_state(params: Any, batch_stats: Any, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """The state before the first step. Owns copies, so that donating it leaves the arguments usable."""

    whole = parallel.replicated(mesh)
    opt_state = jax.jit(optimizer.init, out_shardings=whole)(params)
    step, params, batch_stats = jax.tree.map(jnp.copy, (jnp.zeros([], jnp.int32), params, batch_stats))
    return jax.device_put(TrainState(step, params, batch_stats, opt_state), whole)
