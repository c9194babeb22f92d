"""Every alternative that a user could pick instead of a paged table, in one run.

    make bench-alternatives TEXT=books.txt
    .venv/bin/python benchmarks/bench_alternatives.py --text books.txt --scratch DIR --out docs/benchmarks/alternatives

| arm                       | what it is                                                                      |
|---------------------------|---------------------------------------------------------------------------------|
| resident                  | the whole table in memory                                                       |
| paged, N %                | slots for N % of the rows; with a host tier for none, half or all of them       |
| computed                  | no table: the FFNs themselves                                                   |
| memory map, row by row    | what a first attempt would be: the table's file mapped, each row indexed in turn |
| dense                     | a dense model of the same total size, in this engine                            |
| transformers, dense       | the same dense weights in `transformers`, with its own cache                    |

Every arm samples in full, then takes the text's token; each stream reads a text of its own, after its cache has seen
what comes before. Beside every ratio stand the miss rate and what share of its bandwidth floor an arm reaches: the time
in which its weights, its head, its keys and values and its rows could be read once.
"""

import argparse
import gc
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from alternative_arms import ARMS, memory_of_arms, open_arms
from alternatives import OutsideModel, check_equal_logits
from harness import Arm, Comparison, compare, drop_page_cache, write_report
from measured import (
    FRACTION,
    PROMPT_TOKENS,
    VOCAB_SIZE,
    Measured,
    conditions,
    floor_bytes,
    open_engine,
    own_tokenizer,
    random_model,
    run_prompt,
    text_ids,
)

from paging import Table
from paging.storage.choice import StorageKind
from server.engine.choices import Memory
from server.engine.engine import Engine
from server.measuring.floor import read_bandwidth
from server.measuring.row_reads import drop_pages

if TYPE_CHECKING:
    from collections.abc import Callable

STREAMS = (1, 8, 32)
FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.2)
SWEEP_STREAMS = (1, 32)
PREFILL_TOKENS = (128, 512, 2047)  # the context of 2,048 includes the answer
LONG_CONTEXT = 1920
LONG_TOKENS, LONG_STEP = 112, 16
"""Tokens that streams of long contexts decode in all, and in a round; contexts end a little below the model's 2,048."""
LONG_ROUNDS = 5
LONG_STREAMS = (1, 8)


def main() -> None:
    """Measure every comparison and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="plain text, some tens of megabytes")
    parser.add_argument("--scratch", type=Path, help="where models and ids are made, and found again")
    parser.add_argument("--rounds", type=int, default=9)
    parts = ["decode", "long", "memory", "sweep", "prefill", "start"]
    parser.add_argument("--only", choices=parts, nargs="*", default=parts, help="these parts alone")
    parser.add_argument("--streams", type=int, nargs="*", default=STREAMS, help="of the part `decode`")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/alternatives"), help="report, no ending")
    options = parser.parse_args()
    with ExitStack() as stack:
        scratch = options.scratch or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tolbooth-bench-")))
        models = (random_model(scratch, "250m-memoryllm", with_table=True), random_model(scratch, "250m-dense"))
        ids = text_ids(options.text, scratch, f"ids-{VOCAB_SIZE}.npy", lambda: own_tokenizer(options.text, scratch))
        facts = [check_equal_logits(models[1], ids)]
        bandwidth = read_bandwidth()
        facts.append(f"reads {bandwidth / 1e9:.1f} GB/s in a product with a vector, of which the floors are made")
        rounds = options.rounds
        runs: dict[str, list[Callable[[], list[Comparison]]]] = {
            "decode": [
                lambda count=count: decode(models, ids, count, rounds, bandwidth, facts) for count in options.streams
            ],
            "prefill": [lambda count=count: [prefill(models[0], ids, count, rounds)] for count in PREFILL_TOKENS],
            "start": [lambda: [start(*models, ids, rounds)]],
            "long": [lambda count=count: long_contexts(models, ids, count) for count in LONG_STREAMS],
            "memory": [lambda: facts.extend(memory_of_arms(models, scratch / f"ids-{VOCAB_SIZE}.npy")) or []],
            "sweep": [lambda count=count: [sweep(models[0], ids, count, rounds, facts)] for count in SWEEP_STREAMS],
        }
        comparisons: list[Comparison] = []
        for run in (run for part, its_runs in runs.items() if part in options.only for run in its_runs):
            for comparison in (results := run()):
                print(comparison.to_markdown(), flush=True)
            comparisons += results
            gc.collect()
            # All that is known by now: what comes after may take an hour, or more memory than there is.
            remarks = "\n".join(f"- {fact}" for fact in facts)
            write_report(
                comparisons, options.out, title="Alternatives", remarks=remarks, more={"facts_measured": facts}
            )


def decode(  # noqa: PLR0917
    models: tuple[Path, Path],
    ids: npt.NDArray[np.int64],
    num_streams: int,
    rounds: int,
    bandwidth: float,
    facts: list[str],
) -> list[Comparison]:
    """Compare decoding in every arm; once beside the dense model, once beside the table in memory, once outside."""
    memory_model, dense_model = models
    num_tokens = 128 if num_streams == 1 else 64
    with ExitStack() as stack:
        arms = open_arms(stack, models, ids, num_streams, list(ARMS), longest=PROMPT_TOKENS + num_tokens)
        runs: dict[str, Callable[[int], float]] = {name: arm.decode for name, arm in arms.items()}
        runs["transformers, dense"] = OutsideModel(dense_model, ids, num_streams).decode
        result = compare(
            f"Decoding, {num_streams} at once",
            [Arm(name=name, run=lambda run=run: run(num_tokens)) for name, run in runs.items()],
            unit="tokens/s",
            rounds=rounds,
            conditions=conditions(memory_model, num_tokens),
        )
        for name, arm in arms.items():
            seconds = num_streams / result.value(name).median
            floor = floor_bytes(arm.engine, num_streams, PROMPT_TOKENS + num_tokens / 2) / bandwidth
            facts.append(
                f"decoding, {num_streams} at once, {name}: {1e3 * seconds:.2f} ms a step, {floor / seconds:.0%} of its "
                f"bandwidth floor of {1e3 * floor:.2f} ms"
            )
        result = with_miss_rate(result, arms)
    gc.collect()
    return beside(result, "dense", "resident", "transformers, dense")


def long_contexts(models: tuple[Path, Path], ids: npt.NDArray[np.int64], num_streams: int) -> list[Comparison]:
    """Compare decoding with contexts of nearly 2,048 tokens, made once and then gone on from, round by round."""
    memory_model, dense_model = models
    # Eight contexts take 3 GB in each arm: the resident one is left out there.
    names = ["dense", "resident", "paged, 10%"] if num_streams == 1 else ["dense", "paged, 10%"]
    with ExitStack() as stack:
        longest = LONG_CONTEXT + LONG_TOKENS
        arms = open_arms(stack, models, ids, num_streams, names, longest=longest, context=LONG_CONTEXT)
        runs: dict[str, Callable[[int, int], float]] = {name: arm.go_on for name, arm in arms.items()}
        runs["transformers, dense"] = OutsideModel(dense_model, ids, num_streams, context=LONG_CONTEXT).go_on
        result = compare(
            f"Decoding with long contexts, {num_streams} at once",
            [Arm(name=name, run=lambda run=run: run(LONG_STEP, LONG_TOKENS)) for name, run in runs.items()],
            unit="tokens/s",
            rounds=LONG_ROUNDS,
            conditions=conditions(memory_model, LONG_STEP * (LONG_ROUNDS + 1), context=LONG_CONTEXT),
        )
        result = with_miss_rate(result, arms)
    return beside(result, "dense", "transformers, dense")


def with_miss_rate(comparison: Comparison, arms: dict[str, Measured]) -> Comparison:
    """Add what share of the paged arm's row requests were major faults."""
    rate = f"{arms['paged, 10%'].miss_rate:.4f}"
    return replace(comparison, conditions={**comparison.conditions, "miss rate": rate})


def beside(comparison: Comparison, *baselines: str) -> list[Comparison]:
    """Return the comparison with the ratios to each of some arms."""
    return [
        replace(comparison, title=f"{comparison.title}, beside {baseline}", baseline=baseline) for baseline in baselines
    ]


def sweep(model: Path, ids: npt.NDArray[np.int64], num_streams: int, rounds: int, facts: list[str]) -> Comparison:
    """Compare sizes of the device tier, of the host tier behind it, and storages, with the table in memory."""
    num_tokens = 64
    with Table.open(model / "table") as table:
        table_bytes = table.num_rows * table.geometry.row_stride
    ten: dict[str, Any] = {"tol_device_fraction": FRACTION}
    options: dict[str, dict[str, Any]] = {
        "resident": {"memory": Memory.RESIDENT},
        **{f"paged, {fraction:.0%}": {"tol_device_fraction": fraction} for fraction in FRACTIONS},
        "paged, 10%, host tier for half": {**ten, "tol_host_bytes": table_bytes // 2},
        "paged, 10%, host tier for all": {**ten, "tol_host_bytes": table_bytes + 256 * 2**20},
        "paged, 10%, by way of the page cache": {**ten, "tol_storage": StorageKind.MAPPED},
    }
    with ExitStack() as stack:
        longest = {"max_model_len": PROMPT_TOKENS + num_tokens}
        arms = {
            name: Measured(open_engine(stack, model, num_streams, longest | its), ids, num_streams)
            for name, its in options.items()
        }
        result = compare(
            f"Sizes of the tiers, {num_streams} at once",
            [Arm(name=name, run=lambda arm=arm: arm.decode(num_tokens)) for name, arm in arms.items()],
            unit="tokens/s",
            rounds=rounds,
            conditions={**conditions(model, num_tokens), "host tier": "none where none is named"},
        )
        facts += [
            f"tiers, {num_streams} at once, {name}: miss rate {arm.miss_rate:.4f}"
            for name, arm in arms.items()
            if name != "resident"
        ]
    gc.collect()
    return result


def prefill(model: Path, ids: npt.NDArray[np.int64], num_tokens: int, rounds: int) -> Comparison:
    """Compare the tokens per second of a prompt whose rows are all there with one that finds none of its rows."""
    options: dict[str, Any] = {
        "max_model_len": 2048,
        "max_num_batched_tokens": 512,
        "enable_prefix_caching": False,
    }
    paged: dict[str, Any] = {**options, "tol_device_fraction": 0.2}
    with ExitStack() as stack:
        resident = open_engine(stack, model, 1, {**options, "memory": Memory.RESIDENT})
        warm = open_engine(stack, model, 1, paged)
        cold: list[Engine] = []

        def make_cold() -> None:
            while cold:
                cold.pop().close()
            drop_pages(model / "table")
            cold.append(open_engine(stack, model, 1, paged))
            run_prompt(cold[0], ids[:1])  # weights and code are warm, one row is

        def run(engine: Engine, index: list[int]) -> float:
            index[0] += 1
            start_id = 200_000 + index[0] * num_tokens
            prompt = ids[start_id : start_id + num_tokens]
            return num_tokens / run_prompt(engine, prompt)

        def make_warm(counter: list[int]) -> None:
            start_id = 200_000 + (counter[0] + 1) * num_tokens
            run_prompt(warm, ids[start_id : start_id + num_tokens])

        counters = {name: [0] for name in ("resident", "warm", "cold")}
        return compare(
            f"A prompt of {num_tokens:,} tokens",
            [
                Arm(
                    name="paged, its rows on the device",
                    run=lambda: run(warm, counters["warm"]),
                    prepare=lambda: make_warm(counters["warm"]),
                ),
                Arm(name="resident", run=lambda: run(resident, counters["resident"])),
                Arm(
                    name="paged, none of its rows there",
                    run=lambda: run(cold[0], counters["cold"]),
                    prepare=make_cold,
                ),
            ],
            unit="tokens/s",
            rounds=rounds,
            conditions={**conditions(model, 1), "contexts": f"0 to {num_tokens} tokens", "tokens a step": 512},
        )


def start(memory_model: Path, dense_model: Path, ids: npt.NDArray[np.int64], rounds: int) -> Comparison:
    """Compare the seconds from nothing to the first token of a prompt, files not in memory."""

    def run(model: Path, options: dict[str, Any]) -> float:
        with ExitStack() as stack:
            began = time.perf_counter()
            engine = open_engine(stack, model, 1, {"max_model_len": 512, **options})
            run_prompt(engine, ids[:PROMPT_TOKENS])
            return time.perf_counter() - began

    arms = {
        "resident": (memory_model, {"memory": Memory.RESIDENT}),
        "paged, 10%": (memory_model, {"tol_device_fraction": FRACTION}),
        "computed": (memory_model, {"memory": Memory.COMPUTED}),
        "dense": (dense_model, {}),
    }
    return compare(
        "From nothing to the first token",
        [
            Arm(name=name, run=lambda model=model, its=its: run(model, its), prepare=drop_page_cache)
            for name, (model, its) in arms.items()
        ],
        unit="s",
        rounds=rounds,
        warm_up=False,
        conditions={**conditions(memory_model, 1), "page cache": "empty", "process": "started, libraries imported"},
    )


if __name__ == "__main__":
    main()
