"""Where the records of an ArrayRecord file are, so that one can be read alone, from a bucket too.

The library array_record reads files of this machine only, and takes several times as long as the system takes for a known range
of bytes. The format is Riegeli's: the file is a sequence of chunks, interrupted every 64 KiB by a block header. The last block
says where the footer is, and the footer where each chunk begins. Only files with one record in a chunk (`group_size:1`) are
read.
"""

from collections.abc import Callable
from collections.abc import Iterator
import struct

import numpy as np

# Reads `length` bytes from `offset` on; fewer at the end of the file.
ReadAt = Callable[[int, int], bytes]

BLOCK, BLOCK_HEADER, CHUNK_HEADER = 2**16, 24, 40
_MAGIC = 0x71930E704FDAE05E
_SIMPLE_CHUNK = ord("r")
_NOT_COMPRESSED = 0
_CODECS = {ord("z"): "zstd", ord("b"): "brotli", ord("s"): "snappy"}
# The header of a chunk and the sizes in front of a record that is not compressed.
_HEAD = CHUNK_HEADER + 16


class FormatError(ValueError):
    """A file is not an ArrayRecord file, or one of a kind that is not read here."""


def stored_length(begin: int, size: int) -> int:
    """How many bytes of a file hold `size` bytes of content from the position `begin` on, with the block headers between."""
    within = begin % BLOCK
    skipped = max(0, BLOCK_HEADER - within)
    room = BLOCK - within - skipped
    further = max(0, -(-(size - room) // (BLOCK - BLOCK_HEADER)))
    return skipped + size + BLOCK_HEADER * further


def stored_lengths(begins: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """`stored_length` of several, int64 `[n]`."""
    within = begins % BLOCK
    skipped = np.maximum(0, BLOCK_HEADER - within)
    beyond = np.maximum(0, sizes - (BLOCK - within - skipped))
    return skipped + sizes + BLOCK_HEADER * -(-beyond // (BLOCK - BLOCK_HEADER))


def content(stored: bytes, begin: int) -> bytes:
    """Bytes of a file from the position `begin` on, without the block headers between them."""
    within = begin % BLOCK
    skipped = max(0, BLOCK_HEADER - within)
    if within + len(stored) <= BLOCK:
        return stored[skipped:] if skipped else stored
    parts = [stored[skipped : BLOCK - within]]
    parts += [stored[start + BLOCK_HEADER : start + BLOCK] for start in range(BLOCK - within, len(stored), BLOCK)]
    return b"".join(parts)


def read_content(read: ReadAt, begin: int, size: int) -> bytes:
    """`size` bytes of content from the position `begin` on.

    Raises:
      FormatError: where the file ends before.
    """
    found = content(read(begin, stored_length(begin, size)), begin)
    if len(found) != size:
        raise FormatError(f"the file ends {size - len(found)} bytes too early")
    return found


def chunks(read: ReadAt, file_size: int) -> np.ndarray:
    """Where the chunks with the records begin, and where the last one ends: int64 `[records + 1]`.

    Raises:
      FormatError: where the file is not complete, or has several records in a chunk.
    """
    if file_size < 2 * BLOCK or file_size % BLOCK:
        raise FormatError("it is not a complete ArrayRecord file")
    try:
        postscript = _fields(_simple_records(read, file_size - BLOCK, file_size)[0])
        if postscript.get(2) != _MAGIC:
            raise FormatError("it is not a complete ArrayRecord file")
        footer = postscript[1]
        entries = [_fields(record) for record in _simple_records(read, footer, file_size)[1:]]
        begins = np.array([*(entry[1] for entry in entries), footer], np.int64)
    except (KeyError, OSError) as error:
        raise FormatError("it is damaged") from error
    if any(entry.get(3) != 1 for entry in entries):
        raise FormatError("it has several records in a chunk: write it with group_size:1")
    return begins


def plain_record(read: ReadAt, chunk: int) -> tuple[int, int]:
    """Position and size of the record in a chunk that is not compressed.

    Raises:
      FormatError: where it is compressed.
    """
    head = content(read(chunk, stored_length(chunk, _HEAD)), chunk)
    if head[CHUNK_HEADER] != _NOT_COMPRESSED:
        raise FormatError("its records are compressed")
    _, place = _varint(head, CHUNK_HEADER + 1)
    size, place = _varint(head, place)
    return chunk + stored_length(chunk, place), size


def record(stored: bytes, chunk: int) -> bytes:
    """The record of a chunk, decompressed.

    Args:
      stored: the bytes from the beginning of the chunk to that of the next one.
      chunk: where it begins in the file.

    Raises:
      FormatError: where it is damaged, or has not one record.
    """
    records = _records(content(stored, chunk))
    if len(records) != 1:
        raise FormatError("it has several records in a chunk: write it with group_size:1")
    return records[0]


def _simple_records(read: ReadAt, chunk: int, file_size: int) -> list[bytes]:
    size = struct.unpack_from("<Q", read_content(read, chunk, CHUNK_HEADER), 8)[0]
    if size > file_size:
        raise FormatError("a chunk is damaged")
    return _records(read_content(read, chunk, CHUNK_HEADER + size))


def _records(chunk: bytes) -> list[bytes]:
    """The records of a chunk: its header, how it is compressed, the sizes of the records, and their bytes."""
    try:
        return _split(chunk)
    except (IndexError, struct.error) as error:
        raise FormatError("a chunk is damaged") from error


def _split(chunk: bytes) -> list[bytes]:
    data_size, kind_and_number = struct.unpack_from("<Q8xQ", chunk, 8)
    if kind_and_number & 255 != _SIMPLE_CHUNK or len(chunk) < CHUNK_HEADER + data_size:
        raise FormatError("a chunk is damaged, or of another kind")
    data = chunk[CHUNK_HEADER : CHUNK_HEADER + data_size]
    length, place = _varint(data, 1)
    sizes, values = (_decompressed(part, data[0]) for part in (data[place : place + length], data[place + length :]))
    records, begin = [], 0
    for size in _varints(sizes):
        records.append(values[begin : begin + size])
        begin += size
    if begin != len(values) or len(records) != kind_and_number >> 8:
        raise FormatError("a chunk is damaged")
    return records


def _decompressed(data: bytes, kind: int) -> bytes:
    if kind == _NOT_COMPRESSED:
        return data
    if kind not in _CODECS:
        raise FormatError(f"compression {chr(kind)!r} is not known here")
    import pyarrow

    size, place = _varint(data, 0)
    return pyarrow.Codec(_CODECS[kind]).decompress(data[place:], size, asbytes=True)


def _fields(message: bytes) -> dict[int, int]:
    """The integers of a protocol buffer that has only integers."""
    values = list(_varints(message))
    return {key >> 3: value for key, value in zip(values[::2], values[1::2], strict=True)}


def _varints(data: bytes) -> Iterator[int]:
    place = 0
    while place < len(data):
        value, place = _varint(data, place)
        yield value


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """An integer in groups of seven bits, and the place after it."""
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
