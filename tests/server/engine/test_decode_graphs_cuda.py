"""Steps captured in CUDA's own graphs."""

import pytest
import torch

from tests.server.engine.fake_model import request, run_all
from tests.server.engine.real_engine import started

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

PROMPTS = [[5, 17, 33], [7], [index * 7 % 96 for index in range(1, 31)], [50, 6, 7, 39, 1, 44, 12]]


@pytest.mark.parametrize("options", [{"memory": "resident"}, {}, {"tol_device_rows": 12, "max_num_seqs": 8}], ids=str)
def test_captured_steps_give_what_others_give(small_model, options):
    with started(small_model, device="cuda", dtype="fp32", **options) as engine:
        runner, graphs, num_run = engine.runner, engine.runner.graphs, 0
        original = graphs.run

        def compared(chunks, rows):
            nonlocal num_run
            captured_Nd = original(chunks, rows)
            if captured_Nd is None:
                return None
            num_run += 1
            captured_Nd = captured_Nd.clone()
            runner.graphs = None
            torch.testing.assert_close(captured_Nd, runner.run(chunks, rows), rtol=1e-3, atol=1e-3)
            runner.graphs = graphs
            return captured_Nd

        graphs.run = compared
        run_all(engine, *[request(f"{index}", prompt, max_tokens=9) for index, prompt in enumerate(PROMPTS)])
        assert 0 < graphs.num_captured < num_run
