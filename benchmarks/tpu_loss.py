"""NT-Xent alone for up to a million images, by estimates of the TPU compiler; write the table of docs/scale.md.

    python -m benchmarks.tpu_loss                          # v5e:2x4: about five minutes on 2 cores
    python -m benchmarks.tpu_loss --topology=v4:2x2x2      # only prints the table

Compiles `nt_xent` and its gradient for embeddings of dimension 128 that are split over the chips, in float32, and
`nt_xent_dense`, which holds all similarities. This needs no TPU and times nothing: seconds are cycles over the clock rate.
"""

import argparse
import pathlib
import sys

from benchmarks.pages import filled

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "scale.md"
TOPOLOGY = "v5e:2x4"
PAIRS, DIM, TEMPERATURE = [2**15, 2**17, 2**18, 2**20], 128, 0.1
HEADER = """\
| images | HBM GiB a chip | seconds | all similarities, GiB | dense: HBM GiB a chip | dense: seconds |
| -: | -: | -: | -: | -: | -: |"""


def row(topology: str, pairs: int) -> str:
    """A line of the table."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    import jax.numpy as jnp

    from simclr_jax import config as config_lib
    from simclr_jax.objectives.nt_xent import nt_xent
    from simclr_jax.objectives.nt_xent import nt_xent_dense
    from simclr_jax.runtime import sharding
    from simclr_jax.tpu import compiler

    chips = compiler.topology(topology)
    mesh = sharding.make_mesh(config_lib.pretrain().mesh, chips.devices)
    z = jax.ShapeDtypeStruct((pairs, 2, DIM), jnp.float32, sharding=sharding.batch_sharded(mesh))
    cells = []
    for loss in (lambda z: nt_xent(z, TEMPERATURE, mesh=mesh), lambda z: nt_xent_dense(z, TEMPERATURE)):
        program = compiler.compile_step(jax.jit(jax.value_and_grad(loss)), z)
        fits = program.cycles is not None
        cells.append(f"{program.hbm_bytes / 2**30:,.2f}" if fits else f"does not fit: {program.hbm_bytes / 2**30:,.0f}")
        cells.append(f"{program.cycles / (chips.chip.clock_ghz * 1e9):.3g}" if program.cycles is not None else "-")
    return f"| {pairs:,} | {cells[0]} | {cells[1]} | {(2 * pairs) ** 2 * 4 / 2**30:,.0f} | {cells[2]} | {cells[3]} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", default=TOPOLOGY, help="(default: %(default)s)")
    topology = parser.parse_args().topology
    lines = []
    for pairs in PAIRS:
        lines.append(row(topology, pairs))
        print(lines[-1], file=sys.stderr, flush=True)
    table = "\n".join([HEADER, *lines])
    print(table)
    if topology == TOPOLOGY:
        PAGE.write_text(filled(PAGE.read_text(), table, "tpu_loss"))


if __name__ == "__main__":
    main()
