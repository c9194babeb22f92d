"""Generation of one sequence: what the cache must not change, when it ends, what is refused."""

import contextlib
import dataclasses
import itertools
import math

import pytest
import torch

import server.engine.generation
from models.computed_rows import ComputedRows
from models.errors import ConfigError
from models.export import table_geometry, write_synthetic_table
from models.paged_rows import PagedRows
from models.table_rows import ResidentRows
from paging import Encoding, Table
from paging.budget import Budget
from paging.storage import open_storage
from paging.tiers import open_pager
from server.engine.generation import FinishReason, generate
from server.engine.sampling import sample
from tests.models.tiny_models import EVERY_KIND, MEMORY, packed_logits, random_ids, random_model

NO_END = dataclasses.replace(MEMORY, eos_token_id=None)
PROMPT = random_ids(11, seed=5).tolist()


def generated(model, prompt=PROMPT, **options):
    rows = ComputedRows(model) if model.config.has_memory else None
    return list(generate(model, rows, prompt, **({"max_tokens": 30} | options)))


def ids_of(tokens):
    return [token.token_id for token in tokens]


def recomputed(model, num_tokens, **options):
    """Continue PROMPT with every token computed from scratch, without a cache."""
    ids = list(PROMPT)
    for position in range(num_tokens):
        logits_V = packed_logits(model, torch.tensor(ids))[-1]
        ids.append(sample(logits_V, position=position, **options))
    return ids[len(PROMPT) :]


# What is generated


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("config", EVERY_KIND.values(), ids=EVERY_KIND)
def test_the_cache_changes_no_token(config, temperature):
    # In float64 no choice is so close that another order of sums decides it.
    model = random_model(dataclasses.replace(config, eos_token_id=None), dtype=torch.float64)
    options = {"temperature": temperature, "seed": 3}
    assert ids_of(generated(model, **options)) == recomputed(model, 30, **options)


@pytest.mark.parametrize("prefill_tokens", [1, 4, 11])
def test_a_prompt_may_be_read_in_chunks(monkeypatch, prefill_tokens):
    model = random_model(NO_END, dtype=torch.float64)
    whole = generated(model, temperature=1.0)
    monkeypatch.setattr(server.engine.generation, "_PREFILL_TOKENS", prefill_tokens)
    assert generated(model, temperature=1.0) == whole


class TableInMemory:
    """A table held in memory whole, of which a batch may have so many rows."""

    def __init__(self, table, *, max_rows):
        self.max_rows = max_rows
        self.fetch = ResidentRows(table, dtype=torch.float32).fetch


@pytest.mark.parametrize("num_slots", [2, 3, 10, 50])
def test_paged_scores_are_those_of_the_resident_table_bit_for_bit(tmp_path, monkeypatch, num_slots):
    scores = []
    monkeypatch.setattr(
        server.engine.generation,
        "sample",
        lambda logits_V, **options: scores.append(logits_V) or sample(logits_V, **options),
    )
    write_synthetic_table(table_geometry(NO_END, Encoding.BF16), tmp_path / "table", fingerprint="weights-1")
    model, prompt = random_model(NO_END), random_ids(40, seed=7).tolist()
    with Table.open(tmp_path / "table") as table, contextlib.closing(open_storage(table)) as storage:
        pager = open_pager(storage, table.geometry, device_budget=Budget(num_rows=num_slots))
        with contextlib.closing(pager), PagedRows(pager, dtype=torch.float32) as paged:
            for rows in (paged, TableInMemory(table, max_rows=num_slots)):
                list(generate(model, rows, prompt, max_tokens=20, temperature=1.0))
    assert [len(scores) // 2] * 2 == [20, 20]
    assert all(torch.equal(*pair) for pair in zip(scores[:20], scores[20:], strict=True))


@pytest.mark.parametrize(
    ("max_rows", "lengths"), [(None, [8]), (50, [8]), (4, [8]), (3, [7, 1]), (2, [4, 3, 1]), (1, [1, 2, 1, 1, 1, 1, 1])]
)
def test_a_chunk_is_the_longest_whose_different_tokens_fit(max_rows, lengths):
    model = random_model(NO_END)
    rows, forwards = ComputedRows(model), []
    rows.max_rows = max_rows
    model.register_forward_pre_hook(lambda _module, inputs: forwards.append(len(inputs[0])))
    list(generate(model, rows, [1, 2, 2, 1, 3, 2, 3, 4], max_tokens=1))
    assert lengths == forwards


def test_one_seed_gives_one_text():
    model = random_model(NO_END)
    assert generated(model, temperature=1.0, seed=7) == generated(model, temperature=1.0, seed=7)


def test_seeds_give_different_texts():
    model = random_model(NO_END)
    texts = {tuple(ids_of(generated(model, temperature=1.0, seed=seed))) for seed in range(5)}
    assert len(texts) == 5


def test_without_a_temperature_the_seed_does_not_matter():
    model = random_model(NO_END)
    assert generated(model, seed=1) == generated(model, seed=2)


def test_a_shorter_text_is_the_beginning_of_a_longer_one():
    model = random_model(NO_END)
    short, long = (ids_of(generated(model, temperature=1.0, max_tokens=count)) for count in (4, 9))
    assert short == long[:4]


def test_tokens_come_one_by_one():
    model = random_model(NO_END)
    forwards = []
    model.register_forward_pre_hook(lambda _module, inputs: forwards.append(len(inputs[0])))
    tokens = generate(model, ComputedRows(model), PROMPT, max_tokens=30)
    assert forwards == []
    next(tokens)
    assert forwards == [len(PROMPT)]
    next(tokens)
    assert forwards == [len(PROMPT), 1]


def test_generating_keeps_no_gradients():
    with torch.enable_grad():
        token = generated(random_model(NO_END), max_tokens=2)
        assert torch.is_grad_enabled()
    assert len(token) == 2


# When it ends


def reasons_of(tokens):
    return [token.finish_reason for token in tokens]


@pytest.mark.parametrize("max_tokens", [1, 5])
def test_it_ends_after_max_tokens(max_tokens):
    tokens = generated(random_model(NO_END), max_tokens=max_tokens)
    assert reasons_of(tokens) == [None] * (max_tokens - 1) + [FinishReason.LENGTH]


def test_it_ends_with_the_end_of_text():
    ids = ids_of(generated(random_model(NO_END), temperature=1.0))
    end = next(token_id for token_id in ids[3:] if token_id not in ids[:3])
    tokens = generated(random_model(dataclasses.replace(NO_END, eos_token_id=end)), temperature=1.0)
    assert ids_of(tokens) == ids[: ids.index(end) + 1]
    assert reasons_of(tokens) == [None] * ids.index(end) + [FinishReason.STOP]


def test_an_end_of_text_as_the_last_token_is_a_stop():
    ids = ids_of(generated(random_model(NO_END), max_tokens=1))
    model = random_model(dataclasses.replace(NO_END, eos_token_id=ids[0]))
    assert reasons_of(generated(model, max_tokens=1)) == [FinishReason.STOP]


@pytest.mark.parametrize("prompt_length", [1, 40, 63])
def test_it_ends_where_the_context_does(prompt_length):
    tokens = generated(random_model(NO_END), random_ids(prompt_length).tolist(), max_tokens=1000)
    assert len(tokens) == NO_END.max_position_embeddings - prompt_length
    assert tokens[-1].finish_reason is FinishReason.LENGTH


# What is refused


@pytest.mark.parametrize(
    ("prompt", "options", "complaint"),
    [
        ([], {}, "no tokens"),
        ([1] * 64, {}, "the prompt has 64 tokens; the model's context is 64, so a prompt can have 63"),
        ([1, 50], {}, "outside the vocabulary of 50"),
        ([-1], {}, "outside the vocabulary of 50"),
        ([1], {"max_tokens": 0}, "max_tokens"),
        ([1], {"temperature": -0.5}, "temperature"),
        ([1], {"temperature": math.nan}, "temperature"),
        ([1], {"temperature": math.inf}, "temperature"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused(prompt, options, complaint):
    with pytest.raises(ConfigError, match=complaint):
        generated(random_model(), prompt, **options)


# Sampling


def test_without_a_temperature_the_greatest_score_wins():
    assert sample(torch.tensor([0.1, 3.0, -1.0, 2.9]), temperature=0, seed=0, position=0) == 1


def test_draws_follow_the_softmax_of_the_scores():
    logits_V = torch.tensor([0.0, 1.0, 2.0, -math.inf])
    num_draws = 4000
    draws = [sample(logits_V, temperature=0.5, seed=3, position=position) for position in range(num_draws)]
    shares = torch.bincount(torch.tensor(draws), minlength=4) / num_draws
    expected = torch.softmax(logits_V / 0.5, dim=0)
    # Four standard deviations of a share's estimate.
    assert ((shares - expected).abs() <= 4 * (expected * (1 - expected) / num_draws).sqrt()).all()


def test_a_draw_depends_on_seed_and_position_alone():
    logits_V = torch.zeros(1000)

    def draws():
        return [
            sample(logits_V, temperature=1.0, seed=seed, position=position)
            for seed, position in itertools.product(range(5), range(5))
        ]

    first = draws()
    torch.manual_seed(123)
    assert draws() == first
    assert len(set(first)) > 20


def test_a_low_temperature_draws_the_greatest_score():
    logits_V = torch.tensor([1.0, 1.1, 0.9])
    assert {sample(logits_V, temperature=1e-3, seed=0, position=position) for position in range(50)} == {1}
