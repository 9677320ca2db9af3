"""The contenders of `benchmarks.gpu`: each is measured in a separate process, which prints the result.

python -m benchmarks.gpu_contenders '["loss", "ours", [4096], 20]'
"""

from collections.abc import Callable
import json
import statistics
import sys
import time
from typing import Any

import numpy as np

from benchmarks.loss import embeddings
from benchmarks.step import pixels

ANSWER = "measured: "
TEMPERATURE = 0.5


def timed(run: Callable[[], Any], wait: Callable[[Any], Any], repeats: int) -> dict[str, float]:
    """Seconds of a call, the median over rounds of several calls without a synchronisation; and of the first one."""
    began = time.perf_counter()
    wait(run())
    first = time.perf_counter() - began
    wait(run())
    rounds = []
    for _ in range(3):
        began = time.perf_counter()
        results = [run() for _ in range(repeats)]
        wait(results[-1])
        rounds.append((time.perf_counter() - began) / repeats)
    return {"seconds": statistics.median(rounds), "first_s": first}


def jax_memory() -> float | None:
    """The most memory that the card held, in GiB."""
    import jax

    stats = jax.devices()[0].memory_stats()
    return stats["peak_bytes_in_use"] / 2**30 if stats else None


def our_step(depth: int, stem: str, size: int, images: int, repeats: int) -> dict[str, Any]:
    """Our training step."""
    import jax

    from simclr_jax import config as config_lib
    from simclr_jax.runtime import sharding
    from simclr_jax.training.recipe import PretrainRecipe

    config = config_lib.load("cifar10", f"depth={depth},batch={images},bfloat16=true")
    config.model.stem, config.data.image_size = stem, size
    mesh = sharding.make_mesh(config.mesh)
    recipe = PretrainRecipe(config, mesh, num_examples=50_000)
    state = recipe.init_state()
    batch = sharding.to_global({"views": pixels(images, size), "label": np.full(images, -1, np.int32)}, mesh)

    def step():
        nonlocal state
        state, metrics = recipe.step(state, batch)
        return metrics["loss"]

    measured: dict[str, Any] = timed(step, jax.block_until_ready, repeats)
    return measured | {"gib": jax_memory(), "device": jax.devices()[0].device_kind}


def torch_step(depth: int, stem: str, size: int, images: int, repeats: int, compiled: bool) -> dict[str, Any]:
    """The same step in PyTorch."""
    import torch

    from benchmarks import torch_networks

    device = torch_device()
    encoder, features = torch_networks.resnet(depth, stem)
    network = torch.nn.Sequential(encoder, torch_networks.projection_head(features))
    network = network.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    forward = torch.compile(network) if compiled else network
    views = torch.tensor(pixels(images, size)).permute(1, 0, 4, 2, 3).reshape(-1, 3, size, size).to(device)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16):
            z = forward((views.float() / 255).contiguous(memory_format=torch.channels_last))
        loss = torch_networks.nt_xent_dense(z, TEMPERATURE)
        loss.backward()
        optimizer.step()
        return loss

    return timed(step, lambda loss: loss.item(), repeats) | torch_memory(device)


def our_loss(pairs: int, repeats: int) -> dict[str, Any]:
    """Our NT-Xent, forward and backward."""
    import jax

    from simclr_jax import objectives

    loss = jax.jit(jax.value_and_grad(lambda z: objectives.nt_xent(z, TEMPERATURE)))
    z = jax.numpy.asarray(embeddings(pairs))
    measured: dict[str, Any] = timed(lambda: loss(z), jax.block_until_ready, repeats)
    return measured | {"gib": jax_memory(), "loss": float(loss(z)[0]) / 2}


def torch_loss(pairs: int, repeats: int, compiled: bool) -> dict[str, Any]:
    """A dense NT-Xent in PyTorch."""
    import torch

    from benchmarks import torch_networks

    device = torch_device()
    views = embeddings(pairs)
    z = torch.tensor(np.concatenate([views[:, 0], views[:, 1]]), device=device, requires_grad=True)
    function = torch.compile(torch_networks.nt_xent_dense) if compiled else torch_networks.nt_xent_dense

    def call():
        z.grad = None
        loss = function(z, TEMPERATURE)
        loss.backward()
        return loss

    return timed(call, lambda loss: loss.item(), repeats) | torch_memory(device) | {"loss": call().item()}


def torch_device():
    """The GPU, or the CPU for a trial, with full float32 products, as ours."""
    import torch

    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = False
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def torch_memory(device) -> dict[str, Any]:
    """The most memory that the card held, in GiB."""
    import torch

    return {"gib": torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None}


def measure(what: str, contender: str, options: list, repeats: int) -> dict[str, Any]:
    """One measurement, in this process. `failed` in the result says why there is none."""
    functions: dict[str, Callable] = {"step": our_step, "loss": our_loss}
    if contender != "ours":
        functions = {"step": torch_step, "loss": torch_loss}
        options, repeats = [*options, repeats], contender == "torch.compile"
    try:
        return functions[what](*options, repeats)
    except Exception as error:
        if "memory" not in str(error).lower() and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return {"failed": "out of memory"}


if __name__ == "__main__":
    print(ANSWER + json.dumps(measure(*json.loads(sys.argv[1]))), flush=True)
