"""Packs on disk: written whole or not at all, strictly read, and only laid over the table that they are for."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

from models.checkpoint import save_checkpoint
from models.config import ModelConfig
from models.errors import PackError
from models.export import export_table
from models.pack_card import PackCard, check_pack_name, read_card
from models.packs import Pack, PackBase, row_keys, write_pack
from paging import Encoding, Table, TableError
from paging.keys import KeyRange
from tests.models.pack_samples import base_of, make_base, make_pack, random_payload
from tests.models.tiny_models import DENSE, random_model


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def out(tmp_path):
    return tmp_path / "pack"


def edit_card(directory, **changes):
    path = directory / "pack.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_pack_has_the_rows_that_were_written(where, out):
    payload = make_pack(where, out, [3, 7, 20], description="a sample", history=["made up"])
    with Pack.open(out) as pack:
        assert [3, 7, 20] == pack.ids.tolist()
        assert torch.equal(payload, pack.table.read_all())
        assert ("sample", 1, "a sample", ("made up",)) == (
            pack.card.name,
            pack.card.version,
            pack.card.description,
            pack.card.history,
        )


def test_a_pack_fits_the_model_that_it_was_made_for(where, out):
    make_pack(where, out, [1])
    with Pack.open(out) as pack:
        base_of(where).check(pack)
        dataclasses.replace(base_of(where), geometry=None).check(pack)  # rows may be computed as well


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"backbone": "f" * 32}, "another model"),
        ({"fingerprint": "f" * 32}, "another table"),
        ({"num_layers": 3}, "laid out otherwise"),
    ],
)
def test_a_pack_of_another_model_is_refused(where, out, change, why):
    make_pack(where, out, [1])
    with Pack.open(out) as pack, pytest.raises(PackError, match=why):
        dataclasses.replace(base_of(where), **change).check(pack)


@pytest.mark.parametrize("encoding", [Encoding.BF16, Encoding.INT8])
def test_a_pack_over_a_table_in_another_encoding_is_refused(where, out, tmp_path, encoding):
    make_pack(where, out, [1])
    export_table(where.model, tmp_path / "other", encoding=encoding)
    with Pack.open(out) as pack, Table.open(tmp_path / "other") as table:
        base = PackBase.of(where.model, ModelConfig.load(where.model), table)
        with pytest.raises(PackError, match=f"in fp32, not .* in {encoding}"):
            base.check(pack)


def test_a_dense_model_has_nothing_to_lie_over(tmp_path):
    save_checkpoint(random_model(DENSE), tmp_path / "dense")
    with pytest.raises(PackError, match="dense"):
        PackBase.of(tmp_path / "dense", DENSE, None)


def test_rows_of_another_pack_are_found_out(where, tmp_path):
    for name in ("first", "second"):
        make_pack(where, tmp_path / name, [1])
    shutil.rmtree(tmp_path / "first" / "rows")
    shutil.copytree(tmp_path / "second" / "rows", tmp_path / "first" / "rows")
    with pytest.raises(PackError, match="not those"):
        Pack.open(tmp_path / "first")


def test_a_whole_table_is_no_packs_rows(where, out):
    make_pack(where, out, [1])
    shutil.rmtree(out / "rows")
    shutil.copytree(where.table, out / "rows")
    with Table.open(where.table) as table:
        edit_card(out, table_id=table.table_id)
    with pytest.raises(PackError, match="not those"):
        Pack.open(out)


def test_broken_rows_are_a_table_error(where, out):
    make_pack(where, out, [1])
    (out / "rows" / "manifest.json").write_text("{}")
    with pytest.raises(TableError):
        Pack.open(out)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"format": "other"}, "does not describe a pack"),
        ({"format_version": 2}, "version 2"),
        ({"extra": 1}, "other keys.*extra"),
        ({"name": 7}, "wrong types"),
        ({"version": "1"}, "wrong types"),
        ({"version": True}, "wrong types"),
        ({"version": 0}, "counts from 1"),
        ({"history": "made"}, "wrong types"),
        ({"history": [1]}, "wrong types"),
        ({"name": "../up"}, "no name for a pack"),
    ],
)
def test_a_card_is_read_strictly(where, out, changes, why):
    make_pack(where, out, [1])
    edit_card(out, **changes)
    with pytest.raises(PackError, match=why):
        read_card(out)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, " " * (2**20 + 1)])
def test_what_is_no_card_is_refused(tmp_path, text):
    (tmp_path / "pack.json").write_text(text)
    with pytest.raises(PackError):
        read_card(tmp_path)


def test_a_directory_without_a_card_is_no_pack(tmp_path):
    with pytest.raises(PackError, match="no pack at"):
        Pack.open(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["", "a/b", "a:b", ".hidden", "a b", "é", "x" * 65, "a\n"])
def test_names_that_would_not_do(name):
    with pytest.raises(PackError, match="no name"):
        check_pack_name(name)


@pytest.mark.parametrize("name", ["a", "python-3.11", "x" * 64, "A_b"])
def test_names_that_do(name):
    check_pack_name(name)


def test_a_long_history_keeps_its_end():
    card = PackCard(
        name="a", version=1, backbone="b", base="c", table_id="d", description="e" * 5000,
        history=tuple("é" * 5000 + str(number) for number in range(2000)),
    )  # fmt: skip
    text = card.to_json()
    assert len(text) < 2**20
    assert 100 == len(json.loads(text)["history"])


def test_a_pack_is_not_replaced_unasked(where, out):
    make_pack(where, out, [1])
    with pytest.raises(PackError, match="holds a pack already"):
        make_pack(where, out, [2])
    make_pack(where, out, [2], replace=True)
    with Pack.open(out) as pack:
        assert [2] == pack.ids.tolist()


def test_what_is_no_pack_is_never_replaced(where, out):
    out.mkdir()
    (out / "letter.txt").write_text("dear")
    with pytest.raises(PackError, match="not a pack alone"):
        make_pack(where, out, [1], replace=True)
    assert "dear" == (out / "letter.txt").read_text()


def test_a_pack_without_rows_is_not_written(where, out):
    with pytest.raises(PackError, match="no rows"):
        write_pack(out, name="empty", base=base_of(where), ids=np.array([], dtype=np.int64), payloads=[])
    assert not out.exists()


def test_a_writer_that_fails_leaves_the_old_pack(where, out):
    make_pack(where, out, [1])
    base = base_of(where)

    def payloads():
        yield random_payload(base.geometry, 1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_pack(out, name="new", base=base, ids=np.array([1, 2]), payloads=payloads(), replace=True)
    assert "sample" == read_card(out).name
    assert [out] == [*out.parent.iterdir()]


def test_ids_that_a_pack_has_not_keep_the_tables_keys():
    keys_V = row_keys(np.array([1, 4]), KeyRange(10, 12), 6)
    assert [0, 10, 2, 3, 11, 5] == keys_V.tolist()
