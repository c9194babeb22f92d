"""`tolbooth bench paging`: how fast the rows of a table of yours are read and leased."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from models.errors import ConfigError
from paging import load_manifest
from paging.errors import StorageError
from paging.simulation import hit_rate_curve
from server.cli import size_ids
from server.cli.bench_options import RepetitionsOption, SeedOption, confidence_text, interval_text
from server.cli.options import JsonOption
from server.cli.output import print_facts, print_json, print_table
from server.cli.size import parse_fractions
from server.progress import Progress
from server.units import num_bytes_text

if TYPE_CHECKING:
    from paging import Manifest
    from paging.storage.choice import StorageKind
    from server.measuring.comparison import Comparison

_MOST_ROWS = 65_536
_LEASED_KEYS = 64
_HELD_ROWS = 4096
_LEASES = 5000


def bench_paging(
    directory: Annotated[Path, typer.Argument(metavar="TABLE", help="The directory of a ToL table.")],
    *,
    rows: Annotated[int, typer.Option(min=1, max=_MOST_ROWS, help="Rows of a cold read, at random places.")] = 1024,
    repetitions: RepetitionsOption = 9,
    trace: Annotated[
        Path | None, typer.Option(metavar="IDS.npy", help="Replay these token ids: hit rates of several sizes.")
    ] = None,
    fractions: Annotated[str, typer.Option(help="Of the rows, for --trace.")] = "0.01,0.02,0.05,0.1,0.2",
    seed: SeedOption = 0,
    json: JsonOption = False,
) -> None:
    """Measure cold reads of a table through each storage, and leases of rows that are in their slots.

    Before each cold read the kernel is asked to forget the table's files, which needs no root; what a process has
    mapped stays, so let no server use the table meanwhile.

    Example: tolbooth bench paging runs/first/model/table --rows 2048
    """
    shares = parse_fractions(fractions)
    manifest = load_manifest(directory)
    num_rows = min(rows, manifest.num_rows)
    _check_memory(manifest, num_rows)
    with Progress() as progress:
        cold, refused = _cold_reads(directory, manifest, num_rows, repetitions, seed, progress)
        leased = _leases(directory, manifest, seed, progress)
        curve = []
        if trace is not None:
            ids_N = size_ids.read_trace(trace, vocab_size=manifest.num_rows)
            replaying = progress.phase("simulating caches")
            curve = hit_rate_curve(ids_N, vocab_size=manifest.num_rows, fractions=shares, on_progress=replaying)
    if json:
        print_json(
            {
                "table": str(directory),
                "row_bytes": manifest.geometry.row_bytes,
                "rows_of_a_read": num_rows,
                "cold_reads": {kind: {"rows_per_second": vars(cold.value(kind))} for kind in cold.samples},
                "storages_refused": refused,
                "lease": leased,
                "curve": [dataclasses.asdict(point) for point in curve],
            }
        )
        return
    row_bytes = manifest.geometry.row_bytes
    print_facts(
        {
            "table": f"{directory}, {manifest.num_rows:,} rows of {num_bytes_text(row_bytes)}",
            "cold reads": f"{num_rows:,} different random rows in one lease, none of them in memory",
            **{f"no {kind}": why for kind, why in refused.items()},
            "lease": (
                f"{leased['keys']} keys that are in their slots, leased and released: {leased['median_us']:.1f} us, "
                f"p99 {leased['p99_us']:.1f} us"
            ),
        }
    )
    typer.echo()
    values = {kind: cold.value(kind) for kind in cold.samples}
    print_table(
        ["storage", "rows/s", "interval", "bytes/s"],
        [
            [kind, f"{rate.median:,.0f}", interval_text(rate, 0), f"{num_bytes_text(rate.median * row_bytes)}/s"]
            for kind, rate in values.items()
        ],
    )
    typer.echo(confidence_text(next(iter(values.values())), repetitions))
    if curve:
        typer.echo()
        print_table(
            ["of the rows", "rows", "hit rate", "LRU", "optimum"],
            [
                [
                    f"{point.fraction:.0%}",
                    f"{point.rows:,}",
                    *(f"{rate:.4f}" for rate in (point.hit_rate, point.lru, point.optimal)),
                ]
                for point in curve
            ],
        )


def _check_memory(manifest: "Manifest", num_rows: int) -> None:
    """Raise `ConfigError` where so many rows are more than half of what memory is free."""
    import torch  # noqa: PLC0415 slow to load

    from server.engine.capacity import free_bytes  # noqa: PLC0415 loads torch

    needed, free = num_rows * manifest.geometry.row_stride, free_bytes(torch.device("cpu"))
    if 2 * needed > free:
        raise ConfigError(
            f"{num_rows:,} rows take {num_bytes_text(needed)}, more than half of the {num_bytes_text(free)} of memory "
            "that are free; lower --rows"
        )


def _cold_reads(  # noqa: PLR0917 what is read, and how often
    directory: Path, manifest: "Manifest", num_rows: int, repetitions: int, seed: int, progress: Progress
) -> "tuple[Comparison, dict[str, str]]":
    """Compare the storages; those that do not work there are left out, and named with the reason."""
    from server.measuring.comparison import Arm, compare  # noqa: PLC0415 beside the next
    from server.measuring.row_reads import drop_pages, opened_pager, read_rate  # noqa: PLC0415 loads torch

    generator = np.random.default_rng(seed)
    kinds: list[StorageKind] = ["direct", "mapped"]
    refused: dict[str, str] = {}
    arms = []
    for kind in kinds:
        try:
            with opened_pager(directory, kind, num_slots=2):
                pass
        except StorageError as error:
            refused[kind] = str(error)
            continue

        def run(kind: "StorageKind" = kind) -> float:
            return read_rate(directory, kind, generator.choice(manifest.num_rows, num_rows, replace=False))

        arms.append(Arm(name=kind, run=run, prepare=lambda: drop_pages(directory)))
    reading = progress.phase("reading rows")
    result = compare(
        "Cold reads",
        arms,
        unit="rows/s",
        rounds=repetitions,
        on_arm=lambda done, total, _: reading(done, total),
    )
    return result, refused


def _leases(directory: Path, manifest: "Manifest", seed: int, progress: Progress) -> dict[str, Any]:
    """Measure leases of keys that are in slots, of at most `_HELD_ROWS` rows."""
    from server.measuring.row_reads import lease_seconds, opened_pager  # noqa: PLC0415 loads torch

    progress.phase("leasing rows")(0, 1)
    held = np.random.default_rng(seed).choice(manifest.num_rows, min(_HELD_ROWS, manifest.num_rows), replace=False)
    with opened_pager(directory, num_slots=len(held)) as pager:
        seconds = lease_seconds(pager, held, num_keys=_LEASED_KEYS, count=_LEASES, seed=seed)
    return {
        "keys": _LEASED_KEYS,
        "slots": len(held),
        "median_us": 1e6 * float(np.median(seconds)),
        "p99_us": 1e6 * float(np.quantile(seconds, 0.99)),
    }
