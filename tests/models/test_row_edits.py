"""Edits of rows: `scale * row + addition` in the layers named, the same bytes everywhere else."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from models.errors import PackError
from models.row_edits import check_editable, chosen_layers, edit_rows, layer_values, load_vector
from paging import Encoding, LayerEncoding, TableGeometry
from tests.models.pack_samples import random_payload


def geometry_of(encoding=Encoding.FP32, layers=None):
    return TableGeometry.uniform(hidden_size=32, num_layers=4, vocab_size=9, encoding=encoding, layers=layers)


@given(
    layers=st.sets(st.integers(0, 3), min_size=1),
    scale=st.sampled_from([0.0, 0.5, -1.0, 1.0, 2.0]),
    adds=st.booleans(),
)
def test_an_edit_is_a_scale_and_a_sum(layers, scale, adds):
    geometry, layers = geometry_of(), sorted(layers)
    before = random_payload(geometry, 3)
    addition = torch.randn(len(layers), 32, generator=torch.Generator().manual_seed(1)) if adds else None
    after = edit_rows(before, geometry, layers, scale=scale, addition_Ld=addition)
    old, new = (layer_values(payload, geometry, range(4)) for payload in (before, after))
    for layer in range(4):
        expected = old[:, layer]
        if layer in layers:
            expected = expected * scale + (addition[layers.index(layer)] if adds else 0)
        assert torch.equal(expected, new[:, layer])


@pytest.mark.parametrize("encoding", list(Encoding))
def test_layers_that_are_not_edited_keep_their_bytes(encoding):
    geometry = geometry_of(encoding)
    before = random_payload(geometry, 5)
    after = edit_rows(before, geometry, [2], scale=0.0, addition_Ld=None)
    segment = geometry.segment(2)
    part = slice(segment.offset, segment.offset + segment.num_bytes)
    assert not layer_values(after, geometry, [2]).any()
    after[:, part] = before[:, part]
    assert torch.equal(before, after)


def test_without_a_choice_all_layers_of_the_table_are_edited():
    geometry = geometry_of(layers=(1, 3))
    assert (1, 3) == chosen_layers(geometry, [])
    assert (3,) == chosen_layers(geometry, [3, 3])


def test_a_layer_that_the_table_left_out_cannot_be_edited():
    with pytest.raises(PackError, match="no layer 0, 2; it has 1, 3"):
        chosen_layers(geometry_of(layers=(1, 3)), [2, 0, 1])


def test_low_rank_rows_cannot_be_edited():
    kinds = {0: LayerEncoding.plain(Encoding.BF16), 2: LayerEncoding(Encoding.INT8, None, 8)}
    geometry = TableGeometry.mixed(hidden_size=32, num_layers=4, vocab_size=9, kinds=kinds)
    with pytest.raises(PackError, match="layers 2 are low-rank"):
        check_editable(geometry)
    check_editable(geometry_of())


def test_one_vector_is_for_every_layer(tmp_path):
    vector = torch.arange(32.0)
    save_file({"vector": vector}, tmp_path / "v.safetensors")
    loaded = load_vector(tmp_path / "v.safetensors", num_layers=2, hidden_size=32)
    assert torch.equal(torch.stack([vector, vector]), loaded)


def test_a_vector_for_each_layer(tmp_path):
    vectors = torch.arange(64.0).view(2, 32)
    save_file({"vector": vectors}, tmp_path / "v.safetensors")
    assert torch.equal(vectors, load_vector(tmp_path / "v.safetensors", num_layers=2, hidden_size=32))


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ({"other": torch.zeros(32)}, "no tensor called vector"),
        ({"vector": torch.zeros(31)}, r"shape \[31\]"),
        ({"vector": torch.zeros(3, 32)}, r"shape \[3, 32\]"),
        ({"vector": torch.full((32,), torch.nan)}, "not finite"),
    ],
)
def test_vectors_that_do_not_fit(tmp_path, tensors, why):
    save_file(tensors, tmp_path / "v.safetensors")
    with pytest.raises(PackError, match=why):
        load_vector(tmp_path / "v.safetensors", num_layers=2, hidden_size=32)


def test_a_file_that_is_none(tmp_path):
    (tmp_path / "v.safetensors").write_bytes(b"no")
    for path in (tmp_path / "v.safetensors", tmp_path / "missing"):
        with pytest.raises(PackError, match="cannot read"):
            load_vector(path, num_layers=2, hidden_size=32)
