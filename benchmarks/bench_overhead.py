"""What the engine itself takes of a decoding step: all but the model, its scores and drawing the tokens.

    make bench-overhead
    .venv/bin/python benchmarks/bench_overhead.py --scratch DIR --out docs/benchmarks/overhead-2026-11-24

Every part is the engine's own: scheduler, pager, storage, runner, sampler. What the model, its scores and the sampler
take is measured apart and subtracted, so the model may be small, and one is made where none is named (2 layers of 64,
vocabulary 32,000); behind a large one everything else is a little slower, for it finds its data out of the caches. Ids,
positions and slots of a step's tokens are made before the model begins, and count as the engine's.

Two clocks: wall time, waiting for rows included, and the processor time of the engine's thread, in which there is
neither waiting nor other work on the machine. Tokens are drawn with full work and then replaced by ids that follow
Zipf's law.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from harness import Arm, Comparison, compare, write_report
from measured import FRACTION, PROMPT_TOKENS, SAMPLING, VOCAB_SIZE, Measured, open_engine, preload, zipf_ids

from models.export import table_geometry, write_synthetic_table
from models.initialise import initialise
from models.presets import preset
from paging import Encoding
from server.engine.choices import Memory
from server.engine.engine import Engine
from server.engine.messages import Request
from server.engine.model_tables import TABLE_DIRECTORY
from server.engine.params import SamplingParams
from server.engine.sampling import SampledSequence, Sampler
from server.engine.sampling.batch import Batch
from server.engine.sampling.draw import draw

STREAMS = (1, 8, 32, 128, 256)
STEPS = 40
"""Steps of a round whose median is one sample."""
MODEL_LEN = 512
TEXT_TOKENS = 2_000_000
CANDIDATES = 256
ARMS: dict[str, dict[str, Any]] = {
    "whole table in memory": {"memory": Memory.RESIDENT},
    "paged, every row resident": {"tol_device_fraction": 1.0},
    "paged, 10% of rows": {"tol_device_fraction": FRACTION},
}


def main() -> None:
    """Measure every number of streams and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a checkpoint with a table; else a small one is made")
    parser.add_argument("--scratch", type=Path, help="where the model is made, and found again")
    parser.add_argument("--streams", type=int, nargs="*", default=STREAMS)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/overhead"), help="report, without its ending")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as fresh:
        model = options.model or small_model(options.scratch or Path(fresh))
        comparisons = [
            comparison for streams in options.streams for comparison in overheads(model, streams, options.rounds)
        ]
        comparisons += [sampler(streams, options.rounds) for streams in options.streams]
    for comparison in comparisons:
        print(comparison.to_markdown())
    write_report(comparisons, options.out, title="Overhead of the engine", remarks=__doc__.split("\n\n")[2])


def small_model(scratch: Path) -> Path:
    """Return a model that takes little time of its own, made where it is not there."""
    out = scratch / "small"
    if not out.exists():
        small = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
        config = replace(preset("250m-memoryllm"), vocab_size=VOCAB_SIZE, intermediate_size=64, **small)
        fingerprints = initialise(config, out)
        assert fingerprints.table is not None, "the model has a memory"
        geometry = table_geometry(config, Encoding.BF16)
        write_synthetic_table(geometry, out / TABLE_DIRECTORY, fingerprint=fingerprints.table, seed=0)
    return out


class Clocks:
    """Wall time and the thread's processor time, in seconds, of what runs between `start` and `stop`."""

    def __init__(self) -> None:
        self.wall = self.processor = 0.0

    def start(self) -> None:
        """Begin to count."""
        self.wall -= time.perf_counter()
        self.processor -= time.thread_time()

    def stop(self) -> None:
        """Count no more."""
        self.wall += time.perf_counter()
        self.processor += time.thread_time()

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with its time counted."""

        def call(*args: Any, **options: Any) -> Any:
            self.start()
            try:
                return function(*args, **options)
            finally:
                self.stop()

        return call


class TimedModel:
    """A model whose own time is counted; a step's tokens are laid out before it begins."""

    def __init__(self, model: Any, clocks: Clocks) -> None:
        self._model, self._forward = model, clocks.timed(model)

    def __call__(self, ids_N: Any, positions_N: Any, context: Any, *others: Any) -> Any:
        """Run a step."""
        _ = context.slot_mapping
        return self._forward(ids_N, positions_N, context, *others)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


@dataclass
class Streams:
    """An engine whose streams decode, and what its steps took beside model, scores and sampler."""

    engine: Engine
    ids: npt.NDArray[np.int64]
    num_streams: int
    clocks: Clocks = field(default_factory=Clocks)
    added: int = 0
    wall: list[float] = field(default_factory=list)
    """Of each round, microseconds a step."""
    faults: list[int] = field(default_factory=list)
    """Of each step measured."""

    def __post_init__(self) -> None:
        self.measured = Measured(self.engine, self.ids, self.num_streams)
        if self.engine.stats().memory.get("device_slots") == VOCAB_SIZE:
            preload(self.measured)
        runner = self.engine.runner
        runner.model = TimedModel(runner.model, self.clocks)  # type: ignore[assignment]
        runner.scores = self.clocks.timed(runner.scores)  # type: ignore[method-assign]
        self.engine.sampler.sample = self.clocks.timed(self.engine.sampler.sample)  # type: ignore[method-assign]

    def run(self) -> float:
        """Decode for a round; return the median processor time of a step's overhead in microseconds."""
        for _ in range(self.num_streams):
            self._add()
        scheduler = self.engine.scheduler
        while len(scheduler.started) < self.num_streams or not all(each.output_ids for each in scheduler.started):
            self.engine.step()
        wall, processor = [], []
        for _ in range(STEPS):
            before, whole = self._num_faults(), Clocks()
            self.clocks.wall = self.clocks.processor = 0.0
            whole.start()
            self.engine.step()
            whole.stop()
            wall.append(1e6 * (whole.wall - self.clocks.wall))
            processor.append(1e6 * (whole.processor - self.clocks.processor))
            self.faults.append(self._num_faults() - before)
        assert len(scheduler.started) == self.num_streams, "all decode for as long as is measured"
        for sequence in [*scheduler.started]:
            self.engine.abort(sequence.state.request.request_id)
        self.wall.append(statistics.median(wall))
        return statistics.median(processor)

    def _add(self) -> None:
        start = self.added * MODEL_LEN % (len(self.ids) - MODEL_LEN)
        self.engine.add(
            Request(
                request_id=str(self.added),
                prompt_ids=self.ids[start : start + PROMPT_TOKENS].tolist(),
                params=SamplingParams(max_tokens=None, seed=start, **SAMPLING),
            )
        )
        self.added += 1

    def _num_faults(self) -> int:
        return sum(sequence.state.major_faults for sequence in self.engine.scheduler.started)


def overheads(model: Path, num_streams: int, rounds: int) -> list[Comparison]:
    """Compare what the engine takes of a step with its rows in memory whole, in slots, and in fewer slots than rows."""
    ids = zipf_ids(VOCAB_SIZE, count=TEXT_TOKENS)
    with ExitStack() as stack:
        options = {"max_model_len": MODEL_LEN}
        arms = {
            arm: Streams(open_engine(stack, model, num_streams, options | memory), ids, num_streams)
            for arm, memory in ARMS.items()
        }
        processor = compare(
            f"{num_streams} streams, processor time of the engine's thread",
            [Arm(name=arm, run=streams.run) for arm, streams in arms.items()],
            unit="us a step",
            rounds=rounds,
        )
        faults = {f"faults a step, {arm}": f"{statistics.mean(each.faults):.2f}" for arm, each in arms.items()}
        contexts = f"{PROMPT_TOKENS} to {MODEL_LEN} tokens"
        processor = replace(processor, conditions={"streams": num_streams, "contexts": contexts, **faults})
        wall = replace(
            processor,
            title=f"{num_streams} streams, wall time, waiting for rows included",
            samples={arm: streams.wall[-rounds:] for arm, streams in arms.items()},
        )
    return [processor, wall]


def sampler(num_streams: int, rounds: int) -> Comparison:
    """Compare the sampler with its operations on tensors alone."""
    random = torch.Generator().manual_seed(0)
    logits_SV = torch.randn(num_streams, VOCAB_SIZE, generator=random)
    params = SamplingParams(seed=1, **SAMPLING)
    sequences = [
        SampledSequence(params, seed=index, choice=0, prompt_ids=[1], output_ids=[2] * 64, eos_token_id=None)
        for index in range(num_streams)
    ]
    whole = Sampler(VOCAB_SIZE, torch.device("cpu"))
    batch = Batch(sequences, vocab_size=VOCAB_SIZE, device=torch.device("cpu"), min_candidates=CANDIDATES)
    return compare(
        f"{num_streams} streams, the sampler (temperature, top_k, top_p)",
        [
            Arm(name="operations on tensors", run=lambda: _median_us(lambda: draw(logits_SV, batch))),
            Arm(name="sampler", run=lambda: _median_us(lambda: whole.sample(logits_SV, sequences))),
        ],
        unit="us a step, wall time",
        rounds=rounds,
        conditions={"vocabulary": VOCAB_SIZE, "streams": num_streams},
    )


@torch.inference_mode()
def _median_us(function: Callable[[], object]) -> float:
    seconds = []
    for _ in range(STEPS // 2):
        began = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - began)
    return 1e6 * statistics.median(seconds)


if __name__ == "__main__":
    main()
