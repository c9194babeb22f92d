"""Rows that cannot be trusted are found: when they are read, and by verifying the whole table."""

import errno
import json
import os

import numpy as np
import pytest

from paging import RowReadError, Table, TableFormatError, verify_table
from tests.paging.sample_tables import edit_manifest, flip_byte, shard_paths, write_table

STRIDE = 512
ROW_BYTES = 384


@pytest.fixture
def directory(tmp_path):
    """A table of ten rows, five in a shard."""
    write_table(tmp_path / "table", rows_per_shard=5)
    return tmp_path / "table"


@pytest.fixture
def failing_reads(monkeypatch):
    """Let reads at a file offset fail; maps offset -> how many more times."""
    failures = {}
    preadv = os.preadv

    def injected(handle, buffers, offset):
        if failures.get(offset, 0):
            failures[offset] -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return preadv(handle, buffers, offset)

    monkeypatch.setattr(os, "preadv", injected)
    return failures


@pytest.mark.parametrize("byte", [0, ROW_BYTES - 1])
def test_flipped_byte_of_a_row_is_an_error_with_row_file_and_offset(directory, byte):
    path, offset = shard_paths(directory)[1], 4096 + 2 * STRIDE
    flip_byte(path, offset + byte)
    with Table.open(directory) as table, pytest.raises(RowReadError) as caught:
        table.read_rows([6, 7])
    expected = f"row 7 ({path}, byte {offset}): its checksum does not match its bytes; copy or export the table again"
    assert str(caught.value) == expected


def test_other_rows_of_a_damaged_shard_are_read(directory):
    flip_byte(shard_paths(directory)[1], 4096 + 2 * STRIDE)
    with Table.open(directory) as table:
        assert table.read_rows([5, 6, 8, 9]).shape == (4, ROW_BYTES)


def test_sound_bytes_of_another_row_are_an_error(directory):
    path = shard_paths(directory)[0]
    content = bytearray(path.read_bytes())
    content[4096 : 4096 + STRIDE] = content[4096 + STRIDE : 4096 + 2 * STRIDE]
    path.write_bytes(content)
    with Table.open(directory) as table, pytest.raises(RowReadError, match="row 0"):
        table.read_rows([0])


def test_shard_truncated_under_an_open_table_is_an_error(directory):
    path = shard_paths(directory)[1]
    with Table.open(directory) as table:
        os.truncate(path, 4096 + 4 * STRIDE + 100)
        with pytest.raises(RowReadError, match=r"row 9 .* the file ends 284 bytes before the row does"):
            table.read_rows([9])
        assert table.read_rows([8]).shape == (1, ROW_BYTES)


def test_read_that_fails_once_is_tried_again(directory, failing_reads):
    with Table.open(directory) as table:
        expected = table.read_rows([3])
        failing_reads[4096 + 3 * STRIDE] = 1
        assert np.array_equal(expected, table.read_rows([3]))


def test_read_that_fails_twice_is_an_error(directory, failing_reads):
    failing_reads[4096 + 3 * STRIDE] = 2
    with Table.open(directory) as table, pytest.raises(RowReadError, match=r"row 3 .* cannot be read \(Input/output"):
        table.read_rows([3])


def test_reads_that_return_a_few_bytes_at_a_time_are_put_together(directory, monkeypatch):
    preadv = os.preadv
    with Table.open(directory) as table:
        expected = table.read_all()
        monkeypatch.setattr(os, "preadv", lambda handle, buffers, offset: preadv(handle, [buffers[0][:100]], offset))
        assert np.array_equal(expected, table.read_all())


def test_sound_table_is_reported_with_its_sizes(directory):
    report = verify_table(directory)
    sizes = sum(path.stat().st_size for path in directory.glob("*.safetensors"))
    assert (report.num_rows, report.num_shards, report.num_bytes) == (10, 2, sizes)


def test_verifying_reports_progress_up_to_the_last_row(directory):
    calls = []
    verify_table(directory, on_progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (10, 10)


def test_verifying_counts_bad_rows_and_names_the_first(directory):
    first, second = shard_paths(directory)
    flip_byte(second, 4096)
    flip_byte(first, 4096 + 3 * STRIDE)
    with pytest.raises(RowReadError) as caught:
        verify_table(directory)
    message = str(caught.value)
    assert message.startswith(
        f"2 of 10 rows of {directory} are bad; the first is row 3 ({first}, byte 5632): its check"
    )


def test_verifying_finds_padding_that_is_not_zero(directory):
    flip_byte(shard_paths(directory)[0], 4096 + STRIDE - 1)
    with pytest.raises(RowReadError, match=r"row 0 .* its padding is not zero"):
        verify_table(directory)


def test_verifying_goes_on_behind_a_row_that_cannot_be_read(directory, failing_reads):
    failing_reads[4096 + 2 * STRIDE] = 4
    with pytest.raises(RowReadError, match=r"2 of 10 rows .* row 2 .* cannot be read"):
        verify_table(directory)


def test_verifying_compares_digests_of_files(directory):
    edit_manifest(directory, lambda values: values["shards"][1].update(digest="0" * 32))
    with pytest.raises(TableFormatError, match=r"rows-00001-of-00002\.safetensors does not match its digest"):
        verify_table(directory)


def test_verifying_finds_a_damaged_manifest(directory):
    path = directory / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_layers": 4}))
    with pytest.raises(TableFormatError, match="does not match its own digest"):
        verify_table(directory)


@pytest.mark.parametrize("times", [1, 2])
def test_a_row_that_fails_among_all_is_read_again_by_itself(directory, failing_reads, times):
    with Table.open(directory) as table:
        expected = table.read_all()
        failing_reads[4096] = times  # of the read of many rows, then of the first row's own
        assert np.array_equal(expected, table.read_all())


def test_a_bad_row_among_all_is_an_error(directory):
    flip_byte(shard_paths(directory)[0], 4096 + 3 * STRIDE)
    with Table.open(directory) as table, pytest.raises(RowReadError, match=r"row 3 .* its checksum"):
        table.read_all()
