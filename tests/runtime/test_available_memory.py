"""What memory is available: of the machine, of control groups, of accelerators."""

from unittest import mock

import jax
import pytest

from simclr_jax.runtime import memory

GIB = memory.GIB


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with 8 GiB free, whose files the test adds to."""

    def write(path, text):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    monkeypatch.setattr(memory, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "cgroup")
    write("proc/meminfo", f"MemTotal: 99999999 kB\nMemAvailable: {8 * 1024**2} kB\n")
    return write


def test_the_devices_of_a_cpu_share_what_is_free(machine):
    assert memory.available() == 8 * GIB / jax.local_device_count()
    assert memory.available(held=100) == 8 * GIB / jax.local_device_count() + 100


@pytest.mark.parametrize(("version", "line"), [(1, "4:cpu,memory:/job"), (2, "0::/job/step")])
def test_a_control_group_limits_it(machine, version, line):
    """The group above counts too, and the cache of files is free."""
    machine("proc/self/cgroup", f"1:cpuset:/other\n{line}\n")
    folder, names, cache = (
        ("cgroup/memory/job", ("memory.limit_in_bytes", "memory.usage_in_bytes"), "total_inactive_file")
        if version == 1
        else ("cgroup/job", ("memory.max", "memory.current"), "inactive_file")
    )
    for name, value in zip(names, (4 * GIB, 3 * GIB), strict=True):
        machine(f"{folder}/{name}", f"{value}\n")
    machine(f"{folder}/memory.stat", f"anon 5\n{cache} {GIB}\n")
    if version == 2:
        machine("cgroup/job/step/memory.max", "max\n")
    assert memory.available() == 2 * GIB / jax.local_device_count()


def test_an_accelerator_says_what_it_has(monkeypatch):
    def device(limit, used):
        return mock.Mock(platform="gpu", **{"memory_stats.return_value": {"bytes_limit": limit, "bytes_in_use": used}})

    monkeypatch.setattr(jax, "local_devices", lambda: [device(80, 30), device(80, 40)])
    assert memory.available() == 40
    assert memory.available(held=25) == 65
    assert memory.available(held=60) == 80, "never more than the limit"
    monkeypatch.setattr(
        jax, "local_devices", lambda: [mock.Mock(platform="tpu", **{"memory_stats.return_value": None})]
    )
    assert memory.available() == float("inf"), "a device that does not say refuses nothing"
