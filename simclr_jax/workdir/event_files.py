"""Cut TensorBoard's event files back to the step from which a run continues, so that each step is there once.

An event file is a sequence of records: length (8 bytes), checksum of the length (4), the event, checksum of the event (4).
"""

from collections.abc import Iterator
import struct

from etils import epath
from google.protobuf.message import DecodeError
from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event

from simclr_jax.runtime import files


def cut_back(folder: epath.Path, step: int) -> None:
    """Removes the events after `step`, and what follows a damaged record, from all event files in a folder."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if "tfevents" not in path.name:
            continue
        content = path.read_bytes()
        kept = b"".join(record for record, event in _records(content) if event.step <= step)
        if kept != content:
            files.write_atomically(path, kept)


def _records(content: bytes) -> Iterator[tuple[bytes, Event]]:
    """The records and their events, up to the first one that is damaged."""
    start = 0
    while start + 12 <= len(content):
        (length,) = struct.unpack_from("<Q", content, start)
        end = start + 12 + length + 4
        if end > len(content):
            return
        body = content[start + 12 : end - 4]
        if _masked(body) != struct.unpack_from("<I", content, end - 4)[0]:
            return
        try:
            yield content[start:end], Event.FromString(body)
        except DecodeError:
            return
        start = end


def _masked(data: bytes) -> int:
    """The checksum as these files have it (tensorflow/core/lib/hash/crc32c.h)."""
    crc = crc32c(data) & 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
