"""Compare the step on a TPU slice with the same step in plain Flax, by estimates of the TPU compiler.

    python -m benchmarks.tpu_step                          # ResNet-50 on v5e:4x4: about ten minutes on 2 cores
    python -m benchmarks.tpu_step --topology=v4:2x2x4

This needs no TPU and times nothing. `cycles` is the sum of the compiler's estimates, as in `simclr_jax.plan`.

- `ours`: the step of `simclr_jax.pretrain`, with metrics and online classifier.
- `plain`: a SimCLR step in the way of Flax's ImageNet example (linen, `nn.BatchNorm`, `nn.max_pool`, all similarities at
  once, `optax.lars`), without metrics and without classifier.

Both use bfloat16, 224 px, two views, and a batch split over the slice. `with OPTIONS` compiles the same step with options of
the compiler, which a user sets in the same way: LIBTPU_INIT_ARGS (docs/performance.md).
"""

import functools
import os
from typing import Any

from benchmarks import harness

SIZE = 224
OPTIONS = (
    "--xla_tpu_enable_multi_level_output_dot_dot_fusion=true --xla_tpu_control_large_2nd_minor_layout_for_x16=true"
)


def plain_encoder(head):
    """Return a ResNet-50 in the way of Flax's ImageNet example, with a function from its pooled features to the output."""
    from flax import linen as nn
    import jax.numpy as jnp

    conv = functools.partial(nn.Conv, use_bias=False, dtype=jnp.bfloat16)
    norm = functools.partial(nn.BatchNorm, momentum=0.9, epsilon=1e-5, use_running_average=False, dtype=jnp.bfloat16)

    class Block(nn.Module):
        filters: int
        strides: int

        @nn.compact
        def __call__(self, x):
            strides = (self.strides, self.strides)
            y = nn.relu(norm()(conv(self.filters, (1, 1))(x)))
            y = nn.relu(norm()(conv(self.filters, (3, 3), strides)(y)))
            y = norm(scale_init=nn.initializers.zeros_init())(conv(4 * self.filters, (1, 1))(y))
            if x.shape != y.shape:
                x = norm(name="norm_proj")(conv(4 * self.filters, (1, 1), strides, name="conv_proj")(x))
            return nn.relu(x + y)

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(norm()(conv(64, (7, 7), (2, 2), padding=[(3, 3), (3, 3)])(x)))
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
            for stage, blocks in enumerate((3, 4, 6, 3)):
                for block in range(blocks):
                    x = Block(64 * 2**stage, 2 if stage and not block else 1)(x)
            return head(jnp.mean(x, axis=(1, 2))).astype(jnp.float32)

    return Model()


def plain_step(devices, batch: int):
    """Return the jitted step of a plain Flax program, and the shapes of its arguments."""
    from flax import linen as nn
    from flax.training import train_state
    import jax
    import jax.numpy as jnp
    from jax.sharding import Mesh
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec
    import numpy as np
    import optax

    norm = functools.partial(nn.BatchNorm, momentum=0.9, epsilon=1e-5, use_running_average=False, dtype=jnp.bfloat16)
    dense = functools.partial(nn.Dense, use_bias=False, dtype=jnp.bfloat16)

    def head(x):
        return norm(use_bias=False)(dense(128)(nn.relu(norm()(dense(2048)(x)))))

    model = plain_encoder(head)

    class State(train_state.TrainState):
        batch_stats: Any

    def nt_xent(z):
        z = z / jnp.linalg.norm(z, axis=-1, keepdims=True)
        logits = jnp.where(jnp.eye(len(z), dtype=bool), -jnp.inf, z @ z.T / 0.1)
        return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(len(z)) ^ 1).mean()

    def kernels(params):
        return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

    schedule = optax.warmup_cosine_decay_schedule(0, 4.8, 1000, 10000)
    optimizer = optax.lars(schedule, 1e-6, weight_decay_mask=kernels, trust_ratio_mask=kernels, momentum=0.9)

    def init():
        variables = model.init(jax.random.key(0), jnp.zeros((2, SIZE, SIZE, 3)))
        stats = variables["batch_stats"]
        return State.create(apply_fn=model.apply, params=variables["params"], tx=optimizer, batch_stats=stats)

    def step(state, views):
        def loss_fn(params):
            images = views.reshape(-1, SIZE, SIZE, 3).astype(jnp.float32) / 255
            variables = {"params": params, "batch_stats": state.batch_stats}
            z, changed = state.apply_fn(variables, images.astype(jnp.bfloat16), mutable=["batch_stats"])
            return nt_xent(z), changed["batch_stats"]

        (loss, stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        return state.apply_gradients(grads=grads, batch_stats=stats), loss

    mesh = Mesh(np.array(devices), ("data",))
    whole, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    state = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), jax.eval_shape(init))
    views = jax.ShapeDtypeStruct((batch, 2, SIZE, SIZE, 3), jnp.uint8, sharding=split)
    return jax.jit(step, donate_argnums=0, out_shardings=whole), (state, views)


def our_step(devices, batch: int):
    from simclr_jax import config as config_lib
    from simclr_jax.runtime import sharding
    from simclr_jax.tpu import planning

    config = config_lib.pretrain()
    config.model.depth, config.data.image_size = 50, SIZE
    config.compute_dtype, config.batch_size = "bfloat16", batch
    recipe = planning.recipe_of(config, sharding.make_mesh(config.mesh, devices), *planning.KNOWN["imagenet2012"])
    return recipe.step, (recipe.abstract_state(), recipe.abstract_batch())


def compiled(options: dict, make_step, compiler_options: str = "") -> dict:
    os.environ["LIBTPU_INIT_ARGS"] = compiler_options  # read when the compiler is loaded
    import jax

    jax.config.update("jax_platforms", "cpu")
    from simclr_jax.tpu import compiler as tpu_compiler

    topology = tpu_compiler.topology(options["topology"])
    step, arguments = make_step(topology.devices, options["images"] * topology.chips)
    program = tpu_compiler.compile_step(step, *arguments)
    assert program.cycles is not None and program.collectives is not None, "the step does not fit into memory"
    return {
        "cycles": program.cycles,
        "step_ms": program.cycles / (topology.chip.clock_ghz * 1e6),
        "hbm_gib": program.hbm_bytes / 2**30,
        "all_reduces": program.collectives["all-reduce"]["count"],
    }


BENCHMARK = harness.Benchmark(
    name="tpu_step",
    contenders={
        "ours": harness.Contender(functools.partial(compiled, make_step=our_step)),
        "plain": harness.Contender(functools.partial(compiled, make_step=plain_step)),
        "ours with OPTIONS": harness.Contender(
            functools.partial(compiled, make_step=our_step, compiler_options=OPTIONS)
        ),
        "plain with OPTIONS": harness.Contender(
            functools.partial(compiled, make_step=plain_step, compiler_options=OPTIONS)
        ),
    },
    value="cycles",
    more_is_better=False,
    baselines=("plain",),
    columns={
        "M cycles": lambda entry: f"{entry['cycles'] / 1e6:.1f}",
        "ms": harness.shown("{:.1f}", "step_ms"),
        "HBM GiB": harness.shown("{:.2f}", "hbm_gib"),
        "all-reduces": harness.shown("{:.0f}", "all_reduces"),
        "times as fast as plain": harness.times_as_fast_as("plain"),
    },
)


def main() -> None:
    parser = harness.make_parser(__doc__, rounds=1)
    parser.add_argument("--topology", default="v5e:4x4")
    parser.add_argument("--images", type=int, default=64, help="images on each chip (default: %(default)s)")
    args = parser.parse_args()
    name = f"ResNet-50 on {args.topology}, {args.images} images a chip"
    options = {"topology": args.topology, "images": args.images}
    cases = [harness.Case(name, options, tuple(BENCHMARK.contenders), args.rounds)]
    harness.compete(BENCHMARK, [] if args.tables else cases, args)


if __name__ == "__main__" and not harness.is_contender(BENCHMARK):
    main()
