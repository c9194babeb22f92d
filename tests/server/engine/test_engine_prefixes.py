"""Keys and values that were there before: found, counted, kept apart by salt; their tokens ask for no rows."""

import pytest

from tests.server.engine.fake_model import request, run_all
from tests.server.engine.real_engine import started

PROMPT = [index * 11 % 95 + 1 for index in range(40)]


def asked(request_id="a", prompt_ids=PROMPT, **options):
    return request(request_id, prompt_ids, **({"max_tokens": 4} | options))


@pytest.fixture
def engine(small_model):
    with started(small_model, block_size=16) as engine:
        yield engine


def cached(outcomes, name="a"):
    return outcomes.first[name].num_cached_tokens


def num_rows(outcomes, name="a"):
    return outcomes.finished[name].memory.rows


def test_a_prompt_is_found_again_up_to_its_last_full_block(engine):
    first, second = run_all(engine, asked()), run_all(engine, asked())
    assert (0, 32) == (cached(first), cached(second))
    assert first.tokens == second.tokens


def test_cached_tokens_ask_for_no_rows(engine):
    first, second = run_all(engine, asked()), run_all(engine, asked())
    assert (40 + 3, 8 + 3) == (num_rows(first), num_rows(second))


def test_a_prompt_of_whole_blocks_has_its_last_token_computed_again(engine):
    run_all(engine, asked(prompt_ids=PROMPT[:32]))
    assert 16 == cached(run_all(engine, asked(prompt_ids=PROMPT[:32])))


def test_a_prompt_is_found_as_far_as_it_agrees(engine):
    run_all(engine, asked())
    assert 16 == cached(run_all(engine, asked(prompt_ids=[*PROMPT[:20], 0, *PROMPT[21:]])))


def test_outputs_are_found_like_prompts(engine):
    tokens = run_all(engine, asked(max_tokens=12)).tokens["a", 0]
    assert 48 == cached(run_all(engine, asked(prompt_ids=[*PROMPT, *tokens[:10]])))


def test_other_salts_share_nothing(engine):
    run_all(engine, asked(cache_salt="x"))
    for salt, expected in [("y", 0), (None, 0), ("x", 32)]:
        assert expected == cached(run_all(engine, asked(cache_salt=salt)))


def test_a_prompt_whose_scores_are_asked_for_is_computed(engine):
    first = run_all(engine, asked(prompt_logprobs=1))
    second = run_all(engine, asked(prompt_logprobs=1))
    assert 0 == cached(second)
    assert 40 == len(first.first["a"].prompt_logprobs) == len(second.first["a"].prompt_logprobs)


def test_without_prefix_caching_only_choices_of_one_request_share(small_model):
    with started(small_model, enable_prefix_caching=False) as engine:
        run_all(engine, asked())
        again = run_all(engine, asked(n=3))
    assert 0 == cached(again)
    assert 40 + 2 * 8 + 3 * 3 == num_rows(again)


def test_counters_say_how_much_was_found(engine):
    run_all(engine, asked())
    run_all(engine, asked())
    stats = engine.stats()
    assert (80, 32, 8) == (stats.prompt_tokens, stats.cached_prompt_tokens, stats.generation_tokens)


def test_a_full_cache_forgets_the_oldest(small_model):
    with started(small_model, kv_cache_bytes=32 * 1024) as engine:
        assert 8 == engine.info.kv_blocks
        run_all(engine, asked())
        for number in range(4):
            run_all(engine, asked(prompt_ids=[number, *PROMPT]))
        assert 0 == cached(run_all(engine, asked()))
