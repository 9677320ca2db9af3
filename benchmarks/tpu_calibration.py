"""How far are the hours of `simclr_jax.plan` from measured ones? Flax's ImageNet example, whose time is published.

    python -m benchmarks.tpu_calibration          # two minutes on 2 cores; needs no TPU

Flax's README (examples/imagenet): a ResNet-50 on a v3-8, 125,100 steps of 1,024 images in 4.4 hours, which includes input,
checkpoints and evaluations. Compiles such a step for a v3:2x2, which is a v3-8, and writes the comparison to docs/scale.md.
"""

import argparse
import pathlib

from benchmarks.pages import filled
from benchmarks.tpu_step import SIZE
from benchmarks.tpu_step import plain_encoder

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "scale.md"
TOPOLOGY, BATCH, STEPS, HOURS = "v3:2x2", 1024, 125_100, 4.4


def supervised_step(devices):
    """Return the jitted step of Flax's example on a mesh of devices, and the shapes of its arguments."""
    from flax import linen as nn
    import jax
    import jax.numpy as jnp
    from jax.sharding import Mesh
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec
    import numpy as np
    import optax

    model = plain_encoder(lambda x: nn.Dense(1000, dtype=jnp.bfloat16)(x))
    optimizer = optax.sgd(optax.warmup_cosine_decay_schedule(0, 0.4, 6250, STEPS), momentum=0.9, nesterov=True)

    def init():
        variables = model.init(jax.random.key(0), jnp.zeros((2, SIZE, SIZE, 3)))
        return variables["params"], variables["batch_stats"], optimizer.init(variables["params"])

    def step(params, stats, optimizer_state, images, labels):
        def loss_fn(params):
            logits, changed = model.apply({"params": params, "batch_stats": stats}, images, mutable=["batch_stats"])
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
            decay = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params) if leaf.ndim > 1)
            return loss + 5e-5 * decay, changed["batch_stats"]

        (loss, new_stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, optimizer_state = optimizer.update(grads, optimizer_state, params)
        return optax.apply_updates(params, updates), new_stats, optimizer_state, loss

    mesh = Mesh(np.array(devices), ("data",))
    whole, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    state = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), jax.eval_shape(init))
    images = jax.ShapeDtypeStruct((BATCH, SIZE, SIZE, 3), jnp.bfloat16, sharding=split)
    labels = jax.ShapeDtypeStruct((BATCH,), jnp.int32, sharding=split)
    return jax.jit(step, donate_argnums=(0, 1, 2), out_shardings=whole), (*state, images, labels)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    import jax

    jax.config.update("jax_platforms", "cpu")
    from simclr_jax.tpu import compiler

    topology = compiler.topology(TOPOLOGY)
    step, arguments = supervised_step(topology.devices)
    program = compiler.compile_step(step, *arguments)
    assert program.cycles is not None and program.collectives is not None, "the step does not fit into memory"
    seconds = program.cycles / (topology.chip.clock_ghz * 1e9)
    seconds += compiler.collective_seconds(program.collectives, topology)
    estimated, measured = BATCH / seconds, BATCH * STEPS / (HOURS * 3600)
    text = (
        f"| ResNet-50 with labels, v3-8, batch {BATCH} | images/s | images/s a chip |\n| :- | -: | -: |\n"
        f"| estimated | {estimated:,.0f} | {estimated / topology.chips:,.0f} |\n"
        f"| measured by Flax's authors | {measured:,.0f} | {measured / topology.chips:,.0f} |\n"
        f"| estimated : measured | {estimated / measured:.2f} | |"
    )
    print(text)
    PAGE.write_text(filled(PAGE.read_text(), text, "tpu_calibration"))


if __name__ == "__main__":
    main()
