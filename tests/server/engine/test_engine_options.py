"""What an engine is asked to be and cannot, and the hot set that it keeps."""

import math

import pytest

from models.errors import ConfigError
from paging import BudgetError
from paging.storage.faulty import FaultPlan
from server.directories import cache_directory
from server.engine.config import EngineConfig
from tests.server.engine.fake_model import request, run_all
from tests.server.engine.real_engine import started


def refusal(model, kind=ConfigError, **options):
    with pytest.raises(kind) as caught, started(model, **options):
        pass
    return str(caught.value)


def test_too_little_room_for_keys_and_values_is_refused_with_the_number(small_model):
    message = refusal(small_model, kv_cache_bytes=16383)
    assert "buys 3 blocks; one sequence of 64 tokens needs 4, which is 16384 bytes" in message
    with started(small_model, kv_cache_bytes=16384) as engine:
        assert 4 == engine.info.kv_blocks


def test_too_few_slots_are_refused_with_the_number(small_model):
    message = refusal(small_model, BudgetError, tol_device_rows=4, max_num_seqs=4)
    assert "the device budget holds 4 rows; 4 sequences at once need 5" in message


def test_two_budgets_of_one_tier_are_refused(small_model):
    message = refusal(small_model, tol_device_rows=9, tol_device_fraction=0.5)
    assert "tol_device_rows and tol_device_fraction are given" in message


@pytest.mark.parametrize("option", ["tol_device_rows", "tol_host_bytes"])
def test_a_dense_model_takes_no_options_of_a_memory(dense_model, option):
    assert f"it has no memory; leave out {option}" in refusal(dense_model, **{option: 10_000})


@pytest.mark.parametrize("memory", ["resident", "computed", "mapped"])
def test_a_memory_that_is_not_paged_takes_no_paging_options(small_model, memory):
    assert f"the memory is {memory}, not paged; leave out tol_device_rows" in refusal(
        small_model, memory=memory, tol_device_rows=9
    )


def test_a_computed_memory_takes_no_table(small_model):
    assert "a computed memory reads no table" in refusal(small_model, memory="computed", table="elsewhere")


def test_a_longer_context_than_the_models_is_refused(small_model):
    assert "max_model_len is 65; the model's context is 64" in refusal(small_model, max_model_len=65)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_num_seqs": 0}, "max_num_seqs is 0; it must be at least 1"),
        ({"block_size": 7}, "block_size is 7"),
        ({"max_num_seqs": 9, "max_num_batched_tokens": 8}, "it must be at least max_num_seqs, 9"),
        ({"defer_after": -0.1}, "defer_after is -0.1; it must be at least 0"),
        ({"defer_after": math.nan}, "defer_after is nan; it must be at least 0"),
        ({"tol_device_fraction": 1.5}, "tol_device_fraction is 1.5; it must be above 0 and at most 1"),
    ],
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        EngineConfig(model="a", **options)


def test_what_was_granted_is_said(small_model):
    with started(small_model, tol_device_rows=20, max_num_seqs=4) as engine:
        granted = engine.info.granted
    assert "20 of 96 rows" in granted["device tier"]
    assert "asked for: tol_device_rows 20" in granted["device tier"]
    assert "4 at once" in granted["sequences"]


HOT = request("a", [5, 6, 7, 8], max_tokens=3, allowed_token_ids=[9])


def test_the_hot_set_is_there_again_after_a_restart(small_model):
    for _ in range(2):
        with started(small_model, keep_hot_set=True) as engine:
            while engine.has_work or engine.stats().memory["reads_under_way"]:
                engine.step()  # rows that were hot come in while nobody asks for any
            rows = engine._memory.pager.residency().device_keys.tolist()
            (message,) = run_all(engine, HOT).finished.values()
    assert [5, 6, 7, 8, 9] == sorted(rows)
    assert (6, 0) == (message.memory.device_hits, message.memory.major_faults)


def test_no_hot_set_is_kept_unasked(small_model):
    with started(small_model) as engine:
        run_all(engine, HOT)
    assert not (cache_directory() / "hot-sets").exists()


def test_a_hot_set_that_is_none_is_said_and_left_alone(small_model, capsys):
    with started(small_model, keep_hot_set=True) as engine:
        run_all(engine, HOT)
    (path,) = (cache_directory() / "hot-sets").iterdir()
    path.write_text("not a hot set")
    with started(small_model, keep_hot_set=True) as engine:
        run_all(engine, HOT)
    assert capsys.readouterr().err.startswith("warning: ")
    assert "not a hot set" == path.read_text()


def test_requests_are_served_while_hot_rows_come_in(small_model):
    with started(small_model, keep_hot_set=True) as engine:
        run_all(engine, request("a", list(range(1, 60)), max_tokens=1))
    with started(small_model, keep_hot_set=True, plan=FaultPlan(latency=(0.005, 0.005))) as engine:
        assert engine.has_work
        outcomes = run_all(engine, HOT)
    assert {"a"} == outcomes.finished.keys()
