"""The jitted steps: pure functions of the global batch. State in, state out, donated."""

from collections.abc import Callable
import functools
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array
from jaxtyping import Float
from jaxtyping import Int
from jaxtyping import Shaped
from jaxtyping import UInt32
from ml_collections import ConfigDict
import optax

from simclr_jax import objectives
from simclr_jax.objectives import metrics as contrastive_metrics
from simclr_jax.objectives.representations import representation_metrics
from simclr_jax.runtime import sharding
from simclr_jax.training import inputs
from simclr_jax.training import optim
from simclr_jax.training.inputs import to_float
from simclr_jax.training.microbatches import vjp_of_embed
from simclr_jax.training.state import TrainState
from simclr_jax.training.state import merge

# Some of the images of a batch, with their positions; their z, and (their h, the BatchNorm statistics).
Part = tuple[Shaped[Array, "part ..."], UInt32[Array, " part"]]
Embedded = tuple[Float[Array, "part 2 dim"], tuple[Float[Array, "part 2 features"], Any]]
# By name, each a scalar.
Metrics = dict[str, Float[Array, ""]]
# Jitted: (state, batch) to (state, metrics). What a batch is depends on the step.
StepFn = Callable[[TrainState, Any], tuple[TrainState, Metrics]]


def cross_entropy(logits: Float[Array, "batch classes"], labels: Int[Array, " batch"]) -> Float[Array, ""]:
    """The mean cross entropy of integer labels, in nats."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


def _update(
    state: TrainState,
    grads: Any,
    batch_stats: Any,
    metrics: Metrics,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
) -> tuple[TrainState, Metrics]:
    """One optimiser step."""
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    rate = schedule(state.step) * optim.rate_factor(state.opt_state)
    metrics |= {"learning_rate": rate, "grad_norm": optax.tree.norm(grads)}
    return TrainState(state.step + 1, params, batch_stats, opt_state), metrics


def _jit_step(step: StepFn, mesh: Mesh, batch_sharding: Any = None) -> StepFn:
    """`step`, jitted for a mesh. The state stays where `sharding.sharding_of` puts it, and is donated."""
    if batch_sharding is None:
        batch_sharding = sharding.batch_sharded(mesh)

    @functools.wraps(step)  # its name in profiles
    def placed(state: TrainState, batch: Any):
        state, metrics = step(state, batch)
        state = jax.lax.with_sharding_constraint(state, sharding.shardings_of(state, mesh))
        return state, jax.lax.with_sharding_constraint(metrics, sharding.replicated(mesh))

    return jax.jit(placed, in_shardings=(None, batch_sharding), donate_argnums=0)


def make_pretrain_step(
    graph: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    config: ConfigDict,
    mesh: Mesh,
) -> StepFn:
    """The contrastive step, in `config.microbatches` parts (see `training.microbatches`).

    Args:
      graph: of a `SimCLR` model.
      optimizer, schedule: from `simclr_jax.training.optim`.
      config: of the run. `microbatches` has to divide the images on each device.
      mesh: over which the batch is split.

    Returns:
      A jitted function (state, batch) to (state, metrics). The batch has `views` uint8 `[batch, 2, size, size, 3]` and
      `label` int32 `[batch]`, used where the model has a classifier; or the batch is `Resident`. Metrics are float32 scalars.
    """
    views_of = inputs.make_views(config)

    def pretrain_step(state: TrainState, batch: inputs.Batch) -> tuple[TrainState, Metrics]:
        positions = inputs.positions(state.step, config.batch_size)
        images, labels = inputs.read(batch, positions, config.seed)
        objective = objectives.make_objective(config.loss, len(labels), mesh)
        metrics_of = contrastive_metrics.make_contrastive_metrics(config.loss, len(labels), mesh)

        def embed(params: Any, part: Part) -> Embedded:
            views = views_of(*part)
            # Batch-major: merging [batch, 2] keeps the split over devices, merging [2, batch] would gather every image.
            images = views.reshape(-1, *views.shape[2:])
            model = merge(graph, sharding.gather(params, mesh), state.batch_stats)
            h, z = model(images, train=True)
            batch_stats = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
            return z.reshape(len(views), 2, -1), (h.reshape(len(views), 2, -1), batch_stats)

        def loss_fn(z: Float[Array, "batch 2 dim"], params: Any, h: Float[Array, "batch 2 features"]):
            total = objective(z)
            metrics = {"loss": total, **metrics_of(z), **representation_metrics(h, z, mesh)}
            model = merge(graph, params, state.batch_stats)
            if hasattr(model, "classifier"):
                # Trained beside the encoder, on features without gradient, so it changes nothing in the encoder.
                classified = _classify(model.classifier(h.reshape(-1, h.shape[-1])), jnp.repeat(labels, 2))
                total, metrics = total + classified["classifier_loss"], metrics | classified
            return total, metrics

        z, pull_back, (h, batch_stats) = vjp_of_embed(
            embed, state.params, (images, positions), config.microbatches, mesh
        )
        differentiate = jax.value_and_grad(loss_fn, argnums=(0, 1), has_aux=True)
        (_, metrics), (z_gradient, grads) = differentiate(z, state.params, h)
        grads = jax.tree.map(jnp.add, grads, *pull_back(z_gradient))
        return _update(state, grads, batch_stats, metrics, optimizer, schedule)

    return _jit_step(pretrain_step, mesh)


def _classify(logits: Float[Array, "views classes"], labels: Int[Array, " views"]) -> Metrics:
    """Loss and accuracy of the online classifier."""
    rank = contrastive_metrics.target_rank(logits, labels)
    return {"classifier_loss": cross_entropy(logits, labels), "classifier_top1": jnp.mean(rank < 1)}


def make_classifier_step(
    graph: nnx.GraphDef, optimizer: optax.GradientTransformation, schedule: optax.Schedule, mesh: Mesh
) -> StepFn:
    """The supervised step of a `Classifier`.

    A batch has `views` uint8 `[batch, 1, size, size, 3]` and `label` int32 `[batch]`. Where an image may have several
    classes, `label` is `[batch, classes]` as in `sources.RandomAccess`, and the loss is logistic for each class.
    """

    def classifier_step(state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, Metrics]:
        images, labels = to_float(batch["views"][:, 0]), batch["label"]

        def loss_fn(params: Any) -> tuple[Float[Array, ""], tuple[Any, Metrics]]:
            model = merge(graph, sharding.gather(params, mesh), state.batch_stats)
            logits = model(images, train=True)
            if labels.ndim == 2:
                each = optax.sigmoid_binary_cross_entropy(logits, labels) * (labels >= 0)
                loss = jnp.mean(jnp.sum(each, axis=1))
                best = jnp.argmax(logits, axis=1)[:, None]
                top1 = jnp.mean(jnp.take_along_axis(labels, best, axis=1) == 1)
            else:
                loss = cross_entropy(logits, labels)
                top1 = jnp.mean(contrastive_metrics.target_rank(logits, labels) < 1)
            batch_stats = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
            return loss, (batch_stats, {"loss": loss, "top1": top1})

        (_, (batch_stats, metrics)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        return _update(state, grads, batch_stats, metrics, optimizer, schedule)

    return _jit_step(classifier_step, mesh)


def make_distillation_step(
    graph: nnx.GraphDef,
    teacher_graph: nnx.GraphDef,
    temperature: float,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    mesh: Mesh,
) -> StepFn:
    """The step of a `Classifier` that learns another one's predictions of unlabelled images (SimCLRv2 equation 2).

    Args:
      graph, teacher_graph: of the student and of the teacher.
      temperature: of both distributions over the classes.
      optimizer, schedule: from `simclr_jax.training.optim`.
      mesh: over which the batch is split.

    Returns:
      A jitted function (state, (batch, (teacher's parameters, its statistics))) to (state, metrics). The batch has `views`
      uint8 `[batch, 1, size, size, 3]`.
    """

    def distillation_step(
        state: TrainState, batch_and_teacher: tuple[dict[str, jax.Array], tuple[Any, Any]]
    ) -> tuple[TrainState, Metrics]:
        batch, (teacher_params, teacher_stats) = batch_and_teacher
        images = to_float(batch["views"][:, 0])
        teacher = merge(teacher_graph, sharding.gather(teacher_params, mesh), teacher_stats)
        wanted = teacher(images, train=False)

        def loss_fn(params: Any) -> tuple[Float[Array, ""], tuple[Any, Metrics]]:
            model = merge(graph, sharding.gather(params, mesh), state.batch_stats)
            logits = model(images, train=True)
            losses = optax.softmax_cross_entropy(logits / temperature, jax.nn.softmax(wanted / temperature))
            agreement = jnp.mean(jnp.argmax(logits, axis=-1) == jnp.argmax(wanted, axis=-1))
            metrics = {"loss": jnp.mean(losses), "teacher_agreement": agreement}
            return metrics["loss"], (nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)), metrics)

        (_, (batch_stats, metrics)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        return _update(state, grads, batch_stats, metrics, optimizer, schedule)

    return _jit_step(distillation_step, mesh, (sharding.batch_sharded(mesh), None))


def make_forward(
    graph: nnx.GraphDef,
    forward: Callable[[nnx.Module, Float[Array, "batch height width 3"]], Float[Array, "batch ..."]],
    mesh: Mesh,
) -> Callable:
    """A jitted evaluation: (params, batch_stats, batch) to the batch with `output` in place of `image`.

    `output` is `forward(model, float images)`, `[batch, ...]`. All results are replicated, so that every process can
    read the whole batch.
    """
    whole, split = sharding.replicated(mesh), sharding.batch_sharded(mesh)

    def run(params: Any, batch_stats: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        output = forward(merge(graph, sharding.gather(params, mesh), batch_stats), to_float(batch["image"]))
        return {key: value for key, value in batch.items() if key != "image"} | {"output": output}

    return jax.jit(run, in_shardings=(None, None, split), out_shardings=whole)
