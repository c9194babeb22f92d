"""Where the time of a decoding step goes: by part of the step, by operator, by Python function.

    make bench-profile
    .venv/bin/python benchmarks/profile_step.py --text books.txt --scratch DIR --out docs/benchmarks/profile-2026-11-24

Random weights of 250M size, paged and resident, 1 and 32 streams. Three looks at the same steps, for each slows them in
its own way: with no profiler (the milliseconds that count), under PyTorch's (operators and parts; shares are of its own
total), and under Python's (functions). Without `--text` the ids follow Zipf's law.

Parts are told by where an operator runs: inside attention, inside decoding rows, inside sampling; of the rest, matrix
products are linears, and what is in the step but in no operator is the engine's and Python's own.
"""

import argparse
import cProfile
import pstats
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from harness import write_report
from measured import (
    FRACTION,
    PROMPT_TOKENS,
    VOCAB_SIZE,
    Measured,
    open_engine,
    own_tokenizer,
    random_model,
    text_ids,
    zipf_ids,
)
from torch.profiler import ProfilerActivity, profile, record_function

from models.attention import PagedContext
from models.rows import Rows
from server.engine.choices import Memory

STREAMS = (1, 32)
ARMS: dict[str, dict[str, Any]] = {
    "paged, 10%": {"tol_device_fraction": FRACTION},
    "resident": {"memory": Memory.RESIDENT},
}
MARK = "part: "
ENGINE, LINEARS, HEAD, ATTENTION, ROWS, SAMPLING, OTHER = (
    "engine and Python",
    "linears",
    "head",
    "attention",
    "rows",
    "sampling",
    "norms, rotary positions, sums",
)
PARTS = (LINEARS, HEAD, ATTENTION, ROWS, SAMPLING, OTHER, ENGINE)
PRODUCTS = ("mm", "linear", "mkldnn", "gemm")
TOP = 12


@dataclass(frozen=True)
class Profile:
    """One arm at one number of streams."""

    arm: str
    streams: int
    milliseconds: float
    """Of a step, by the clock, with no profiler; the median."""
    miss_rate: float
    parts: dict[str, float]
    """Share of the profiled step by part."""
    operators: list[tuple[str, float, float, float]]
    """The top ones by self time: name, share of the step, calls a step, microseconds a step."""
    kernels: list[tuple[str, float, float, float]]
    """The same of a GPU's kernels, as shares of their total; empty without one."""
    functions: list[tuple[str, float, float, float]]
    """The same of Python's functions, by Python's profiler."""


def main() -> None:
    """Profile every arm and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, help="plain text, some tens of megabytes")
    parser.add_argument("--scratch", type=Path, help="where the model and ids are made, and found again")
    parser.add_argument("--model", type=Path, help="another checkpoint with a table, read with made-up ids")
    parser.add_argument("--streams", type=int, nargs="*", default=STREAMS)
    parser.add_argument("--steps", type=int, default=24, help="steps of each look")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/profile"), help="report, without its ending")
    options = parser.parse_args()
    profiles = []
    with ExitStack() as stack:
        scratch = options.scratch or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tolbooth-bench-")))
        model = options.model or random_model(scratch, "250m-memoryllm", with_table=True)
        for count in options.streams:
            for arm, its in ARMS.items():
                with ExitStack() as opened:
                    longest = min(PROMPT_TOKENS + 8 * options.steps, 2048)
                    engine = open_engine(
                        opened, model, count, {"max_model_len": longest, "device": options.device, **its}
                    )
                    if options.text and not options.model:
                        ids = text_ids(
                            options.text, scratch, f"ids-{VOCAB_SIZE}.npy", lambda: own_tokenizer(options.text, scratch)
                        )
                    else:
                        ids = zipf_ids(engine.info.vocab_size)
                    profiles.append(take(arm, Measured(engine, ids, count), options.steps))
    remarks = "\n".join(to_markdown(each) for each in profiles)
    print(remarks)
    more = {"profiles": [asdict(each) for each in profiles]}
    write_report([], options.out, title="Profiles of a decoding step", remarks=remarks, more=more)


def take(arm: str, measured: Measured, steps: int) -> Profile:
    """Look at an arm three times, the same streams going on."""
    most = 7 * steps
    measured.go_on(steps, most)  # warm
    milliseconds = []
    for _ in range(steps):
        began = time.perf_counter()
        measured.go_on(1, most)
        milliseconds.append(1e3 * (time.perf_counter() - began))
    python = cProfile.Profile()
    python.runcall(measured.go_on, steps, most)
    mark_parts(measured)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    with (
        patch.object(PagedContext, "attend", marked(ATTENTION, PagedContext.attend)),
        profile(activities=activities, acc_events=True) as torch_profile,
    ):
        measured.go_on(steps, most)
    measured.end()
    events = torch_profile.events()
    parts, operators = by_part(events, steps)
    return Profile(
        arm=arm,
        streams=measured.num_streams,
        milliseconds=statistics.median(milliseconds),
        miss_rate=measured.miss_rate,
        parts=parts,
        operators=operators,
        kernels=kernels_of(events, steps),
        functions=functions_of(python, steps),
    )


def mark_parts(measured: Measured) -> None:
    """Let the profiler know in which part of a step an operator runs."""
    engine = measured.engine
    memory = engine.scheduler.rows.memory
    engine.step = marked(ENGINE, engine.step)  # type: ignore[method-assign]
    engine.runner.run = marked(OTHER, engine.runner.run)  # type: ignore[method-assign]
    engine.runner.scores = marked(HEAD, engine.runner.scores)  # type: ignore[method-assign]
    engine.sampler.sample = marked(SAMPLING, engine.sampler.sample)  # type: ignore[method-assign]
    rows_of = memory.rows
    memory.rows = lambda *leased: MarkedRows(rows_of(*leased))  # type: ignore[method-assign,assignment,return-value]


def marked(part: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function whose operators count as this part's."""

    def mark(*arguments: Any, **options: Any) -> Any:
        with record_function(MARK + part):
            return call(*arguments, **options)

    return mark


class MarkedRows:
    """A batch's rows, whatever they are, whose operators count as theirs."""

    def __init__(self, rows: Rows | None) -> None:
        self._rows = rows

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._rows, name)
        return marked(ROWS, found) if callable(found) else found


def by_part(events: Iterable[Any], steps: int) -> tuple[dict[str, float], list[tuple[str, float, float, float]]]:
    """Return the share of each part of a step, and the top operators."""
    parts: dict[str, float] = dict.fromkeys(PARTS, 0.0)
    times: dict[str, float] = defaultdict(float)
    calls: dict[str, int] = defaultdict(int)
    for event in events:
        part = part_of(event)
        if part is None:
            continue
        name = event.name if not event.name.startswith(MARK) else f"Python in: {event.name.removeprefix(MARK)}"
        if part == OTHER and any(product in event.name for product in PRODUCTS):
            part = LINEARS
        parts[part] += event.self_cpu_time_total
        times[name] += event.self_cpu_time_total
        calls[name] += 1
    total = sum(parts.values()) or 1.0
    return {part: spent / total for part, spent in parts.items()}, top(times, calls, total, steps)


def part_of(event: Any) -> str | None:
    """Return the part that an operator runs in; None outside of any step, and for what is not on the host."""
    if event.device_type != torch.autograd.DeviceType.CPU:
        return None
    while event is not None and not event.name.startswith(MARK):
        event = event.cpu_parent
    return None if event is None else str(event.name.removeprefix(MARK))


def kernels_of(events: Iterable[Any], steps: int) -> list[tuple[str, float, float, float]]:
    """Return the top kernels of a GPU."""
    times: dict[str, float] = defaultdict(float)
    calls: dict[str, int] = defaultdict(int)
    for event in events:
        if event.device_type == torch.autograd.DeviceType.CUDA and not event.name.startswith(MARK):
            times[event.name] += event.self_device_time_total
            calls[event.name] += 1
    return top(times, calls, sum(times.values()) or 1.0, steps)


def functions_of(python: cProfile.Profile, steps: int) -> list[tuple[str, float, float, float]]:
    """Return the top functions by the time in themselves, C functions included."""
    times: dict[str, float] = defaultdict(float)
    calls: dict[str, int] = defaultdict(int)
    for (path, _, name), (_, count, own, _, _) in pstats.Stats(python).stats.items():  # type: ignore[attr-defined]
        label = f"{'/'.join(Path(path).parts[-2:])}: {name}" if path != "~" else name
        times[label] += 1e6 * own
        calls[label] += count
    return top(times, calls, sum(times.values()) or 1.0, steps)


def top(
    times: dict[str, float], calls: dict[str, int], total: float, steps: int
) -> list[tuple[str, float, float, float]]:
    """Return the most expensive: name, share, calls a step, microseconds a step."""
    names = sorted(times, key=lambda name: -times[name])[:TOP]
    return [(name, times[name] / total, calls[name] / steps, times[name] / steps) for name in names]


def to_markdown(found: Profile) -> str:
    """Return a section with the parts and the top of each look."""
    lines = [
        f"## {found.arm}, {found.streams} at once",
        "",
        f"{found.milliseconds:.2f} ms a step with no profiler; miss rate {found.miss_rate:.4f}.",
        "",
        f"| {' | '.join(PARTS)} |",
        f"|{'---:|' * len(PARTS)}",
        f"| {' | '.join(f'{found.parts[part]:.1%}' for part in PARTS)} |",
    ]
    for title, rows in (
        ("operator", found.operators),
        ("kernel", found.kernels),
        ("function (Python's profiler)", found.functions),
    ):
        if rows:
            lines += ["", f"| {title} | share | calls a step | us a step |", "|---|---:|---:|---:|"]
            lines += [
                f"| `{name[:90].replace('|', ' ')}` | {share:.1%} | {calls:.1f} | {spent:,.0f} |"
                for name, share, calls, spent in rows
            ]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
