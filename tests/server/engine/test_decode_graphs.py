"""Captured steps: which steps are run so, with how much room, and that they give what others give.

On the CPU a step is captured by keeping what runs it, over the same tensors that a graph would read.
"""

import numpy as np
import pytest
import torch

from models.kv_cache import KVCache
from server.engine.decode_graphs import DecodeGraphs, decode_graphs, room_for, rooms_ahead
from server.engine.messages import Request
from server.engine.params import SamplingParams
from tests.server.engine.fake_model import request, run_all
from tests.server.engine.real_engine import started

PROMPTS = [[5, 17, 33], [7], [index * 7 % 96 for index in range(1, 31)], [50, 6, 7, 39, 1, 44, 12]]


class CheckedGraphs(DecodeGraphs):
    """Steps captured by keeping what runs them; each is run the other way as well."""

    def __init__(self, runner, *, max_lanes, capture=lambda forward: forward):
        runner.cache = with_scratch(runner)
        super().__init__(runner.model, runner.cache, max_lanes=max_lanes, capture=capture)
        self.num_run, self.num_steps = 0, 0
        self._runner = runner
        runner.graphs = self

    def run(self, chunks, rows):
        self.num_steps += 1
        captured_Nd = super().run(chunks, rows)
        if captured_Nd is None:
            return None
        self.num_run += 1
        for layer in range(2):
            placed = rows.placed
            assert torch.equal(rows.gather(layer), placed.rows_in(torch.from_numpy(placed.slots())).gather(layer))
        self._runner.graphs = None
        torch.testing.assert_close(captured_Nd, self._runner.run(chunks, rows), rtol=1e-4, atol=1e-4)
        self._runner.graphs = self
        return captured_Nd


def with_scratch(runner):
    cache = runner.cache
    return KVCache(runner.model.config, num_blocks=cache.num_blocks, block_size=cache.block_size, has_scratch=True)


def requests():
    return [request(f"{index}", prompt, max_tokens=9) for index, prompt in enumerate(PROMPTS)]


@pytest.mark.parametrize("options", [{"memory": "resident"}, {}, {"tol_device_rows": 12, "max_num_seqs": 8}], ids=str)
def test_captured_steps_give_what_others_give(small_model, options):
    with started(small_model, **options) as engine:
        graphs = CheckedGraphs(engine.runner, max_lanes=8)
        run_all(engine, *requests())
        assert 0 < graphs.num_run < graphs.num_steps  # prompts are not run so
        assert 0 < graphs.num_captured < graphs.num_run


def test_rows_that_are_elsewhere_for_each_batch_are_not_captured(small_model):
    with started(small_model, memory="mapped") as engine:
        graphs = CheckedGraphs(engine.runner, max_lanes=32)
        run_all(engine, *requests())
        assert (0, 0) == (graphs.num_run, graphs.num_captured)


def test_a_request_that_gets_a_part_of_each_row_is_not_captured(small_model):
    with started(small_model, memory="resident", tol_alpha=(0.5,)) as engine:
        graphs = CheckedGraphs(engine.runner, max_lanes=32)
        run_all(engine, *requests())
        assert 0 == graphs.num_run


def test_a_step_of_the_same_room_is_captured_once(small_model):
    with started(small_model, memory="resident") as engine:
        graphs = CheckedGraphs(engine.runner, max_lanes=32)
        for number in range(3):
            params = SamplingParams(max_tokens=9, temperature=0, ignore_eos=True)
            run_all(engine, Request(request_id=str(number), prompt_ids=[3 + number, 4], params=params))
        assert 1 == graphs.num_captured
        assert 3 * 8 == graphs.num_run


@pytest.mark.parametrize(
    ("lanes", "blocks", "expected"),
    [
        (1, 1, (1, 16)),
        (3, 16, (4, 16)),
        (32, 17, (32, 32)),
        (33, 100, (64, 128)),
        (97, 1, (100, 16)),
        (100, 1, (100, 16)),
    ],
)
def test_room_is_of_few_sizes(lanes, blocks, expected):
    assert expected == room_for(lanes, blocks, max_lanes=100)


def test_nothing_is_captured_where_there_is_no_gpu(small_model):
    with started(small_model) as engine:
        assert engine.runner.graphs is None
        assert decode_graphs(engine.runner.model, engine.runner.cache, 8) is None


class Captures:
    """Counts captures; from the `num_last`-th on there is no memory for another."""

    def __init__(self, num_last=None):
        self.num_asked, self.num_last = 0, num_last

    def __call__(self, forward):
        self.num_asked += 1
        if self.num_asked == self.num_last:
            raise torch.OutOfMemoryError
        return forward


def graphs_of(engine, captures=None, *, max_lanes=4):
    cache = with_scratch(engine.runner)
    return DecodeGraphs(engine.runner.model, cache, max_lanes=max_lanes, capture=captures or Captures())


def test_what_is_captured_ahead_is_run_when_it_is_needed(small_model):
    with started(small_model, max_num_seqs=4) as engine:
        graphs = CheckedGraphs(engine.runner, max_lanes=4)
        graphs.capture_ahead(engine._memory.rows(()), max_model_len=64)
        assert 3 == graphs.num_captured  # for 1, 2 and 4 lanes
        run_all(engine, *requests())
        assert 3 == graphs.num_captured
        assert 0 < graphs.num_run


@torch.inference_mode()
def test_capturing_ahead_asks_for_no_row_and_touches_no_block(small_model):
    with started(small_model) as engine:
        before, graphs = engine.stats().memory, graphs_of(engine)
        graphs.capture_ahead(engine._memory.rows(()), max_model_len=64)
        for captured in graphs._captured.values():
            captured.run()
        assert before == engine.stats().memory
        assert not graphs._cache.keys[:, :, : graphs._cache.scratch_block].any()
        engine.check_integrity()


def test_short_contexts_of_all_lanes_are_captured_first():
    assert [(1, 16), (2, 16), (3, 16), (1, 32), (2, 32), (3, 32)] == rooms_ahead(max_lanes=3, max_blocks=17)


def test_a_limited_number_is_captured_ahead():
    assert 32 == len(rooms_ahead(max_lanes=256, max_blocks=8192))
    assert 24 == len(rooms_ahead(max_lanes=32, max_blocks=128))


def test_capturing_ahead_ends_in_time(small_model):
    with started(small_model) as engine:
        graphs, seconds = graphs_of(engine), iter([0.0, 4.0, 11.0])
        graphs.capture_ahead(engine._memory.rows(()), max_model_len=64, clock=lambda: next(seconds))
        assert 1 == graphs.num_captured


def test_progress_of_capturing_is_told(small_model):
    with started(small_model) as engine:
        told = []
        rows = engine._memory.rows(())
        graphs_of(engine).capture_ahead(rows, max_model_len=64, on_progress=lambda *done: told.append(done))
        assert [(0, 3), (1, 3), (2, 3)] == told


def test_steps_run_on_where_there_is_no_memory_to_capture_them(small_model):
    with started(small_model, max_num_seqs=4) as engine:
        captures = Captures(num_last=2)
        graphs = CheckedGraphs(engine.runner, max_lanes=4, capture=captures)
        graphs.capture_ahead(engine._memory.rows(()), max_model_len=64)
        assert graphs.is_full
        assert 4 == len(run_all(engine, *requests()).finished)
        assert (1, 2) == (graphs.num_captured, captures.num_asked)


def test_nothing_is_captured_ahead_where_each_batch_has_rows_of_its_own(small_model):
    with started(small_model, memory="mapped") as engine:
        graphs, memory = graphs_of(engine), engine._memory
        graphs.capture_ahead(memory.rows([memory.lease(np.array([5]))]), max_model_len=64)
        assert 0 == graphs.num_captured
