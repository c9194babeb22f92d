"""Fingerprints change with what they stand for, and with nothing else."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.checkpoint import compute_fingerprints, expected_tensors, read_fingerprints, save_checkpoint
from models.errors import CheckpointError
from models.fingerprint import EMBEDDING, is_memory
from models.weights import TensorSpec, hash_weights
from tests.models.checkpoint_samples import DENSE, FLEX, MEMORY, random_model, tensors_of

NAMES = sorted(expected_tensors(FLEX))
TENSORS = {name: tensor.clone() for name, tensor in tensors_of(random_model(FLEX)).items()}


def fingerprints(tensors, config=FLEX):
    specs = {name: TensorSpec("F32", tuple(tensor.shape)) for name, tensor in tensors.items()}
    return hash_weights(config, specs, tensors.__getitem__)


BEFORE = fingerprints(TENSORS)


@given(name=st.sampled_from(NAMES), position=st.integers(min_value=0), flip=st.integers(min_value=1, max_value=255))
def test_any_byte_of_a_tensor_changes_the_fingerprints_it_belongs_to_and_no_other(name, position, flip):
    changed = TENSORS[name].clone()
    content = changed.view(torch.uint8).flatten()
    content[position % len(content)] ^= flip
    after = fingerprints(TENSORS | {name: changed.view(TENSORS[name].shape)})
    assert (after.backbone != BEFORE.backbone) == (not is_memory(name))
    assert (after.table != BEFORE.table) == (is_memory(name) or name == EMBEDDING)


def test_the_same_tensors_in_another_order_have_the_same_fingerprints():
    assert fingerprints(dict(reversed(TENSORS.items()))) == BEFORE


@pytest.mark.parametrize("field", ["rope_theta", "max_position_embeddings", "eos_token_id"])
def test_what_does_not_shape_rows_leaves_the_tables_fingerprint(field):
    config = dataclasses.replace(FLEX, **{field: 7})
    assert fingerprints(TENSORS, config) == BEFORE


def test_the_epsilon_of_norms_changes_the_tables_fingerprint_alone():
    after = fingerprints(TENSORS, dataclasses.replace(FLEX, rms_norm_eps=1e-6))
    assert after.table != BEFORE.table
    assert after.backbone == BEFORE.backbone


def test_two_tensors_that_swap_names_change_the_fingerprint():
    first, second = (f"model.layers.{i}.memory.up_proj.weight" for i in (0, 1))
    swapped = TENSORS | {first: TENSORS[second], second: TENSORS[first]}
    assert fingerprints(swapped).table != BEFORE.table


def test_another_shape_of_the_same_bytes_changes_the_fingerprint():
    name = "model.layers.0.self_attn.k_proj.weight"
    assert fingerprints(TENSORS | {name: TENSORS[name].view(16, 8)}).backbone != BEFORE.backbone


def test_another_dtype_changes_the_fingerprints(tmp_path):
    wide = save_checkpoint(random_model(), tmp_path / "wide")
    narrow = save_checkpoint(random_model(), tmp_path / "narrow", dtype=torch.bfloat16)
    assert wide.backbone != narrow.backbone
    assert wide.table != narrow.table


def test_a_dense_model_has_no_tables_fingerprint(tmp_path):
    save_checkpoint(random_model(DENSE), tmp_path / "dense")
    assert read_fingerprints(tmp_path / "dense").table is None


def test_a_slim_checkpoints_table_cannot_be_computed(tmp_path):
    stored = save_checkpoint(random_model(MEMORY), tmp_path / "slim", slim=True)
    computed = compute_fingerprints(tmp_path / "slim")
    assert (computed.backbone, computed.table) == (stored.backbone, None)


def test_a_checkpoint_of_another_program_has_no_fingerprints(tmp_path):
    from safetensors.torch import save_file

    save_file(tensors_of(random_model(DENSE)), tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="has no fingerprints"):
        read_fingerprints(tmp_path)
