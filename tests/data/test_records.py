"""Where the records of a file are, against the library that wrote it; and an index of a million images."""

import os
import time

from etils import epath
import numpy as np
import pytest

from simclr_jax.data.records import layout
from simclr_jax.data.records.files import LocalFile
from simclr_jax.data.records.index import Index
from simclr_jax.data.records.index import Names


def write(path, records, options):
    library = pytest.importorskip("array_record.python.array_record_module")
    writer = library.ArrayRecordWriter(str(path), options)
    for record in records:
        writer.write(record)
    writer.close()
    return LocalFile(str(path))


@pytest.mark.parametrize("kind", ["uncompressed", "zstd", "brotli:3"])
def test_every_record_is_where_it_is_said_to_be(tmp_path, kind):
    rng = np.random.default_rng(0)
    # Also records that end before, at and after the header of a block.
    sizes = [1, 3, 65_400, 65_488, 65_512, 65_536, 200_000, *rng.integers(1, 150_000, 20), *rng.integers(1, 3000, 300)]
    records = [rng.bytes(int(size)) for size in sizes]
    file = write(tmp_path / "a", records, f"group_size:1,{kind}")
    begins = layout.chunks(file.read, file.size)
    assert len(begins) == len(records) + 1
    for (begin, end), record in zip(zip(begins[:-1].tolist(), begins[1:].tolist(), strict=True), records, strict=True):
        assert layout.record(file.read(begin, end - begin), begin) == record
        if kind == "uncompressed":
            assert layout.read_content(file.read, *layout.plain_record(file.read, begin)) == record


def test_lengths_of_several_are_those_of_each():
    rng = np.random.default_rng(0)
    begins, sizes = rng.integers(0, 2**20, 2000), rng.integers(1, 2**18, 2000)
    begins[:500] -= begins[:500] % layout.BLOCK  # at the header of a block
    expected = [layout.stored_length(begin, size) for begin, size in zip(begins.tolist(), sizes.tolist(), strict=True)]
    np.testing.assert_array_equal(layout.stored_lengths(begins, sizes), expected)


def test_other_files_are_refused(tmp_path):
    file = write(tmp_path / "groups", [b"a", b"b", b"c"], "group_size:2")
    with pytest.raises(layout.FormatError, match="several records in a chunk"):
        layout.chunks(file.read, file.size)
    file = write(tmp_path / "zstd", [b"a" * 1000], "group_size:1,zstd")
    with pytest.raises(layout.FormatError, match="its records are compressed"):
        layout.plain_record(file.read, int(layout.chunks(file.read, file.size)[0]))
    (tmp_path / "torn").write_bytes((tmp_path / "zstd").read_bytes()[:-1])
    (tmp_path / "zeros").write_bytes(b"\0" * 4 * layout.BLOCK)
    (tmp_path / "noise").write_bytes(np.random.default_rng(0).bytes(4 * layout.BLOCK))
    for name in ("torn", "zeros", "noise"):
        file = LocalFile(str(tmp_path / name))
        with pytest.raises(layout.FormatError):
            layout.chunks(file.read, file.size)


@pytest.mark.slow
def test_an_index_of_1_3_million_images_opens_at_once(tmp_path):
    number, each = 1_300_000, 23
    text = np.frombuffer(b"".join(b"train/n%07d_%08d" % (row // 1300, row) for row in range(number)), np.uint8)
    index = Index(
        begins=np.arange(number, dtype=np.int64),
        sizes=np.full(number, 100_000, np.int32),
        labels=(np.arange(number) // 1300).astype(np.int32),
        names=Names("", number, (text, np.arange(1, number + 1) * (len(text) // number))),
        file_ends=np.arange(4096, number + 4096, 4096),
        file_bytes=np.zeros(318, np.int64),
    )
    assert len(text) == number * each
    index.save(epath.Path(tmp_path))
    began = time.monotonic()
    opened = Index.load(os.fspath(tmp_path))
    assert time.monotonic() - began < 2
    assert sum(array.nbytes for array in (opened.begins, opened.sizes, opened.labels)) < 30e6
    assert opened.names[1300] == "train/n0000001_00001300"
    np.testing.assert_array_equal(opened.labels, index.labels)
