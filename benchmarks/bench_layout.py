"""Matrices as they are stored, beside matrices in the order that a CPU reads fastest: what `models/linear.py` is worth.

    make bench-layout TEXT=books.txt
    .venv/bin/python benchmarks/bench_layout.py --text books.txt --scratch DIR --out docs/benchmarks/layout

Also whether weights of 16 bits pay, and what faster matrices do to the ratio of a model with a memory to a dense one:
they make both faster, and what both have to do besides (keys, values, sampling) weighs more.
"""

import argparse
import gc
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
from harness import Arm, Comparison, compare, write_report
from measured import (
    FRACTION,
    PROMPT_TOKENS,
    VOCAB_SIZE,
    Measured,
    conditions,
    open_engine,
    own_tokenizer,
    random_model,
    text_ids,
)

from models.transformer import Transformer

STREAMS = (1, 8, 32)


def main() -> None:
    """Measure decoding with every layout and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="plain text, some tens of megabytes")
    parser.add_argument("--scratch", type=Path, help="where models and ids are made, and found again")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--streams", type=int, nargs="*", default=STREAMS)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/layout"), help="report, without its ending")
    options = parser.parse_args()
    comparisons: list[Comparison] = []
    with ExitStack() as stack:
        scratch = options.scratch or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tolbooth-bench-")))
        memory_model = random_model(scratch, "250m-memoryllm", with_table=True)
        dense_model = random_model(scratch, "250m-dense")
        ids = text_ids(options.text, scratch, f"ids-{VOCAB_SIZE}.npy", lambda: own_tokenizer(options.text, scratch))
        for count in options.streams:
            comparisons += decode(memory_model, dense_model, ids, count, options.rounds)
    for comparison in comparisons:
        print(comparison.to_markdown())
    write_report(comparisons, options.out, title="Layouts of matrices")


def decode(
    memory_model: Path, dense_model: Path, ids: npt.NDArray[np.int64], num_streams: int, rounds: int
) -> list[Comparison]:
    """Compare decoding; beside the matrices as stored, and within each layout beside the dense model."""
    num_tokens = 64
    with ExitStack() as stack:

        def arm(model: Path, **options: Any) -> Measured:
            longest = {"max_model_len": PROMPT_TOKENS + num_tokens}
            return Measured(open_engine(stack, model, num_streams, longest | options), ids, num_streams)

        paged = {"tol_device_fraction": FRACTION}
        with mock.patch.object(Transformer, "prepare_for_inference"):
            arms = {"paged, as stored": arm(memory_model, **paged), "dense, as stored": arm(dense_model)}
        arms |= {
            "paged": arm(memory_model, **paged),
            "dense": arm(dense_model),
            "paged, bf16": arm(memory_model, **paged, dtype="bf16"),
        }
        result = compare(
            f"Decoding, {num_streams} at once",
            [Arm(name=name, run=lambda it=it: it.decode(num_tokens)) for name, it in arms.items()],
            unit="tokens/s",
            rounds=rounds,
            conditions={**conditions(memory_model, num_tokens), "dtype": "fp32 where no other is named"},
        )
        result = replace(result, conditions={**result.conditions, "miss rate": f"{arms['paged'].miss_rate:.4f}"})
    gc.collect()
    return [
        replace(result, title=f"{result.title}, beside {baseline}", baseline=baseline)
        for baseline in ("paged, as stored", "dense, as stored", "dense")
    ]


if __name__ == "__main__":
    main()
