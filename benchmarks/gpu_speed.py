"""What decoding and taking prompts in cost on a GPU at 1B size; parts of `gpu_check.py`."""

import importlib.util
import os
import statistics
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

VOCAB_SIZE = 128_256
PROMPT = 2047
"""Tokens; with the one that follows, the models' whole context."""


def host_reads(facts: list[str]) -> None:
    """Report the time in which rows are added straight out of pinned host memory, beside copies and then adding."""
    import torch  # noqa: PLC0415

    from paging import LayerEncoding  # noqa: PLC0415
    from paging.cuda_slab import CudaSlab, PinnedSlab  # noqa: PLC0415

    if not importlib.util.find_spec("triton"):
        facts.append("rows read in host memory: not measured, Triton is not installed")
        return
    from paging.fused import fused_add  # noqa: PLC0415

    num_rows, num_layers, size = 32, 24, 2048
    kind, row_bytes = LayerEncoding.parse("bf16"), num_layers * size * 2
    pinned, slots = PinnedSlab(256, row_bytes), CudaSlab(256, row_bytes, torch.device("cuda"))
    index_N = torch.arange(num_rows, device="cuda")
    hidden_ND = torch.zeros(num_rows, size, device="cuda", dtype=torch.bfloat16)

    def add_from(payload_SR: torch.Tensor) -> None:
        for layer in range(num_layers):
            part = payload_SR[:, layer * size * 2 : (layer + 1) * size * 2].view(torch.bfloat16)
            fused_add(part, kind, index_N, hidden_ND, None)

    def copy_and_add() -> None:
        rows = index_N.cpu().numpy()
        slots.copy_in(rows, pinned, rows).wait()
        add_from(slots.payload_SR)

    try:
        for name, work in {"read in host memory": lambda: add_from(pinned.payload_SR), "copied": copy_and_add}.items():
            seconds = []
            for _ in range(20):
                torch.cuda.synchronize()
                began = time.perf_counter()
                work()
                torch.cuda.synchronize()
                seconds.append(time.perf_counter() - began)
            milliseconds = 1e3 * statistics.median(seconds)
            facts.append(f"{num_rows} rows of the host tier, {name} and added: {milliseconds:.3f} ms")
    finally:
        torch.cuda.synchronize()
        pinned.close()


def token_ids(trace: Path | None, facts: list[str]) -> Any:
    """Return token ids of the 1B vocabulary: a trace's, or made up."""
    import numpy as np  # noqa: PLC0415
    from measured import ZIPF, zipf_ids  # noqa: PLC0415

    if trace is not None:
        ids = np.load(trace, allow_pickle=False).astype(np.int64)
        facts.append(f"token ids: {len(ids):,} of {trace.name}")
        return ids
    facts.append(f"token ids: made up, by Zipf's law with exponent {ZIPF:g}; so are the miss rates")
    return zipf_ids(VOCAB_SIZE, count=2_000_000)


def copy_bandwidth(facts: list[str]) -> float:
    """Return the bytes per second, read and written together, of a copy on the device."""
    import torch  # noqa: PLC0415

    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    seconds = []
    for _ in range(20):
        torch.cuda.synchronize()
        began = time.perf_counter()
        target.copy_(source)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    bandwidth = 2 * source.nbytes / statistics.median(seconds)
    facts.append(f"a copy on the device moves {bandwidth / 1e12:.2f} TB/s")
    return bandwidth


def decode(  # noqa: PLR0917
    scratch: Path, ids: Any, num_streams: int, rounds: int, bandwidth: float, facts: list[str]
) -> Any:
    """Compare milliseconds per step at 1B size; the whole table on the device, a tenth of it, and the dense model."""
    import torch  # noqa: PLC0415
    from harness import Arm, compare  # noqa: PLC0415
    from measured import PROMPT_TOKENS, Measured, conditions, floor_bytes, open_engine, random_model  # noqa: PLC0415

    memory_model = random_model(scratch, "1b-memoryllm", vocab_size=VOCAB_SIZE, with_table=True)
    dense_model = random_model(scratch, "1b-dense", vocab_size=VOCAB_SIZE)
    num_tokens = 96
    options: dict[str, Any] = {
        "dtype": "bf16",
        "device": "cuda",
        "max_model_len": PROMPT_TOKENS + num_tokens,
        "max_num_batched_tokens": 2048,
    }
    tenth = {**options, "tol_device_fraction": 0.1}
    arms: dict[str, tuple[Path, dict[str, Any]]] = {
        "resident": (memory_model, {**options, "memory": "resident"}),
        "paged, 10%, the rest in host memory": (memory_model, {**tenth, "tol_host_bytes": 13 * 2**30}),
        "paged, 10%, storage only": (memory_model, tenth),
        "dense": (dense_model, options),
    }
    with ExitStack() as stack:
        measured, memory_bytes = {}, {}
        for name, (model, its) in arms.items():
            before = torch.cuda.memory_allocated()
            measured[name] = Measured(open_engine(stack, model, num_streams, its), ids, num_streams)
            memory_bytes[name] = torch.cuda.memory_allocated() - before
        result = compare(
            f"1B, decoding, {num_streams} at once",
            [
                Arm(name=name, run=lambda arm=arm: 1e3 * num_streams / arm.decode(num_tokens))
                for name, arm in measured.items()
            ],
            unit="ms/step",
            rounds=rounds,
            conditions={**conditions(memory_model, num_tokens), "dtype": "bf16"},
        )
        for name, arm in measured.items():
            milliseconds = result.value(name).median
            floor = 1e3 * floor_bytes(arm.engine, num_streams, PROMPT_TOKENS + num_tokens / 2) / bandwidth
            facts.append(
                f"1B, {num_streams} at once, {name}: {milliseconds:.2f} ms a step, "
                f"{floor / milliseconds:.0%} of its floor of {floor:.2f} ms, miss rate {arm.miss_rate:.4f}, "
                f"{memory_bytes[name] / 1e9:.2f} GB of the device"
            )
        dense_share = (
            1e3 * floor_bytes(measured["dense"].engine, num_streams, PROMPT_TOKENS + num_tokens / 2) / bandwidth
        )
        ratio = result.value("paged, 10%, the rest in host memory").median / result.value("dense").median
        if dense_share / result.value("dense").median < 0.7:
            facts.append(
                f"1B, {num_streams} at once: the dense arm is below 70% of its floor, no ratio to it is quoted"
            )
        else:
            facts.append(f"1B, {num_streams} at once, paged / dense: {ratio:.3f} of the time")
    torch.cuda.empty_cache()
    return replace(result, conditions={**result.conditions, "ids": "see the remarks", "host tier": "as arms say"})


def prefill(scratch: Path, ids: Any, rounds: int, facts: list[str]) -> None:
    """Report the time of a long prompt without any of its rows, beside one that finds all of them."""
    import numpy as np  # noqa: PLC0415
    from measured import open_engine, random_model, run_prompt  # noqa: PLC0415

    from paging import Table  # noqa: PLC0415

    model = random_model(scratch, "1b-memoryllm", vocab_size=VOCAB_SIZE, with_table=True)
    options: dict[str, Any] = {
        "dtype": "bf16",
        "device": "cuda",
        "max_num_batched_tokens": 2048,
        "tol_device_fraction": 0.1,
        "enable_prefix_caching": False,
    }
    cold, warm, num_rows = [], [], []
    for number in range(rounds):
        with ExitStack() as stack:
            engine = open_engine(stack, model, 1, options)
            run_prompt(engine, ids[:1])
            prompt = ids[100_000 + number * PROMPT : 100_000 + (number + 1) * PROMPT]
            num_rows.append(len(np.unique(prompt)))
            cold.append(run_prompt(engine, prompt))
            warm.append(run_prompt(engine, prompt))
    rows, took = statistics.median(num_rows), statistics.median(cold)
    with Table.open(model / "table") as table:
        row_bytes = table.geometry.row_bytes
    disk = disk_bandwidth(model / "table")
    # Whatever is read and computed side by side takes no less than the longer of the two.
    bound = max(statistics.median(warm), rows * row_bytes / disk)
    facts.append(
        f"1B, a prompt of {PROMPT:,} tokens with {rows:.0f} different rows: cold {1e3 * took:.1f} ms, "
        f"warm {1e3 * statistics.median(warm):.1f} ms; cold reads {rows * row_bytes / took / 1e9:.2f} GB/s of the "
        f"{disk / 1e9:.2f} that long reads get; {bound / took:.0%} of max(compute, bytes / disk bandwidth)"
    )


def disk_bandwidth(table: Path) -> float:
    """Return the bytes per second of long reads of a table's largest file, past the page cache where that can be."""
    path = max(table.iterdir(), key=lambda each: each.stat().st_size)
    size = min(path.stat().st_size, 4 * 2**30)
    handle = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        began = time.perf_counter()
        offset = 0
        while offset < size and (read := len(os.pread(handle, 16 * 2**20, offset))):
            offset += read
        return offset / (time.perf_counter() - began)
    finally:
        os.close(handle)
