"""What paging costs: cold reads beside the disk's own speed, leases that hit, memory; and that it changes no number.

    make bench-paging
    .venv/bin/python benchmarks/bench_paging.py --table DIR --rounds 9 --out docs/benchmarks/paging-2026-11-23

Dropping the page cache needs root; fio is used where it is installed. Without `--table` a table at 1B geometry is made
in `--scratch` and removed again: 20,000 rows (2 GB), or all of the vocabulary (12.6 GB) with `--full`.
"""

import argparse
import json
import mmap
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Arm, Comparison, compare, drop_page_cache, write_report
from memory_growth import SEED, memory_growth

from models.bundled import resolve_model
from models.export import table_geometry, write_synthetic_table
from models.presets import preset
from paging import Encoding, Table, TableGeometry, TableWriter, encode_rows
from paging.simulation import hit_rate_curve
from paging.storage.choice import StorageKind
from server.engine.choices import Memory
from server.engine.loading import load
from server.measuring.row_reads import await_lease, lease_seconds, opened_pager, read_rate

COLD_ROWS = 1024
TOUCHED_ROWS = 128
RESIDENT_KEYS = 64


def main() -> None:
    """Run every part and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, help="a synthetic table of this script's making")
    parser.add_argument("--full", action="store_true", help="make the whole 12.6 GB table")
    parser.add_argument("--rounds", type=int, default=9, help="rounds of cold reads")
    parser.add_argument("--memory-rows", type=int, default=50_000, help="rows read under the memory budget")
    parser.add_argument("--cold-only", action="store_true", help="measure cold reads and nothing else")
    parser.add_argument("--scratch", type=Path, help="where a table is made")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/paging"), help="report, without its ending")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.scratch, prefix="tolbooth-bench-") as scratch:
        directory = options.table or make_table(Path(scratch) / "table", full=options.full)
        # The disk first: many virtual ones are quick only until a burst is used up, and what follows reads gigabytes.
        comparisons = [cold_reads(directory, options.rounds)]
        facts = {}
        if not options.cold_only:
            facts = {
                "lease_and_release": lease_cost(),
                "memory": [
                    memory_growth(directory, kind, options.memory_rows, confined=confined)
                    for confined in (False, True)
                    for kind in ("direct", "mapped")
                ],
                "demo_logits": demo_logits(),
                "replay": replay_hit_rate(Path(scratch)),
            }
    for name, value in facts.items():
        print(f"{name}: {json.dumps(value)}")
    print(comparisons[0].to_markdown())
    write_report(
        comparisons,
        options.out,
        title="Paging",
        remarks=remarks(facts) if facts else "",
        more={"facts_measured": facts},
    )


def make_table(directory: Path, *, full: bool) -> Path:
    """Write a synthetic table at 1B geometry; its fingerprint says how to make its rows again."""
    config = preset("1b-memoryllm")
    geometry = table_geometry(config if full else replace(config, vocab_size=20_000), Encoding.BF16)
    write_synthetic_table(
        geometry,
        directory,
        fingerprint="synthetic",
        seed=SEED,
        on_progress=lambda done, total: print(f"\rmaking the table: {done} of {total}", end="", file=sys.stderr),
    )
    print(file=sys.stderr)
    return directory


def cold_reads(directory: Path, rounds: int) -> Comparison:
    """Rows per second of `COLD_ROWS` random rows in one call, page cache dropped before each arm."""
    generator = np.random.default_rng(SEED)
    with Table.open(directory) as table:
        geometry, num_rows = table.geometry, table.num_rows

    def paged(kind: StorageKind, *, populate: bool = True) -> Callable[[], float]:
        return lambda: read_rate(
            directory, kind, generator.choice(num_rows, COLD_ROWS, replace=False), populate=populate
        )

    def touched() -> float:
        rows = generator.choice(num_rows, TOUCHED_ROWS, replace=False).tolist()
        with Table.open(directory) as table:
            places = [table.place(row) for row in rows]
        maps = {place.path: mapped(place.path) for place in places}
        started = time.perf_counter()
        for place in places:
            torch.frombuffer(maps[place.path], dtype=torch.uint8, offset=place.offset, count=geometry.row_bytes).clone()
        return TOUCHED_ROWS / (time.perf_counter() - started)

    arms = [
        Arm(name="direct (the default)", run=paged("direct"), prepare=drop_page_cache),
        Arm(name="direct, slots never used", run=paged("direct", populate=False), prepare=drop_page_cache),
        Arm(name="mapped", run=paged("mapped"), prepare=drop_page_cache),
        Arm(name="memory map touched row by row", run=touched, prepare=drop_page_cache),
    ]
    if shutil.which("fio"):
        shards = sorted(directory.glob("rows-*.safetensors"))
        arms.insert(0, Arm(name="fio", run=lambda: fio_rate(shards, geometry.row_stride), prepare=drop_page_cache))
    conditions = {
        "rows in one call": f"{COLD_ROWS:,} different random ones of {num_rows:,}, {geometry.row_stride:,} B each",
        "touched row by row": f"{TOUCHED_ROWS} a round",
        "fio": "io_uring, depth 32, O_DIRECT, as many rows at random places of all shards",
        "host tier": "none",
        "miss rate": "1",
    }
    return compare("Cold reads", arms, unit="rows/s", rounds=rounds, conditions=conditions)


def mapped(path: Path) -> mmap.mmap:
    """Map a file as a naive reader would."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ | mmap.PROT_WRITE, flags=mmap.MAP_PRIVATE)


def fio_rate(shards: list[Path], row_bytes: int) -> float:
    """Return the rows per second that fio reads from a table's shards, each row at a random place of a random shard."""
    # fio shares the size out evenly, so all shards count as long as the shortest.
    size = len(shards) * ((min(path.stat().st_size for path in shards) - 4096) // row_bytes * row_bytes)
    command = [
        *("fio", "--name=rows", f"--filename={':'.join(map(str, shards))}", f"--nrfiles={len(shards)}", "--readonly"),
        *("--rw=randread", "--file_service_type=random", f"--bs={row_bytes}", "--offset=4096", f"--size={size}"),
        *(f"--io_size={COLD_ROWS * row_bytes}", "--ioengine=io_uring", "--iodepth=32", "--direct=1"),
        *("--randrepeat=0", "--thread", "--output-format=json"),
    ]
    done = subprocess.run(command, capture_output=True, check=True, timeout=120)  # noqa: S603 a fixed program
    read = json.loads(done.stdout)["jobs"][0]["read"]
    if read["total_ios"] != COLD_ROWS:
        raise RuntimeError(f"fio read {read['total_ios']} rows in place of {COLD_ROWS}")
    return float(read["iops"])


def lease_cost() -> dict[str, float]:
    """Return microseconds of leasing and releasing resident keys, among 12,800 slots."""
    geometry = TableGeometry.uniform(hidden_size=64, num_layers=2, vocab_size=12_800, encoding=Encoding.BF16)
    everything = np.arange(geometry.vocab_size)
    with tempfile.TemporaryDirectory() as scratch:
        small_table(Path(scratch) / "table", geometry)
        with opened_pager(Path(scratch) / "table", num_slots=geometry.vocab_size) as pager:
            samples = 1e6 * lease_seconds(pager, everything, num_keys=RESIDENT_KEYS, count=20_000, seed=SEED)
    return {
        "keys": RESIDENT_KEYS,
        "median_us": float(np.median(samples)),
        "p99_us": float(np.quantile(samples, 0.99)),
    }


@torch.inference_mode()
def demo_logits() -> list[dict[str, Any]]:
    """Compare logits of the demo, paged at several shares of its rows, with resident ones, batch by batch."""
    from models.attention import PackedContext  # noqa: PLC0415 only here

    results = []
    with load(resolve_model("demo"), memory=Memory.RESIDENT) as resident:
        vocab_size = resident.model.config.vocab_size
        for fraction in (0.01, 0.05, 0.20):
            slots = max(2, round(fraction * vocab_size))
            with load(resolve_model("demo"), memory=Memory.PAGED, device_rows=slots) as paged:
                generator = np.random.default_rng(SEED)
                equal = total = 0
                for _ in range(50):
                    ids_N = torch.from_numpy(generator.zipf(1.2, 32).clip(max=vocab_size) - 1)
                    outputs = []
                    for loaded in (resident, paged):
                        assert loaded.rows is not None
                        context, positions_N = PackedContext([32]), torch.arange(32)
                        hidden = loaded.model(ids_N, positions_N, context, loaded.rows.fetch(ids_N))
                        outputs.append(loaded.model.logits(hidden))
                    equal += int(torch.equal(*outputs))
                    total += 1
            results.append({"fraction": fraction, "slots": slots, "batches": total, "equal_to_the_bit": equal})
    return results


def replay_hit_rate(scratch: Path) -> dict[str, float]:
    """Replay a trace with Zipf's law through a pager, one request at a time, beside what the simulation predicts."""
    vocab_size, num_slots, num_requests = 20_000, 1000, 200_000
    geometry = TableGeometry.uniform(hidden_size=8, num_layers=1, vocab_size=vocab_size, encoding=Encoding.BF16)
    small_table(scratch / "small", geometry)
    weights = 1 / np.arange(1, vocab_size + 1)
    ids = np.random.default_rng(SEED).choice(vocab_size, num_requests, p=weights / weights.sum())
    predicted = hit_rate_curve(ids, vocab_size=vocab_size, fractions=[num_slots / vocab_size])[0].hit_rate
    with opened_pager(scratch / "small", num_slots=num_slots) as pager:
        for start in range(num_requests):
            pager.release(await_lease(pager, ids[start : start + 1]))
        measured = pager.stats().hit_rate
    return {"requests": num_requests, "slots": num_slots, "pager": measured, "tolbooth_size": predicted}


def small_table(directory: Path, geometry: TableGeometry) -> None:
    """Write a table of random values."""
    shape = (geometry.vocab_size, len(geometry.segments), geometry.hidden_size)
    values = torch.randn(shape, generator=torch.Generator().manual_seed(SEED))
    with TableWriter(directory, geometry=geometry, fingerprint="small", num_rows=geometry.vocab_size) as writer:
        writer.write(encode_rows(values, geometry))


def cgroup_text(memory: dict[str, Any]) -> str:
    """Say what a process was confined to."""
    limit = memory["cgroup_bytes"]
    return f", in a memory cgroup that allows {limit / 1e6:.0f} MB, page cache included" if limit else ""


def remarks(facts: dict[str, Any]) -> str:
    """Say in Markdown what was measured besides the comparisons."""
    cost, replayed = facts["lease_and_release"], facts["replay"]
    lines = [
        (
            f"- Lease and release of {cost['keys']} resident keys among 12,800 slots: "
            f"median {cost['median_us']:.1f} us, p99 {cost['p99_us']:.1f} us.\n"
            f"- {replayed['requests']:,} requests one at a time through {replayed['slots']:,} slots (Zipf): "
            f"hit rate {replayed['pager']:.4f}, `tolbooth size` predicts {replayed['tolbooth_size']:.4f}."
        )
    ]
    lines += [
        f"- {memory['rows_compared']:,} random rows of a table of {memory['table_bytes'] / 1e9:.1f} GB through 512 MB, "
        f"{memory['storage']}: each equal to its generator; RSS grew by {memory['growth_bytes'] / 1e6:.0f} MB"
        f"{cgroup_text(memory)}."
        for memory in facts["memory"]
    ]
    lines += [
        f"- Demo at {entry['fraction']:.0%} of its rows ({entry['slots']} slots): logits equal to resident ones to the "
        f"bit in {entry['equal_to_the_bit']} of {entry['batches']} batches of 32 tokens."
        for entry in facts["demo_logits"]
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
