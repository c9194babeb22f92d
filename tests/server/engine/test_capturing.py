"""Which steps are captured at the start, and what is said of it.

On the CPU a step is captured by keeping what runs it.
"""

import dataclasses
from contextlib import ExitStack, contextmanager

import pytest

from models.errors import ConfigError
from models.kv_cache import KVCache
from server.engine.capturing import captured_steps
from server.engine.config import EngineConfig
from server.engine.decode_graphs import DecodeGraphs
from server.engine.parts import Loading, open_table_storage
from tests.server.engine.real_engine import started


@contextmanager
def loaded(model, **options):
    """What is there before steps are captured, with a block for the lanes that rest."""
    config = EngineConfig(model=str(model), **({"threads": 1, "device": "cpu", "max_num_seqs": 4} | options))
    with ExitStack() as stack:
        start = Loading(config, stack, {}, on_progress=None, open_storage=open_table_storage).run(None)
        cache = KVCache(start.model.config, num_blocks=9, block_size=16, has_scratch=True)
        yield dataclasses.replace(start, cache=cache)


def kept(model, cache, max_lanes):
    """Graphs as a GPU has them."""
    return DecodeGraphs(model, cache, max_lanes=max_lanes, capture=lambda forward: forward)


def without_memory(model, cache, max_lanes):
    graphs = kept(model, cache, max_lanes)
    graphs.is_full = True
    return graphs


def refused(model, cache, max_lanes):
    def refuse(forward):
        raise RuntimeError("operation not permitted when stream is capturing")

    return DecodeGraphs(model, cache, max_lanes=max_lanes, capture=refuse)


@pytest.mark.parametrize("memory", ["paged", "resident"])
def test_the_commonest_steps_are_captured(small_model, memory):
    with loaded(small_model, memory=memory) as start:
        graphs, granted = captured_steps(start, make=kept)
    assert 3 == graphs.num_captured
    assert "3 sizes at the start, others when they are needed; asked for: nothing" == granted


def test_a_dense_models_steps_are_captured(dense_model):
    with loaded(dense_model) as start:
        assert 3 == captured_steps(start, make=kept).graphs.num_captured


def test_no_step_is_captured_where_that_was_asked_for(small_model):
    with loaded(small_model, enforce_eager=True) as start:
        assert (None, "none; asked for: enforce_eager") == captured_steps(start, make=kept)


@pytest.mark.parametrize("memory", ["mapped", "computed"])
def test_rows_in_places_of_their_own_are_said_to_prevent_it(small_model, memory):
    with loaded(small_model, memory=memory) as start:
        graphs, granted = captured_steps(start, make=kept)
    assert graphs is None
    assert granted.startswith("none, each step's rows lie in a place of their own")


def test_a_part_of_each_row_is_said_to_prevent_it(small_model):
    with loaded(small_model, tol_alpha=(0.5,)) as start:
        graphs, granted = captured_steps(start, make=kept)
    assert 0 == graphs.num_captured
    assert granted.startswith("none at the start, requests get a part of their rows")


def test_a_want_of_memory_is_said(small_model):
    with loaded(small_model) as start:
        granted = captured_steps(start, make=without_memory).granted
    assert "0 sizes at the start, no others for want of memory; asked for: nothing" == granted


def test_a_gpu_that_refuses_is_an_error_that_says_what_to_do(small_model):
    with loaded(small_model) as start, pytest.raises(ConfigError, match="start with enforce_eager: operation not"):
        captured_steps(start, make=refused)


def test_what_a_cpu_cannot_capture_is_said_where_it_was_asked_for(small_model):
    with started(small_model, enforce_eager=True) as engine:
        assert "none on a CPU in any case; asked for: enforce_eager" == engine.info.granted["captured steps"]


def test_nothing_is_said_of_captured_steps_on_a_cpu_unasked(small_model):
    with started(small_model) as engine:
        assert "captured steps" not in engine.info.granted
