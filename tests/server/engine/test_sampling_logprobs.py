"""What is said of how likely tokens were."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.messages import Candidate, PositionLogprobs
from server.engine.sampling import ScoresError, logprobs, prompt_logprobs
from tests.server.engine.sampling_samples import logits, make_sequence, random_logits, sample_all


def expected_position(logits_V, token_id, num):
    """Return (id, log probability, rank) of a token and of the likeliest, in float64."""
    scores = np.asarray(logits_V, np.float64)
    values = scores - scores.max() - np.log(np.exp(scores - scores.max()).sum())
    order = sorted(range(len(scores)), key=lambda token: (-scores[token], token))[:num]
    return [(token, values[token], 1 + int((scores > scores[token]).sum())) for token in (token_id, *order)]


def flat(position):
    return [(each.token_id, each.logprob, each.rank) for each in (position.actual, *position.top)]


def assert_same(expected, position):
    exact, found = [(token, rank) for token, _, rank in expected], flat(position)
    assert exact == [(token, rank) for token, _, rank in found]
    np.testing.assert_allclose([each[1] for each in found], [each[1] for each in expected], rtol=1e-5, atol=1e-5)


# Steps of a quarter: scores differ by more than what float32 makes of them.
@settings(deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.sampled_from([0.0, 1.0, 5.0]), num=st.integers(0, 20), data=st.data())
def test_positions_of_a_prompt_are_scored(seed, scale, num, data):
    logits_PV = torch.stack([random_logits(40, seed=seed + row, scale=scale, step=0.25) for row in range(3)])
    next_ids = data.draw(st.lists(st.integers(0, 39), min_size=3, max_size=3))
    positions = prompt_logprobs(logits_PV, next_ids, num)
    for logits_V, token_id, position in zip(logits_PV, next_ids, positions, strict=True):
        assert_same(expected_position(logits_V, token_id, num), position)


def test_a_long_prompt_is_scored_in_parts(monkeypatch):
    logits_PV, next_ids = torch.stack([random_logits(50, seed=row) for row in range(10)]), list(range(10))
    whole = prompt_logprobs(logits_PV, next_ids, 3)
    monkeypatch.setattr(logprobs, "_SCORES_AT_ONCE", 150)
    assert whole == prompt_logprobs(logits_PV, next_ids, 3)


def test_a_prompt_of_no_position_has_none():
    assert [] == prompt_logprobs(torch.zeros(0, 5), [], 3)


def test_scores_that_are_no_numbers_are_refused():
    with pytest.raises(ScoresError, match="before prompt token 2 "):
        prompt_logprobs(torch.tensor([[0.0, 1.0, 2.0], [0.0, math.nan, 2.0]]), [1, 2], 0)


def test_equal_tokens_have_equal_ranks_and_the_lowest_id_comes_first():
    (position,) = prompt_logprobs(torch.tensor([[1.0, 2.0, 2.0, 0.0, 2.0]]), [4], 4)
    ranks = [(1, 1), (2, 1), (4, 1), (0, 4)]
    assert (ranks, 1) == ([(each.token_id, each.rank) for each in position.top], position.actual.rank)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_log_probabilities_are_exact_to_float32_whatever_the_models_format(dtype):
    logits_PV = random_logits(300, seed=3, step=0.25)[None].to(dtype)
    (position,) = prompt_logprobs(logits_PV, [7], 5)
    assert_same(expected_position(logits_PV[0].double(), 7, 5), position)


def test_of_a_large_vocabulary_the_lowest_ids_of_equals_come_first():
    logits_PV = torch.zeros(1, 200_000)
    logits_PV[0, [150_000, 4, 199_999]] = 1e-3
    (position,) = prompt_logprobs(logits_PV, [0], 5)
    assert [4, 150_000, 199_999, 0, 1] == [each.token_id for each in position.top]


def test_each_sequence_has_as_many_as_it_asks_for():
    asked = [None, 0, 3, 1]
    told = sample_all(torch.zeros(4, 20), [make_sequence(logprobs=num) for num in asked]).logprobs
    assert asked == [None if each is None else len(each.top) for each in told]


def test_the_token_drawn_is_the_one_that_is_told_of():
    sampled = sample_all(torch.zeros(3, 20), [make_sequence(logprobs=0, seed=seed) for seed in range(3)])
    expected = [PositionLogprobs(Candidate(token, pytest.approx(-math.log(20)), 1), []) for token in sampled.token_ids]
    assert expected == sampled.logprobs


@settings(deadline=None)
@given(data=st.data())
def test_log_probabilities_are_those_of_unchanged_scores(data):
    logits_V = data.draw(logits(30))
    changes = {"temperature": 0.3, "top_k": 2, "logit_bias": {3: 5.0}, "repetition_penalty": 1.5, "bad_word_ids": [[4]]}
    sampled = sample_all(logits_V[None], [make_sequence(logprobs=30, **changes)])
    assert prompt_logprobs(logits_V[None], sampled.token_ids, 30) == sampled.logprobs
