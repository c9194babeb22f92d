"""Biases, penalties, and what must not be drawn."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.sampling import Sampler
from server.engine.sampling.adjustments import Adjustments
from tests.server.engine.sampling_reference import processed_scores
from tests.server.engine.sampling_samples import CPU, EOS, logits, make_sequence, sample_one, sequences, tokens_of

GREEDY = {"temperature": 0}
FALLING = [5.0, 4.0, 3.0, 2.0, 1.0]


def adjusted(logits, **options):
    adjustments = Adjustments([make_sequence(**options)], vocab_size=len(logits), device=CPU)
    return adjustments.applied_to(torch.tensor([logits]))[0].tolist()


@settings(deadline=None)
@given(data=st.data(), vocab_size=st.sampled_from([2, 30, 300]))
def test_scores_are_the_references(data, vocab_size):
    rows = data.draw(st.lists(st.tuples(logits(vocab_size), sequences(vocab_size)), min_size=1, max_size=4))
    batch = [sequence for _, sequence in rows]
    logits_SV = torch.stack([row for row, _ in rows])
    scores_SV = Adjustments(batch, vocab_size=vocab_size, device=CPU).applied_to(logits_SV)
    expected = [processed_scores(row.tolist(), sequence) for row, sequence in zip(logits_SV, batch, strict=True)]
    torch.testing.assert_close(torch.tensor(expected), scores_SV, rtol=1e-5, atol=1e-5)


@settings(deadline=None)
@given(data=st.data(), output_ids=st.lists(st.integers(0, 29), min_size=1, max_size=80))
def test_scores_follow_an_output_as_it_grows(data, output_ids):
    logits_SV, sequence = data.draw(logits(30))[None], data.draw(sequences(30))
    adjustments = Adjustments([sequence], vocab_size=30, device=CPU)
    for token_id in output_ids:
        sequence.output_ids.append(token_id)
        if data.draw(st.booleans()):
            adjustments.applied_to(logits_SV)
    expected = torch.tensor([processed_scores(logits_SV[0].tolist(), sequence)])
    torch.testing.assert_close(expected, adjustments.applied_to(logits_SV), rtol=1e-5, atol=1e-5)


def test_nothing_asked_copies_nothing():
    logits_SV = torch.zeros(1, 5)
    assert Adjustments([make_sequence()], vocab_size=5, device=CPU).applied_to(logits_SV) is logits_SV


def test_a_bias_is_added():
    assert [5.0, 4.0, 3.0, 5.5, -1.0] == adjusted(FALLING, logit_bias={3: 3.5, 4: -2.0})


def test_a_repetition_penalty_moves_tokens_of_prompt_and_output_down_once():
    options = {"prompt_ids": [0, 0], "output_ids": [2, 2], "repetition_penalty": 2.0}
    assert [2.0, 3.0, -4.0, -1.0] == adjusted([4.0, 3.0, -2.0, -1.0], **options)


def test_a_presence_penalty_counts_a_token_of_the_output_once():
    options = {"prompt_ids": [0], "output_ids": [1, 1], "presence_penalty": 0.5}
    assert [1.0, 0.5, 1.0] == adjusted([1.0] * 3, **options)


def test_a_frequency_penalty_counts_each_time():
    options = {"prompt_ids": [0], "output_ids": [1, 2, 1], "frequency_penalty": 0.5}
    assert [1.0, 0.0, 0.5] == adjusted([1.0] * 3, **options)


def test_biases_come_before_penalties():
    assert [3.0, 0.0] == adjusted([-2.0, 0.0], prompt_ids=[0], logit_bias={0: 8.0}, repetition_penalty=2.0)


@pytest.mark.parametrize("factor", [5e-324, 1e-300, 1e300])
@pytest.mark.parametrize("score", [-3.0, 0.0, 3.0])
def test_absurd_factors_make_no_infinity(factor, score):
    options = {"repetition_penalty": factor, "logit_bias": {1: 1e300, 2: -1e300}}
    assert all(map(math.isfinite, adjusted([score] * 3, **options)))
    assert sample_one([score] * 3, **options) == 1


def test_only_allowed_tokens_are_drawn():
    assert {1, 4} == set(tokens_of(FALLING, 80, allowed_token_ids=[4, 1, 4]))


def test_a_bias_allows_nothing():
    assert sample_one(FALLING, allowed_token_ids=[3, 4], logit_bias={0: 1e9}, **GREEDY) == 3


def test_an_output_does_not_end_before_min_tokens():
    options = {"min_tokens": 3, "stop_token_ids": [1], **GREEDY}
    chosen = [sample_one(FALLING, output_ids=[2] * length, **options) for length in range(5)]
    assert [2, 2, 2, EOS, EOS] == chosen


def test_an_ignored_end_of_text_is_a_token_like_others():
    assert sample_one(FALLING, min_tokens=3, ignore_eos=True, **GREEDY) == EOS


def test_a_vocabulary_without_an_end_of_text_has_none_to_ban():
    assert sample_one(FALLING, min_tokens=3, eos_token_id=None, **GREEDY) == 0


@pytest.mark.parametrize(
    ("bad_word_ids", "output_ids", "expected"),
    [
        ([[0]], [], 1),
        ([[0], [1]], [0], 2),
        ([[3, 4, 0]], [3, 4], 1),
        ([[3, 4, 0]], [2, 3, 4], 1),
        ([[3, 4, 0]], [4], 0),
        ([[3, 4, 0]], [3, 4, 2], 0),
        ([[3, 3, 0]], [3], 0),
        ([[3, 4, 0], [4, 1]], [3, 4], 2),
    ],
)
def test_a_bad_word_is_not_completed(bad_word_ids, output_ids, expected):
    assert expected == sample_one(FALLING, output_ids=output_ids, bad_word_ids=bad_word_ids, **GREEDY)


def test_the_prompt_begins_no_bad_word():
    assert sample_one(FALLING, prompt_ids=[3, 4], bad_word_ids=[[3, 4, 0]], **GREEDY) == 0


def test_a_bias_lifts_no_ban():
    assert sample_one(FALLING, bad_word_ids=[[0]], logit_bias={0: 100.0}, **GREEDY) == 1


def test_an_early_end_is_better_than_a_bad_word():
    options = {"allowed_token_ids": [EOS, 1], "min_tokens": 5, "bad_word_ids": [[1]]}
    assert {EOS} == set(tokens_of(FALLING, 3, **options))


def test_a_bad_word_is_better_than_what_is_not_allowed():
    assert {1, 2} == set(tokens_of(FALLING, 40, allowed_token_ids=[1, 2], bad_word_ids=[[1], [2]]))


def test_a_vocabulary_of_bad_words_is_drawn_from():
    assert sample_one(FALLING, bad_word_ids=[[token] for token in range(5)], **GREEDY) == 0


@settings(deadline=None)
@given(data=st.data())
def test_every_token_is_one_of_the_allowed(data):
    sequence = data.draw(sequences(30))
    (token,) = Sampler(30, CPU).sample(data.draw(logits(30))[None], [sequence]).token_ids
    assert token in (sequence.params.allowed_token_ids or range(30))
