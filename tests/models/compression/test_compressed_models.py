"""A model that runs from a compressed table: the same scores wherever its rows lie, and near those of the whole one."""

import dataclasses

import pytest
import torch

from models.checkpoint import save_checkpoint
from models.computed_rows import ComputedRows
from models.export import export_table
from models.paged_rows import PagedRows
from models.table_rows import MappedRows, ResidentRows
from paging import Budget, LayerEncoding, Table, open_pager
from paging.compression import TableValues, encode_table
from paging.storage import open_storage
from tests.models.tiny_models import FLEX, MEMORY, packed_logits, random_ids, random_model

KINDS = {
    "int8": {0: "int8", 1: "int8"},
    "int4": {0: "int4/32", 1: "int4/32"},
    "mixed": {0: "int8", 1: "int4/64"},
    "low rank": {0: "int8@48", 1: "bf16@64"},
    "one layer": {1: "int8"},
}


@pytest.fixture(scope="module", params=[MEMORY, FLEX], ids=["memoryllm", "flex"])
def stored(request, tmp_path_factory):
    """A model and its directory."""
    model = random_model(dataclasses.replace(request.param, hidden_size=64))
    directory = tmp_path_factory.mktemp("stored") / "model"
    save_checkpoint(model, directory)
    return model, directory


def export(directory, out, name):
    kinds = {layer: LayerEncoding.parse(text) for layer, text in KINDS[name].items()}
    export_table(directory, out, kinds=kinds)
    return Table.open(out)


@pytest.mark.parametrize("name", KINDS)
def test_paged_mapped_and_resident_rows_give_the_same_scores_to_the_bit(stored, tmp_path, name):
    model, directory = stored
    sequences = random_ids(60).split((31, 9, 20))
    with export(directory, tmp_path / "table", name) as table:
        resident = packed_logits(model, *sequences, rows=ResidentRows(table, dtype=torch.float32))
        assert torch.equal(resident, packed_logits(model, *sequences, rows=MappedRows(table, dtype=torch.float32)))
        storage = open_storage(table)
        pager = open_pager(storage, table.geometry, bases=table.bases, device_budget=Budget(fraction=1.0))
        with PagedRows(pager, dtype=torch.float32) as rows:
            assert torch.equal(resident, packed_logits(model, *sequences, rows=rows))
        pager.close()
        storage.close()


@pytest.mark.parametrize(("name", "tolerance"), [("int8", 0.02), ("int4", 0.25), ("mixed", 0.25)])
def test_scores_are_near_those_of_the_whole_memory(stored, tmp_path, name, tolerance):
    model, directory = stored
    ids_N = random_ids(40)
    expected = packed_logits(model, ids_N, rows=ComputedRows(model))
    with export(directory, tmp_path / "table", name) as table:
        found = packed_logits(model, ids_N, rows=ResidentRows(table, dtype=torch.float32))
    assert float((found - expected).norm()) < tolerance * float(expected.norm())


def test_exporting_and_compressing_fp32_give_the_same_bytes(stored, tmp_path):
    _, directory = stored
    with export(directory, tmp_path / "direct", "mixed") as direct:
        export_table(directory, tmp_path / "fp32", kinds=dict.fromkeys(range(2), LayerEncoding.parse("fp32")))
        with Table.open(tmp_path / "fp32") as whole:
            encode_table(TableValues(whole), tmp_path / "again", direct.geometry.kinds)
        with Table.open(tmp_path / "again") as again:
            assert torch.equal(direct.read_all(), again.read_all())
            assert direct.fingerprint == again.fingerprint
