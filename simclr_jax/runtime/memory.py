"""How much memory the devices of this process can still give to a program."""

from collections.abc import Iterator
import os
import pathlib

import jax

GIB = 1024**3

_PROC = pathlib.Path("/proc")
_CGROUPS = pathlib.Path("/sys/fs/cgroup")


def available(held: int = 0) -> float:
    """Bytes that a program may take on each device of this process, from what is free now.

    A GPU or a TPU reports its limit and what is in use. The devices of a CPU, simulated ones too, share the memory of the
    machine, or of the container in which this process runs.

    Args:
      held: bytes on each device that the program takes as arguments and that are there already.

    Returns:
      Infinite where it cannot be known.
    """
    devices = jax.local_devices()
    if devices[0].platform == "cpu":
        return _machine() / len(devices) + held
    found = float("inf")
    for device in devices:
        stats = device.memory_stats() or {}
        if "bytes_limit" in stats:
            found = min(found, stats["bytes_limit"] - max(stats.get("bytes_in_use", 0) - held, 0))
    return found


def _machine() -> float:
    """Bytes that are free on this machine, or within the limits of this process's control groups if that is less."""
    return min([_free(), *_in_cgroups()])


def _free() -> float:
    try:
        lines = (_PROC / "meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        pass
    try:  # macOS does not say what is free, only what there is
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return float("inf")


def _in_cgroups() -> Iterator[float]:
    """The bytes that each limited control group of this process has left, of version 1 or 2.

    Containers such as Docker's and jobs of SLURM have such limits. The cache of files counts as used there, but the kernel
    gives it back, so it is free.
    """
    try:
        lines = (_PROC / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, limit, usage, cache = (
            (_CGROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            if controllers
            else (_CGROUPS, "memory.max", "memory.current", "inactive_file")
        )
        folder = root / place.lstrip("/")
        # In a container the path may be that of the host, and the root the container's own group.
        for group in {root, *(parent for parent in (folder, *folder.parents) if parent.is_relative_to(root))}:
            try:
                most, used = int((group / limit).read_text()), int((group / usage).read_text())
                stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            except (OSError, ValueError):  # no such group, or "max": no limit
                continue
            yield most - used + int(stat.get(cache, 0))
