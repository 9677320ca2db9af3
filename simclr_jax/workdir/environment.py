"""Write `environment.json`: where the numbers of a workdir come from. A list with an entry for each start of the run."""

import datetime
import importlib.metadata
import json
import logging
import os
import pathlib
import platform
import shlex
import socket
import subprocess
import sys
from typing import Any

from etils import epath
import jax

import simclr_jax
from simclr_jax.runtime import distributed
from simclr_jax.runtime import files

log = logging.getLogger("simclr_jax")

FILE = "environment.json"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow", "onednn-cpu-gomp")
# Settings outside the config that change what is computed, or how fast.
VARIABLES = (
    "XLA_FLAGS",
    "LIBTPU_INIT_ARGS",
    "JAX_PLATFORMS",
    "JAX_DEFAULT_MATMUL_PRECISION",
    "JAX_ENABLE_X64",
    "SIMCLR_JAX_ONEDNN",
)
# Those that change results by more than the order of a sum.
DECIDE = ("JAX_DEFAULT_MATMUL_PRECISION", "JAX_ENABLE_X64", "SIMCLR_JAX_ONEDNN")


def record(workdir: epath.Path, started: datetime.datetime) -> None:
    """Append an entry for this start of the run, on the primary process. Further calls of the same start change nothing.

    Warns where this start computes with other settings, packages or devices than the last one.

    Args:
      workdir: of the run.
      started: when the command started, in UTC.
    """
    if not distributed.is_primary():
        return
    path, stamp = workdir / FILE, started.isoformat(timespec="milliseconds")
    entries = read(workdir)
    if entries and entries[-1]["started"] == stamp:
        return
    now = describe()
    if entries and (changes := differences(entries[-1], now)):
        log.warning("Not as at the last start in %s: %s. Numbers can differ from those of one run.", workdir, changes)
    entries.append({"started": stamp} | now)
    files.write_atomically(path, (json.dumps(entries, indent=2) + "\n").encode())


def read(workdir: epath.Path) -> list[dict[str, Any]]:
    """The entries, from the first start to the last; none for a run of an older version. A damaged file is kept aside."""
    path = workdir / FILE
    if not path.exists():
        return []
    try:
        entries = json.loads(path.read_bytes())
        if isinstance(entries, list) and all(isinstance(entry, dict) and "started" in entry for entry in entries):
            return entries
    except ValueError:
        pass
    log.warning("%s was damaged; it is kept as %s, and begins anew.", path, files.set_aside(path))
    return []


def differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    """What of two entries differs and can change results, for a message; "" where nothing does."""

    def facts(entry: dict[str, Any]) -> dict[str, str]:
        found = {name: entry.get("variables", {}).get(name, "unset") for name in DECIDE}
        found["device"] = entry.get("devices", {}).get("kind", "unknown")
        return found | {name: entry.get("versions", {}).get(name, "none") for name in PACKAGES}

    old, new = facts(before), facts(now)
    return ", ".join(f"{name} was {old[name]}, is {new[name]}" for name in old if old[name] != new[name])


def describe() -> dict[str, Any]:
    """Code, versions, command line, machine and devices, as JSON has them."""
    devices = jax.devices()
    return {
        "git": git(pathlib.Path(simclr_jax.__file__).parent.parent),
        "versions": {"python": platform.python_version(), "simclr_jax": simclr_jax.__version__} | _versions(),
        "command": shlex.join(sys.orig_argv),
        "folder": os.getcwd(),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "devices": {"kind": devices[0].device_kind, "platform": devices[0].platform, "count": len(devices)},
        "processes": jax.process_count(),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def git(folder: pathlib.Path) -> dict[str, Any] | None:
    """The commit that is checked out in `folder`, and whether files differ from it; None where it is not a git checkout."""

    def ask(*words: str) -> str:
        command = ["git", "-C", str(folder), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()

    try:
        # An installed package may lie within the checkout of something else.
        if pathlib.Path(ask("rev-parse", "--show-toplevel")).resolve() != folder.resolve():
            return None
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):  # no git, no checkout, or no commit yet
        return None


def _versions() -> dict[str, str]:
    """The versions of `PACKAGES` that are installed."""
    found = {}
    for package in PACKAGES:
        for name in (package, f"{package}-cpu"):  # TensorFlow for the CPU has another name
            try:
                found[package] = importlib.metadata.version(name)
                break
            except importlib.metadata.PackageNotFoundError:
                continue
    return found
