"""Packs made: of a copy's rows, and edit by edit."""

import dataclasses

import numpy as np
import pytest
import torch

import models.export
import models.pack_making
from models.checkpoint import load_model, save_checkpoint
from models.config import ModelConfig
from models.errors import PackError
from models.export import export_table
from models.pack_making import PackMaker
from models.packs import Pack
from models.row_edits import layer_values
from paging import Encoding, Table
from tests.models.pack_samples import edit_pack, make_base
from tests.models.tiny_models import MEMORY, random_model

V = MEMORY.vocab_size


@pytest.fixture(scope="module", params=[Encoding.FP32, Encoding.BF16, Encoding.INT8], ids=str)
def where(request, tmp_path_factory):
    config = dataclasses.replace(MEMORY, hidden_size=32)
    return make_base(tmp_path_factory.mktemp("base"), config, encoding=request.param)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "pack"


@pytest.fixture(autouse=True)
def _several_chunks(monkeypatch):
    for module in (models.export, models.pack_making):
        monkeypatch.setattr(module, "CHUNK_ROWS", 16)
    monkeypatch.setattr(models.pack_making, "_PIECE_ROWS", 7)


@pytest.fixture
def maker(where):
    with Table.open(where.table) as table:
        yield PackMaker(where.model, ModelConfig.load(where.model), table)


def all_rows(directory):
    with Table.open(directory) as table:
        return table.read_all(), table.geometry


def pack_rows(directory):
    with Pack.open(directory) as pack:
        return pack.ids.tolist(), pack.table.read_all()


# From a copy


def test_a_pack_has_the_rows_of_the_copy_bit_for_bit(where, maker, out, tmp_path):
    encoding = maker.base.geometry.encoding
    export_table(where.tuned, tmp_path / "theirs", encoding=encoding)
    maker.from_tuned(where.tuned, out, name="tuned")
    theirs, _ = all_rows(tmp_path / "theirs")
    mine, _ = all_rows(where.table)
    ids, rows = pack_rows(out)
    assert (theirs != mine).any(dim=1).nonzero()[:, 0].tolist() == ids
    assert torch.equal(theirs[ids], rows)


def test_a_threshold_leaves_out_rows_that_hardly_differ(where, maker, out):
    # The FFNs' three matrices are 1.1 times as large each: rows differ by more than a fifth, by less than a half.
    maker.from_tuned(where.tuned, out, name="tuned", threshold=0.2)
    assert [*range(V)] == pack_rows(out)[0]
    with pytest.raises(PackError, match=r"no row of .* differs"):
        maker.from_tuned(where.tuned, out, name="tuned", threshold=1.0, replace=True)


def test_named_ids_alone_are_taken(where, maker, out):
    maker.from_tuned(where.tuned, out, name="tuned", ids=np.array([0, 15, 16, 49]))
    ids, rows = pack_rows(out)
    maker.from_tuned(where.tuned, out, name="tuned", replace=True)
    assert [0, 15, 16, 49] == ids
    assert torch.equal(pack_rows(out)[1][ids], rows)


def test_progress_is_told_to_the_end(where, maker, out):
    told = []
    maker.from_tuned(where.tuned, out, name="tuned", on_progress=lambda done, total: told.append((done, total)))
    assert sorted(told) == told
    assert (2 * V, 2 * V) == told[-1]


def test_a_copy_with_another_backbone_is_refused(where, maker, out, tmp_path):
    model = load_model(where.tuned)
    with torch.no_grad():
        model.model.norm.weight.add_(0.1)
    save_checkpoint(model, tmp_path / "other")
    with pytest.raises(PackError, match="--memory-only"):
        maker.from_tuned(tmp_path / "other", out, name="other")
    assert not out.exists()


def test_the_model_itself_differs_nowhere(where, maker, out):
    with pytest.raises(PackError, match="no row"):
        maker.from_tuned(where.model, out, name="same")


@pytest.mark.parametrize("threshold", [-0.1, float("nan")])
def test_a_threshold_must_be_a_share(where, maker, out, threshold):
    with pytest.raises(PackError, match="at least 0"):
        maker.from_tuned(where.tuned, out, name="tuned", threshold=threshold)


def test_ids_outside_the_vocabulary_are_refused(where, maker, out):
    with pytest.raises(PackError, match="id 50 is outside"):
        maker.from_tuned(where.tuned, out, name="tuned", ids=np.array([1, V]))


# Edits


def test_an_edit_begins_a_pack_of_the_edited_rows(where, out):
    edit_pack(where, out, ids=(7, 3, 7), layers=(1,), scale=0.0)
    rows, geometry = all_rows(where.table)
    ids, edited = pack_rows(out)
    assert [3, 7] == ids
    before, after = layer_values(rows[ids], geometry, (0, 1)), layer_values(edited, geometry, (0, 1))
    assert torch.equal(before[:, 0], after[:, 0])
    assert not after[:, 1].any()


def test_edits_go_on_from_one_another(where, out):
    edit_pack(where, out, ids=tuple(range(0, 30, 3)), layers=(0,), scale=0.5)
    card = edit_pack(where, out, name=None, ids=(3, 4), layers=(0,), scale=0.5)
    rows, geometry = all_rows(where.table)
    ids, edited = pack_rows(out)
    assert sorted({*range(0, 30, 3), 4}) == ids
    factors = torch.tensor([0.25 if number == 3 else 0.5 for number in ids])
    before, after = layer_values(rows[ids], geometry, (0,))[:, 0], layer_values(edited, geometry, (0,))[:, 0]
    torch.testing.assert_close(before * factors[:, None], after, rtol=0.02, atol=0.02)
    assert ("sample", 2, 2) == (card.name, card.version, len(card.history))


def test_another_tokens_row_can_be_added_as_the_pack_has_it(where, out):
    edit_pack(where, out, ids=(5,), scale=0.0)
    edit_pack(where, out, ids=(6,), added_id=5, weight=3.0)  # nothing: the pack's row 5 is zero
    edit_pack(where, out, ids=(5,), added_id=8, weight=2.0)
    rows, geometry = all_rows(where.table)
    _, edited = pack_rows(out)
    values, before = layer_values(edited, geometry, (0, 1)), layer_values(rows, geometry, (0, 1))
    torch.testing.assert_close(2 * before[8], values[0], rtol=0.02, atol=0.02)
    torch.testing.assert_close(before[6], values[1], rtol=0.02, atol=0.02)


def test_a_vector_can_be_added(where, out):
    addition = torch.ones(1, 32)
    edit_pack(where, out, ids=(5,), layers=(1,), scale=0.0, addition_Ld=addition, weight=-2.0)
    _, edited = pack_rows(out)
    _, geometry = all_rows(where.table)
    torch.testing.assert_close(-2 * torch.ones(1, 1, 32), layer_values(edited, geometry, (1,)), rtol=0.02, atol=0)


def test_a_pack_of_another_model_is_not_edited(where, out, tmp_path):
    edit_pack(where, out, ids=(5,), scale=0.0)
    other = make_base(tmp_path, dataclasses.replace(where.config, rope_theta=500.0))
    save_checkpoint(random_model(where.config, seed=9), tmp_path / "model", replace=True)
    export_table(tmp_path / "model", tmp_path / "table", overwrite=True)
    with pytest.raises(PackError, match="another model"):
        edit_pack(other, out, ids=(5,), scale=0.5)
    assert 1 == len(pack_rows(out)[0])


def test_a_pack_needs_a_name_to_begin(where, out):
    with pytest.raises(PackError, match="give it a name"):
        edit_pack(where, out, name=None, ids=(5,), scale=0.0)


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        ({"ids": ()}, "needs a token"),
        ({"ids": (V,)}, "outside the vocabulary"),
        ({"ids": (1,), "added_id": -1}, "outside the vocabulary"),
        ({"ids": (1,), "layers": (2,)}, "no layer 2"),
        ({"ids": (1,), "scale": float("inf")}, "finite"),
        ({"ids": (1,), "weight": float("nan")}, "finite"),
        ({"ids": (1,), "added_id": 2, "addition_Ld": torch.zeros(2, 32)}, "not both"),
    ],
)
def test_edits_that_cannot_be(where, out, edit, why):
    with pytest.raises(PackError, match=why):
        edit_pack(where, out, **edit)
    assert not out.exists()


def test_changes_are_told_layer_by_layer(where, maker, out):
    edit_pack(where, out, ids=(5,), layers=(1,), scale=0.0)
    edit_pack(where, out, ids=(9,), layers=(0,), scale=1.5)
    with Pack.open(out) as pack:
        ids, shares = maker.changes(pack)
    assert [5, 9] == ids.tolist()
    np.testing.assert_allclose([[0, 1], [0.5, 0]], shares, atol=0.02)
