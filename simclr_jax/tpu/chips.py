"""The chips of Cloud TPU, and the names of slices of them."""

import dataclasses

from simclr_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Chip:
    """What is published of a chip.

    Attributes:
      dimensions: of a slice, 2 or 3.
      devices: that JAX sees for each chip.
      hbm_gib: memory that the compiler can give to a program, all devices of a chip together.
      clock_ghz: of the matrix units: peak = 2 * (multipliers on the chip) * clock.
      peak_tflops: bfloat16.
      link_gb_per_s: of one link to a neighbour, in one direction.
      ring: a dimension of so many chips, or a multiple of that, is closed to a ring.
      example: a topology.
      config_name: libtpu's name for "one device for both cores".
    """

    dimensions: int
    devices: int
    hbm_gib: float
    clock_ghz: float
    peak_tflops: float
    link_gb_per_s: float
    ring: int
    example: str
    config_name: str = "default"


# cloud.google.com/tpu/docs: "System architecture" of each version; memory as libtpu 0.0.42 gives it out. With these clocks
# the compiler's cycles for a large bfloat16 matmul are 100, 97, 93, 88, 90 and 70 % of the peak. Links: of v2 in Jouppi et
# al. 2020, "A domain-specific supercomputer for training deep neural networks", of v3 in Jouppi et al. 2023, "TPU v4", table 4;
# of the others, and which dimensions are rings, in Austin et al. 2025, "How to scale your model", chapter on TPUs.
CHIPS = {
    "v2": Chip(2, 2, 14.96, 0.7, 45, 62, 16, "4x4"),
    "v3": Chip(2, 2, 30.96, 0.94, 123, 70, 32, "4x4"),
    "v4": Chip(3, 1, 30.75, 1.05, 275, 45, 4, "2x2x4", "megacore"),
    "v5e": Chip(2, 1, 15.75, 1.5, 197, 45, 16, "4x4"),
    "v5p": Chip(3, 1, 95.74, 1.75, 459, 90, 4, "2x2x4", "megacore"),
    "v6e": Chip(2, 1, 31.25, 1.75, 918, 90, 16, "4x4"),
}


def parse(topology: str) -> tuple[str, Chip, list[int]]:
    """Of a name such as "v5e:4x4": the version, its chip, and how many chips there are in each dimension.

    Raises:
      UserError: for a name that is none.
    """
    version, _, shape = topology.partition(":")
    if version not in CHIPS:
        raise UserError(f"--topology={topology}: unknown chip {version!r}: one of {', '.join(CHIPS)}, as in v5e:4x4.")
    chip = CHIPS[version]
    sizes = shape.split("x")
    if not all(size.isdigit() and int(size) for size in sizes) or len(sizes) != chip.dimensions:
        raise UserError(
            f"--topology={topology}: a slice of {version} has {chip.dimensions} dimensions, as in "
            f"{version}:{chip.example}."
        )
    return version, chip, [int(size) for size in sizes]


def links(chip: Chip, sizes: list[int]) -> int:
    """How many neighbours the chip in a corner of a slice has: one in each dimension, two in those that are a ring."""
    rings = [size % chip.ring == 0 for size in sizes]
    if chip.dimensions == 3:  # built of cubes: all dimensions or none
        rings = [all(rings)] * 3
    return sum((2 if ring else 1) for size, ring in zip(sizes, rings, strict=True) if size > 1)
