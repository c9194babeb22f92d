import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paging import Encoding, LayerEncoding, Segment, TableFormatError, TableGeometry
from paging.geometry import aligned_stride
from paging.header import TensorEntry, safetensors_header, shard_header
from paging.shard_plan import table_bytes
from tests.paging.sample_tables import FLOATS

ENCODINGS = st.sampled_from(FLOATS)


def segment(**changes):
    return Segment(**{"layer": 0, "offset": 0, "num_bytes": 8, "encoding": Encoding.BF16, **changes})


@pytest.mark.parametrize(
    ("row_bytes", "stride"),
    [(1, 512), (512, 512), (513, 1024), (3072, 3072), (4096, 4096), (61680, 61952), (61681, 65536), (98304, 98304)],
)
def test_stride_is_pages_where_that_costs_little_and_sectors_elsewhere(row_bytes, stride):
    assert aligned_stride(row_bytes) == stride


@given(st.integers(1, 2**40))
def test_stride_is_the_least_that_its_alignment_allows(row_bytes):
    stride = aligned_stride(row_bytes)
    pages = -(-row_bytes // 4096) * 4096
    paged = pages - row_bytes <= row_bytes / 16
    assert stride == (pages if paged else -(-row_bytes // 512) * 512)


@given(
    hidden_size=st.integers(1, 5000),
    num_layers=st.integers(1, 100),
    num_rows=st.integers(1, 10**9),
    first_row=st.integers(0, 10**9),
    encoding=ENCODINGS,
)
def test_rows_of_a_shard_start_on_a_page_and_fill_the_rest_of_the_file(
    hidden_size, num_layers, num_rows, first_row, encoding
):
    geometry = TableGeometry.uniform(
        hidden_size=hidden_size, num_layers=num_layers, vocab_size=10**9, encoding=encoding
    )
    header = shard_header(geometry, table_id="0" * 32, index=0, num_shards=1, first_row=first_row, num_rows=num_rows)
    rows = json.loads(header[8:])["rows"]
    assert len(header) % 4096 == 0
    assert struct.unpack("<Q", header[:8]) == (len(header) - 8,)
    assert rows["data_offsets"] == [0, num_rows * geometry.row_stride]
    assert rows["shape"] == [num_rows, geometry.row_stride // encoding.itemsize]


def test_header_longer_than_a_page_is_padded_to_whole_pages():
    header = safetensors_header([TensorEntry(name="a" * 5000, dtype="U8", shape=(1,))], {})
    assert len(header) == 8192


@given(hidden_size=st.integers(1, 5000), layers=st.sets(st.integers(0, 99), min_size=1), encoding=ENCODINGS)
def test_uniform_geometry_lays_kept_layers_one_behind_another(hidden_size, layers, encoding):
    kept = tuple(sorted(layers))
    geometry = TableGeometry.uniform(
        hidden_size=hidden_size, num_layers=100, vocab_size=7, encoding=encoding, layers=kept
    )
    assert geometry.layers == kept
    assert geometry.row_bytes == len(kept) * hidden_size * encoding.itemsize


def test_row_of_the_1b_model_is_24_pages():
    geometry = TableGeometry.uniform(hidden_size=2048, num_layers=24, vocab_size=128256, encoding=Encoding.BF16)
    assert (geometry.row_bytes, geometry.row_stride) == (98304, 24 * 4096)


@pytest.mark.parametrize(
    "segments",
    [
        pytest.param((), id="no segment"),
        pytest.param((segment(offset=2),), id="gap"),
        pytest.param((segment(), segment(layer=1, offset=4)), id="overlap"),
        pytest.param((segment(layer=1), segment(layer=0, offset=8)), id="descending layers"),
        pytest.param((segment(), segment(offset=8)), id="a layer twice"),
        pytest.param((segment(layer=2),), id="layer beyond the model"),
        pytest.param((segment(layer=-1),), id="negative layer"),
        pytest.param((segment(num_bytes=6),), id="wrong length"),
        pytest.param((segment(group_size=32),), id="group size of a float encoding"),
        pytest.param((segment(rank=2),), id="bytes of more values than the rank"),
        pytest.param((segment(rank=5, num_bytes=10),), id="rank above the hidden size"),
        pytest.param((segment(rank=0, num_bytes=0),), id="rank of nothing"),
        pytest.param((segment(encoding=Encoding.INT4, num_bytes=6),), id="int4 without a group size"),
        pytest.param((segment(encoding=Encoding.INT4, num_bytes=7, group_size=2),), id="unknown group size"),
        pytest.param((segment(encoding=Encoding.INT8, num_bytes=8, group_size=32),), id="group size of int8"),
    ],
)
def test_geometry_refuses_segments_that_do_not_fit(segments):
    with pytest.raises(TableFormatError):
        TableGeometry(hidden_size=4, num_layers=2, vocab_size=1, segments=segments)


@pytest.mark.parametrize("name", ["hidden_size", "num_layers", "vocab_size"])
def test_geometry_refuses_sizes_below_one(name):
    sizes = {"hidden_size": 4, "num_layers": 2, "vocab_size": 1, name: 0}
    with pytest.raises(TableFormatError, match=name):
        TableGeometry(**sizes, segments=(segment(),))


@pytest.mark.parametrize(
    ("text", "payload", "file"),
    [("int8", 0.51, 0.51), ("int4/32", 0.28, 0.28), ("int4/64", 0.28, 0.28), ("int4/128", 0.28, 0.28)],
)
def test_rows_of_the_1b_model_shrink_to_their_share_on_disk_too(text, payload, file):
    sizes = {"hidden_size": 2048, "num_layers": 24, "vocab_size": 128256}
    whole = TableGeometry.uniform(**sizes, encoding=Encoding.BF16)
    small = TableGeometry.uniform(**sizes, encoding=LayerEncoding.parse(text))
    assert small.row_bytes <= payload * whole.row_bytes
    assert table_bytes(small, num_rows=128256) <= file * table_bytes(whole, num_rows=128256)


def test_neighbours_of_one_kind_make_a_run():
    kinds = [LayerEncoding.parse(text) for text in ("int8", "int8", "int4/32", "int8@32", "int8@32")]
    geometry = TableGeometry.mixed(
        hidden_size=64, num_layers=9, vocab_size=1, kinds=dict(zip((0, 2, 3, 7, 8), kinds, strict=True))
    )
    assert [(0, 2), (3,), (7, 8)] == [run.layers for run in geometry.runs]
    assert [(0, 68), (136, 38), (174, 36)] == [(run.offset, run.segment_bytes) for run in geometry.runs]
    assert geometry.row_bytes == geometry.runs[-1].end
    assert {7: 32, 8: 32} == geometry.ranks


def test_tables_of_plain_floats_stay_in_version_1():
    sizes = {"hidden_size": 64, "num_layers": 2, "vocab_size": 3}
    versions = {
        text: TableGeometry.uniform(**sizes, encoding=LayerEncoding.parse(text)).format_version
        for text in ("bf16", "fp32", "int8", "int4/64", "bf16@8")
    }
    assert {"bf16": 1, "fp32": 1, "int8": 2, "int4/64": 2, "bf16@8": 2} == versions


def test_a_geometry_says_in_words_how_layers_are_stored():
    kinds = {0: LayerEncoding.parse("int8"), 1: LayerEncoding.parse("int4/32"), 2: LayerEncoding.parse("int8")}
    assert "int8 x 2, int4/32 x 1" == TableGeometry.mixed(hidden_size=32, num_layers=3, vocab_size=1, kinds=kinds).label
