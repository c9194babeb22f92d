"""What serving from a paged table costs, beside the table in memory and beside a dense model of the same size.

    make bench-engine TEXT=books.txt
    .venv/bin/python benchmarks/bench_engine.py --text books.txt --scratch DIR --out docs/benchmarks/engine-2026-11-23

Every arm reads the same stretches of text, each stream its own, after its cache has seen the stretches before.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from harness import Arm, Comparison, compare, write_report
from measured import (
    FRACTION,
    VOCAB_SIZE,
    Measured,
    conditions,
    open_engine,
    own_tokenizer,
    preload,
    random_model,
    text_ids,
)

from models.attention import PackedContext
from models.bundled import resolve_model
from models.tokenizer import TOKENIZER_FILE, load_tokenizer
from server.engine.choices import Memory
from server.engine.engine import Engine
from server.engine.messages import Request
from server.engine.params import SamplingParams

TIE = 1e-3
"""Scores so far apart may change places with the shapes of matrix products."""


def main() -> None:
    """Measure every comparison and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="plain text, some tens of megabytes")
    parser.add_argument("--scratch", type=Path, help="where models and ids are made, and found again")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--only",
        choices=["paging", "latency", "dense", "demo", "host", "equality"],
        nargs="*",
        help="these parts alone",
    )
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/engine"), help="report, without its ending")
    options = parser.parse_args()
    parts = options.only or ["paging", "dense", "latency", "demo", "host", "equality"]
    with ExitStack() as stack:
        scratch = options.scratch or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tolbooth-bench-")))
        comparisons: list[Comparison] = []
        facts: list[str] = []
        for comparison in measure(parts, options.text, scratch, options.rounds, facts):
            if comparison is not None:
                comparisons.append(comparison)
                print(comparison.to_markdown())
            remarks = "\n".join(f"- {fact}" for fact in facts)
            write_report(comparisons, options.out, title="Engine", remarks=remarks, more={"facts_measured": facts})


def measure(parts: list[str], text: Path, scratch: Path, rounds: int, facts: list[str]) -> Iterator[Comparison | None]:
    """Yield after each part what was compared, so that one that fails takes none with it; add to the facts."""
    memory_model = random_model(scratch, "250m-memoryllm", with_table=True)
    dense_model = random_model(scratch, "250m-dense")
    ids = text_ids(text, scratch, f"ids-{VOCAB_SIZE}.npy", lambda: own_tokenizer(text, scratch))
    demo = resolve_model("demo")
    demo_ids = text_ids(text, scratch, "ids-demo.npy", lambda: load_tokenizer(demo / TOKENIZER_FILE))
    for name, model, its_ids in (("250m-memoryllm", memory_model, ids), ("demo", demo, demo_ids)):
        if name == "demo" and "demo" not in parts:
            continue
        if "paging" in parts or name == "demo":
            for count in (1, 16):
                yield paging(name, model, its_ids, count, rounds, facts)
        if "latency" in parts or name == "demo":
            yield latency(name, model, its_ids, rounds, facts)
    if "dense" in parts:
        yield dense(memory_model, dense_model, ids, rounds)
    if "host" in parts:
        host_time("250m-memoryllm", memory_model, facts)
        yield None
    if "equality" in parts:
        equality(demo, demo_ids, facts)
        yield None


def paging(  # noqa: PLR0917
    name: str, model: Path, ids: npt.NDArray[np.int64], num_streams: int, rounds: int, facts: list[str]
) -> Comparison:
    """Compare decoding from the table in memory with decoding from slots for a tenth of it, and for all of it."""
    arms = {
        "resident": {"memory": Memory.RESIDENT},
        "paged, 10% of rows": {"tol_device_fraction": FRACTION},
        "paged, every row in its slot": {"tol_device_fraction": 1.0},
    }
    with ExitStack() as stack:
        engines = {
            arm: Measured(open_engine(stack, model, num_streams, options), ids, num_streams)
            for arm, options in arms.items()
        }
        preload(engines["paged, every row in its slot"])
        num_tokens = 128 if num_streams == 1 else 64
        result = compare(
            f"{name}, decoding, {num_streams} at once",
            [Arm(name=arm, run=lambda it=it: it.decode(num_tokens)) for arm, it in engines.items()],
            unit="tokens/s",
            rounds=rounds,
            conditions=conditions(model, num_tokens),
        )
    facts.append(f"{name}, {num_streams} at once, median step: " + "; ".join(steps_of(engines)) + ".")
    return with_miss_rate(result, engines["paged, 10% of rows"])


def steps_of(engines: Mapping[str, Measured]) -> Iterator[str]:
    """Yield what a step took with each engine, without faults and with."""
    for arm, it in engines.items():
        for seconds, which in ((it.step_seconds, arm), (it.fault_seconds, f"{arm}, with faults")):
            if seconds:
                yield f"{which} {1e3 * statistics.median(seconds):.3f} ms ({len(seconds):,} steps)"


def host_time(name: str, model: Path, facts: list[str]) -> None:
    """Measure what a paged memory adds to the host's time of a step: all that a step asks of it, without the model."""
    with ExitStack() as stack:
        resident = open_engine(stack, model, 16, {"memory": Memory.RESIDENT})
        paged = open_engine(stack, model, 16, {"tol_device_fraction": FRACTION})
        vocab_size = paged.info.vocab_size
        layers = range(paged.runner.model.config.num_hidden_layers)
        generator, single = np.random.default_rng(7), 0.0  # what one row takes, resident
        for num_rows in (1, 16):
            held = generator.choice(vocab_size, 256, replace=False)
            memories = [resident.scheduler.rows.memory, paged.scheduler.rows.memory]
            for memory in memories:
                ask(memory, held, layers)
            samples: list[list[float]] = [[], []]
            for index in range(6000):
                keys = generator.choice(held, num_rows)
                for which in (0, 1) if index % 2 else (1, 0):
                    started = time.perf_counter()
                    ask(memories[which], keys, layers)
                    samples[which].append(1e6 * (time.perf_counter() - started))
            medians = [statistics.median(each) for each in samples]
            single = medians[0] if num_rows == 1 else single
            facts.append(
                f"{name}, host time of a step's memory, {num_rows} rows, every one in its slot, 2 threads: resident "
                f"{medians[0]:.0f} us, paged {medians[1]:.0f} us, added {medians[1] - medians[0]:+.0f} us (medians of "
                f"{len(samples[0]):,}, in turns)."
            )
        memory, beside = memories[1], []
        for key in generator.permutation(vocab_size)[:600]:
            before = paged.stats().memory
            started = time.perf_counter()
            ask(memory, np.array([key]), layers)
            seconds = time.perf_counter() - started
            after = paged.stats().memory
            if after["major_faults"] > before["major_faults"]:
                reading = after["read_latency_sum"] - before["read_latency_sum"]
                beside.append(1e6 * (seconds - reading) - single)
        facts.append(
            f"{name}, one major fault: {statistics.median(beside):.0f} us added beside the read itself (median of "
            f"{len(beside)})."
        )


def ask(memory: Any, keys: npt.NDArray[np.int64], layers: Sequence[int]) -> None:
    """Ask a memory for what a step asks of it."""
    memory.poll()
    memory.absent(keys)  # when the tokens become known
    memory.absent(keys)  # when the step is scheduled
    lease = memory.lease(keys)
    memory.wait_for([lease], 60)
    rows = memory.rows([lease])
    for layer in layers:
        rows.gather(layer)
    memory.release(lease)


def latency(name: str, model: Path, ids: npt.NDArray[np.int64], rounds: int, facts: list[str]) -> Comparison:
    """Compare serving in 16 lanes with 32 requests waiting, the storage 20 ms late, with the table in memory."""
    late: dict[str, Any] = {"tol_device_fraction": FRACTION}
    short = {"max_model_len": 512}  # what four engines keep for later prompts must fit into memory together
    arms: dict[str, dict[str, Any]] = {
        "resident": {"memory": Memory.RESIDENT},
        "paged, 20 ms late": late,
        "paged, 20 ms late, never deferring": {**late, "defer_after": float("inf")},
        "paged, 20 ms late, never waiting": {**late, "defer_after": 0.0},
    }
    with ExitStack() as stack:
        engines = {
            arm: Measured(open_engine(stack, model, 16, short | options, late=arm != "resident"), ids, 48)
            for arm, options in arms.items()
        }
        result = compare(
            f"{name}, 16 lanes and always 32 requests waiting, every read 20 ms late",
            [Arm(name=arm, run=lambda it=it: it.serve_steadily(48, 64, 96)) for arm, it in engines.items()],
            unit="tokens/s",
            rounds=rounds,
            conditions=conditions(model, 64),
        )
        for arm, it in engines.items():
            stats = it.engine.stats()
            if stats.memory:
                facts.append(
                    f"{name}, {arm}: miss rate {it.miss_rate:.4f}, {stats.deferred_steps:,} deferrals in "
                    f"{stats.steps:,} steps, nothing to run for {stats.stall_seconds:.2f} s."
                )
    return with_miss_rate(result, engines["paged, 20 ms late"])


def equality(demo: Path, ids: npt.NDArray[np.int64], facts: list[str]) -> None:
    """Compare the greedy outputs of 64 mixed requests in every manner of serving with each request's alone."""
    generator = np.random.default_rng(7)
    requests = [
        Request(
            request_id=str(number),
            prompt_ids=ids[start : start + length].tolist(),
            params=SamplingParams(max_tokens=count, temperature=0, ignore_eos=True),
        )
        for number, (start, length, count) in enumerate(
            zip(
                generator.integers(0, len(ids) - 1000, 64).tolist(),
                generator.integers(1, 200, 64).tolist(),
                generator.integers(8, 48, 64).tolist(),
                strict=True,
            )
        )
    ]
    one_context = 2 * 4 * 6 * 256 * 1024  # bytes of keys and values: fp32, 6 layers of 256, 1,024 positions
    manners: dict[str, tuple[int, dict[str, Any]]] = {
        "batched": (16, {"memory": Memory.RESIDENT}),
        "in chunks of 16 tokens a step": (16, {"memory": Memory.RESIDENT, "max_num_batched_tokens": 16}),
        "preempted": (16, {"memory": Memory.RESIDENT, "kv_cache_bytes": one_context}),
        "at 2% of rows": (16, {"tol_device_fraction": 0.02}),
        "at 10% of rows, every read 20 ms late": (16, {"tol_device_fraction": FRACTION}),
    }
    with ExitStack() as stack:
        single = open_engine(stack, demo, 1, {"memory": Memory.RESIDENT})
        alone = {request.request_id: tokens_of(single, [request])[request.request_id] for request in requests}
        for manner, (num_lanes, options) in manners.items():
            engine = open_engine(stack, demo, num_lanes, options, late="late" in manner)
            found = tokens_of(engine, requests)
            differing = [request for request in requests if found[request.request_id] != alone[request.request_id]]
            gaps = [gap(single, request, alone[request.request_id], found[request.request_id]) for request in differing]
            if max(gaps, default=0) > TIE:
                raise RuntimeError(f"{manner}: an output differs where its candidates are {max(gaps):.2g} apart")
            stats = engine.stats()
            facts.append(
                f"demo, 64 mixed greedy requests, {manner}: {len(requests) - len(differing)} equal to the request "
                f"alone, {len(differing)} differ first at a tie (scores at most {max(gaps, default=0):.1g} apart); "
                f"{stats.preemptions} preemptions, {stats.deferred_steps} deferrals."
            )


def tokens_of(engine: Engine, requests: Sequence[Request]) -> dict[str, list[int]]:
    """Run requests together; return their tokens."""
    found: dict[str, list[int]] = {request.request_id: [] for request in requests}
    for request in requests:
        engine.add(request)
    while engine.scheduler.has_work:
        for output in engine.step():
            if output.error:
                raise RuntimeError(output.error)
            for choice in output.choices:
                found[output.request_id] += choice.token_ids
    return found


@torch.inference_mode()
def gap(engine: Engine, request: Request, first: Sequence[int], second: Sequence[int]) -> float:
    """Return how far apart the scores are of the first tokens in which two outputs differ, by a plain forward pass."""
    common = next(index for index, pair in enumerate(zip(first, second, strict=True)) if pair[0] != pair[1])
    source = engine.scheduler.rows.memory.source  # type: ignore[attr-defined]
    ids = torch.tensor([*request.prompt_ids, *first[:common]])
    model = engine.runner.model
    hidden = model(ids, torch.arange(len(ids)), PackedContext([len(ids)]), source.fetch(ids))
    scores = model.logits(hidden[-1:])[0]
    return float((scores[first[common]] - scores[second[common]]).abs())


def dense(memory_model: Path, dense_model: Path, ids: npt.NDArray[np.int64], rounds: int) -> Comparison:
    """Compare milliseconds per token of a dense model and of one with a paged memory, of the same total size."""
    with ExitStack() as stack:
        engines = {
            "250m-dense": Measured(open_engine(stack, dense_model, 1, {}), ids, 1),
            "250m-memoryllm, paged, 10% of rows": Measured(
                open_engine(stack, memory_model, 1, {"tol_device_fraction": FRACTION}), ids, 1
            ),
        }
        result = compare(
            "Against the dense model, one stream",
            [Arm(name=arm, run=lambda it=it: 1e3 / it.decode(96)) for arm, it in engines.items()],
            unit="ms/token",
            rounds=rounds,
            conditions=conditions(memory_model, 96),
        )
    return with_miss_rate(result, [*engines.values()][1])


def with_miss_rate(comparison: Comparison, paged: Measured) -> Comparison:
    """Add what share of row requests were major faults."""
    return replace(comparison, conditions={**comparison.conditions, "miss rate": f"{paged.miss_rate:.4f}"})


if __name__ == "__main__":
    main()
