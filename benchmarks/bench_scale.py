"""What a decoding step costs as things grow: vocabulary, layers, table, streams, contexts; and what bends the curves.

    make bench-scale
    .venv/bin/python benchmarks/bench_scale.py --only streams --rounds 3 --out docs/benchmarks/scale-2026-11-24

| arm        | what it is                                                     |
|------------|----------------------------------------------------------------|
| resident   | the whole table in memory, where that takes less than 8 GB     |
| paged, 10% | slots for a tenth of the rows, the rest in storage             |
| dense      | a dense model of the same total size                           |

Each arm is a process of its own, so that its memory can be told; they take turns. Models have random weights and rows
that are made up, ids follow Zipf's law with an exponent that misses as often as text does: 7 % with a tenth of 32,000
rows. Tables are removed when their point of a curve is done: 13 GB of disk are enough, in `--scratch`.
"""

import argparse
import shutil
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from arm_process import ArmProcess, ArmSpec
from harness import Arm, compare, write_report
from measured import zipf_ids
from scale_curves import Curve, Machine, Measure, save_png, to_markdown

from models.config import ModelConfig
from models.export import table_geometry, write_synthetic_table
from models.initialise import initialise
from models.presets import preset
from paging import Encoding
from server.engine.model_tables import TABLE_DIRECTORY
from server.measuring.floor import product_rate, read_bandwidth

WARM_IDS = 20_000
"""That a paged memory has seen before."""
MOST_RESIDENT = 8 * 10**9
"""Bytes of a table that an arm holds in memory: with weights and a second arm beside it that is 14 GB at most."""
UNUSED_INTERMEDIATE = 8
"""Of the memory's FFNs where a made-up table stands for them: they are never run, and take no time to make."""
VOCAB_SIZE, CONTEXT = 32_000, 128


@dataclass(frozen=True, kw_only=True)
class Point:
    """Where a curve is measured."""

    x: float
    """Along the curve's axis."""
    scale: str = "250m"
    """Of the preset."""
    vocab_size: int = VOCAB_SIZE
    layers: int = 24
    streams: int = 1
    context: int = CONTEXT
    tokens: int = 12
    """Decoded by each stream in a round."""
    has_dense: bool = True

    def config(self, kind: str) -> ModelConfig:
        """Return the model's sizes."""
        sizes = {"vocab_size": self.vocab_size, "num_hidden_layers": self.layers}
        if kind == "memoryllm":
            sizes["intermediate_size"] = UNUSED_INTERMEDIATE
        return replace(preset(f"{self.scale}-{kind}"), **sizes)

    @property
    def model_name(self) -> str:
        """What its models' folders are called, the kind apart; points of the same sizes share them."""
        return f"{self.scale}-{self.vocab_size}-{self.layers}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A curve to be measured."""

    title: str
    axis: str
    points: list[Point]


PLANS = {
    "streams": Plan(
        title="Streams",
        axis="streams at once",
        points=[
            Point(x=count, streams=count, context=32 if count > 16 else CONTEXT, tokens=3 if count > 16 else 8)
            for count in (1, 4, 16, 64, 256)
        ],
    ),
    "context": Plan(
        title="Context length, 4 streams",
        axis="tokens of context",
        points=[Point(x=length, streams=4, context=length, tokens=8) for length in (128, 512, 1024, 1984)],
    ),
    "layers": Plan(
        title="Layers",
        axis="layers",
        points=[Point(x=layers, layers=layers) for layers in (24, 6, 12, 48)],
    ),
    "vocabulary": Plan(
        title="Vocabulary",
        axis="ids of the vocabulary",
        points=[Point(x=size, vocab_size=size) for size in (32_000, 8_000, 64_000, 128_000)],
    ),
    "table": Plan(
        title="Size of the table (1B geometry)",
        axis="bytes of the table",
        points=[
            Point(x=size * 98_304, scale="1b", vocab_size=size, tokens=8, has_dense=False)
            for size in (10_240, 40_960, 128_256)
        ],
    ),
}
"""Curves in the order in which they share models."""


def main() -> None:
    """Measure every curve and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(PLANS), nargs="*", default=list(PLANS), help="these curves alone")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scratch", type=Path, help="where models and tables are made; 13 GB")
    parser.add_argument("--tiny", action="store_true", help="small models: to try the script out, no measurement")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/scale"), help="report, without its ending")
    options = parser.parse_args()
    plans = {name: tiny(PLANS[name]) if options.tiny else PLANS[name] for name in options.only}
    jobs = [(name, point) for name, plan in plans.items() for point in plan.points]
    machine = Machine(read_bandwidth(), product_rate())
    curves = {name: Curve(plan.title, plan.axis) for name, plan in plans.items()}
    with tempfile.TemporaryDirectory(dir=options.scratch, prefix="tolbooth-scale-") as scratch:
        for number, (name, point) in enumerate(jobs):
            curves[name].add(point.x, measure(point, Path(scratch), options.rounds, plans[name].title))
            if point.model_name not in {later.model_name for _, later in jobs[number + 1 :]}:
                for folder in Path(scratch).glob(f"*-{point.model_name}"):
                    shutil.rmtree(folder)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    sections = [machine.text]
    for name, curve in curves.items():
        picture = options.out.with_name(f"{options.out.name}-{name}.png")
        save_png(curve, picture)
        sections.append(to_markdown(curve, machine, picture=picture.name))
    remarks = "\n\n".join(sections)
    print(remarks)
    more = {"machine": vars(machine), "curves": [curve.to_dict() for curve in curves.values()]}
    write_report([], options.out, title="Curves", remarks=remarks, more=more)


def measure(point: Point, scratch: Path, rounds: int, title: str) -> dict[str, Measure]:
    """Return what each arm takes at one point of a curve; all run at once, in turns, each in its own process."""
    longest = min(point.context + point.tokens * (rounds + 2) + 64, point.config("memoryllm").max_position_embeddings)
    memory_model = make_model(point, scratch, "memoryllm")
    arms: dict[str, tuple[Path, dict[str, Any]]] = {}
    if point.config("memoryllm").tol_bytes <= MOST_RESIDENT:
        arms["resident"] = (memory_model, {"memory": "resident"})
    arms["paged, 10%"] = (memory_model, {"tol_device_fraction": 0.1})
    if point.has_dense:
        arms["dense"] = (make_model(point, scratch, "dense"), {})
    ids = scratch / f"ids-{point.vocab_size}.npy"
    if not ids.exists():
        np.save(ids, zipf_ids(point.vocab_size))
    with ExitStack() as stack:
        processes = {}
        for name, (model, its) in arms.items():
            spec = ArmSpec(
                model=str(model),
                ids=str(ids),
                streams=point.streams,
                context=point.context,
                most=longest - point.context,
                warm=WARM_IDS,
                options={"max_model_len": longest, "max_num_batched_tokens": max(512, 2 * point.streams), **its},
            )
            processes[name] = stack.enter_context(ArmProcess(spec))
        for process in processes.values():  # they load side by side
            process.await_ready()

        def milliseconds(process: ArmProcess) -> float:
            return 1e3 * point.streams / process.measure(point.tokens)

        comparison = compare(
            f"{title}, {point.x:,.0f}",
            [Arm(name=name, run=lambda process=process: milliseconds(process)) for name, process in processes.items()],
            unit="ms/step",
            rounds=rounds,
        )
        summaries = {name: process.summary() for name, process in processes.items()}
    return {name: Measure(comparison.value(name), summaries[name]) for name in arms}


def make_model(point: Point, scratch: Path, kind: str) -> Path:
    """Return a checkpoint of random weights, the memory's with a made-up table; make it where it is not there."""
    out = scratch / f"{kind}-{point.model_name}"
    if out.exists():
        return out
    print(f"making {out.name}", file=sys.stderr)
    config = point.config(kind)
    fingerprints = initialise(config, out)
    if fingerprints.table is not None:
        geometry = table_geometry(config, Encoding.BF16)
        write_synthetic_table(geometry, out / TABLE_DIRECTORY, fingerprint=fingerprints.table, seed=0)
    return out


def tiny(plan: Plan) -> Plan:
    """Return a plan that runs in a moment and measures nothing of interest."""
    points = [
        replace(
            point,
            vocab_size=point.vocab_size // 32,
            layers=max(1, point.layers // 12),
            streams=min(point.streams, 8),
            context=min(point.context, 64),
            tokens=2,
        )
        for point in plan.points
    ]
    return replace(plan, points=points)


if __name__ == "__main__":
    main()
