"""The training step on a CPU against PyTorch's: images per second, without any input pipeline.

    python -m benchmarks.step
    python -m benchmarks.step --contenders=ours_float32,eager_float32
    python -m benchmarks.step --batch=32 --rounds=1 --docs=/tmp/docs      # a look

ResNet-18 with the CIFAR stem, a head of two layers with BatchNorm, 32 px, 256 images (512 views), NT-Xent, LARS with
momentum. Every contender gets the same random pixels, in memory already, and all cores. After a first step, which
compiles, `--steps` are timed; a step takes seconds, so a few will do.

- `ours_float32`, `ours_bfloat16`: `simclr_jax.training.steps.make_pretrain_step` of configs/cifar10.py, built as
  `simclr_jax.pretrain` builds it, with its metrics, from uint8 views. It has no online classifier, since PyTorch's has none.
- `eager_float32`, `compile_float32`, `compile_bfloat16`: what one would write with PyTorch. torchvision's resnet18 with
  the usual CIFAR stem (3x3 convolution, no max-pooling), lightly's projection head, NTXentLoss and LARS (a Python loop over
  parameters, little work beside the network's). Both views go through the network at once, so that BatchNorm sees all of
  them as ours does. channels_last is what PyTorch recommends for convolutions on CPUs. The inputs are floats already, as
  a DataLoader would bring them. `torch.compile` is applied to the network, where nearly all the time goes, with its
  default settings; it needs a C++ compiler. bfloat16 is torch.autocast around the network, which keeps parameters in
  float32 as ours does; the loss is computed in float32.

With GLIBC_TUNABLES set, as `make bench` does for a second run, the cases say "memory kept": glibc then keeps what a step
frees, where otherwise the system takes gigabytes back and clears them again for every step.

In another case ours alone embeds the same batch in 2, 4, 8 and 16 parts (`config.microbatches`): what that costs in time,
and what it saves in memory.

The losses in the results are no check, since the networks start from different random weights.
"""

import functools
import os
import statistics
import sys

from benchmarks import harness

SIZE = 32


def images_per_second(step, options: dict) -> dict:
    """Times `step()`, which returns the loss once it is known."""
    first = harness.timed(step)
    losses = []
    seconds, mib = harness.added_memory(
        lambda: [harness.timed(lambda: losses.append(step())) for _ in range(options["steps"])]
    )
    return {
        "images_per_s": options["batch"] / statistics.median(seconds),
        "seconds": statistics.median(seconds),
        "first_step_s": first,
        "added_mib": mib,
        "loss": losses[-1],
    }


def pixels(batch: int):
    """uint8 `[batch, 2, size, size, 3]`: the views of an image are alike."""
    import numpy as np

    random = np.random.default_rng(0)
    image = random.integers(0, 200, (batch, 1, SIZE, SIZE, 3), np.uint8)
    return image + random.integers(0, 56, (batch, 2, SIZE, SIZE, 3), np.uint8)


# --- Contenders ----------------------------------------------------------------------------------------------------


def ours(options: dict, **changes) -> dict:
    """`changes` are fields of the config."""
    import numpy as np

    from configs import cifar10
    from simclr_jax.runtime import sharding
    from simclr_jax.training.recipe import PretrainRecipe

    config = cifar10.get_config(f"depth=18,batch={options['batch']}")
    config.update(changes)
    mesh = sharding.make_mesh(config.mesh)
    recipe = PretrainRecipe(config, mesh, num_examples=50_000)
    state = recipe.init_state()
    inputs = {"views": pixels(config.batch_size), "label": np.full(config.batch_size, -1, np.int32)}
    batch = sharding.to_global(inputs, mesh)

    def step():
        nonlocal state
        state, metrics = recipe.step(state, batch)
        return float(metrics["loss"]) / 2  # the sum over both directions; lightly's is the mean

    return images_per_second(step, options)


def torch_network():
    """Encoder and head."""
    from lightly.models.modules import SimCLRProjectionHead
    from torch import nn
    import torchvision

    encoder = torchvision.models.resnet18()
    encoder.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
    encoder.maxpool = nn.Identity()
    encoder.fc = nn.Identity()
    return nn.Sequential(encoder, SimCLRProjectionHead(512, 512, 128))


def peer(options: dict, compiled: bool, dtype: str) -> dict:
    from lightly.loss import NTXentLoss
    from lightly.utils.lars import LARS
    import torch

    torch.set_num_threads(options["cores"])
    torch.manual_seed(0)
    network = torch_network().to(memory_format=torch.channels_last).train()
    kernels = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    groups = [{"params": kernels, "weight_decay": 1e-4}, {"params": others, "weight_decay": 0.0}]
    optimizer = LARS(groups, lr=0.01, momentum=0.9)
    criterion = NTXentLoss(temperature=0.5)
    forward = torch.compile(network) if compiled else network

    views = torch.tensor(pixels(options["batch"])).permute(1, 0, 4, 2, 3).reshape(-1, 3, SIZE, SIZE)
    images = (views.float() / 255).contiguous(memory_format=torch.channels_last)

    def step():
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            z = forward(images)
        loss = criterion(*z.float().chunk(2))
        loss.backward()
        optimizer.step()
        return loss.item()

    return images_per_second(step, options)


BENCHMARK = harness.Benchmark(
    name="step",
    contenders={
        "ours_float32": harness.Contender(functools.partial(ours, compute_dtype="float32")),
        "ours_bfloat16": harness.Contender(functools.partial(ours, compute_dtype="bfloat16")),
        "eager_float32": harness.Contender(functools.partial(peer, compiled=False, dtype="float32"), peer=True),
        "compile_float32": harness.Contender(functools.partial(peer, compiled=True, dtype="float32"), peer=True),
        "compile_bfloat16": harness.Contender(functools.partial(peer, compiled=True, dtype="bfloat16"), peer=True),
    }
    | {
        f"ours_{parts}_parts": harness.Contender(functools.partial(ours, microbatches=parts)) for parts in (2, 4, 8, 16)
    },
    value="images_per_s",
    more_is_better=True,
    baselines=("eager_float32", "compile_float32", "compile_bfloat16"),
    columns={
        "images/s": harness.shown("{:.1f}", "images_per_s"),
        "s/step": harness.shown("{:.2f}", "seconds"),
        "times as fast as eager_float32": harness.times_as_fast_as("eager_float32"),
        "as compile_float32": harness.times_as_fast_as("compile_float32"),
        "as compile_bfloat16": harness.times_as_fast_as("compile_bfloat16"),
        "added MiB": harness.shown("{:,.0f}", "added_mib"),
        "first step, s": harness.shown("{:.0f}", "first_step_s"),
    },
)


def main() -> None:
    parser = harness.make_parser(__doc__, rounds=3)
    parser.add_argument("--batch", type=int, default=256, help="images of a step, two views each")
    parser.add_argument("--steps", type=int, default=3, help="timed in each turn")
    args = parser.parse_args()
    options = {"batch": args.batch, "steps": args.steps}
    in_parts = [name for name in BENCHMARK.contenders if name.endswith("_parts")]
    whole = [name for name in BENCHMARK.contenders if name not in in_parts]
    kept = ", memory kept" if "GLIBC_TUNABLES" in os.environ else ""
    cases = [
        harness.Case(f"{args.batch} images{kept}", options, whole, args.rounds),
        harness.Case(f"{args.batch} images in parts{kept}", options | {"steps": 1}, ["ours_float32", *in_parts], 1),
    ]
    harness.compete(BENCHMARK, [] if args.tables else cases, args)


if __name__ == "__main__" and not harness.is_contender(BENCHMARK):
    sys.exit(main())
