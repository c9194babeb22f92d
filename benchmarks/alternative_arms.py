"""The arms of `bench_alternatives.py` that are engines of ours: their options, opened together or each by itself."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from alternatives import make_naive
from arm_process import ArmProcess, ArmSpec
from measured import FRACTION, PROMPT_TOKENS, Measured, open_engine

from paging import Table
from server.engine.choices import Memory

NAIVE = "memory map, row by row"
ARMS: dict[str, dict[str, Any]] = {
    "dense": {},
    "resident": {"memory": Memory.RESIDENT},
    "paged, 10%": {"tol_device_fraction": FRACTION},
    "computed": {"memory": Memory.COMPUTED},
    NAIVE: {"memory": Memory.MAPPED},
}
"""This engine's arms, and their options."""


def open_arms(
    stack: ExitStack,
    models: tuple[Path, Path],
    ids: npt.NDArray[np.int64],
    num_streams: int,
    names: list[str],
    *,
    longest: int,
    context: int = PROMPT_TOKENS,
) -> dict[str, Measured]:
    """Open the engines of these arms."""
    arms = {}
    for name in names:
        model = models[name == "dense"]
        engine = open_engine(stack, model, num_streams, {"max_model_len": longest, **ARMS[name]})
        if name == NAIVE:
            make_naive(engine, stack.enter_context(Table.open(model / "table")))
        arms[name] = Measured(engine, ids, num_streams, context=context)
    return arms


def memory_of_arms(models: tuple[Path, Path], ids: Path) -> list[str]:
    """Say what each arm takes of the memory, in a process of its own that decodes for one stream."""
    facts = []
    for name in (*ARMS, "transformers, dense"):
        kind = {NAIVE: "naive", "transformers, dense": "outside"}.get(name, "engine")
        spec = ArmSpec(
            model=str(models[name in {"dense", "transformers, dense"}]),
            ids=str(ids),
            streams=1,
            context=PROMPT_TOKENS,
            most=16,
            kind=kind,
            options={"max_model_len": PROMPT_TOKENS + 64, **ARMS.get(name, {})},
        )
        with ArmProcess(spec) as process:
            process.measure(16)
            summary = process.summary()
        facts.append(
            f"memory, 1 stream, {name}: {summary.anonymous / 1e9:.2f} GB anonymous and {summary.of_files / 1e9:.2f} GB "
            f"of mapped files resident, {summary.device_bytes / 1e9:.2f} GB set aside for weights, rows and contexts"
        )
    return facts
