"""Whatever else runs, and however little memory there is: a request's tokens are those that it gets alone."""

import math

import pytest
import torch

from paging.storage.faulty import FaultPlan
from tests.server.engine.fake_model import request, run_all
from tests.server.engine.real_engine import Recorder, started

PREFIX = [5, 17, 33, 2, 71, 8, 90, 4, 44, 12, 60, 3, 9, 27, 81, 50, 6, 7, 39, 1]
ONE_CONTEXT = 64 * 2 * 2 * 2 * 8 * 4
"""Bytes of keys and values: positions, keys and values, layers, heads, values of a head, bytes of a value."""


def mixed_requests():
    greedy = [
        request("short", [7], max_tokens=12),
        request("long", [index * 7 % 96 for index in range(1, 41)], max_tokens=14),
        request("prefix a", [*PREFIX, 11, 13], max_tokens=10, n=2),
        request("prefix b", [*PREFIX, 11, 14], max_tokens=10),
        request("prefix c", [*PREFIX[:16], 95], max_tokens=None),
        request("repeats", [5] * 30, max_tokens=8),
    ]
    drawn = [
        request("drawn", PREFIX[:3], max_tokens=15, temperature=1.0, seed=1, n=3),
        request("top", PREFIX[2:9], max_tokens=15, temperature=0.8, top_k=20, top_p=0.9, seed=2),
        request("bent", PREFIX[::-1], max_tokens=12, temperature=0.7, seed=3, repetition_penalty=1.3, min_tokens=4),
        request("ends", [3, 1, 4, 1, 5], max_tokens=40, temperature=1.5, seed=4, ignore_eos=False, n=2),
    ]
    return greedy + drawn


@pytest.fixture(scope="module")
def alone(small_model):
    """What each request gets with nothing beside it, without a cache of prefixes, from a table in memory."""
    with started(small_model, memory="resident", enable_prefix_caching=False) as engine:
        return {asked.request_id: run_all(engine, asked) for asked in mixed_requests()}


VARIANTS = {
    "together": {"memory": "resident"},
    "computed": {"memory": "computed"},
    "mapped": {"memory": "mapped"},
    "paged": {},
    "a few tokens a step": {"max_num_seqs": 3, "max_num_batched_tokens": 3},
    "small blocks": {"block_size": 8, "max_num_batched_tokens": 40},
    "one context of blocks": {"kv_cache_bytes": ONE_CONTEXT},
    "as few slots as there may be": {"tol_device_rows": 5, "max_num_seqs": 4},
    "a slot for a sequence": {"tol_device_rows": 2, "max_num_seqs": 1},
    "a host tier": {"tol_device_rows": 9, "max_num_seqs": 8, "tol_host_bytes": 60_000},
    "never deferred": {"tol_device_rows": 9, "max_num_seqs": 8, "defer_after": math.inf},
    "always deferred": {"tol_device_rows": 9, "max_num_seqs": 8, "defer_after": 0.0},
    "all at the least": {"tol_device_rows": 4, "max_num_seqs": 3, "max_num_batched_tokens": 3}
    | {"kv_cache_bytes": ONE_CONTEXT, "block_size": 8},
}


def assert_all_same(exact, alone, outcomes):
    for asked in mixed_requests():
        for choice in range(asked.params.n):
            key = asked.request_id, choice
            expected, got = alone[asked.request_id].tokens[key], outcomes.tokens[key]
            exact.assert_same(asked, choice, expected, got)
            if expected == got:
                assert alone[asked.request_id].ends[key] == outcomes.ends[key]


@pytest.mark.parametrize("name", VARIANTS)
def test_outputs_are_those_of_each_request_alone(small_model, exact, alone, name):
    with started(small_model, **VARIANTS[name]) as engine:
        outcomes = run_all(engine, *mixed_requests())
        assert 0 < engine.stats().preemptions or "kv_cache_bytes" not in VARIANTS[name]
    assert_all_same(exact, alone, outcomes)


def test_outputs_are_the_same_with_a_slow_storage(small_model, exact, alone):
    with started(small_model, plan=FaultPlan(latency=(0.02, 0.02)), tol_device_rows=40, max_num_seqs=16) as engine:
        outcomes = run_all(engine, *mixed_requests())
        assert 0 < engine.stats().deferred_steps
        assert 0 < engine.stats().stall_seconds
    assert_all_same(exact, alone, outcomes)


def test_outputs_are_the_same_when_their_prefixes_are_cached(small_model, exact, alone):
    with started(small_model) as engine:
        run_all(engine, *mixed_requests())
        again = run_all(engine, *mixed_requests())
    assert 0 < again.first["prefix a"].num_cached_tokens
    assert_all_same(exact, alone, again)


def test_a_token_is_what_the_exact_model_says(exact, alone):
    for asked in mixed_requests():
        if asked.params.is_greedy:
            ids = [*asked.prompt_ids]
            for token_id in alone[asked.request_id].tokens[asked.request_id, 0]:
                scores_V = exact.logits(ids)[-1]
                assert scores_V.max() - scores_V[token_id] < 1e-4
                ids.append(token_id)


@pytest.mark.parametrize(
    ("num_lanes", "num_tokens", "budget"),
    [(1, 1, {"tol_device_rows": 2, "defer_after": math.inf}), (8, 32, {"tol_device_fraction": 1.0})],
    ids=["one token a step", "all rows at hand"],
)
def test_paged_rows_give_the_same_bits_as_resident_ones(small_model, num_lanes, num_tokens, budget):
    # Then neither memory changes what runs together.
    shared = {"max_num_seqs": num_lanes, "max_num_batched_tokens": num_tokens, "enable_prefix_caching": False}
    recorders = []
    for given in ({"memory": "resident"}, budget):
        with started(small_model, **shared, **given) as engine:
            if num_lanes > 1:
                run_all(engine, *mixed_requests())  # brings the rows
            recorders.append(Recorder(engine))
            for asked in mixed_requests()[1:5]:
                run_all(engine, asked)
    resident, paged = recorders
    assert resident.chunks == paged.chunks
    assert all(torch.equal(*pair) for pair in zip(resident.scores, paged.scores, strict=True))
