"""Scores that are no numbers, and parameters that do not fit the vocabulary."""

import math

import pytest
import torch

from paging import TolboothError
from server.engine.errors import RequestError
from server.engine.params import SamplingParams
from server.engine.sampling import ScoresError, check_params
from tests.server.engine.sampling_samples import make_sequence, sample_all

KINDS = [
    {"temperature": 0},
    {},
    {"top_p": 0.9},
    {"top_k": 5, "min_p": 0.1},
    {"repetition_penalty": 1.2},
    {"logprobs": 2},
    {"logprobs": 2, "temperature": 0, "allowed_token_ids": [1, 2]},
]


@pytest.mark.parametrize("vocab_size", [6, 600])
@pytest.mark.parametrize("broken", [math.nan, math.inf])
@pytest.mark.parametrize("params", KINDS)
def test_only_the_sequence_with_broken_scores_fails(params, broken, vocab_size):
    logits_SV = torch.linspace(0, 3, 3 * vocab_size).view(3, vocab_size)
    sound = sample_all(logits_SV, [make_sequence(**params)] * 3)
    logits_SV[1, 4] = broken
    sampled = sample_all(logits_SV, [make_sequence(**params)] * 3)
    assert [1] == list(sampled.errors)
    assert [sound.token_ids[0], -1, sound.token_ids[2]] == sampled.token_ids
    assert [sound.logprobs[0], None, sound.logprobs[2]] == sampled.logprobs


def test_scores_of_minus_infinity_alone_are_broken():
    sampled = sample_all(torch.full((2, 300), -math.inf), [make_sequence(), make_sequence(temperature=0, logprobs=1)])
    assert ([0, 1], [-1, -1]) == (list(sampled.errors), sampled.token_ids)


def test_the_error_says_where():
    sampled = sample_all(torch.full((1, 9), math.nan), [make_sequence(choice=3, output_ids=[1, 2])])
    with pytest.raises(
        ScoresError, match=r"for token 2 of choice 3 are not finite numbers; its weights may be damaged"
    ):
        raise sampled.errors[0]


def test_the_error_is_of_both_trees():
    assert issubclass(ScoresError, TolboothError)
    assert issubclass(ScoresError, ArithmeticError)


# Parameters


@pytest.mark.parametrize(
    ("given", "param", "complaint"),
    [
        ({"logit_bias": {50: 1.0}}, "logit_bias", "has token id 50; the model's vocabulary has ids 0 to 49"),
        ({"logit_bias": {-1: 1.0}}, "logit_bias", "has token id -1"),
        ({"allowed_token_ids": [1, 50]}, "allowed_token_ids", "has token id 50"),
        ({"stop_token_ids": [99]}, "stop_token_ids", "has token id 99"),
        ({"logprobs": 51}, "logprobs", "is 51; the model's vocabulary has 50 tokens"),
        ({"prompt_logprobs": 51}, "prompt_logprobs", "is 51; the model's vocabulary has 50 tokens"),
    ],
)
def test_what_does_not_fit_the_vocabulary_is_refused(given, param, complaint):
    with pytest.raises(RequestError, match=f"^{param} {complaint}") as caught:
        check_params(SamplingParams(**given), 50)
    assert param == caught.value.param


@pytest.mark.parametrize(("words", "complaint"), [([[1], [2, 50]], "has token id 50"), ([[1], []], "no token at all")])
def test_bad_words_that_are_no_tokens_are_refused(words, complaint):
    with pytest.raises(RequestError, match=complaint) as caught:
        check_params(SamplingParams(), 50, words)
    assert caught.value.param == "bad_words"


def test_parameters_that_fit_pass():
    ids = {"allowed_token_ids": [0, 49], "stop_token_ids": [0, 49], "logit_bias": {0: 1.0, 49: -1.0}}
    check_params(SamplingParams(logprobs=50, prompt_logprobs=50, **ids), 50, [[0, 49]])
