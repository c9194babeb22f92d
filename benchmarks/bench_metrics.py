"""What the metrics cost: processor time of a scrape, and of what they add to a step of the engine.

    make bench-metrics
    .venv/bin/python benchmarks/bench_metrics.py --out docs/benchmarks/metrics-2026-11-23

A scrape is measured as processor time of a server's two processes over many of them, when it has served requests and
is idle; beside it an answer that does nothing, for what HTTP takes by itself. A step's counting is too short for that:
it is called many times in a row, with the objects of a step of the engine's.
"""

import argparse
import http.client
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
from bench_serve import Load, Server
from harness import Arm, Comparison, compare, write_report

from models.bundled import resolve_model
from paging.lease import Lease
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.messages import Request
from server.engine.outputs import note_tiers
from server.engine.params import SamplingParams
from server.engine.scheduler import Counters
from server.engine.sequence import RequestState, Sequence
from server.engine.starting import start_engine
from server.engine.statistics import StepTally
from server.engine.step import Chunk, Step
from server.http.choice import Gain
from server.http.metrics.requests import RequestMetrics
from server.http.pace import Pace

SCRAPES = 300
CALLS = 20_000
LANES = 32
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/metrics"), help="report, without its ending")
    options = parser.parse_args()
    facts = ["Processor time is counted, so that other work on the machine (`load before`) matters little."]
    comparisons = [scrapes(options.rounds, facts), steps(options.rounds)]
    facts += [snapshots(), token_outputs()]
    for comparison in comparisons:
        print(comparison.to_markdown())
    remarks = "\n".join(f"- {fact}" for fact in facts)
    print(remarks)
    write_report(comparisons, options.out, title="Metrics", remarks=remarks, more={"facts_measured": facts})


def scrapes(rounds: int, facts: list[str]) -> Comparison:
    """Compare a scrape with the smallest answer there is, in processor time of the API process."""
    server = Server(Load(resolve_model("demo"), streams=16, requests=64, tokens=32))
    in_engine: list[float] = []
    size = 0
    try:
        server.run()  # so that every histogram has something in it
        api = server.pid
        (engine,) = children(api)

        def ask(path: str) -> float:
            """Return the milliseconds of processor time that one request takes in the API process."""
            nonlocal size
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
            before, before_engine = cpu_seconds(api), cpu_seconds(engine)
            for _ in range(SCRAPES):
                connection.request("GET", path)
                size = len(connection.getresponse().read())
            spent, spent_engine = cpu_seconds(api) - before, cpu_seconds(engine) - before_engine
            connection.close()
            if path == "/metrics":
                in_engine.append(1e3 * spent_engine / SCRAPES)
            return 1e3 * spent / SCRAPES

        result = compare(
            "A scrape, API process",
            [Arm(name=path, run=lambda path=path: ask(path)) for path in ("/version", "/metrics")],
            unit="ms of processor time",
            rounds=rounds,
            conditions={"model": "demo, paged", "load": "none during the scrapes", "scrapes a round": SCRAPES},
        )
        ask("/metrics")
        facts.append(
            f"The engine's process takes {statistics.median(in_engine):.2f} ms more for each scrape (median): its "
            f"snapshot, and waking up. A scrape has {size:,} bytes."
        )
    finally:
        server.close()
    return result


def steps(rounds: int) -> Comparison:
    """Measure what is counted in a step of as many sequences as there are lanes by default."""

    def counting(tiers: list[int]) -> Callable[[], float]:
        step, tally, counters = step_of(tiers), StepTally(), Counters()

        def count() -> None:
            rows = note_tiers(step)
            tally.note_rows(rows.counts)
            counters.note_step(len(step.chunks))

        return lambda: 1e6 * seconds_of(count)

    mixed = [0] * (LANES - 2) + [1, 2]
    return compare(
        "What is counted in a step",
        [Arm(name="every row is there", run=counting([0] * LANES)), Arm(name="two faults", run=counting(mixed))],
        unit="us",
        rounds=rounds,
        conditions={"sequences": f"{LANES}, a token each", "included": "what each request is told of its rows"},
    )


def step_of(tiers: list[int]) -> Step:
    """Return a step of sequences that take a token each, whose rows come from these tiers."""
    params = SamplingParams(max_tokens=1)
    chunks = []
    for number in range(len(tiers)):
        state = RequestState(Request(request_id=f"r{number}", prompt_ids=[1], params=params), arrival=number, root=b"")
        state.sequences.append(Sequence(state, 0, block_size=16))
        chunks.append(Chunk(state.sequences[0], 1))
    keys = np.arange(len(tiers))
    lease = Lease(keys, keys.astype(np.intp))
    lease.tiers = np.array(tiers, dtype=np.uint8) if any(tiers) else None
    return Step(chunks, [lease])


def snapshots() -> str:
    """Say what a snapshot of the engine costs."""
    config = EngineConfig(model="demo", tol_device_fraction=0.1, keep_hot_set=False)
    engine = start_engine(config)
    try:
        warm_up(engine)
        encoder = msgspec.msgpack.Encoder()
        seconds = seconds_of(lambda: encoder.encode(engine.stats()), calls=CALLS // 10)
    finally:
        engine.close()
    return (
        f"A snapshot takes the engine {1e6 * seconds:.0f} us, encoding included; while requests run there are two a "
        f"second, {2e6 * seconds * 0.01:.1f} us for each step of 10 ms, and one for each scrape."
    )


def warm_up(engine: Engine) -> None:
    """Serve one request."""
    engine.add(Request(request_id="r", prompt_ids=[1, 2, 3], params=SamplingParams(max_tokens=16, ignore_eos=True)))
    while engine.has_work:
        engine.step()


def token_outputs() -> str:
    """Say what a token costs in the API process."""
    pace = Pace(RequestMetrics(), began=time.perf_counter())
    gain = Gain("x", 1, None, (), None, None, None)
    step = [(type("", (), {"index": 0})(), gain)]
    seconds = seconds_of(lambda: pace.note(step))
    return f"In the API process a request's output costs {1e6 * seconds:.2f} us beside its text."


def seconds_of(call: Callable[[], object], *, calls: int = CALLS) -> float:
    """Return the processor time of one call, of many in a row."""
    started = time.process_time()
    for _ in range(calls):
        call()
    return (time.process_time() - started) / calls


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        found += map(int, path.read_text(encoding="ascii").split())
    return found


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process and all its threads, to a tick."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


if __name__ == "__main__":
    main()
