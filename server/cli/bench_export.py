"""`tolbooth bench export`: how fast the rows of a model of yours are computed, without a table being written."""

from typing import Annotated

import typer

from models.bundled import DEFAULT_MODEL, resolve_model
from paging import Encoding
from server.cli.bench_options import RepetitionsOption, confidence_text, interval_text
from server.cli.options import JsonOption, ModelArgument
from server.cli.output import print_facts, print_json, print_table
from server.measuring.intervals import median_interval
from server.progress import Progress
from server.units import duration_text, num_bytes_text

_MOST_ROWS = 1 << 20


def bench_export(
    model: ModelArgument = None,
    *,
    rows: Annotated[
        int, typer.Option(min=1, max=_MOST_ROWS, help="Rows to compute; made whole chunks of 1,024.")
    ] = 1024,
    encoding: Annotated[
        list[Encoding] | None, typer.Option(help="How values are stored; again for more.", show_default="all")
    ] = None,
    repetitions: RepetitionsOption = 3,
    json: JsonOption = False,
) -> None:
    """Measure how fast a model's rows are computed and encoded; nothing is written.

    What the whole vocabulary would take is an estimate: this stretch's time as often as it fits in. What a disk takes
    to write the table comes on top.

    Example: tolbooth bench export runs/first/model --encoding bf16 --encoding int8
    """
    from models.export import table_geometry  # noqa: PLC0415 loads torch
    from server.measuring.row_computing import compute_stretch  # noqa: PLC0415 loads torch

    encodings = list(dict.fromkeys(encoding or Encoding))
    with Progress() as progress:
        stretch = compute_stretch(
            resolve_model(model),
            encodings,
            num_rows=rows,
            repetitions=repetitions,
            on_progress=progress.phase("computing rows"),
        )
    config = stretch.config
    giga = median_interval([stretch.operations / seconds / 1e9 for seconds in stretch.compute_seconds])
    rates = {
        each: median_interval([stretch.num_rows / seconds for seconds in stretch.seconds(each)]) for each in encodings
    }
    row_bytes = {each: table_geometry(config, each).row_bytes for each in encodings}
    whole_seconds = {each: config.vocab_size / rate.median for each, rate in rates.items()}
    if json:
        print_json(
            {
                "model": model or DEFAULT_MODEL,
                "rows": stretch.num_rows,
                "vocab_size": config.vocab_size,
                "gflop_per_second": vars(giga),
                "encodings": {
                    each: {
                        "row_bytes": row_bytes[each],
                        "rows_per_second": vars(rate),
                        "bytes_per_second": rate.median * row_bytes[each],
                        "estimate_seconds": whole_seconds[each],
                        "estimate_bytes": config.vocab_size * row_bytes[each],
                    }
                    for each, rate in rates.items()
                },
            }
        )
        return
    print_facts(
        {
            "model": f"{model or DEFAULT_MODEL}, {config.vocab_size:,} ids, {config.num_hidden_layers} layers",
            "computed": f"{stretch.num_rows:,} rows in float32, {giga.median:,.1f} GFLOP/s ({interval_text(giga)})",
        }
    )
    typer.echo()
    print_table(
        ["encoding", "rows/s", "interval", "bytes/s", "estimate for all ids"],
        [
            [
                each,
                f"{rate.median:,.0f}",
                interval_text(rate, 0),
                f"{num_bytes_text(rate.median * row_bytes[each])}/s",
                f"{num_bytes_text(config.vocab_size * row_bytes[each])} in {duration_text(whole_seconds[each])}",
            ]
            for each, rate in rates.items()
        ],
    )
    typer.echo(confidence_text(giga, repetitions))
