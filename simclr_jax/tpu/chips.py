"""The chips of Cloud TPU, and the topology names of slices."""

import dataclasses

from simclr_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Chip:
    """The published properties of a chip.

    Attributes:
      dimensions: number of dimensions of a slice, 2 or 3.
      devices: number of JAX devices on each chip.
      hbm_gib: memory that the compiler can give to a program, in GiB, summed over the devices of a chip.
      clock_ghz: clock of the matrix units: peak = 2 * (multipliers on the chip) * clock.
      peak_tflops: bfloat16 peak in TFLOP/s.
      link_gb_per_s: bandwidth of one link to a neighbour, in one direction, in GB/s.
      ring: a dimension wraps around to a ring if its size is a multiple of this number of chips.
      example: shape of a slice, for messages.
      host_chips: chips of one host of a slice of several hosts.
      host_cores: vCPUs of such a host.
      config_name: libtpu's name for the mode with one device for both cores; "default" where there is no such mode.
    """

    dimensions: int
    devices: int
    hbm_gib: float
    clock_ghz: float
    peak_tflops: float
    link_gb_per_s: float
    ring: int
    example: str
    host_chips: int
    host_cores: int
    config_name: str = "default"


# Source: cloud.google.com/tpu/docs, "System architecture" of each version. Memory: the limit that libtpu 0.0.42 reports.
# With these clocks, the cycles that the compiler estimates for a large bfloat16 matmul correspond to 100, 97, 93, 88, 90
# and 70 % of the peak. Links: v2 from Jouppi et al. 2020, "A domain-specific supercomputer for training deep neural
# networks"; v3 from Jouppi et al. 2023, "TPU v4", table 4; all later versions, and which dimensions are rings, from Austin
# et al. 2025, "How to scale your model", chapter on TPUs. vCPUs: 96 of hosts of v2 and v3; the machine types ct4p,
# ct5lp-hightpu-4t, ct5p-hightpu-4t and ct6e-standard-4t of the same documentation.
CHIPS = {
    "v2": Chip(2, 2, 14.96, 0.7, 45, 62, 16, "4x4", 4, 96),
    "v3": Chip(2, 2, 30.96, 0.94, 123, 70, 32, "4x4", 4, 96),
    "v4": Chip(3, 1, 30.75, 1.05, 275, 45, 4, "2x2x4", 4, 240, "megacore"),
    "v5e": Chip(2, 1, 15.75, 1.5, 197, 45, 16, "4x4", 4, 112),
    "v5p": Chip(3, 1, 95.74, 1.75, 459, 90, 4, "2x2x4", 4, 208, "megacore"),
    "v6e": Chip(2, 1, 31.25, 1.75, 918, 90, 16, "4x4", 4, 180),
}


def parse(topology: str) -> tuple[str, Chip, list[int]]:
    """Parse the name of a topology.

    Args:
      topology: version and shape of a slice, such as "v5e:4x4".

    Returns:
      The version, its chip, and the number of chips in each dimension.

    Raises:
      UserError: if the version is unknown or the shape does not fit it.

    Example:
      >>> version, chip, sizes = parse("v5e:4x4")
      >>> version, chip.peak_tflops, sizes
      ('v5e', 197, [4, 4])
    """
    version, _, shape = topology.partition(":")
    if version not in CHIPS:
        raise UserError(f"--topology={topology}: unknown chip {version!r}: one of {', '.join(CHIPS)}, as in v5e:4x4.")
    chip = CHIPS[version]
    sizes = shape.split("x")
    if not all(size.isdecimal() and int(size) for size in sizes) or len(sizes) != chip.dimensions:
        raise UserError(
            f"--topology={topology}: a slice of {version} has {chip.dimensions} dimensions, as in "
            f"{version}:{chip.example}."
        )
    return version, chip, [int(size) for size in sizes]


def links(chip: Chip, sizes: list[int]) -> int:
    """The number of neighbours of a chip in a corner of a slice: one in each dimension, two in each that is a ring.

    Args:
      chip: the chip.
      sizes: the number of chips in each dimension.

    Example:
      >>> links(CHIPS["v5e"], [4, 4]), links(CHIPS["v5e"], [16, 16])
      (2, 4)
    """
    rings = [size % chip.ring == 0 for size in sizes]
    if chip.dimensions == 3:  # made of cubes: all dimensions are rings, or none
        rings = [all(rings)] * 3
    return sum((2 if ring else 1) for size, ring in zip(sizes, rings, strict=True) if size > 1)
