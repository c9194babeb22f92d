"""`tolbooth size`: the share of row requests that caches of several sizes would answer."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer

from models.bundled import resolve_model
from models.config import ModelConfig
from models.errors import ConfigError
from paging import load_manifest
from paging.format import MANIFEST_FILE
from paging.frequencies import count_keys, save_counts
from paging.simulation import CurvePoint, hit_rate_curve
from server.cli import size_ids, size_plot
from server.cli.options import JsonOption
from server.cli.output import print_facts, print_json, print_table
from server.progress import Progress
from server.units import num_bytes_text


def size(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            help="A checkpoint directory or a bundled model; a trace needs none.",
            show_default="demo for --text",
        ),
    ] = None,
    *,
    text: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="UTF-8 text; give it again for more files.")
    ] = None,
    trace: Annotated[Path | None, typer.Option(metavar="IDS.npy", help="Token ids in the order of reading.")] = None,
    vocab_size: Annotated[int | None, typer.Option(min=1, max=1 << 24, help="Ids of the trace's vocabulary.")] = None,
    fractions: Annotated[str, typer.Option(help="Cache sizes, as parts of the vocabulary.")] = "0.01,0.02,0.05,0.1,0.2",
    seed_trace: Annotated[
        list[Path] | None, typer.Option(metavar="IDS.npy", help="Fill the cache from these ids' frequencies first.")
    ] = None,
    save_frequencies: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write how often each id occurs, to seed a cache with.")
    ] = None,
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the curve; needs matplotlib.")] = None,
    json: JsonOption = False,
) -> None:
    """Tell which share of row requests a cache of each size would answer, for one stream of text.

    Example: tolbooth size demo --text book.txt --fractions 0.05,0.1
    """
    if (trace is None) == (not text):
        raise ConfigError("what to replay is not clear; give either --text or --trace")
    if png is not None:
        size_plot.require_matplotlib()
    shares = parse_fractions(fractions)
    directory = resolve_model(model) if model is not None or trace is None else None
    config = None if directory is None else ModelConfig.load(directory)
    num_ids = size_ids.vocabulary(config, vocab_size)
    with Progress() as progress:
        counts_V = size_ids.count_traces(seed_trace or [], vocab_size=num_ids)
        ids_N: npt.NDArray[np.integer[Any]]
        if trace is not None:
            ids_N = size_ids.read_trace(trace, vocab_size=num_ids)
        else:
            assert directory is not None
            ids_N = _encode(directory, text or [], num_ids, progress)
        points = hit_rate_curve(
            ids_N,
            vocab_size=num_ids,
            fractions=shares,
            seed_counts_V=counts_V,
            on_progress=progress.phase("simulating caches"),
        )
    if save_frequencies is not None:
        save_counts(save_frequencies, count_keys(ids_N, num_ids))
    if png is not None:
        size_plot.save_png(points, png, title=f"{len(ids_N):,} tokens, vocabulary {num_ids:,}")
    if json:
        curve = [dataclasses.asdict(point) for point in points]
        print_json({"vocab_size": num_ids, "tokens": len(ids_N), "curve": curve})
        return
    row_bytes = None if directory is None or config is None else _row_bytes(directory, config)
    distinct = len(np.unique(ids_N))
    print_facts(
        {
            "tokens": f"{len(ids_N):,}, {distinct:,} different of {num_ids:,}",
            "default": "starts with the seed's rows" if counts_V is not None else "starts empty",
        }
    )
    _print_curve(points, row_bytes)


def parse_fractions(text: str) -> list[float]:
    """Return the numbers of a comma-separated list, each in (0, 1], or raise `ConfigError`."""
    try:
        fractions = [float(part) for part in text.split(",")]
    except ValueError:
        fractions = []
    if not fractions or not all(0 < fraction <= 1 for fraction in fractions):
        raise ConfigError(f"--fractions is {text!r:.80}; give numbers above 0 and up to 1, such as 0.01,0.1")
    return fractions


def _encode(directory: Path, files: Sequence[Path], vocab_size: int, progress: Progress) -> npt.NDArray[np.int32]:
    from models.tokenizer import TOKENIZER_FILE, load_tokenizer  # noqa: PLC0415 loads tokenizers

    tokenizer = load_tokenizer(directory / TOKENIZER_FILE)
    reading = progress.phase("encoding the text")
    return size_ids.encode_text(files, tokenizer, vocab_size=vocab_size, on_progress=reading)


def _row_bytes(directory: Path, config: ModelConfig) -> int | None:
    """Return a row's bytes in the model's own table; in 16 bits where there is none; None for a dense model."""
    own = directory / "table"
    if (own / MANIFEST_FILE).exists():
        return load_manifest(own).geometry.row_bytes
    return config.tol_bytes // config.vocab_size or None


def _print_curve(points: Sequence[CurvePoint], row_bytes: int | None) -> None:
    rows = [
        [
            size_plot.percent(point.fraction),
            f"{point.rows:,}",
            "-" if row_bytes is None else num_bytes_text(point.rows * row_bytes),
            *(f"{rate:.4f}" for rate in (point.hit_rate, point.lru, point.optimal)),
        ]
        for point in points
    ]
    print_table(["cache", "rows", "bytes", "default", "LRU", "optimum"], rows)
    typer.echo("\n" + "\n".join(size_plot.plot_lines(points)))
