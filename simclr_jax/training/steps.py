"""The jitted computations: pure functions of the global batch. State in, state out, donated."""

from collections.abc import Callable
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict
import optax

from simclr_jax import objectives
from simclr_jax import parallel
from simclr_jax.training.state import TrainState
from simclr_jax.training.state import merge

StepFn = Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, dict[str, jax.Array]]]


def to_float(images: jax.Array) -> jax.Array:
    """uint8 to floats in [0, 1]; no mean or deviation is taken off (reference tf2/data_util.py)."""
    return images.astype(jnp.float32) / 255.0


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


def _update(state: TrainState, loss_fn: Callable, optimizer: optax.GradientTransformation, schedule: optax.Schedule):
    """One optimiser step on `loss_fn(params) -> (loss, (batch_stats, metrics))`."""
    (_, (batch_stats, metrics)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics |= {"learning_rate": schedule(state.step), "grad_norm": optax.global_norm(grads)}
    return TrainState(state.step + 1, params, batch_stats, opt_state), metrics


def _jit_step(step: StepFn, mesh: Mesh) -> StepFn:
    """`step` compiled for a mesh. The state stays where `parallel.sharding_of` puts it, and is donated."""

    def placed(state: TrainState, batch: dict[str, jax.Array]):
        state, metrics = step(state, batch)
        state = jax.lax.with_sharding_constraint(state, parallel.shardings_of(state, mesh))
        return state, jax.lax.with_sharding_constraint(metrics, parallel.replicated(mesh))

    return jax.jit(placed, in_shardings=(None, parallel.batch_sharded(mesh)), donate_argnums=0)


def make_pretrain_step(
    graph: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    loss: ConfigDict,
    mesh: Mesh,
) -> StepFn:
    """The contrastive step.

    Args:
      graph: of a `SimCLR` model.
      optimizer, schedule: from `simclr_jax.optim`.
      loss: `config.loss`.
      mesh: over which the batch is split.

    Returns:
      A jitted function (state, batch) to (state, metrics). The batch has `views` uint8 `[batch, 2, size, size, 3]` and
      `label` int32 `[batch]`, used where the model has a classifier. Metrics are float32 scalars.
    """

    def step(state: TrainState, batch: dict[str, jax.Array]):
        views, labels = batch["views"], batch["label"]
        # Batch-major: merging [batch, 2] keeps the split over devices, merging [2, batch] would gather every image.
        images = to_float(views.reshape(-1, *views.shape[2:]))

        def loss_fn(params):
            model = merge(graph, parallel.gather(params, mesh), state.batch_stats)
            h, z = model(images, train=True)
            z = z.reshape(views.shape[0], 2, -1)
            nt_xent, contrastive_metrics = objectives.implementation(loss.method, views.shape[0], mesh)
            total = nt_xent(z, loss.temperature, loss.normalize)
            metrics = {"loss": total, **contrastive_metrics(z, loss.temperature, loss.normalize)}
            if hasattr(model, "classifier"):
                # Trained beside the encoder, on features without gradient, so it changes nothing in the encoder.
                logits = model.classifier(jax.lax.stop_gradient(h))
                both = jnp.repeat(labels, 2)
                classifier_loss = cross_entropy(logits, both)
                total = total + classifier_loss
                metrics["classifier_loss"] = classifier_loss
                metrics["classifier_top1"] = jnp.mean(objectives.target_rank(logits, both) < 1)
            return total, (nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)), metrics)

        return _update(state, loss_fn, optimizer, schedule)

    return _jit_step(step, mesh)


def make_classifier_step(
    graph: nnx.GraphDef, optimizer: optax.GradientTransformation, schedule: optax.Schedule, mesh: Mesh
) -> StepFn:
    """The supervised step of a `Classifier`: batch `views` uint8 `[batch, 1, size, size, 3]`, `label` int32 `[batch]`."""

    def step(state: TrainState, batch: dict[str, jax.Array]):
        images, labels = to_float(batch["views"][:, 0]), batch["label"]

        def loss_fn(params):
            model = merge(graph, parallel.gather(params, mesh), state.batch_stats)
            logits = model(images, train=True)
            loss = cross_entropy(logits, labels)
            metrics = {"loss": loss, "top1": jnp.mean(objectives.target_rank(logits, labels) < 1)}
            return loss, (nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)), metrics)

        return _update(state, loss_fn, optimizer, schedule)

    return _jit_step(step, mesh)


def make_forward(graph: nnx.GraphDef, forward: Callable[[nnx.Module, jax.Array], jax.Array], mesh: Mesh) -> Callable:
    """A jitted evaluation: (params, batch_stats, batch) to the batch with `output`, instead of `image`.

    `output` is `forward(model, float images)`, `[batch, ...]`. All results are replicated, so that every process can
    read the whole batch.
    """
    whole, split = parallel.replicated(mesh), parallel.batch_sharded(mesh)

    def run(params: Any, batch_stats: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        output = forward(merge(graph, parallel.gather(params, mesh), batch_stats), to_float(batch["image"]))
        return {key: value for key, value in batch.items() if key != "image"} | {"output": output}

    return jax.jit(run, in_shardings=(None, None, split), out_shardings=whole)
