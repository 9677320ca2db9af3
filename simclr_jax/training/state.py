"""The state that a training step updates, and its initial value."""

from collections.abc import Callable
import dataclasses
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import optax

from simclr_jax.models.init_rngs import InitRngs
from simclr_jax.runtime import compiled_programs
from simclr_jax.runtime import sharding


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
    return nnx.split(nnx.eval_shape(lambda: make_model(InitRngs(0))))[0]


def split(model: nnx.Module) -> tuple[Any, Any]:
    """Parameters and BatchNorm statistics of a model as plain nested dicts."""
    _, params, batch_stats = nnx.split(model, nnx.Param, nnx.BatchStat)  # type: ignore[misc]
    return nnx.to_pure_dict(params), nnx.to_pure_dict(batch_stats)


def merge(graph: nnx.GraphDef, params: Any, batch_stats: Any) -> nnx.Module:
    """The model with these parameters and statistics. Updates of its statistics do not leave a traced function."""
    return nnx.merge(graph, nnx.State(params), nnx.State(batch_stats), copy=True)


def abstract_variables(make_model: Callable[[nnx.Rngs], nnx.Module], mesh: Mesh) -> tuple[Any, Any]:
    """Shapes, dtypes and shardings of what `init_variables` returns, without computing it."""

    return _with_shardings(split(nnx.eval_shape(lambda: make_model(InitRngs(0)))), mesh)


def init_variables(make_model: Callable[[nnx.Rngs], nnx.Module], seed: int, mesh: Mesh) -> tuple[Any, Any]:
    """Initial parameters and statistics, as `sharding.sharding_of` places them: a function of the seed alone."""
    shardings = sharding.shardings_of(abstract_variables(make_model, mesh), mesh)
    options = compiled_programs.options_for_one_run(mesh)
    return jax.jit(lambda: split(make_model(InitRngs(seed))), out_shardings=shardings, compiler_options=options)()


def _initial(params: Any, batch_stats: Any, optimizer: optax.GradientTransformation) -> TrainState:
    params, batch_stats = jax.tree.map(jnp.copy, (params, batch_stats))
    return TrainState(jnp.zeros([], jnp.int32), params, batch_stats, optimizer.init(params))


def new_state(params: Any, batch_stats: Any, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """The state before the first step. It owns copies, so the arguments stay usable when it is donated."""
    shardings = sharding.shardings_of(
        jax.eval_shape(lambda params, stats: _initial(params, stats, optimizer), params, batch_stats), mesh
    )
    return jax.jit(lambda params, stats: _initial(params, stats, optimizer), out_shardings=shardings)(
        params, batch_stats
    )


def abstract_state(
    make_model: Callable[[nnx.Rngs], nnx.Module], optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """Shapes, dtypes and shardings of `new_state`, without computing it. The devices of the mesh need not exist."""
    variables = abstract_variables(make_model, mesh)
    return _with_shardings(jax.eval_shape(lambda params, stats: _initial(params, stats, optimizer), *variables), mesh)


def _with_shardings(tree: Any, mesh: Mesh) -> Any:
    def abstract(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding.sharding_of(leaf.shape, mesh))

    return jax.tree.map(abstract, tree)
