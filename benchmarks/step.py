"""Compare the training step on a CPU with PyTorch's: images per second, without an input pipeline.

    python -m benchmarks.step
    python -m benchmarks.step --contenders=ours_float32,eager_float32
    python -m benchmarks.step --batch=32 --rounds=1 --docs=/tmp/docs      # a quick try

ResNet-18 with the CIFAR stem, a head of two layers with BatchNorm, 32 px, 256 images (512 views), NT-Xent, LARS with
momentum. Every contender gets the same random pixels, already in memory, and all cores. The first step compiles and is
not counted. `--steps` further steps are timed; a step takes seconds, so a few are enough.

- `ours_float32`, `ours_bfloat16`: the pretraining step of configs/cifar10.py, built by the recipe that
  `simclr_jax.pretrain` uses, with its metrics, from uint8 views. It has no online classifier, because the PyTorch
  contenders have none.
- `ours_without_onednn`: the same in float32 with XLA's convolutions, as where oneDNN is not installed.
- `eager_float32`, `compile_float32`, `compile_bfloat16`: a usual PyTorch program.
  - Network: torchvision's resnet18 with the usual CIFAR stem (3x3 convolution, no max-pooling) and lightly's projection
    head. Both views go through it at once, so that BatchNorm uses all views, as in ours.
  - Loss and optimiser: lightly's NTXentLoss, in float32, and its LARS. This LARS is a Python loop over parameters, which
    costs little beside the network.
  - Inputs: floats, as a DataLoader would produce, in channels_last, which PyTorch recommends for convolutions on CPUs.
  - `torch.compile` is applied to the network, where nearly all the time goes, with default settings. It needs a C++
    compiler. bfloat16 is torch.autocast around the network, which keeps parameters in float32, as ours does.

With GLIBC_TUNABLES set, as `make bench` sets it for a second run, the names of the cases end in "huge pages": memory comes
in pages of 2 MiB. Without it, the system gives and clears gigabytes in pages of 4 KiB for every step.

Another case measures only ours, with the same batch in 2, 4, 8 and 16 micro-batches (`config.microbatches`). It shows the
cost in time and the saving in memory.

The losses in the results differ, because the networks start from different random weights.
"""

import functools
import os
import statistics

from benchmarks import harness

SIZE = 32


def images_per_second(step, options: dict) -> dict:
    """Time `step()`, which waits for the loss and returns it."""
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


def pixels(batch: int, size: int = SIZE):
    """Make uint8 `[batch, 2, size, size, 3]` with similar views of each image."""
    import numpy as np

    random = np.random.default_rng(0)
    image = random.integers(0, 200, (batch, 1, size, size, 3), np.uint8)
    return image + random.integers(0, 56, (batch, 2, size, size, 3), np.uint8)


# --- Contenders ----------------------------------------------------------------------------------------------------


def ours(options: dict, **changes) -> dict:
    """Measure our step. `changes` are fields of the config."""
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
        return float(metrics["loss"]) / 2  # ours is the sum over both directions, lightly's the mean

    return images_per_second(step, options)


def ours_without_onednn(options: dict) -> dict:
    os.environ["SIMCLR_JAX_ONEDNN"] = "0"  # read when the first convolution is traced
    return ours(options, compute_dtype="float32")


def torch_network():
    """Return the encoder and head in PyTorch."""
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
        "ours_without_onednn": harness.Contender(ours_without_onednn),
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
    parser.add_argument("--batch", type=int, default=256, help="images in a step, with two views each")
    parser.add_argument("--steps", type=int, default=3, help="steps to time in each measurement")
    args = parser.parse_args()
    options = {"batch": args.batch, "steps": args.steps}
    in_parts = [name for name in BENCHMARK.contenders if name.endswith("_parts")]
    whole = [name for name in BENCHMARK.contenders if name not in in_parts]
    pages = ", huge pages" if "GLIBC_TUNABLES" in os.environ else ""
    cases = [
        harness.Case(f"{args.batch} images{pages}", options, whole, args.rounds),
        harness.Case(f"{args.batch} images in parts{pages}", options | {"steps": 1}, ["ours_float32", *in_parts], 1),
    ]
    harness.compete(BENCHMARK, [] if args.tables else cases, args)


if __name__ == "__main__" and not harness.is_contender(BENCHMARK):
    main()
