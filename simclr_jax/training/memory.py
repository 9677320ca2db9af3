"""Whether the step fits in the memory, before the first one; and what would fit instead.

The compiler knows what a program needs. The step is compiled before its first use and is not compiled again: `jax.jit` keeps
what `lower(...).compile()` made.
"""

from collections.abc import Callable
import contextlib
import dataclasses
import logging
import math
import re
import threading
from typing import Any

from etils import epath
import jax
from ml_collections import ConfigDict
import numpy as np

from simclr_jax.errors import UserError
from simclr_jax.runtime import distributed
from simclr_jax.runtime import memory
from simclr_jax.runtime.heartbeat import working
from simclr_jax.runtime.memory import GIB
from simclr_jax.training import initial
from simclr_jax.training.recipe import PretrainRecipe
from simclr_jax.training.state import TrainState

log = logging.getLogger("simclr_jax")

# Share of the available memory that a suggestion may take, by the model of `Need`.
SAFE = 0.9
# What `microbatches="auto"` leaves for what is loaded after it has chosen.
KEPT_FREE = 0.95
# What convolutions take for a time, whatever the batch and the image: measured with `models.conv` on a CPU.
WORKSPACE = 32 * 1024**2
# Suggested sides of images are multiples of this many pixels.
SIDE = 16


@dataclasses.dataclass(frozen=True)
class Need:
    """What a step needs on each device, in bytes; and a model of what it would need with other settings.

    The model: besides the state and a workspace, all grows in proportion to images and pixels. Micro-batches divide it, and add
    a second copy of the batch, and of the parameters for the sum of their gradients and the new part of it.

    Attributes:
      total: arguments, outputs and temporaries; outputs that reuse the memory of arguments count once.
      state: of it, parameters, statistics and optimiser state.
      params: the parameters alone.
      batch: the images and what comes with them.
      parts: the number of micro-batches.
    """

    total: float
    state: float
    params: float
    batch: float
    parts: int = 1

    @property
    def _fixed(self) -> float:
        return self.state + min(WORKSPACE, self.total - self.state)

    @property
    def _of_parts(self) -> float:
        return self.batch + 2 * self.params

    def scaled(self, factor: float) -> float:
        """The need with `factor` times as many images, or pixels."""
        return self._fixed + factor * (self.total - self._fixed)

    def in_parts(self, parts: int) -> float:
        """The need with `parts` micro-batches."""
        divided = self.total - self._fixed - self.batch - (self._of_parts if self.parts > 1 else 0)
        extra = self._of_parts if parts > 1 else 0
        return self._fixed + self.batch + extra + max(divided, 0) * self.parts / parts


def bytes_of(tree: Any) -> float:
    """Bytes of (abstract) arrays on each device."""

    def one(leaf: Any) -> float:
        shape = leaf.sharding.shard_shape(leaf.shape) if getattr(leaf, "sharding", None) else leaf.shape
        return math.prod(shape) * np.dtype(leaf.dtype).itemsize if not _is_key(leaf) else 0

    return float(sum(one(leaf) for leaf in jax.tree.leaves(tree)))


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


# Steps that are being compiled, by their identity.
_compiling: dict[int, threading.Thread] = {}


def compile_ahead(step_fn: Any, state: TrainState, batch: Any) -> None:
    """Begins to compile a step in a thread, from the shapes of its arguments, while the first batch is made.

    `need_of` waits for it. An error is raised there, when the step is compiled again. A process that ends without `need_of`
    waits too: to end Python while a thread compiles would abort it.
    """

    def work() -> None:
        with contextlib.suppress(Exception):
            step_fn.lower(state, batch).compile()

    _compiling[id(step_fn)] = thread = threading.Thread(target=work, name="compile the step")
    thread.start()


def need_of(step_fn: Any, state: TrainState, batch: Any, parts: int = 1) -> Need:
    """Compiles a step and asks the compiler what it needs.

    Args:
      step_fn: jitted.
      state, batch: its arguments, or their shapes.
      parts: the number of micro-batches of the step.

    Returns:
      The need; its total is infinite where the compiler itself runs out of memory and does not say how much it would take.
    """
    if id(step_fn) in _compiling:
        _compiling.pop(id(step_fn)).join()
    sizes = bytes_of(state), bytes_of(state.params), bytes_of(batch)
    try:
        compiled = step_fn.lower(state, batch).compile()
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return Need(refused_bytes(error) or math.inf, *sizes, parts)
    found = compiled.memory_analysis()
    if found is None:  # a backend that does not tell
        return Need(0, *sizes, parts)
    total = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return Need(total + found.temp_size_in_bytes, *sizes, parts)


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device, or its compiler, had too little memory."""
    return "RESOURCE_EXHAUSTED" in str(error) or refused_bytes(error) is not None


def refused_bytes(error: Exception) -> float | None:
    """What a program would have needed that the TPU compiler refused; None where its message does not say."""
    # "Used 41.3G of 15.75G hbm", or "temporaries (256.00G) exceeds available HBM (7.48G)".
    pattern = r"(?:Used |\()([\d.]+)([KMGT])\)? (?:of|exceeds available HBM) "
    used = re.search(pattern, str(error))
    return float(used[1]) * 1024 ** ("KMGT".index(used[2]) + 1) if used else None


def check(step_fn: Any, state: TrainState, batch: Any, config: ConfigDict) -> None:
    """Compiles the step for these arguments and refuses one that does not fit. All processes have to call it.

    Raises:
      UserError: with what the step needs, what is available, and what would fit.
    """
    with jax.transfer_guard("allow"):
        need = need_of(step_fn, state, batch, config.get("microbatches", 1))
        room = distributed.min_over_processes(memory.available(held=int(bytes_of((state, batch)))))
    if need.total > room:
        raise too_large(need, room, config)


def too_large(need: Need, room: float, config: ConfigDict) -> UserError:
    """The message about a step that needs more than `room` bytes on each device."""
    count = len(jax.local_devices())
    on_cpu = jax.local_devices()[0].platform == "cpu"
    shown = count if on_cpu else 1  # the devices of a CPU share its memory
    where = "are free on this machine" if on_cpu else "are available on each device"
    needs = f"{need.total * shown / GIB:.1f} GiB" if math.isfinite(need.total) else "more memory than there is"
    fitting = suggestions(need, room, config) if math.isfinite(need.total) else []
    advice = (
        f"By an estimate from the compiled step, one of these fits: {', '.join(fitting)}."
        if fitting
        else "Take a smaller config.batch_size, smaller images or a smaller network."
    )
    return UserError(
        f"a step with config.batch_size={config.batch_size} and config.data.image_size={config.data.image_size} needs "
        f"{needs}, but {room * shown / GIB:.1f} GiB {where}. {advice} (--nomemory_check tries it all the same.)"
    )


def ran_out(config: ConfigDict, error: Exception) -> UserError:
    """The message about a run that began, and for which the memory was too small all the same."""
    parts = ", raise config.microbatches" if "microbatches" in config else ""
    reason = str(error).strip().splitlines()[0]
    return UserError(
        f"the memory of the device is too small ({reason}). Lower config.batch_size (now {config.batch_size}){parts}, or "
        f"lower config.data.image_size (now {config.data.image_size}); the same command continues from the newest checkpoint."
    )


def suggestions(need: Need, room: float, config: ConfigDict) -> list[str]:
    """Flags, one of which makes the step fit by the model of `Need`: batch size, micro-batches, image size."""
    room *= SAFE
    devices, parts = jax.device_count(), config.get("microbatches", 1)
    found = []
    # Powers of two are usual, and share equally.
    smallest = devices * parts
    batches = [smallest * 2**power for power in range(32) if smallest * 2**power < config.batch_size]
    fitting = [size for size in batches if size > 1 and need.scaled(size / config.batch_size) <= room]
    if fitting:
        found.append(f"--config.batch_size={fitting[-1]}")
    if "microbatches" in config:
        more = [number for number in divisors(config, devices) if number > parts and need.in_parts(number) <= room]
        if more:
            found.append(f"--config.microbatches={more[0]}")
    side = config.data.image_size
    sides = [size for size in range(SIDE, side, SIDE) if need.scaled((size / side) ** 2) <= room]
    if sides:
        found.append(f"--config.data.image_size={sides[-1]}")
    return found


def divisors(config: ConfigDict, devices: int) -> list[int]:
    """The numbers of micro-batches that divide the images on each device, from 1 up; each part has two images or more."""
    each = config.batch_size // devices
    return [number for number in range(1, max(each // 2, 1) + 1) if each % number == 0]


def smallest_parts(numbers: list[int], need_in: Callable[[int], Need], room: float) -> int | None:
    """The smallest number of micro-batches that fits, by few compilations; None where none does.

    Bisects, but begins each time with what the model of `Need` says. The number before the answer is not compiled where
    the model puts it far above the memory.

    Args:
      numbers: to choose from, from small to large.
      need_in: compiles the step in a number of parts.
      room: bytes on each device.
    """
    low, high = -1, len(numbers)  # the largest place that does not fit, the smallest that does
    place, last = 0, None
    while high - low > 1:
        need = need_in(numbers[place])
        if need.total <= room:
            high = place
        else:
            low = place
        last = need if math.isfinite(need.total) and need.total else last
        if last is None:
            place = (low + high) // 2
            continue
        predicted = [last.in_parts(number) for number in numbers]
        if high < len(numbers) and high - low > 1 and predicted[high - 1] > room / SAFE:
            break
        likely = next((number for number, total in enumerate(predicted) if total <= room), len(numbers) - 1)
        place = min(max(likely, low + 1), high - 1)
    return numbers[high] if high < len(numbers) else None


def with_microbatches(recipe: PretrainRecipe, workdir: epath.Path) -> PretrainRecipe:
    """The recipe with a number for `config.microbatches="auto"`: the one that fits, or that of the run that continues.

    All processes have to call it.

    Args:
      recipe: its config has "auto".
      workdir: of the run.

    Raises:
      UserError: where not even the largest number fits.
    """
    recipes: dict[int, PretrainRecipe] = {}
    needs: dict[int, Need] = {}

    def in_parts(parts: int) -> PretrainRecipe:
        config = recipe.config.copy_and_resolve_references()
        with config.ignore_type():  # from a word to a number
            config.microbatches = parts
        return dataclasses.replace(recipe, config=config)

    def compiled(parts: int) -> Need:
        one = recipes[parts] = in_parts(parts)
        with working(f"compiling the step in {parts} micro-batches" if parts > 1 else "compiling the step"):
            needs[parts] = need_of(one.step, one.abstract_state(), one.abstract_batch(), parts)
        return needs[parts]

    earlier = initial.config_of_run(workdir)
    if earlier is not None:
        return in_parts(earlier.microbatches)
    room = distributed.min_over_processes(KEPT_FREE * memory.available())
    found = smallest_parts(divisors(recipe.config, jax.device_count()), compiled, room)
    if found is None:
        raise too_large(needs[max(needs)], room, recipes[max(needs)].config)
    log.info("config.microbatches is %d: the smallest number that fits in the memory.", found)
    return recipes[found]
