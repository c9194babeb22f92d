"""Steps captured in CUDA's own graphs."""

import pytest
import torch

from server.engine.messages import StartupPhase
from tests.server.engine.fake_model import request, run_all
from tests.server.engine.real_engine import started

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

PROMPTS = [[5, 17, 33], [7], [index * 7 % 96 for index in range(1, 31)], [50, 6, 7, 39, 1, 44, 12]]


def requests():
    return [request(f"{index}", prompt, max_tokens=9) for index, prompt in enumerate(PROMPTS)]


@pytest.mark.parametrize("options", [{"memory": "resident"}, {}, {"tol_device_rows": 12, "max_num_seqs": 8}], ids=str)
def test_captured_steps_give_what_others_give(small_model, options):
    with started(small_model, device="cuda", dtype="fp32", **options) as engine:
        runner, graphs, num_run = engine.runner, engine.runner.graphs, 0
        original = graphs.run

        def compared(chunks, rows, *others):
            nonlocal num_run
            captured_Nd = original(chunks, rows, *others)
            if captured_Nd is None:
                return None
            num_run += 1
            captured_Nd = captured_Nd.clone()
            runner.graphs = None
            torch.testing.assert_close(captured_Nd, runner.run(chunks, rows), rtol=1e-3, atol=1e-3)
            runner.graphs = graphs
            return captured_Nd

        graphs.run = compared
        run_all(engine, *requests())
        assert num_run > 0


def test_the_commonest_steps_are_captured_at_the_start(small_model):
    with started(small_model, device="cuda", max_num_seqs=4) as engine:
        assert engine.info.granted["captured steps"].startswith("3 sizes at the start")
        assert engine.info.startup_seconds[StartupPhase.CAPTURE] > 0
        run_all(engine, *requests())
        assert 3 == engine.runner.graphs.num_captured


def test_what_was_not_captured_ahead_is_captured_when_it_is_needed(small_model):
    with started(small_model, device="cuda", max_num_seqs=1) as engine:
        engine.runner.graphs._captured.clear()  # as where time ran out
        run_all(engine, request("a", [5, 6, 7], max_tokens=4))
        assert 1 == engine.runner.graphs.num_captured


def test_nothing_is_captured_where_that_was_asked_for(small_model):
    with started(small_model, device="cuda", enforce_eager=True) as engine:
        run_all(engine, *requests())
        assert engine.runner.graphs is None
        assert "none; asked for: enforce_eager" == engine.info.granted["captured steps"]
