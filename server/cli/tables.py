"""`tolbooth export-tol` and `tolbooth verify-tol`: making and checking ToL tables."""

import dataclasses
import time
from pathlib import Path
from typing import Annotated

import typer

import paging
from models.bundled import resolve_model
from paging import Encoding, load_manifest
from server.cli.options import JsonOption, ModelArgument
from server.cli.output import print_facts, print_json
from server.progress import Progress
from server.units import num_bytes_text


def export_tol(
    model: ModelArgument = None,
    *,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where the table goes.", show_default="MODEL/table; for a demo, your cache"),
    ] = None,
    encoding: Annotated[Encoding, typer.Option(help="How values are stored.")] = Encoding.BF16,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the table that is there.")] = False,
    json: JsonOption = False,
) -> None:
    """Compute the ToL table of a model: one row per id, with the FFN outputs of all layers.

    Example: tolbooth export-tol runs/first/model --encoding fp16
    """
    from models.export import export_table  # noqa: PLC0415 loads torch
    from server.engine.model_tables import own_table  # noqa: PLC0415 loads torch

    directory = resolve_model(model)
    if out is None:
        out = own_table(directory, encoding)
    started = time.monotonic()
    with Progress() as progress:
        phase = progress.phase("exporting the table")
        export_table(directory, out, encoding=encoding, overwrite=overwrite, on_progress=phase)
    seconds = time.monotonic() - started
    manifest = load_manifest(out)
    num_bytes = manifest.auxiliary.num_bytes + sum(shard.num_bytes for shard in manifest.shards)
    if json:
        print_json(
            {
                "table": str(out),
                "fingerprint": manifest.fingerprint,
                "encoding": encoding,
                "rows": manifest.num_rows,
                "bytes": num_bytes,
                "seconds": seconds,
                "bytes_per_second": num_bytes / seconds,
            }
        )
        return
    print_facts(
        {
            "table": str(out),
            "rows": f"{manifest.num_rows:,}",
            "bytes": f"{num_bytes:,} ({num_bytes_text(num_bytes)})",
            "seconds": f"{seconds:.1f}",
            "rate": f"{num_bytes_text(num_bytes / seconds)}/s",
        }
    )


def verify_tol(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The table.")], *, json: JsonOption = False
) -> None:
    """Check every byte of a ToL table, and name the first bad row.

    Example: tolbooth verify-tol runs/first/model/table
    """
    with Progress() as progress:
        # Through the package, which loads torch on first use.
        report = paging.verify_table(directory, on_progress=progress.phase("verifying the table"))
    values = {"table": str(directory), **dataclasses.asdict(report)}
    if json:
        print_json(values)
        return
    facts = {
        name.replace("_", " "): f"{value:,}" if isinstance(value, int) else value for name, value in values.items()
    }
    print_facts(facts | {"sound": "every row, digest and padding byte"})
