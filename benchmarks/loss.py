"""Compare the contrastive loss, forward and backward, with lightly's: time of a call, and memory that it adds.

    python -m benchmarks.loss
    python -m benchmarks.loss --pairs=512 --rounds=1 --docs=/tmp/docs      # a quick try

All contenders get the same float32 embeddings of dimension 128, the temperature 0.1, and all cores.

- `ours`: `simclr_jax.objectives.nt_xent` in `jax.jit(jax.value_and_grad)`.
- `dense`: the same loss, but with the full matrix of similarities in memory.
- `lightly`: `lightly.loss.NTXentLoss` as installed, in PyTorch's eager mode, as its documentation shows.

A last case measures only `ours`, on a batch whose matrix of similarities would take 64 GiB.

Memory is the growth of the process's peak resident memory (`harness.added_memory`). The baseline is taken after loading
libraries, making inputs, running a tiny batch and compiling. Memory that compilation needs for a short time has its own
column. The gradients count as added memory of a call. `loss_per_view` shows that all contenders compute the same loss.
"""

import functools

from benchmarks import harness

DIM, TEMPERATURE = 128, 0.1
TINY = 8  # pairs of the warm-up


def embeddings(pairs: int):
    """Make two similar views of each image: float32 `[pairs, 2, dim]`, not normalised."""
    import numpy as np

    random = np.random.default_rng(0)
    image = random.standard_normal((pairs, 1, DIM), np.float32)
    return image + random.standard_normal((pairs, 2, DIM), np.float32)


def jax_loss(options: dict, name: str) -> dict:
    """Measure `simclr_jax.objectives.NAME`."""
    import jax
    import jax.numpy as jnp

    from simclr_jax import objectives

    if not hasattr(objectives, name):
        raise harness.Absent(f"simclr_jax.objectives has no {name}")
    step = jax.jit(jax.value_and_grad(lambda z: getattr(objectives, name)(z, TEMPERATURE)))
    z = jnp.asarray(embeddings(options["pairs"]))
    jax.block_until_ready(step(z[:TINY]))
    compiled, compile_mib = harness.added_memory(lambda: step.lower(z).compile())
    loss = None

    def call():
        nonlocal loss
        loss, _ = jax.block_until_ready(compiled(z))

    measured = harness.time_and_memory(call, options["repeats"])
    # Ours is the sum over both directions. Lightly's is the mean.
    return measured | {"compile_mib": compile_mib, "loss_per_view": float(loss) / 2}  # type: ignore[arg-type]


def lightly_loss(options: dict) -> dict:
    """Measure `lightly.loss.NTXentLoss`."""
    from lightly.loss import NTXentLoss
    import torch

    torch.set_num_threads(options["cores"])
    criterion = NTXentLoss(temperature=TEMPERATURE)

    def call(views):
        for z in views:
            z.grad = None
        loss = criterion(*views)
        loss.backward()
        return loss

    def leaves(pairs):
        z = embeddings(pairs)
        return [torch.tensor(z[:, view]).requires_grad_() for view in range(2)]

    call(leaves(TINY))
    views = leaves(options["pairs"])
    measured = harness.time_and_memory(lambda: call(views), options["repeats"])
    return measured | {"loss_per_view": call(views).item()}


BENCHMARK = harness.Benchmark(
    name="loss",
    contenders={
        "ours": harness.Contender(functools.partial(jax_loss, name="nt_xent")),
        "dense": harness.Contender(functools.partial(jax_loss, name="nt_xent_dense")),
        "lightly": harness.Contender(lightly_loss, peer=True),
    },
    value="seconds",
    more_is_better=False,
    baselines=("lightly",),
    columns={
        "seconds": harness.shown("{:.4g}", "seconds"),
        "times as fast as lightly": harness.times_as_fast_as("lightly"),
        "added MiB": harness.shown("{:,.0f}", "added_mib"),
        "added by compiling": harness.shown("{:,.0f}", "compile_mib"),
        "loss per view": harness.shown("{:.4f}", "loss_per_view"),
    },
)


def case(pairs: int, rounds: int, largest_compared: int) -> harness.Case:
    """Return the case of a batch size. The largest ones measure only ours, and once, because a call takes a minute."""
    alone = pairs > largest_compared
    return harness.Case(
        f"{pairs:,} pairs",
        options={"pairs": pairs, "repeats": 0 if alone else 5 if pairs <= 4096 else 3},
        contenders=("ours",) if alone else tuple(BENCHMARK.contenders),
        rounds=1 if alone else rounds,
    )


def main() -> None:
    parser = harness.make_parser(__doc__, rounds=5)
    parser.add_argument("--pairs", type=harness.numbers, default=[512, 4096, 8192, 65536])
    parser.add_argument(
        "--largest_compared", type=int, default=8192, help="with more pairs, measure only ours, and once"
    )
    args = parser.parse_args()
    cases = [case(pairs, args.rounds, args.largest_compared) for pairs in args.pairs]
    harness.compete(BENCHMARK, [] if args.tables else cases, args)


if __name__ == "__main__" and not harness.is_contender(BENCHMARK):
    main()
