"""`tolbooth export-tol` and `tolbooth verify-tol`: making and checking ToL tables."""

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import paging
from models.bundled import resolve_model
from models.errors import ConfigError
from paging import Encoding, LayerEncoding
from server.cli.compress import (
    AutoOption,
    OverwriteOption,
    SampleOption,
    TargetOption,
    check_auto,
    plan_table,
    print_compressed,
)
from server.cli.layer_options import (
    DropLayersOption,
    EncodingName,
    GroupSizeOption,
    KeepLayersOption,
    LayerEncodingOption,
    LayerOptions,
    RankOption,
)
from server.cli.options import JsonOption, ModelArgument
from server.cli.output import print_facts, print_json
from server.progress import Progress

if TYPE_CHECKING:
    from models.compression.auto import Plan
    from paging.basis import Spectrum


def export_tol(
    model: ModelArgument = None,
    *,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where the table goes.", show_default="MODEL/table; for a demo, your cache"),
    ] = None,
    encoding: Annotated[EncodingName | None, typer.Option(help="How values are stored.", show_default="bf16")] = None,
    group_size: GroupSizeOption = None,
    rank: RankOption = None,
    layer_encoding: LayerEncodingOption = None,
    keep_layers: KeepLayersOption = None,
    drop_layers: DropLayersOption = None,
    auto: AutoOption = False,
    target_bytes: TargetOption = None,
    text: SampleOption = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Compute the ToL table of a model: one row per id, with the FFN outputs of all layers.

    Example: tolbooth export-tol runs/first/model --encoding int8
    """
    from models.export import ComputedValues  # noqa: PLC0415 loads torch
    from paging.compression import encode_table  # noqa: PLC0415 loads torch
    from server.engine.model_tables import is_bundled, own_table  # noqa: PLC0415 loads torch

    options = LayerOptions(
        encoding=encoding,
        group_size=group_size,
        rank=rank,
        layer_encoding=layer_encoding,
        keep_layers=keep_layers,
        drop_layers=drop_layers,
    )
    check_auto(auto=auto, target_bytes=target_bytes, text=text, options=options)
    directory = resolve_model(model)
    values = ComputedValues(directory)
    default = LayerEncoding.plain(Encoding.BF16)
    kinds = options.kinds(values.geometry.kinds, values.geometry.hidden_size, default=default)
    plan: Plan | None = None
    spectra: dict[int, Spectrum] | None = None
    started = time.monotonic()
    with Progress() as progress:
        if auto:
            assert target_bytes is not None, "checked"
            assert text is not None, "checked"
            plan, spectra = plan_table(
                values, directory, list(kinds), target_bytes=target_bytes, text=text, progress=progress
            )
            kinds = plan.kinds
        if out is None:
            uniform = _uniform(kinds, values.geometry.num_layers)
            if uniform is None and is_bundled(directory):
                raise ConfigError("a table of a demo that is not in one encoding has no place of its own; give --out")
            out = own_table(directory, uniform or Encoding.BF16)
        exporting = progress.phase("exporting the table")
        encode_table(values, out, kinds, known=spectra, overwrite=overwrite, on_progress=exporting)
    print_compressed(out, seconds=time.monotonic() - started, source_bytes=None, plan=plan, json=json)


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


def _uniform(kinds: Mapping[int, LayerEncoding], num_layers: int) -> Encoding | None:
    """Return the encoding that a table is known by: all layers as it usually stores them."""
    encoding = next(iter(kinds.values())).encoding
    is_usual = len(kinds) == num_layers and set(kinds.values()) == {LayerEncoding.plain(encoding)}
    return encoding if is_usual else None
