"""Ranges of sampling parameters."""

import math

import msgspec
import pytest

from paging import TolboothError
from server.engine.errors import RequestError
from server.engine.params import SamplingParams


@pytest.mark.parametrize(
    "good",
    [
        {},
        {"n": 1},
        {"max_tokens": 0},
        {"max_tokens": None, "min_tokens": 1000},
        {"min_tokens": 16},
        {"temperature": 0},
        {"temperature": 1000.0},
        {"top_p": 1.0},
        {"top_p": 1e-9},
        {"top_k": -1},
        {"top_k": 0},
        {"min_p": 0.0},
        {"min_p": 1.0},
        {"repetition_penalty": 0.01},
        {"presence_penalty": -2.0, "frequency_penalty": 2.0},
        {"logit_bias": {3: -1e9}},
        {"allowed_token_ids": None},
        {"seed": 0},
        {"seed": 2**64 - 1},
        {"logprobs": 0, "prompt_logprobs": 0},
    ],
)
def test_values_in_range_are_taken(good):
    params = SamplingParams(**good)
    assert good == {name: getattr(params, name) for name in good}


@pytest.mark.parametrize(
    "bad",
    [
        {"n": 0},
        {"max_tokens": -1},
        {"min_tokens": -1},
        {"min_tokens": 17},
        {"temperature": -0.1},
        {"temperature": math.inf},
        {"temperature": math.nan},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_p": math.nan},
        {"top_k": -2},
        {"min_p": -0.1},
        {"min_p": 1.1},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": math.inf},
        {"presence_penalty": 2.1},
        {"presence_penalty": math.nan},
        {"frequency_penalty": -2.1},
        {"logit_bias": {3: math.inf}},
        {"logit_bias": {3: math.nan}},
        {"allowed_token_ids": []},
        {"bad_words": ["word", ""]},
        {"stop": [""]},
        {"seed": -1},
        {"seed": 2**64},
        {"logprobs": -1},
        {"prompt_logprobs": -1},
    ],
    ids=str,
)
def test_values_out_of_range_are_refused_by_name(bad):
    (name,) = bad
    with pytest.raises(RequestError, match=f"^{name} is .*; it must be ") as caught:
        SamplingParams(**bad)
    assert name == caught.value.param


def test_the_refusal_says_value_and_range():
    with pytest.raises(RequestError, match=r"^top_p is 1\.5; it must be above 0 and at most 1$"):
        SamplingParams(top_p=1.5)


def test_a_refusal_is_a_persons_fault_and_a_wrong_value():
    assert issubclass(RequestError, TolboothError)
    assert issubclass(RequestError, ValueError)


def test_a_long_value_is_cut_short():
    with pytest.raises(RequestError) as caught:
        SamplingParams(stop=["x" * 10_000, ""])
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(("temperature", "expected"), [(0, True), (0.0, True), (1e-9, False), (1.0, False)])
def test_without_a_temperature_nothing_is_left_to_chance(temperature, expected):
    assert expected is SamplingParams(temperature=temperature).is_greedy


def test_parameters_do_not_change():
    with pytest.raises(AttributeError):
        SamplingParams().n = 2


def test_parameters_cross_a_socket():
    params = SamplingParams(n=2, logit_bias={5: 1.5}, allowed_token_ids=[5, 6], stop=["\n"], seed=2**64 - 1)
    assert params == msgspec.msgpack.decode(msgspec.msgpack.encode(params), type=SamplingParams)


def test_parameters_that_nobody_knows_are_refused():
    with pytest.raises(msgspec.ValidationError, match="top_q"):
        msgspec.json.decode(b'{"top_q": 1}', type=SamplingParams)


def test_values_out_of_range_are_refused_from_a_socket_too():
    with pytest.raises(msgspec.ValidationError, match="top_p is 7"):
        msgspec.json.decode(b'{"top_p": 7}', type=SamplingParams)
