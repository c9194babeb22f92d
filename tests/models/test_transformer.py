"""Every kind of model against the float64 reference; the memory's scale; initial weights."""

import dataclasses

import numpy as np
import pytest
import torch

from models.attention import PackedContext, PagedContext
from models.kv_cache import BlockTable, KVCache
from models.transformer import Transformer, rotary_factors, rotate
from tests.models import reference
from tests.models.tiny_models import (
    DENSE,
    EVERY_KIND,
    FLEX,
    MEMORY,
    float64_weights,
    packed_logits,
    random_ids,
    random_model,
    rows_of,
)

LENGTHS = (9, 1, 6)


def sequences():
    return random_ids(sum(LENGTHS)).split(LENGTHS)


def expected_logits(model, *, alpha=None):
    alphas = [None] * len(LENGTHS) if alpha is None else [part.tolist() for part in alpha.split(LENGTHS)]
    weights = float64_weights(model)
    parts = [
        reference.logits(model.config, weights, ids.tolist(), alpha=part)
        for ids, part in zip(sequences(), alphas, strict=True)
    ]
    return torch.from_numpy(np.concatenate(parts))


def relative_error(actual, expected):
    """Return the largest deviation as a share of the largest value."""
    return float((actual.double() - expected.double()).abs().max() / expected.double().abs().max())


# Against the reference


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("config", EVERY_KIND.values(), ids=EVERY_KIND)
def test_a_model_in_float64_equals_the_reference(config, tied):
    model = random_model(dataclasses.replace(config, tie_word_embeddings=tied), dtype=torch.float64)
    assert relative_error(packed_logits(model, *sequences()), expected_logits(model)) < 1e-12


@pytest.mark.parametrize("config", EVERY_KIND.values(), ids=EVERY_KIND)
def test_a_model_in_float32_is_within_3e_6_of_the_reference(config):
    model = random_model(config)
    assert relative_error(packed_logits(model, *sequences()), expected_logits(model)) < 3e-6


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (4, 1), (2, 1)])
def test_grouped_heads_equal_the_reference(heads, kv_heads):
    config = dataclasses.replace(MEMORY, num_attention_heads=heads, num_key_value_heads=kv_heads)
    model = random_model(config, dtype=torch.float64)
    assert relative_error(packed_logits(model, *sequences()), expected_logits(model)) < 1e-12


@pytest.mark.parametrize("head_dim", [60, 100])
@pytest.mark.parametrize("config", [DENSE, MEMORY, FLEX], ids=lambda config: config.model_type.value)
def test_a_padded_paged_cache_equals_the_reference(config, head_dim):
    config = dataclasses.replace(
        config, num_attention_heads=2, num_key_value_heads=1, hidden_size=2 * head_dim, rope_theta=500_000.0
    )
    model = random_model(config, dtype=torch.float64)
    assert relative_error(paged_logits(model, head_dim_multiple=8), expected_logits(model)) < 1e-12


@pytest.mark.parametrize("config", EVERY_KIND.values(), ids=EVERY_KIND)
def test_a_paged_cache_in_float32_is_within_3e_6_of_the_reference(config):
    model = random_model(config)
    assert relative_error(paged_logits(model), expected_logits(model)) < 3e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("config", EVERY_KIND.values(), ids=EVERY_KIND)
def test_a_model_that_is_prepared_for_inference_equals_the_reference(config, tied, dtype):
    model = random_model(dataclasses.replace(config, tie_word_embeddings=tied), dtype=dtype)
    expected = expected_logits(model)
    model.prepare_for_inference()
    limit = 3e-6 if dtype is torch.float32 else 1e-12
    with torch.inference_mode():
        assert relative_error(packed_logits(model, *sequences()), expected) < limit
    assert relative_error(paged_logits(model), expected) < limit


def test_a_prepared_model_says_what_memory_it_takes():
    model = random_model(MEMORY)
    before = model.nbytes
    assert before == model.mapped_bytes == sum(weight.nbytes for weight in model.parameters())
    model.prepare_for_inference()
    head = 0 if model.head is model.head_weight else model.head_weight.nbytes
    assert before + head == model.nbytes


def test_keys_and_values_may_be_wider_than_the_model():
    model = random_model(MEMORY, dtype=torch.bfloat16)
    actual = paged_logits(model, cache_dtype=torch.float32)
    assert torch.bfloat16 is actual.dtype
    assert relative_error(actual, expected_logits(model)) < 0.03


@torch.no_grad()
def paged_logits(model, *, head_dim_multiple=1, cache_dtype=None):
    """Scores [N, V] of `sequences()`: prefill all but two tokens of each at most, then one token after another."""
    cache = KVCache(
        model.config,
        num_blocks=12,
        block_size=4,
        head_dim_multiple=head_dim_multiple,
        dtype=cache_dtype or model.head_weight.dtype,
    )
    tables = [BlockTable(4, reversed(range(start, start + 4))) for start in (8, 4, 0)]
    done = [0] * len(LENGTHS)
    found = [[] for _ in LENGTHS]
    while unfinished := [index for index, length in enumerate(LENGTHS) if done[index] < length]:
        counts = [max(1, LENGTHS[index] - 2) if not done[index] else 1 for index in unfinished]
        positions = [
            torch.arange(done[index], done[index] + count) for index, count in zip(unfinished, counts, strict=True)
        ]
        for index, count in zip(unfinished, counts, strict=True):
            done[index] += count
        ids_N = torch.cat([sequences()[index][at] for index, at in zip(unfinished, positions, strict=True)])
        context = PagedContext(
            cache=cache,
            query_lengths=counts,
            context_lengths=[done[index] for index in unfinished],
            block_tables=[tables[index] for index in unfinished],
        )
        out = model.logits(model(ids_N, torch.cat(positions), context, rows_of(model, ids_N)))
        for index, part in zip(unfinished, out.split(counts), strict=True):
            found[index].append(part)
    return torch.cat([torch.cat(parts) for parts in found])


# Rotary positions


@pytest.mark.parametrize("head_dim", [2, 60, 100])
@pytest.mark.parametrize("theta", [10_000.0, 500_000.0])
def test_rotary_positions_turn_complex_numbers(head_dim, theta):
    positions = torch.tensor([0, 1, 2, 17, 2047])
    x_NHD = torch.randn(5, 3, head_dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    actual = rotate(x_NHD, *rotary_factors(positions, head_dim, theta, torch.float64))
    expected = [
        [reference.rotated(head.numpy(), int(position), theta) for head in heads]
        for heads, position in zip(x_NHD, positions, strict=True)
    ]
    np.testing.assert_allclose(actual.numpy(), np.array(expected), rtol=0, atol=1e-10)


def test_rotary_angles_of_narrow_dtypes_are_made_in_float32():
    positions = torch.tensor([2047])
    narrow, wide = (rotary_factors(positions, 60, 10_000.0, dtype) for dtype in (torch.bfloat16, torch.float32))
    assert [part.tolist() for part in narrow] == [part.bfloat16().tolist() for part in wide]


def test_scores_of_rotated_vectors_depend_on_their_distance_alone():
    q, k = torch.randn(2, 1, 1, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def score(query_position, key_position):
        factors = [rotary_factors(torch.tensor([at]), 8, 1e4, torch.float64) for at in (query_position, key_position)]
        return float((rotate(q, *factors[0]) * rotate(k, *factors[1])).sum())

    assert score(13, 5) == pytest.approx(score(108, 100), rel=1e-9)


# The memory's scale


def test_a_scale_of_one_changes_no_bit():
    model = random_model()
    alpha_NL = torch.ones(sum(LENGTHS), 2)
    scaled = packed_logits(model, *sequences(), alpha_NL=alpha_NL)
    assert torch.equal(scaled, packed_logits(model, *sequences()))


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("config", [MEMORY, FLEX], ids=["memoryllm", "flex"])
def test_a_scale_of_zero_leaves_a_layers_memory_out(config, layer):
    model = random_model(config)
    alpha_NL = torch.ones(sum(LENGTHS), 2)
    alpha_NL[:, layer] = 0
    scaled = packed_logits(model, *sequences(), alpha_NL=alpha_NL)
    with torch.no_grad():
        model.memories[layer].down_proj.weight.zero_()
    assert torch.equal(scaled, packed_logits(model, *sequences()))


@pytest.mark.parametrize("config", [MEMORY, FLEX], ids=["memoryllm", "flex"])
def test_every_token_has_scales_of_its_own(config):
    model = random_model(config, dtype=torch.float64)
    alpha_NL = torch.rand(sum(LENGTHS), 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).round(
        decimals=1
    )
    actual = packed_logits(model, *sequences(), alpha_NL=alpha_NL)
    assert relative_error(actual, expected_logits(model, alpha=alpha_NL)) < 1e-12


def test_scales_are_read_when_the_model_runs():
    # The buffer stays where it is and its values change between steps, as an engine needs it.
    model = random_model()
    alpha_NL = torch.ones(sum(LENGTHS), 2)
    before = packed_logits(model, *sequences(), alpha_NL=alpha_NL)
    alpha_NL.fill_(0.5)
    assert not torch.equal(before, packed_logits(model, *sequences(), alpha_NL=alpha_NL))


# Rows and kinds


def test_a_model_with_a_memory_wants_its_rows():
    with pytest.raises(ValueError, match="a memoryllm model takes its rows"):
        random_model()(torch.tensor([1]), torch.tensor([0]), PackedContext([1]))


def test_a_dense_model_takes_no_rows():
    rows = rows_of(random_model(), torch.tensor([1]))
    with pytest.raises(ValueError, match="a dense model takes no rows"):
        random_model(DENSE)(torch.tensor([1]), torch.tensor([0]), PackedContext([1]), rows)


def test_a_model_built_without_its_memory_says_so():
    with pytest.raises(ValueError, match="without its memory's FFNs"):
        _ = Transformer(MEMORY, with_memory=False).memories


@pytest.mark.parametrize("config", EVERY_KIND.values(), ids=EVERY_KIND)
def test_parameters_are_as_many_as_the_configuration_counts(config):
    model = Transformer(config)
    embedding = model.model.embed_tokens.weight.numel()
    assert sum(parameter.numel() for parameter in model.parameters()) - embedding == config.total_params


@pytest.mark.parametrize("config", EVERY_KIND.values(), ids=EVERY_KIND)
def test_parameters_without_the_memory_are_the_active_ones(config):
    model = Transformer(config, with_memory=False)
    embedding = model.model.embed_tokens.weight.numel()
    assert sum(parameter.numel() for parameter in model.parameters()) - embedding == config.active_params


# Initial weights


def test_a_model_can_be_built_without_storage():
    with torch.device("meta"):
        model = Transformer(FLEX)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_every_parameter_is_initialised():
    model = Transformer(FLEX)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    model.init_weights(torch.Generator().manual_seed(0))
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_initial_weights_follow_from_the_seed():
    def initial(seed):
        model = Transformer(FLEX)
        model.init_weights(torch.Generator().manual_seed(seed))
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    assert torch.equal(initial(1), initial(1))
    assert not torch.equal(initial(1), initial(2))


def test_projections_into_the_stream_start_smaller():
    model = Transformer(dataclasses.replace(MEMORY, hidden_size=64, intermediate_size=256))
    model.init_weights(torch.Generator().manual_seed(0))
    up, down = (getattr(model.memories[0], name).weight.detach() for name in ("up_proj", "down_proj"))
    assert float(up.std()) == pytest.approx(0.02, rel=0.05)
    assert float(down.std()) == pytest.approx(0.02 / 4**0.5, rel=0.05)
