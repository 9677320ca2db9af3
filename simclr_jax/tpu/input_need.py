"""What the hosts of a slice have to deliver, so that the chips do not wait for input."""

from collections.abc import Sequence
import math
from typing import Any

from simclr_jax.tpu import chips

# Views/s of one core at 224 px, from JPEG files of 110 kB (docs/benchmarks.md, input, 2 cores): augmentation on the host, and
# on the device. For another size there is no default.
MEASURED, MEASURED_SIZE = (188.0, 570.0), 224


def need(topology: str, images_per_s: float, rates: Sequence[float] | None) -> dict[str, Any]:
    """The input that a step needs.

    Args:
      topology: of the slice, such as "v5e:4x4".
      images_per_s: of the slice, if it never waits.
      rates: views/s of one core with the augmentation on the host, and on the device; None where they are not known.

    Returns:
      `hosts`, `host_cores`, `views_per_host_s`, and `cores_host`, `cores_device`: how many cores of each host it takes with the
      augmentation on the host and on the device; None without rates.

    Example:
      >>> found = need("v6e:8x8", 50_000, (188, 570))
      >>> found["hosts"], found["views_per_host_s"], found["cores_host"], found["cores_device"], found["host_cores"]
      (16, 6250.0, 34, 11, 180)
    """
    _, chip, sizes = chips.parse(topology)
    hosts = -(-math.prod(sizes) // chip.host_chips)
    views = 2 * images_per_s / hosts
    cores = [None, None] if rates is None else [math.ceil(views / rate) for rate in rates]
    return {
        "hosts": hosts,
        "host_cores": chip.host_cores,
        "views_per_host_s": views,
        "cores_host": cores[0],
        "cores_device": cores[1],
    }


def sentence(topology: str, found: dict[str, Any], source: str) -> str:
    """What `need` means, for a person; `source` says where the rates are from."""
    views = f"{topology}: each of {found['hosts']} hosts has to make {found['views_per_host_s']:,.0f} views/s"
    if found["cores_host"] is None:
        return f"{views}. For the cores it takes: --input_rate=HOST,DEVICE, from simclr_jax.input_rate."
    on_host, on_device, cores = found["cores_host"], found["cores_device"], found["host_cores"]
    takes = f"{on_host} of {cores} vCPUs with the augmentation on the host, {on_device} on the device ({source})"
    if on_host <= cores:
        verdict = "The host can do it."
    elif on_device <= cores:
        verdict = "Take --config.augment.where=device."
    else:
        verdict = "The input will be too slow either way: the chips will wait."
    return f"{views}, which takes {takes}. {verdict}"
