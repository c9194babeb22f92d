"""What each way of storing a memory costs a model, in one place: Markdown, pictures and JSON.

As the paper shows it: perplexity against bits, perplexity against rank, and the singular values of each layer. Every
layer is stored alike; no table is written.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from models.compression.sample import Sample
from models.errors import ConfigError
from models.evaluation import Evaluation
from paging import Encoding, LayerEncoding, TableGeometry
from paging.basis import Spectrum
from paging.layer_encoding import GROUP_SIZES
from paging.shard_plan import table_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RANK_PERCENT = (75, 50, 40, 30, 20, 10)
"""Ranks that are measured, of `hidden_size`; the paper's Table 8 ends at 50 and 20."""
_PICTURES = {"bits": "bits.png", "ranks": "ranks.png", "spectra": "spectra.png"}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One way of storing all layers, and what it costs."""

    encoding: str
    rank: int | None
    row_bytes: int
    table_bytes: int
    perplexity: float
    bits_per_byte: float


@dataclass(frozen=True, kw_only=True)
class Report:
    """The costs of one model's memory on one text."""

    model: str
    text: str
    tokens: int
    hidden_size: int
    num_layers: int
    num_rows: int
    widths: tuple[Cost, ...]
    """Of the encodings without a rank, bf16 first."""
    ranks: tuple[Cost, ...]
    """Of ranks in 16 bits, the highest first."""
    singular_values: dict[int, tuple[float, ...]]
    """By layer, falling; each a share of the layer's first."""


def width_kinds(hidden_size: int) -> list[LayerEncoding]:
    """Return the encodings without a rank that layers of this size can have, bf16 first."""
    kinds = [LayerEncoding.plain(encoding) for encoding in (Encoding.BF16, Encoding.INT8)]
    kinds += [LayerEncoding(Encoding.INT4, size) for size in GROUP_SIZES]
    return [kind for kind in kinds if kind.flaw(hidden_size) is None]


def rank_kinds(hidden_size: int) -> list[LayerEncoding]:
    """Return the ranks that are measured, in 16 bits."""
    ranks = sorted({max(1, hidden_size * percent // 100) for percent in RANK_PERCENT}, reverse=True)
    return [LayerEncoding(Encoding.BF16, None, rank) for rank in ranks]


def measure(
    sample: Sample,
    spectra: dict[int, Spectrum],
    *,
    model: str,
    text: str,
    on_progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Measure every way of storing all layers; `on_progress` is told (ways done, ways in all)."""
    geometry = sample.rows.geometry
    widths, ranks = width_kinds(geometry.hidden_size), rank_kinds(geometry.hidden_size)
    costs = []
    for done, kind in enumerate([*widths, *ranks], start=1):
        evaluation = sample.measure(dict.fromkeys(geometry.layers, kind)).evaluation
        costs.append(_cost(kind, geometry, evaluation))
        if on_progress:
            on_progress(done, len(widths) + len(ranks))
    return Report(
        model=model,
        text=text,
        tokens=sample.measure({}).evaluation.tokens,
        hidden_size=geometry.hidden_size,
        num_layers=len(geometry.segments),
        num_rows=geometry.vocab_size,
        widths=tuple(costs[: len(widths)]),
        ranks=tuple(costs[len(widths) :]),
        singular_values={
            layer: tuple((spectrum.singular_values_D / spectrum.singular_values_D[0].clamp_min(1e-300)).tolist())
            for layer, spectrum in spectra.items()
        },
    )


def write(report: Report, directory: Path) -> None:
    """Write `report.md`, its pictures and `report.json`; raises `ConfigError` where they cannot be written."""
    from matplotlib.figure import Figure  # noqa: PLC0415 an extra, and slow to load

    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "report.md").write_text(markdown(report), encoding="utf-8")
        (directory / "report.json").write_text(json.dumps(dataclasses.asdict(report), indent=1) + "\n")
        for name, draw in (("bits", _draw_bits), ("ranks", _draw_ranks), ("spectra", _draw_spectra)):
            figure = Figure(figsize=(7, 4.5), layout="constrained")
            draw(report, figure)
            figure.savefig(directory / _PICTURES[name], format="png", dpi=120)
    except OSError as error:
        raise ConfigError(f"cannot write the report {directory}: {error.strerror or error}") from error


def markdown(report: Report) -> str:
    """Return the report as text."""
    heads = [
        f"# What compression costs {report.model}",
        _introduction(report),
        "## Widths",
        *_table(report.widths, report.widths[0]),
        f"![Perplexity against bits]({_PICTURES['bits']})",
        "## Ranks, coefficients in 16 bits",
        *_table(report.ranks, report.widths[0]),
        f"![Perplexity against rank]({_PICTURES['ranks']})",
        "## Singular values",
        *_spectrum_lines(report),
        f"![Singular values of each layer]({_PICTURES['spectra']})",
    ]
    return "\n\n".join(heads) + "\n"


def _introduction(report: Report) -> str:
    return (
        f"Text: {report.text}, {report.tokens:,} tokens. Memory: {report.num_rows:,} rows, {report.num_layers} layers "
        f"of {report.hidden_size} values. Every layer is stored alike; bytes are those of whole tables on disk, bar "
        "their manifests."
    )


def _cost(kind: LayerEncoding, source: TableGeometry, evaluation: Evaluation) -> Cost:
    geometry = TableGeometry.mixed(
        hidden_size=source.hidden_size,
        num_layers=source.num_layers,
        vocab_size=source.vocab_size,
        kinds=dict.fromkeys(source.layers, kind),
    )
    return Cost(
        encoding=str(kind),
        rank=kind.rank,
        row_bytes=geometry.row_bytes,
        table_bytes=table_bytes(geometry, num_rows=source.vocab_size),
        perplexity=evaluation.perplexity,
        bits_per_byte=evaluation.bits_per_byte,
    )


def _table(costs: Sequence[Cost], base: Cost) -> list[str]:
    lines = [
        "| encoding | bytes of a row | of the first | table | perplexity | more than the first | bits per byte |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {cost.encoding} | {cost.row_bytes:,} | {cost.row_bytes / base.row_bytes:.4f} | {cost.table_bytes:,} "
        f"| {cost.perplexity:.4f} | {100 * (cost.perplexity / base.perplexity - 1):+.3f} % | {cost.bits_per_byte:.4f} |"
        for cost in costs
    ]
    return ["\n".join(lines)]


def _spectrum_lines(report: Report) -> list[str]:
    """Say how much of each layer's sum of squares the first directions have."""
    shares = [10, 25, 50]
    lines = ["| layer | " + " | ".join(f"first {share} %" for share in shares) + " |", "|---|" + "---:|" * len(shares)]
    for layer, values in report.singular_values.items():
        squares = [value**2 for value in values]
        parts = [sum(squares[: max(1, len(squares) * share // 100)]) / (sum(squares) or 1) for share in shares]
        lines.append(f"| {layer} | " + " | ".join(f"{part:.3f}" for part in parts) + " |")
    return ["The share of a layer's sum of squares that its first directions have:", "\n".join(lines)]


def _draw_bits(report: Report, figure: "Figure") -> None:
    axes = figure.add_subplot()
    values = report.num_layers * report.hidden_size
    for cost in report.widths:
        axes.plot(8 * cost.row_bytes / values, cost.perplexity, "o", label=cost.encoding)
    axes.set(xlabel="bits for each value, scales included", ylabel="perplexity", title=report.model)
    _finish(axes)


def _draw_ranks(report: Report, figure: "Figure") -> None:
    axes = figure.add_subplot()
    shares = [100 * (cost.rank or 0) / report.hidden_size for cost in report.ranks]
    axes.plot(shares, [cost.perplexity for cost in report.ranks], marker="o", label="low rank, 16 bits")
    axes.axhline(
        report.widths[0].perplexity, color="k", linestyle="--", label=f"{report.widths[0].encoding}, all of it"
    )
    axes.set(xlabel="rank, % of the hidden size", ylabel="perplexity", title=report.model)
    _finish(axes)


def _draw_spectra(report: Report, figure: "Figure") -> None:
    axes = figure.add_subplot()
    for layer, values in report.singular_values.items():
        axes.plot(range(1, len(values) + 1), values, label=f"layer {layer}")
    axes.set(xlabel="number", ylabel="singular value, of the first", title=report.model, yscale="log")
    _finish(axes)


def _finish(axes: object) -> None:
    axes.grid(alpha=0.3)  # type: ignore[attr-defined]
    axes.legend(fontsize="small", ncols=2)  # type: ignore[attr-defined]
