"""Computed rows: what is asked of them, how often they are computed, and their gradients."""

import numpy as np
import pytest
import torch

from models.computed_rows import ComputedRows
from models.rows import Rows
from tests.models import reference
from tests.models.tiny_models import FLEX, MEMORY, float64_weights, packed_logits, random_ids, random_model

KEYS = torch.tensor([7, 3, 7, 7, 49, 3])


class RowsOfEachToken(Rows):
    """The obvious source: every token's row by itself, repeated or not."""

    def __init__(self, model):
        self.model = model

    def fetch(self, row_keys_N):
        self.x0_Nd = self.model.model.embed_tokens(row_keys_N)
        return self

    def gather(self, layer):
        return self.model.memories[layer](self.x0_Nd)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("config", [MEMORY, FLEX], ids=["memoryllm", "flex"])
def test_rows_are_the_ffn_of_the_normed_embedding(config, layer):
    model = random_model(config, dtype=torch.float64)
    weights = float64_weights(model)
    expected = np.stack([reference.row(config, weights, layer, key) for key in KEYS.tolist()])
    with torch.no_grad():
        rows = ComputedRows(model).fetch(KEYS).gather(layer)
    np.testing.assert_allclose(rows.numpy(), expected, rtol=1e-11, atol=1e-12)


def test_each_different_key_is_computed_once():
    model = random_model()
    computed = []
    model.memories[0].register_forward_pre_hook(lambda _module, inputs: computed.append(len(inputs[0])))
    assert len(ComputedRows(model).fetch(KEYS).gather(0)) == len(KEYS)
    assert computed == [3]


def test_layers_are_computed_when_they_are_asked_for():
    model = random_model()
    computed = []
    for index, memory in enumerate(model.memories):
        memory.register_forward_pre_hook(lambda _module, _inputs, index=index: computed.append(index))
    rows = ComputedRows(model).fetch(KEYS)
    assert computed == []
    rows.gather(1)
    assert computed == [1]


def test_a_row_does_not_depend_on_where_it_stands():
    rows = ComputedRows(random_model(dtype=torch.float64))
    with torch.no_grad():
        first, second = rows.fetch(KEYS).gather(0), rows.fetch(KEYS.flip(0)).gather(0).flip(0)
    assert torch.equal(first, second)


def test_a_batch_of_nothing_has_no_rows():
    assert ComputedRows(random_model()).fetch(KEYS[:0]).gather(0).shape == (0, MEMORY.hidden_size)


@pytest.mark.parametrize("config", [MEMORY, FLEX], ids=["memoryllm", "flex"])
def test_gradients_equal_those_without_deduplication(config):
    ids_N = random_ids(40, seed=3) % 12  # many repeated

    def gradients(source):
        model = random_model(config, dtype=torch.float64)
        rows = source(model).fetch(ids_N)
        target = torch.randn(40, config.hidden_size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        sum((rows.gather(layer) * target).sum() for layer in range(2)).backward()
        return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}

    actual, expected = gradients(ComputedRows), gradients(RowsOfEachToken)
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, rtol=1e-10, atol=1e-12, msg=name)


def test_logits_equal_those_without_deduplication():
    model = random_model(dtype=torch.float64)
    ids_N = random_ids(40, seed=3) % 12
    logits = packed_logits(model, ids_N, rows=ComputedRows(model))
    torch.testing.assert_close(logits, packed_logits(model, ids_N, rows=RowsOfEachToken(model)), rtol=1e-11, atol=1e-12)
