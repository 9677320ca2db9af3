"""How programs are compiled, and their cache.

The cache is verified at the start, so that a damaged program is compiled again instead of run. JAX never writes a program again
that is there already, even if it cannot be read, and nothing says whether its bytes are those that were written.
"""

import json
import logging
import os
import zlib

from etils import epath
from jax.sharding import Mesh

from simclr_jax.runtime import files

log = logging.getLogger("simclr_jax")

CHECKSUMS = "checksums.json"
_SUFFIX = "-cache"  # of JAX's files


def options_for_one_run(mesh: Mesh) -> dict[str, int] | None:
    """Compiler options, for `jax.jit`, of a program that runs once on a mesh and is large.

    On a CPU, full optimisation takes longer than such a program runs: 7 s for the initial values of a ResNet-18, with little of
    it 2 s. Its results have the same bits. XLA_FLAGS that say how much to optimise apply unchanged.
    """
    flag = "xla_backend_optimization_level"
    if mesh.devices.flat[0].platform != "cpu" or flag in os.environ.get("XLA_FLAGS", ""):
        return None
    return {flag: 1}


def verify(folder: epath.Path) -> None:
    """Removes damaged programs from a cache on a file system: of another checksum, or cut off where they have none yet."""
    if files.is_remote(folder) or not folder.is_dir():
        return
    known = _known(folder)
    removed = set()
    for path in _programs(folder):
        content = path.read_bytes()
        sound = known[path.name] == zlib.crc32(content) if path.name in known else _is_whole(content)
        if not sound:
            path.unlink(missing_ok=True)
            removed.add(path.name)
            log.warning("The compiled program %s was damaged and is compiled again.", path)
    if removed & known.keys():  # the program that is compiled in its place may have other bytes
        _write(folder, {name: value for name, value in known.items() if name not in removed})


def seal(folder: epath.Path) -> None:
    """Writes the checksums of programs that have none yet, but not of one that a thread is still writing."""
    if files.is_remote(folder) or not folder.is_dir():
        return
    known = _known(folder)
    sums = {}
    for path in _programs(folder):
        if path.name in known:
            sums[path.name] = known[path.name]
        elif _is_whole(content := path.read_bytes()):
            sums[path.name] = zlib.crc32(content)
    if sums != known:
        _write(folder, sums)


def _programs(folder: epath.Path) -> list[epath.Path]:
    return sorted(path for path in folder.iterdir() if path.name.endswith(_SUFFIX))


def _write(folder: epath.Path, sums: dict[str, int]) -> None:
    files.write_atomically(folder / CHECKSUMS, json.dumps(sums, indent=0, sort_keys=True).encode())


def _known(folder: epath.Path) -> dict[str, int]:
    try:
        known = json.loads((folder / CHECKSUMS).read_bytes())
        return {str(name): int(value) for name, value in known.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _is_whole(content: bytes) -> bool:
    """Whether a file is a complete compressed program, as JAX writes it: by zstandard where that is installed, else by zlib."""
    if content[:4] == b"\x28\xb5\x2f\xfd":
        try:
            import zstandard
        except ImportError:
            return True  # it cannot be looked into
        try:
            zstandard.ZstdDecompressor().decompress(content, max_output_size=2**31)
        except zstandard.ZstdError:
            return False
        return True
    stream = zlib.decompressobj()
    try:
        stream.decompress(content)
    except zlib.error:
        return False
    return stream.eof
