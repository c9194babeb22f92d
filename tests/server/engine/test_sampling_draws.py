"""Which token is drawn: what it depends on, and what it does not."""

import collections
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.sampling import Sampler, draw, sampler
from server.engine.sampling.uniforms import stream_key, uniforms
from tests.server.engine.sampling_reference import uniform
from tests.server.engine.sampling_samples import (
    CPU,
    logits,
    make_sequence,
    random_logits,
    sample_all,
    sample_one,
    sequences,
    tokens_of,
)

# Chance


@settings(deadline=None)
@given(
    draws=st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**40)), min_size=1)
)
def test_numbers_are_those_of_the_written_formula(draws):
    keys = np.array([stream_key(seed, choice) for seed, choice, _ in draws], np.uint64)
    positions = np.array([position for _, _, position in draws], np.uint64)
    assert [uniform(*each) for each in draws] == uniforms(keys, positions).tolist()


def test_numbers_stay_what_they_are_from_release_to_release():
    keys = np.array([stream_key(seed, choice) for seed, choice in ((0, 0), (0, 1), (2**64 - 1, 0))], np.uint64)
    expected = [0.9192126054109554, 0.8846946974230423, 0.5549121865577692]
    assert expected == uniforms(keys, np.array([0, 0, 5], np.uint64)).tolist()


def test_numbers_are_spread_evenly():
    keys = np.full(20_000, stream_key(5, 0), np.uint64)
    counts = np.bincount((uniforms(keys, np.arange(20_000, dtype=np.uint64)) * 50).astype(int), minlength=50)
    # Chi-square with 49 degrees of freedom: above 94.6 once in 10,000 seeds.
    assert ((counts - 400) ** 2 / 400).sum() < 94.6


def chi_square(tokens, shares):
    counts = collections.Counter(tokens)
    assert set(counts) <= {token for token, share in enumerate(shares) if share}
    return sum(
        (counts[token] - share * len(tokens)) ** 2 / (share * len(tokens))
        for token, share in enumerate(shares)
        if share
    )


@pytest.mark.parametrize(
    ("params", "kept"),
    [({}, 6), ({"temperature": 2.0}, 6), ({"top_k": 3}, 3), ({"top_p": 0.8}, 3), ({"min_p": 0.3}, 3)],
)
def test_tokens_come_as_often_as_their_probability_says(params, kept):
    logits = [0.0, -1.0, 2.0, 1.0, -0.5, 1.2]
    weights = [math.exp(score / params.get("temperature", 1)) for score in logits]
    bound = sorted(weights)[-kept]
    total = sum(weight for weight in weights if weight >= bound)
    shares = [weight / total if weight >= bound else 0 for weight in weights]
    # Chi-square with 5 degrees of freedom at most: above 25.7 once in 10,000 seeds.
    assert chi_square(tokens_of(logits, 4000, **params), shares) < 25.7


def test_a_seed_gives_the_same_draws_again():
    assert tokens_of([0.0] * 500, 20) == tokens_of([0.0] * 500, 20)


def test_seeds_choices_and_positions_give_other_draws():
    options = [{"seed": seed, "choice": choice} for seed in range(4) for choice in range(4)]
    assert len({tuple(tokens_of([0.0] * 1000, 4, **each)) for each in options}) == 16
    assert len(set(tokens_of([0.0] * 1000, 16))) > 12


def test_global_chance_is_left_alone():
    state = torch.get_rng_state()
    tokens_of([0.0] * 10, 3)
    assert torch.equal(state, torch.get_rng_state())


@settings(deadline=None)
@given(data=st.data(), vocab_size=st.sampled_from([5, 300, 1000]))
def test_a_token_does_not_depend_on_the_rest_of_the_batch(data, vocab_size):
    rows = data.draw(st.lists(st.tuples(logits(vocab_size), sequences(vocab_size)), min_size=2, max_size=6))
    logits_SV, batch = torch.stack([row for row, _ in rows]), [sequence for _, sequence in rows]
    alone = [sample_all(logits_SV[row : row + 1], [sequence]).token_ids[0] for row, sequence in enumerate(batch)]
    assert alone == sample_all(logits_SV, batch).token_ids


def test_a_token_does_not_depend_on_the_rest_of_a_large_batch():
    logits_SV = torch.stack([random_logits(32_003, seed=row) for row in range(16)])
    kinds = [{}, {"top_p": 0.9}, {"top_k": 40}, {"temperature": 0.0}]
    batch = [make_sequence(**kinds[row % 4], seed=row) for row in range(16)]
    alone = [sample_all(logits_SV[row : row + 1], [sequence]).token_ids[0] for row, sequence in enumerate(batch)]
    assert alone == sample_all(logits_SV, batch).token_ids


def test_near_equal_scores_that_change_places_change_no_draw():
    logits = [0.0, 1.0, 1.0, 0.5]
    swapped = [0.0, 1.0 + 1e-6, 1.0 - 1e-6, 0.5]
    assert tokens_of(logits, 300, top_k=3) == tokens_of(swapped, 300, top_k=3)


# Without a temperature, and near that


def test_without_a_temperature_the_greatest_score_wins():
    assert sample_one([0.1, 3.0, -1.0, 2.9], temperature=0) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("vocab_size", [7, 40, 1000, 40_000])
def test_of_equal_greatest_scores_the_lowest_id_wins(dtype, vocab_size):
    logits_V = random_logits(vocab_size, seed=1, scale=1, step=0.5).clamp(max=1.5)
    logits_V[[vocab_size - 1, vocab_size // 2, 3]] = 2.0
    tokens = sample_all(logits_V.to(dtype).expand(3, -1), [make_sequence(temperature=0)] * 3).token_ids
    assert [3] * 3 == tokens


@pytest.mark.parametrize("limit", [{"top_k": 1}, {"top_p": 1e-9}])
def test_a_limit_of_one_token_is_the_same_as_no_temperature(limit):
    for seed in range(20):
        logits = random_logits(600, seed=seed, step=1.0).tolist()
        assert {sample_one(logits, temperature=0)} == set(tokens_of(logits, 10, **limit))


@pytest.mark.parametrize("temperature", [1e-5, 1e-30, 5e-324])
def test_a_tiny_temperature_draws_the_greatest_score(temperature):
    assert {2} == set(tokens_of([-1e4, 99.9, 100.0, -math.inf], 20, temperature=temperature))


def test_a_huge_temperature_draws_them_all():
    assert {0, 1, 2} == set(tokens_of([-50.0, 0.0, 50.0, -math.inf], 40, temperature=1e30))


# Limits


def test_top_k_keeps_so_many():
    assert {1, 3} == set(tokens_of([0.0, 1.0, 0.5, 1.1], 60, top_k=2))


@pytest.mark.parametrize("top_k", [-1, 0, 4, 400])
def test_top_k_of_all_keeps_all(top_k):
    assert {0, 1, 2, 3} == set(tokens_of([0.0, 1.0, 0.5, 1.1], 60, top_k=top_k))


def test_top_p_keeps_the_token_that_reaches_it():
    shares = [math.log(share) for share in (0.1, 0.5, 0.15, 0.25)]
    assert {1, 3} == set(tokens_of(shares, 60, top_p=0.7))
    assert {1, 2, 3} == set(tokens_of(shares, 60, top_p=0.8))


def test_top_p_is_a_share_of_what_top_k_left():
    shares = [math.log(share) for share in (0.1, 0.5, 0.15, 0.25)]
    assert {1} == set(tokens_of(shares, 60, top_p=0.6, top_k=2))


def test_min_p_keeps_a_share_of_the_likeliest():
    assert {1, 3} == set(tokens_of([0.0, 1.0, 0.4, 1.1], 60, min_p=0.8))


def test_min_p_of_one_keeps_equals_of_the_likeliest():
    assert {1, 3} == set(tokens_of([0.0, 1.0, 0.4, 1.0], 60, min_p=1.0))


@pytest.mark.parametrize("params", [{"top_p": 0.97}, {"top_k": 900}, {"min_p": 0.5}, {"min_p": 0.5, "top_p": 0.9}])
def test_flat_scores_need_more_candidates_than_are_looked_at_first(params):
    logits = random_logits(1000, seed=2, scale=0.01).tolist()
    assert len(set(tokens_of(logits, 900, **params))) > 500


# Batches


def test_parameters_become_tensors_once_while_the_batch_stays(monkeypatch):
    made = []
    monkeypatch.setattr(sampler, "Batch", lambda *given, **options: made.append(1) or draw.Batch(*given, **options))
    fast, batch, logits_SV = Sampler(20, CPU), [make_sequence(), make_sequence(top_k=3)], torch.zeros(2, 20)
    made.clear()
    for given_batch in (batch, list(batch), batch[::-1], batch[:1], batch[:1]):
        fast.sample(logits_SV[: len(given_batch)], given_batch)
    assert len(made) == 3


def test_the_same_sampler_follows_an_output_as_it_grows():
    fast, sequence = Sampler(500, CPU), make_sequence()
    for _ in range(10):
        sequence.output_ids.extend(fast.sample(torch.zeros(1, 500), [sequence]).token_ids)
    expected = [make_sequence(output_ids=sequence.output_ids[:position]) for position in range(10)]
    assert sequence.output_ids == sample_all(torch.zeros(10, 500), expected).token_ids


def test_a_batch_of_nothing_has_no_tokens():
    assert [] == sample_all(torch.zeros(0, 20), []).token_ids


@settings(deadline=None)
@given(data=st.data())
def test_scores_stay_as_they_are(data):
    logits_SV, sequence = data.draw(logits(30))[None], data.draw(sequences(30))
    before = logits_SV.clone()
    sample_all(logits_SV, [sequence])
    assert torch.equal(before, logits_SV)
