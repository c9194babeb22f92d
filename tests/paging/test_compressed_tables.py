"""Tables whose layers are stored in different ways: written, read, verified, paged; and what damages them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from paging import (
    Budget,
    EncodingError,
    LayerEncoding,
    RowReadError,
    Table,
    TableFormatError,
    TableGeometry,
    TableWriteError,
    decode_layer,
    encode_rows,
    open_pager,
    verify_table,
)
from paging.compression import TableValues, copy_layers, encode_table, layer_ranges
from paging.layers import LayerReader, PickedRows
from paging.shard_plan import table_bytes
from paging.storage import open_storage
from tests.paging.sample_tables import edit_manifest, entries, flip_byte, shard_paths, write_table

V, L, D = 40, 6, 64
SIZES = {"hidden_size": D, "num_layers": L, "vocab_size": V}
MIXED = {0: "int8", 1: "int8", 2: "int4/32", 4: "int8@16", 5: "bf16"}  # layer 3 is left out


def kinds_of(texts):
    return {layer: LayerEncoding.parse(text) for layer, text in texts.items()}


@pytest.fixture(scope="module")
def values():
    return torch.randn(V, L, D, generator=torch.Generator().manual_seed(5)) * torch.linspace(1, 0.1, D)


@pytest.fixture(scope="module")
def source(tmp_path_factory, values):
    geometry = TableGeometry.uniform(**SIZES, encoding=LayerEncoding.parse("fp32"))
    directory = tmp_path_factory.mktemp("source") / "table"
    write_table(directory, geometry, rows=encode_rows(values, geometry).numpy())
    return directory


@pytest.fixture
def compressed(source, tmp_path):
    """Compress the source; returns the new table's directory."""

    def make(texts, name="small", **options):
        with Table.open(source) as table:
            encode_table(TableValues(table), tmp_path / name, kinds_of(texts), **options)
        return tmp_path / name

    return make


def uniform(text):
    return dict.fromkeys(range(L), text)


# Values


@pytest.mark.parametrize(
    ("text", "error"), [("int8", 0.01), ("int4/32", 0.12), ("bf16@64", 0.01), ("int8@64", 0.02), ("bf16@32", 0.5)]
)
def test_decoded_values_are_near_those_of_the_source(compressed, values, text, error):
    with Table.open(compressed(uniform(text))) as table:
        payload = table.read_all()
        for layer in range(L):
            decoded = decode_layer(payload, table.geometry, layer, table.bases)
            assert float((decoded - values[:, layer]).norm()) < error * float(values[:, layer].norm())


def test_layers_are_each_stored_as_asked_and_others_are_left_out(compressed):
    directory = compressed(MIXED)
    with Table.open(directory) as table:
        assert kinds_of(MIXED) == table.geometry.kinds
        assert [4] == [*table.bases]
    manifest = json.loads((directory / "manifest.json").read_text())
    assert 2 == manifest["version"]
    described = [(s["layer"], s["encoding"], s["group_size"], s["rank"]) for s in manifest["segments"]]
    assert (2, "int4", 32, None) in described
    assert (4, "int8", None, 16) in described


def test_sizes_and_fingerprint_are_the_sources(compressed, source):
    with Table.open(source) as whole, Table.open(compressed(uniform("int4"))) as small:
        for name in ("hidden_size", "num_layers", "vocab_size"):
            assert getattr(whole.geometry, name) == getattr(small.geometry, name)
        assert whole.fingerprint == small.fingerprint
        assert whole.table_id != small.table_id


def test_a_sparse_table_stays_sparse(tmp_path, values):
    geometry = TableGeometry.uniform(**SIZES, encoding=LayerEncoding.parse("fp32"))
    ids = np.array([3, 8, 30])
    write_table(tmp_path / "sparse", geometry, rows=encode_rows(values[ids], geometry).numpy(), ids=ids)
    with Table.open(tmp_path / "sparse") as table:
        encode_table(TableValues(table), tmp_path / "small", kinds_of(uniform("int8@8")))
    with Table.open(tmp_path / "small") as table:
        assert [3, 8, 30] == table.ids.tolist()
        assert L == len(table.bases)
    verify_table(tmp_path / "small")


def test_an_exact_encoding_keeps_every_bit(compressed, values):
    with Table.open(compressed(uniform("fp32"))) as table:
        payload = table.read_all()
        assert all(torch.equal(values[:, layer], decode_layer(payload, table.geometry, layer)) for layer in range(L))


def test_the_same_rows_give_the_same_bytes_whatever_the_chunks(compressed, monkeypatch):
    first = compressed(uniform("int4"))
    monkeypatch.setattr("paging.compression._CHUNK_BYTES", 7 * 4 * L * D)
    second = compressed(uniform("int4"), name="again")
    with Table.open(first) as one, Table.open(second) as other:
        assert torch.equal(one.read_all(), other.read_all())


@pytest.mark.parametrize("texts", [MIXED, uniform("int8"), uniform("bf16@8")], ids=["mixed", "int8", "low rank"])
def test_a_table_takes_the_bytes_that_were_reckoned(compressed, texts):
    directory = compressed(texts)
    on_disk = sum(path.stat().st_size for path in directory.glob("*.safetensors"))
    with Table.open(directory) as table:
        assert on_disk == table.manifest.num_bytes == table_bytes(table.geometry, num_rows=V)


# Rows wherever they lie


@pytest.mark.parametrize(
    "texts", [MIXED, uniform("int8"), uniform("int4/64"), uniform("int8@16")], ids=["mixed", "int8", "int4", "low rank"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_paged_rows_are_resident_rows_to_the_bit(compressed, texts, dtype):
    keys = np.array([5, 1, 39, 5, 17])
    with Table.open(compressed(texts)) as table:
        resident = PickedRows(LayerReader(table.geometry, table.read_all(), table.bases), torch.from_numpy(keys))
        storage = open_storage(table)
        pager = open_pager(storage, table.geometry, bases=table.bases, device_budget=Budget(num_rows=8))
        lease = pager.lease(keys)
        assert pager.wait(lease, 30)
        paged = pager.rows([lease])
        for layer in range(L):
            expected = resident.gather(layer, dtype)
            assert torch.equal(expected, paged.gather(layer, dtype))
            assert dtype == expected.dtype
        pager.close()
        storage.close()


@pytest.mark.parametrize("text", ["int8", "int4/32"])
def test_many_rows_are_decoded_to_the_bits_of_few(compressed, text, monkeypatch):
    with Table.open(compressed(uniform(text))) as table:
        layers = LayerReader(table.geometry, table.read_all())
        index_N = torch.arange(V)
        together = PickedRows(layers, index_N).gather(2, torch.float32)
        monkeypatch.setattr("paging.layers._MOST_DECODED_BYTES", 0)
        assert torch.equal(together, PickedRows(layers, index_N).gather(2, torch.float32))


def test_with_a_rank_one_layer_by_itself_differs_in_the_last_bits_at_most(compressed):
    with Table.open(compressed(uniform("int8@48"))) as table:
        layers = LayerReader(table.geometry, table.read_all(), table.bases)
        index_N = torch.arange(9)
        torch.testing.assert_close(layers.decode(index_N, None)[3], layers.gather(index_N, 3), rtol=1e-5, atol=1e-5)


def test_a_layer_left_out_is_zeros(compressed):
    with Table.open(compressed(MIXED)) as table:
        rows = PickedRows(LayerReader(table.geometry, table.read_all(), table.bases), torch.tensor([1, 2]))
        assert torch.equal(torch.zeros(2, D, dtype=torch.bfloat16), rows.gather(3, torch.bfloat16))


def test_a_byte_budget_holds_more_rows_of_fewer_bytes(source, compressed):
    slots = {}
    for text, directory in (("fp32", source), ("int8", compressed(uniform("int8")))):
        with Table.open(directory) as table:
            storage = open_storage(table)
            pager = open_pager(
                storage, table.geometry, device_budget=Budget(num_bytes=4 * 1536 + storage.staging_bytes)
            )
            slots[text] = pager.num_slots
            pager.close()
            storage.close()
    assert {"fp32": 4, "int8": 12} == slots


# Verification and damage


def test_a_compressed_table_is_verified(compressed):
    assert V == verify_table(compressed(MIXED)).num_rows


def test_a_flipped_byte_of_a_compressed_row_is_found(compressed):
    directory = compressed(MIXED)
    flip_byte(shard_paths(directory)[0], 4096 + 5)
    with pytest.raises(RowReadError, match="row 0"):
        verify_table(directory)


def test_a_flipped_byte_of_a_basis_is_found(compressed):
    directory = compressed(MIXED)
    path = directory / "auxiliary.safetensors"
    flip_byte(path, path.stat().st_size - 1)
    with pytest.raises(TableFormatError, match="does not match its digest"):
        Table.open(directory)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoding": "low-rank"}, "encoding 'low-rank' is unknown"),
        ({"rank": 65}, "rank 65 does not fit layers of 64 values"),
        ({"rank": 17}, "16 values|take 21"),
        ({"group_size": 32}, "int8 takes no group size"),
        ({"rank": None}, "20 bytes; 64 values"),
    ],
)
def test_a_segment_that_is_not_sound_is_refused(compressed, changes, message):
    directory = compressed(MIXED)
    edit_manifest(directory, lambda values: values["segments"][3].update(changes))
    with pytest.raises(TableFormatError, match=message) as caught:
        Table.open(directory)
    assert "\n" not in str(caught.value)


def test_integers_in_version_1_are_refused(compressed):
    directory = compressed(uniform("int8"))
    edit_manifest(directory, lambda values: values.update(version=1))
    with pytest.raises(TableFormatError, match="version is 1; a table of int8 is one of version 2"):
        Table.open(directory)


# What cannot be had


def test_a_layer_that_is_not_there(compressed):
    with pytest.raises(EncodingError, match="layer 6 is not there; the layers are 0-5"):
        compressed({0: "int8", 6: "int8"})


def test_no_layer_at_all(compressed):
    with pytest.raises(EncodingError, match="no layer would be left"):
        compressed({})


def test_a_compressed_table_is_not_compressed_again(compressed):
    with Table.open(compressed(MIXED)) as table, pytest.raises(EncodingError, match=r"compressed already \(layer 0"):
        TableValues(table)


def test_another_table_is_replaced_only_if_asked(compressed, tmp_path):
    compressed(uniform("int8"))
    with pytest.raises(TableWriteError, match="is a table already"):
        compressed(uniform("int4"))
    compressed(uniform("int4"), overwrite=True)
    assert ["small"] == entries(tmp_path)


def test_an_interrupted_compression_leaves_nothing(compressed, tmp_path):
    def interrupt(done, total):
        if done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compressed(uniform("int8@8"), on_progress=interrupt)
    assert [] == entries(tmp_path)


def test_progress_counts_every_pass(compressed):
    calls = []
    compressed(uniform("int8@8"), on_progress=lambda *call: calls.append(call))
    assert (V, 2 * V) == calls[0]
    assert (2 * V, 2 * V) == calls[-1]


# Layers left out


def test_layers_are_copied_to_the_byte(compressed, tmp_path):
    with Table.open(compressed(MIXED)) as table:
        copy_layers(table, tmp_path / "fewer", [5, 2, 4])
        with Table.open(tmp_path / "fewer") as fewer:
            assert kinds_of({layer: MIXED[layer] for layer in (2, 4, 5)}) == fewer.geometry.kinds
            payloads = table.read_all(), fewer.read_all()
            for layer in (2, 4, 5):
                before, after = (
                    decode_layer(payload, each.geometry, layer, each.bases)
                    for payload, each in zip(payloads, (table, fewer), strict=True)
                )
                assert torch.equal(before, after)
    verify_table(tmp_path / "fewer")


@pytest.mark.parametrize(("layers", "text"), [([0], "0"), ([3, 1, 2, 7], "1-3, 7"), ([0, 2], "0, 2")])
def test_layers_in_words(layers, text):
    assert text == layer_ranges(layers)


def test_documented_example_reads_a_layer_of_any_encoding(compressed):
    directory = compressed(MIXED, name="my-table")
    documentation = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
    first, second = re.findall(r"```python\n(.*?)```", documentation, re.DOTALL)
    first = first.partition("values = stored")[0]  # the lines for one float encoding alone
    names = {}
    exec((first + second).replace('"my-table"', repr(str(directory))), names)  # noqa: S102 - our own documentation
    with Table.open(directory) as table:
        payload = table.read_rows([7])
        for layer in MIXED:
            expected = decode_layer(payload, table.geometry, layer, table.bases).float()[0]
            torch.testing.assert_close(names["layers"][layer], expected, rtol=1e-6, atol=1e-6)
