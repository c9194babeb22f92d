"""What requests are told beside tokens: log probabilities, why an output ended, tiers."""

import pytest
import torch

from server.engine.messages import FinishReason, Tier
from tests.server.engine.fake_model import request, run_all
from tests.server.engine.real_engine import started

PROMPT = [index * 7 % 95 + 1 for index in range(40)]
CLOSE = 2e-4


@pytest.fixture
def engine(small_model):
    with started(small_model) as engine:
        yield engine


def choices_of(engine, asked):
    """Every output of a single choice, one after another."""
    engine.add(asked)
    outputs = []
    while engine.has_work:
        outputs += [output for message in engine.step() for output in message.choices]
    return outputs


@pytest.mark.parametrize(
    "options", [{}, {"max_num_seqs": 2, "max_num_batched_tokens": 3}, {"tol_device_rows": 5, "max_num_seqs": 4}]
)
def test_the_scores_of_a_prompt_are_the_exact_models(small_model, exact, options):
    with started(small_model, **options) as engine:
        outcomes = run_all(engine, request("a", PROMPT, max_tokens=1, prompt_logprobs=3, n=2))
    first, *positions = outcomes.first["a"].prompt_logprobs
    logprobs_NV = torch.log_softmax(exact.logits(PROMPT), -1)
    assert first is None
    assert PROMPT[1:] == [position.actual.token_id for position in positions]
    for logprobs_V, position in zip(logprobs_NV[:-1], positions, strict=True):
        for candidate in [position.actual, *position.top]:
            assert abs(logprobs_V[candidate.token_id] - candidate.logprob) < CLOSE
        top = [candidate.logprob for candidate in position.top]
        assert torch.allclose(logprobs_V.topk(3).values, torch.tensor(top, dtype=torch.float64), atol=CLOSE)
        assert (position.actual.rank == 1) == (position.actual.token_id == position.top[0].token_id)


def test_a_prompt_can_be_scored_without_an_output(engine, exact):
    outcomes = run_all(engine, request("a", PROMPT, max_tokens=0, prompt_logprobs=0))
    assert {("a", 0): FinishReason.LENGTH} == outcomes.ends
    assert {("a", 0): []} == outcomes.tokens
    told = sum(position.actual.logprob for position in outcomes.first["a"].prompt_logprobs[1:])
    logprobs_NV = torch.log_softmax(exact.logits(PROMPT), -1)[:-1]
    assert abs(logprobs_NV.gather(1, torch.tensor(PROMPT[1:])[:, None]).sum() - told) < 40 * CLOSE
    assert 40 == outcomes.finished["a"].memory.rows


def test_tokens_come_with_their_log_probabilities(engine, exact):
    outputs = choices_of(engine, request("a", PROMPT[:9], max_tokens=6, temperature=1.0, logprobs=2))
    ids = PROMPT[:9]
    for output in outputs:
        logprobs_V = torch.log_softmax(exact.logits(ids)[-1], -1)
        (token_id,), (position,) = output.token_ids, output.logprobs
        assert token_id == position.actual.token_id
        assert 2 == len(position.top)
        for candidate in [position.actual, *position.top]:
            assert abs(logprobs_V[candidate.token_id] - candidate.logprob) < CLOSE
        ids.append(token_id)


def test_log_probabilities_are_told_only_where_asked_for(engine):
    asked = [request("a", PROMPT, max_tokens=2), request("b", PROMPT, max_tokens=2, logprobs=0, prompt_logprobs=0)]
    for each in asked:
        engine.add(each)
    told = {"a": set(), "b": set()}
    scored = {}
    while engine.has_work:
        for message in engine.step():
            told[message.request_id] |= {output.logprobs is None for output in message.choices}
            scored.setdefault(message.request_id, message.prompt_logprobs is None)
    assert ({"a": {True}, "b": {False}}, {"a": True, "b": False}) == (told, scored)


def greedy(engine, num=10):
    return run_all(engine, request("a", PROMPT[:7], max_tokens=num)).tokens["a", 0]


def test_a_stop_token_ends_an_output_and_is_its_last(engine):
    tokens = greedy(engine)
    stop = tokens[5]
    *_, last = choices_of(engine, request("a", PROMPT[:7], max_tokens=10, stop_token_ids=[stop]))
    assert ((stop,), FinishReason.STOP, stop) == (tuple(last.token_ids), last.finish_reason, last.stop_token_id)


def test_the_end_of_text_ends_an_output_unless_it_is_ignored(engine):
    options = {"max_tokens": 3, "allowed_token_ids": [0]}
    (last,) = choices_of(engine, request("a", [1], ignore_eos=False, **options))
    assert ((0,), FinishReason.STOP, None) == (tuple(last.token_ids), last.finish_reason, last.stop_token_id)
    assert 3 == len(choices_of(engine, request("a", [1], ignore_eos=True, **options)))


def test_no_stop_token_comes_before_the_least_number(engine):
    stop = greedy(engine)[0]
    outputs = choices_of(engine, request("a", PROMPT[:7], max_tokens=10, min_tokens=4, stop_token_ids=[stop]))
    assert stop not in [token_id for output in outputs[:4] for token_id in output.token_ids]


@pytest.mark.parametrize("max_tokens", [None, 1000])
def test_the_context_ends_an_output(small_model, max_tokens):
    with started(small_model, max_model_len=50) as engine:
        outcomes = run_all(engine, request("a", PROMPT, max_tokens=max_tokens))
    assert (10, FinishReason.LENGTH) == (len(outcomes.tokens["a", 0]), outcomes.ends["a", 0])


def test_tiers_are_told_where_asked_for(small_model):
    with started(small_model) as engine:
        options = {"max_tokens": 3, "allowed_token_ids": [9]}
        outputs = choices_of(engine, request("a", [8], return_tiers=True, **options))
        assert [(Tier.STORAGE,), (Tier.STORAGE,), (Tier.DEVICE,)] == [tuple(output.tiers) for output in outputs]
        assert {None} == {output.tiers for output in choices_of(engine, request("a", [8], **options))}


def test_a_dense_model_serves_too(dense_model):
    with started(dense_model, kv_cache_bytes=2**20) as engine:
        outcomes = run_all(engine, request("a", [5, 6, 7], max_tokens=5, return_tiers=True), request("b", [5, 6]))
    assert {"a", "b"} == outcomes.finished.keys()
    assert {} == engine.stats().memory
