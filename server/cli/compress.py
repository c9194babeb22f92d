"""`tolbooth compress-tol` and `tolbooth compress-report`: smaller tables, and what they cost."""

import dataclasses
import importlib.util
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from models.bundled import resolve_model
from models.errors import CheckpointError, ConfigError
from paging import load_manifest
from server.cli.layer_options import (
    DropLayersOption,
    EncodingOption,
    GroupSizeOption,
    KeepLayersOption,
    LayerEncodingOption,
    LayerOptions,
    RankOption,
)
from server.cli.options import DeviceOption, JsonOption, ModelArgument
from server.cli.output import print_facts, print_json, print_table
from server.engine.choices import Device, Dtype
from server.progress import Progress
from server.units import num_bytes_text

if TYPE_CHECKING:
    from torch import Tensor

    from models.compression.auto import Plan
    from models.evaluation import EvaluationText
    from models.transformer import Transformer
    from paging.basis import Spectrum
    from paging.compression import RowValues

AutoOption = Annotated[
    bool, typer.Option("--auto", help="Choose how each layer is stored, by what each choice costs on --text.")
]
TargetOption = Annotated[
    int | None, typer.Option("--target-bytes", min=1, help="With --auto: what the table may take.", show_default=False)
]
SampleOption = Annotated[
    list[Path] | None,
    typer.Option("--text", metavar="FILE", help="With --auto: UTF-8 text; give it again for more files."),
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace the table that is there.")]

_SAMPLE_BYTES = 1 << 15
"""Of a longer text so many bytes are taken, in eight windows spread evenly: each layer is measured some ten times."""


def compress_tol(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="A table in bf16, fp16 or fp32.")],
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the new table goes.")],
    encoding: EncodingOption = None,
    group_size: GroupSizeOption = None,
    rank: RankOption = None,
    layer_encoding: LayerEncodingOption = None,
    keep_layers: KeepLayersOption = None,
    drop_layers: DropLayersOption = None,
    auto: AutoOption = False,
    target_bytes: TargetOption = None,
    text: SampleOption = None,
    model: Annotated[str | None, typer.Option(metavar="MODEL", help="With --auto: the table's model.")] = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Write a ToL table anew in fewer bytes: narrower values, lower ranks, fewer layers.

    Example: tolbooth compress-tol demo/table --out demo/int4 --encoding int4
    """
    from paging.compression import TableValues, copy_layers, encode_table  # noqa: PLC0415 loads torch
    from paging.table import Table  # noqa: PLC0415 loads torch

    options = LayerOptions(
        encoding=encoding,
        group_size=group_size,
        rank=rank,
        layer_encoding=layer_encoding,
        keep_layers=keep_layers,
        drop_layers=drop_layers,
    )
    check_auto(auto=auto, target_bytes=target_bytes, text=text, options=options)
    if auto != (model is not None):
        raise ConfigError("--auto needs the table's --model" if auto else f"--model {model} goes with --auto alone")
    started = time.monotonic()
    plan: Plan | None = None
    with Progress() as progress, Table.open(table) as source:
        kinds = options.kinds(source.geometry.kinds, source.geometry.hidden_size)
        if not auto and kinds == source.geometry.kinds:
            raise ConfigError("nothing would change; give --encoding, --layer-encoding, --drop-layers or --auto")
        if auto:
            assert target_bytes is not None, "checked"
            assert text is not None, "checked"
            assert model is not None, "checked"
            values = TableValues(source)
            plan, spectra = plan_table(
                values, resolve_model(model), list(kinds), target_bytes=target_bytes, text=text, progress=progress
            )
            writing = progress.phase("writing the table")
            encode_table(values, out, plan.kinds, known=spectra, overwrite=overwrite, on_progress=writing)
        elif all(kinds[layer] == source.geometry.kinds[layer] for layer in kinds):
            copy_layers(source, out, list(kinds), overwrite=overwrite, on_progress=progress.phase("copying layers"))
        else:
            encode_table(
                TableValues(source),
                out,
                kinds,
                overwrite=overwrite,
                on_progress=progress.phase("compressing the table"),
            )
        source_bytes = source.manifest.num_bytes
    print_compressed(out, seconds=time.monotonic() - started, source_bytes=source_bytes, plan=plan, json=json)


def check_auto(*, auto: bool, target_bytes: int | None, text: list[Path] | None, options: LayerOptions) -> None:
    """Raise `ConfigError` unless `--auto` and what goes with it are given together, and nothing that contradicts it."""
    if auto and (target_bytes is None or not text):
        raise ConfigError("--auto needs --target-bytes and --text")
    if auto and options.encodes:
        raise ConfigError(
            "--auto chooses encodings itself; leave out --encoding, --group-size, --rank, --layer-encoding"
        )
    if not auto and (target_bytes is not None or text):
        raise ConfigError("--target-bytes and --text go with --auto alone")


def plan_table(
    values: "RowValues",
    directory: Path,
    layers: list[int],
    *,
    target_bytes: int,
    text: list[Path],
    progress: Progress,
) -> "tuple[Plan, dict[int, Spectrum]]":
    """Return how to store the rows of a model, and the spectra of the layers, which may be stored with a rank."""
    from models.checkpoint import read_fingerprints  # noqa: PLC0415 loads torch
    from models.compression.auto import choose_kinds, row_weights  # noqa: PLC0415 loads torch
    from models.compression.sample import Sample, SampleRows  # noqa: PLC0415 loads torch
    from models.text import sample_text  # noqa: PLC0415 loads tokenizers

    if values.fingerprint != read_fingerprints(directory).table or values.num_rows != values.geometry.vocab_size:
        raise CheckpointError(f"the table is not that of {directory}, or not all of it; name its model")
    documents = [*sample_text(text, max_bytes=_SAMPLE_BYTES, window_bytes=_SAMPLE_BYTES // 8)]
    backbone, sample = _load(directory, documents, Device.AUTO)
    weights_V = row_weights(sample, values.num_rows)
    found = _find_spectra(values, layers, progress, weights_V=weights_V)
    plan = choose_kinds(
        Sample(backbone, SampleRows(values, sample, found, backbone), sample),
        target_bytes=target_bytes,
        layers=layers,
        num_rows=values.num_rows,
        on_progress=progress.phase("measuring encodings"),
    )
    return plan, found


def compress_report(
    model: ModelArgument = None,
    *,
    text: Annotated[list[Path], typer.Option(metavar="FILE", help="UTF-8 text; give it again for more files.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where report.md, its pictures and report.json go.")],
    device: DeviceOption = Device.AUTO,
    json: JsonOption = False,
) -> None:
    """Measure what each way of storing a model's memory costs on a text, and write a report with pictures.

    All of the text is measured, a dozen times; some hundred kilobytes are enough. The checkpoint must have its FFNs.

    Example: tolbooth compress-report demo --text book.txt --out report
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("the report needs matplotlib; install it with `pip install 'tolbooth[analysis]'`")
    from models.compression import report  # noqa: PLC0415 loads torch and matplotlib
    from models.compression.sample import Sample, SampleRows  # noqa: PLC0415 loads torch
    from models.export import ComputedValues  # noqa: PLC0415 loads torch
    from models.text import read_text, split_documents  # noqa: PLC0415 loads tokenizers

    directory, documents = resolve_model(model), split_documents(read_text(text))
    values = ComputedValues(directory)
    backbone, whole_text = _load(directory, documents, device)
    with Progress() as progress:
        found = _find_spectra(values, values.geometry.layers, progress)
        measured = report.measure(
            Sample(backbone, SampleRows(values, whole_text, found, backbone), whole_text),
            found,
            model=directory.name,
            text=", ".join(path.name for path in text),
            on_progress=progress.phase("measuring encodings"),
        )
    report.write(measured, out)
    if json:
        print_json(dataclasses.asdict(measured))
        return
    base = measured.widths[0]
    print_table(
        ["encoding", "table", "perplexity", f"more than {base.encoding}"],
        [
            [
                cost.encoding,
                num_bytes_text(cost.table_bytes),
                f"{cost.perplexity:.3f}",
                f"{100 * (cost.perplexity / base.perplexity - 1):+.3f} %",
            ]
            for cost in (*measured.widths, *measured.ranks)
        ],
    )
    print_facts({"report": str(out / "report.md")})


def print_compressed(out: Path, *, seconds: float, source_bytes: int | None, plan: "Plan | None", json: bool) -> None:
    """Say what was written, and where `--auto` chose, why."""
    from paging.compression import layer_ranges  # noqa: PLC0415 loads torch

    manifest = load_manifest(out)
    geometry, num_bytes = manifest.geometry, manifest.num_bytes
    if json:
        values: dict[str, Any] = {
            "table": str(out),
            "fingerprint": manifest.fingerprint,
            "encoding": geometry.label,
            "layers": {str(layer): str(kind) for layer, kind in geometry.kinds.items()},
            "rows": manifest.num_rows,
            "row_bytes": geometry.row_bytes,
            "bytes": num_bytes,
            "seconds": seconds,
            "bytes_per_second": num_bytes / seconds,
        }
        if source_bytes is not None:
            values["source_bytes"] = source_bytes
        if plan is not None:
            values["auto"] = {
                "perplexity_before": plan.before.evaluation.perplexity,
                "perplexity_after": plan.after.evaluation.perplexity,
                "divergence": plan.after.divergence,
                "costs": plan.costs,
            }
        print_json(values)
        return
    share = "" if source_bytes is None else f", {num_bytes / source_bytes:.3f} of the table before"
    facts = {
        "table": str(out),
        "rows": f"{manifest.num_rows:,} of {geometry.row_bytes:,} bytes",
        "bytes": f"{num_bytes:,} ({num_bytes_text(num_bytes)}{share})",
    }
    if len(set(geometry.kinds.values())) > 1 or len(geometry.layers) < geometry.num_layers:
        facts["layers"] = "; ".join(f"{layer_ranges(run.layers)} {run.kind}" for run in geometry.runs)
    else:
        facts["encoding"] = geometry.label
    if plan is not None:
        before, after = plan.before.evaluation.perplexity, plan.after.evaluation.perplexity
        facts["sample"] = f"perplexity {before:.3f} before, {after:.3f} after"
    facts |= {"seconds": f"{seconds:.1f}", "rate": f"{num_bytes_text(num_bytes / seconds)}/s"}
    print_facts(facts)


def _load(directory: Path, documents: Sequence[str], device: Device) -> "tuple[Transformer, EvaluationText]":
    """Return a model without its memory, and a text as it reads it."""
    from models.checkpoint import load_model  # noqa: PLC0415 loads torch
    from models.evaluation import EvaluationText  # noqa: PLC0415 loads torch
    from models.tokenizer import TOKENIZER_FILE, load_tokenizer  # noqa: PLC0415 loads tokenizers
    from server.engine.loading import TORCH_DTYPES, torch_device  # noqa: PLC0415 loads torch

    place = torch_device(device)
    dtype = TORCH_DTYPES[Dtype.BF16 if place.type == "cuda" else Dtype.FP32]
    backbone = load_model(directory, dtype=dtype, device=place, with_memory=False).eval()
    return backbone, EvaluationText.from_documents(documents, load_tokenizer(directory / TOKENIZER_FILE))


def _find_spectra(
    values: "RowValues", layers: Sequence[int], progress: Progress, *, weights_V: "Tensor | None" = None
) -> "dict[int, Spectrum]":
    from paging.basis import num_passes, spectra  # noqa: PLC0415 loads torch

    hidden_size, done = values.geometry.hidden_size, 0
    total, phase = values.num_rows * num_passes(len(layers), hidden_size), progress.phase("finding bases")

    def advance(num_rows: int) -> None:
        nonlocal done
        done += num_rows
        phase(done, total)

    return spectra(values.chunks, layers, hidden_size=hidden_size, weights_V=weights_V, on_progress=advance)
