import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from paging import Encoding, Segment, Table, TableFormatError, TableGeometry, TableWriter, encode_rows, verify_table
from tests.paging.sample_tables import (
    FINGERPRINT,
    FLOATS,
    entries,
    random_rows,
    shard_paths,
    small_geometry,
    write_table,
)

MIXED = TableGeometry(
    hidden_size=5,
    num_layers=4,
    vocab_size=6,
    segments=(
        Segment(layer=1, offset=0, num_bytes=10, encoding=Encoding.FP16),
        Segment(layer=3, offset=10, num_bytes=20, encoding=Encoding.FP32),
    ),
)


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_rows_read_equal_rows_written(data):
    geometry = small_geometry(
        vocab_size=data.draw(st.integers(1, 20)),
        hidden_size=data.draw(st.sampled_from([1, 7, 64, 256, 1021])),
        num_layers=data.draw(st.integers(1, 4)),
        encoding=data.draw(st.sampled_from(FLOATS)),
    )
    rows = random_rows(geometry.vocab_size, geometry.row_bytes)
    shard_bytes = 4096 + data.draw(st.integers(1, 21)) * geometry.row_stride
    numbers = data.draw(st.lists(st.integers(0, geometry.vocab_size - 1), max_size=30))
    with tempfile.TemporaryDirectory() as parent:
        directory = Path(parent) / "table"
        with TableWriter(
            directory, geometry=geometry, fingerprint="f", num_rows=len(rows), shard_bytes=shard_bytes
        ) as writer:
            while len(rows) > (start := writer.num_written):
                writer.write(rows[start : start + data.draw(st.integers(1, len(rows)))])
        verify_table(directory)
        with Table.open(directory) as table:
            assert np.array_equal(rows, table.read_all())
            assert np.array_equal(rows[numbers], table.read_rows(numbers))


@pytest.mark.parametrize(
    ("geometry", "dtype"),
    [
        (small_geometry(encoding=Encoding.BF16), torch.bfloat16),
        (small_geometry(encoding=Encoding.FP16), torch.float16),
        (small_geometry(encoding=Encoding.FP32, hidden_size=341), torch.float32),
        (MIXED, torch.uint8),
    ],
)
def test_plain_safetensors_library_reads_the_same_rows(tmp_path, geometry, dtype):
    rows = write_table(tmp_path / "table", geometry, rows_per_shard=4)
    shards = []
    for path in shard_paths(tmp_path / "table"):
        with safe_open(path, "pt") as file:
            assert file.keys() == ["rows"]
            shards.append(file.get_tensor("rows"))
    tensor = torch.cat(shards)
    assert tensor.dtype == dtype
    assert np.array_equal(rows, tensor.view(torch.uint8)[:, : geometry.row_bytes])


def test_documented_example_reads_a_row(tmp_path):
    geometry = small_geometry()
    values = torch.randn(10, 3, 64)
    write_table(tmp_path / "my-table", geometry, rows=encode_rows(values, geometry), rows_per_shard=4)
    documentation = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
    example, _ = re.findall(r"```python\n(.*?)```", documentation, re.DOTALL)
    names = {}
    exec(example.replace('"my-table"', repr(str(tmp_path / "my-table"))), names)  # noqa: S102 - our own documentation
    assert torch.equal(values[7].bfloat16(), names["values"])


def test_padding_between_rows_is_zero(tmp_path):
    write_table(tmp_path / "table", MIXED)
    with safe_open(shard_paths(tmp_path / "table")[0], "pt") as file:
        assert not file.get_tensor("rows")[:, MIXED.row_bytes :].any()


def test_first_row_lies_at_byte_4096(tmp_path):
    rows = write_table(tmp_path / "table")
    content = shard_paths(tmp_path / "table")[0].read_bytes()
    assert content[4096 : 4096 + rows.shape[1]] == rows[0].tobytes()


def test_table_is_exactly_its_files(tmp_path):
    write_table(tmp_path / "table", rows_per_shard=6)
    expected = [
        "auxiliary.safetensors",
        "manifest.json",
        "rows-00000-of-00002.safetensors",
        "rows-00001-of-00002.safetensors",
    ]
    assert expected == entries(tmp_path / "table")
    assert entries(tmp_path) == ["table"]


def test_row_checksum_covers_table_id_row_number_and_payload(tmp_path):
    rows = write_table(tmp_path / "table")
    with Table.open(tmp_path / "table") as table:
        seed = int.from_bytes(bytes.fromhex(table.table_id)[:8], "little") + 3
        assert xxhash.xxh3_64_intdigest(rows[3].tobytes(), seed=seed % 2**64) == table.checksums[3]


def test_two_tables_of_one_model_have_different_ids(tmp_path):
    write_table(tmp_path / "a")
    write_table(tmp_path / "b")
    with Table.open(tmp_path / "a") as a, Table.open(tmp_path / "b") as b:
        assert a.table_id != b.table_id


def test_geometry_and_fingerprint_survive(tmp_path):
    write_table(tmp_path / "table", MIXED)
    with Table.open(tmp_path / "table", expect_fingerprint=FINGERPRINT, expect_vocab_size=6) as table:
        assert table.geometry == MIXED
        assert table.num_rows == 6
        assert table.ids is None


def test_sparse_table_keeps_its_ids(tmp_path):
    ids = np.array([2, 3, 9], dtype=np.int64)
    rows = write_table(tmp_path / "table", ids=ids)
    verify_table(tmp_path / "table")
    with Table.open(tmp_path / "table") as table:
        assert table.ids.tolist() == [2, 3, 9]
        assert np.array_equal(rows[[1]], table.read_rows([1]))


@pytest.mark.parametrize("ids", [[3, 3], [4, 2], [-1, 2], [2, 10]])
def test_ids_that_do_not_increase_within_the_vocabulary_are_refused(tmp_path, ids):
    with pytest.raises(ValueError, match="ids must increase strictly"):
        write_table(tmp_path / "table", ids=np.array(ids, dtype=np.int64))


def test_fewer_rows_than_ids_need_a_list_of_ids(tmp_path):
    with pytest.raises(TableFormatError, match="9 rows for 10 ids"):
        write_table(tmp_path / "table", rows=random_rows(9, small_geometry().row_bytes))


def test_torch_tensors_are_written_like_arrays(tmp_path):
    rows = torch.from_numpy(random_rows(10, small_geometry().row_bytes))
    write_table(tmp_path / "table", rows=rows)
    with Table.open(tmp_path / "table") as table:
        assert torch.equal(rows, table.read_all())


def test_rows_are_read_into_a_given_buffer(tmp_path):
    rows = write_table(tmp_path / "table")
    out = torch.zeros(2, rows.shape[1], dtype=torch.uint8)
    with Table.open(tmp_path / "table") as table:
        assert table.read_rows(torch.tensor([7, 7]), out=out) is out
    assert np.array_equal(rows[[7, 7]], out)


def test_buffer_of_another_shape_is_refused(tmp_path):
    write_table(tmp_path / "table")
    with Table.open(tmp_path / "table") as table, pytest.raises(ValueError, match="out is"):
        table.read_rows([1], out=torch.zeros(2, 384, dtype=torch.uint8))


@pytest.mark.parametrize("row", [-1, 10])
def test_row_beyond_the_table_is_an_index_error(tmp_path, row):
    write_table(tmp_path / "table")
    with Table.open(tmp_path / "table") as table, pytest.raises(IndexError, match=f"row {row} of a table of 10"):
        table.read_rows([row])


def test_reading_all_reports_progress_up_to_the_last_row(tmp_path):
    write_table(tmp_path / "table")
    calls = []
    with Table.open(tmp_path / "table") as table:
        table.read_all(on_progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (10, 10)


def test_closed_table_cannot_be_read(tmp_path):
    write_table(tmp_path / "table")
    with Table.open(tmp_path / "table") as table:
        pass
    with pytest.raises(ValueError, match="closed file"):
        table.read_rows([0])


def test_symbolic_links_to_sound_files_are_followed(tmp_path):
    rows = write_table(tmp_path / "blobs")
    (tmp_path / "snapshot").mkdir()
    for path in (tmp_path / "blobs").iterdir():
        (tmp_path / "snapshot" / path.name).symlink_to(path)
    with Table.open(tmp_path / "snapshot") as table:
        assert np.array_equal(rows, table.read_all())


def test_writing_needs_no_torch():
    program = "import sys, paging; paging.TableWriter, paging.load_manifest; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_unknown_name_is_an_attribute_error():
    import paging

    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = paging.nonsense


def test_every_public_name_exists():
    import paging

    assert [name for name in paging.__all__ if not hasattr(paging, name)] == []
