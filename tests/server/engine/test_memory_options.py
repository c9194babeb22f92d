"""How much of each layer's row a request gets: by itself, beside others, and never from another's cache."""

import pytest
import torch

from models.attention import PackedContext
from models.computed_rows import ComputedRows
from models.errors import ConfigError
from server.engine.errors import RequestError
from server.engine.memory_options import LayerShares, MemoryOptions
from tests.server.engine.fake_model import request, run_all
from tests.server.engine.real_engine import Recorder, started

TOLERANCE = 1e-3
"""Of log probabilities in float32 against float64, of scores that go into the tens."""
PROMPT = [index * 11 % 95 + 1 for index in range(40)]


# Shares of layers


def test_without_options_all_of_every_row_is_added():
    assert LayerShares(3).of(None) is None
    assert LayerShares(3).of(MemoryOptions()) is None
    assert LayerShares(3, alpha=(1.0,)).of(MemoryOptions(alpha=[1, 1.0, 1])) is None


def test_one_number_is_for_every_layer():
    assert (0.5, 0.5, 0.5) == LayerShares(3).of(MemoryOptions(alpha=0.5))
    assert (0.5, 0.5, 0.5) == LayerShares(3, alpha=(0.5,)).of(None)


def test_a_requests_alpha_takes_the_place_of_the_servers():
    assert (0.25, 1.0, 0.5) == LayerShares(3, alpha=(0.8,)).of(MemoryOptions(alpha=[0.25, 1, 0.5]))


def test_what_the_server_leaves_out_stays_out():
    shares = LayerShares(3, drop_layers=(0,))
    assert (0.0, 1.0, 1.0) == shares.of(None)
    assert (0.0, 1.0, 0.0) == shares.of(MemoryOptions(drop_layers=[2, 2]))
    assert (0.0, 2.0, 2.0) == shares.of(MemoryOptions(alpha=2.0))


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"alpha": -0.1}, "memory.alpha"),
        ({"alpha": 2.1}, "memory.alpha"),
        ({"alpha": float("nan")}, "memory.alpha"),
        ({"alpha": float("inf")}, "memory.alpha"),
        ({"alpha": []}, "memory.alpha"),
        ({"alpha": [1.0, 1.0]}, "memory.alpha"),
        ({"alpha": [1.0, 1.0, 3.0]}, "memory.alpha"),
        ({"alpha": [1.0] * 4}, "memory.alpha"),
        ({"drop_layers": [3]}, "memory.drop_layers"),
        ({"drop_layers": [0, -1]}, "memory.drop_layers"),
    ],
)
def test_a_mistake_names_its_field(options, param):
    with pytest.raises(RequestError) as caught:
        LayerShares(3).of(MemoryOptions(**options))
    assert param == caught.value.param


@pytest.mark.parametrize("given", [{"alpha": (1.0, 1.0)}, {"alpha": (3.0,)}, {"drop_layers": (7,)}])
def test_a_servers_mistake_is_one_of_its_configuration(given):
    with pytest.raises(ConfigError, match="tol_"):
        LayerShares(3, **given)


def test_a_dense_model_has_nothing_to_scale():
    assert LayerShares(0).of(None) is None
    with pytest.raises(RequestError, match="dense"):
        LayerShares(0).of(MemoryOptions(alpha=0.5))
    with pytest.raises(ConfigError, match="dense"):
        LayerShares(0, alpha=(0.5,))


# In an engine

OPTIONS = {
    "all": None,
    "half": MemoryOptions(alpha=0.5),
    "by layer": MemoryOptions(alpha=[0.9, 0.3]),
    "first out": MemoryOptions(drop_layers=[0]),
    "none": MemoryOptions(drop_layers=[0, 1]),
    "louder": MemoryOptions(alpha=[1.5, 1.0], drop_layers=[1]),
}


@torch.inference_mode()
def exact_logprobs(model, ids, options):
    """Log probabilities after each token, in float64 and without a cache, [N, V]."""
    shares = LayerShares(2).of(options) or (1.0, 1.0)
    ids_N = torch.tensor(ids)
    alpha_NL = torch.tensor(shares, dtype=torch.float64).expand(len(ids), -1)
    rows = ComputedRows(model).fetch(ids_N)
    hidden_Nd = model(ids_N, torch.arange(len(ids)), PackedContext([len(ids)]), rows, alpha_NL)
    return model.logits(hidden_Nd).log_softmax(dim=-1)


def asked(name, prompt_ids=PROMPT, **options):
    return request(name, prompt_ids, memory=OPTIONS[name], **({"max_tokens": 10, "logprobs": 2} | options))


def mixed_requests():
    prompts = [PROMPT, PROMPT[:7], [5], PROMPT[:30], PROMPT[::-1], PROMPT[3:20]]
    return [asked(name, prompt) for name, prompt in zip(OPTIONS, prompts, strict=True)]


@pytest.mark.parametrize(
    "given",
    [
        {"memory": "resident"},
        {"memory": "computed"},
        {"tol_device_rows": 9, "max_num_seqs": 8, "defer_after": 0.0},
        {"max_num_seqs": 3, "max_num_batched_tokens": 5},
    ],
    ids=["resident", "computed", "few slots", "few tokens"],
)
def test_in_a_mixed_batch_each_gets_what_it_gets_alone(small_model, exact, given):
    with started(small_model, **given) as engine:
        outcomes = run_all(engine, *mixed_requests())
    for each in mixed_requests():
        tokens = outcomes.tokens[each.request_id, 0]
        scores = exact_logprobs(exact.model, [*each.prompt_ids, *tokens], each.memory)[len(each.prompt_ids) - 1 :]
        for position, logprobs in enumerate(outcomes.logprobs[each.request_id, 0]):
            for candidate in (logprobs.actual, *logprobs.top):
                assert abs(float(scores[position, candidate.token_id]) - candidate.logprob) < TOLERANCE
            assert float(scores[position].max() - scores[position, tokens[position]]) < TOLERANCE


def test_options_differ_in_what_comes_out(small_model):
    with started(small_model) as engine:
        outcomes = run_all(engine, *(asked(name) for name in OPTIONS))
    first = {outcomes.logprobs[name, 0][0].actual.logprob for name in OPTIONS}
    assert len(OPTIONS) == len(first)


def test_a_prefix_is_not_shared_between_different_shares(small_model):
    with started(small_model) as engine:
        cached = [run_all(engine, asked(name)).first[name].num_cached_tokens for name in OPTIONS for _ in range(2)]
    assert [0, 32] * len(OPTIONS) == cached


def test_a_prefix_is_shared_where_options_change_nothing(small_model):
    with started(small_model) as engine:
        run_all(engine, asked("all"))
        plain = run_all(engine, request("plain", PROMPT, max_tokens=1, memory=MemoryOptions(alpha=1.0)))
    assert 32 == plain.first["plain"].num_cached_tokens


def test_a_server_may_scale_for_everybody(small_model, exact):
    with started(small_model, tol_alpha=(0.9, 0.3)) as engine:
        outcomes = run_all(engine, asked("all"))
        assert "0.9, 0.3" == engine.info.granted["alpha"]
    scores = exact_logprobs(exact.model, PROMPT, OPTIONS["by layer"])[-1]
    actual = outcomes.logprobs["all", 0][0].actual
    assert abs(float(scores[actual.token_id]) - actual.logprob) < TOLERANCE


def test_who_gets_all_of_it_gets_the_same_bits_beside_others(small_model):
    scores = []
    for others in ((), (asked("half", [9]),)):
        # One token a step of each, so that the shapes are the same but for the other's row.
        with started(small_model, memory="resident", enable_prefix_caching=False) as engine:
            recorder = Recorder(engine)
            run_all(engine, asked("all", [5]), *others)
            scores.append(torch.stack([step[0] for step in recorder.scores]))
    torch.testing.assert_close(*scores, rtol=0, atol=1e-5)


def test_without_scaled_requests_the_model_is_not_told_of_shares(small_model):
    with started(small_model) as engine:
        told = []
        run = engine.runner.run
        engine.runner.run = lambda chunks, rows, alpha_NL, _: told.append(alpha_NL) or run(chunks, rows, alpha_NL)
        run_all(engine, asked("half", [5], max_tokens=2))
        run_all(engine, asked("all", [5], max_tokens=3))
    assert [False, False, True, True, True] == [alpha_NL is None for alpha_NL in told]


def test_a_refused_request_leaves_nothing(small_model):
    with started(small_model) as engine:
        with pytest.raises(RequestError, match=r"memory\.alpha"):
            engine.add(request("a", [5], memory=MemoryOptions(alpha=7.0)))
        assert not engine.has_work
        run_all(engine, asked("all", [5]))
