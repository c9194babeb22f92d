"""`tolbooth eval`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from models.bundled import DEFAULT_MODEL, resolve_model
from models.config import ModelConfig
from models.errors import ConfigError
from server.cli.options import (
    DeviceOption,
    DeviceRowsOption,
    DtypeOption,
    JsonOption,
    MemoryOption,
    ModelArgument,
)
from server.cli.output import print_facts, print_json, print_table
from server.engine.choices import Device, Memory
from server.progress import Progress
from server.units import num_bytes_text

if TYPE_CHECKING:
    from models.evaluation import Evaluation
    from paging import Table


def evaluate(
    model: ModelArgument = None,
    *,
    text: Annotated[list[Path], typer.Option(metavar="FILE", help="UTF-8 text; give it again for more files.")],
    memory: MemoryOption = None,
    device_rows: DeviceRowsOption = None,
    table: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Another ToL table than the model's own; give it again to compare several."),
    ] = None,
    pack: Annotated[Path | None, typer.Option(metavar="DIR", help="A memory pack to lay over the table.")] = None,
    context_length: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a window.", show_default="the model's context")
    ] = None,
    device: DeviceOption = Device.AUTO,
    dtype: DtypeOption = None,
    json: JsonOption = False,
) -> None:
    """Measure how well a model predicts a text: perplexity and bits per byte; of several tables, with their bytes.

    Example: tolbooth eval demo --text book.txt --memory resident
    """
    from models import evaluation  # noqa: PLC0415 loads torch
    from models.text import read_text  # noqa: PLC0415 loads tokenizers
    from server.engine.loading import load  # noqa: PLC0415 loads torch

    content = read_text(text)
    directory = resolve_model(model)
    longest = ModelConfig.load(directory).max_position_embeddings
    if context_length is not None and context_length > longest:
        raise ConfigError(f"context_length is {context_length}; the model's context is {longest}")
    measured = []
    tables: list[Path | None] = [*table] if table else [None]
    for each in tables:
        with (
            Progress() as progress,
            load(
                directory,
                memory=memory,
                device_rows=device_rows,
                least_device_rows=context_length or longest,
                table=each,
                dtype=dtype,
                device=device,
                on_progress=progress.update,
            ) as loaded,
        ):
            result = evaluation.evaluate(
                loaded.model,
                loaded.rows if pack is None else loaded.rows_under(pack),
                evaluation.EvaluationText.from_text(content, loaded.require_tokenizer()),
                context_length=context_length,
                on_progress=progress.phase("evaluating" if each is None else f"evaluating {each}"),
            )
            measured.append(_Measured(loaded.memory, loaded.table, result))
    common = {"model": model or DEFAULT_MODEL, "context_length": context_length or longest}
    if len(measured) > 1:
        _print_comparison(common, measured, json=json)
    else:
        _print_one(common, measured[0], json=json)


class _Measured:
    """One table's result; what is said of the table is kept, not the table."""

    def __init__(self, memory: Memory | None, table: "Table | None", result: "Evaluation") -> None:
        self.memory, self.result = memory, result
        self.facts: dict[str, Any] = {}
        if table is not None:
            geometry = table.geometry
            self.facts = {
                "table": str(table.directory),
                "encoding": geometry.label,
                "layers": len(geometry.segments),
                "row_bytes": geometry.row_bytes,
                "table_bytes": table.manifest.num_bytes,
            }

    @property
    def values(self) -> dict[str, Any]:
        """What was measured, and of what."""
        result = self.result
        return {
            "memory": self.memory,
            **self.facts,
            "tokens": result.tokens,
            "bytes": result.bytes,
            "perplexity": result.perplexity,
            "bits_per_byte": result.bits_per_byte,
        }


def _print_one(common: dict[str, Any], measured: _Measured, *, json: bool) -> None:
    if json:
        print_json(common | measured.values)
        return
    result = measured.result
    facts = {
        "model": str(common["model"]),
        "memory": str(measured.memory or "none"),
        "context": f"{common['context_length']:,} tokens",
        "text": f"{result.tokens:,} tokens, {result.bytes:,} bytes",
        "perplexity": f"{result.perplexity:.3f}",
        "bits per byte": f"{result.bits_per_byte:.4f}",
    }
    if measured.facts:
        facts["table"] = f"{measured.facts['encoding']}, {num_bytes_text(measured.facts['table_bytes'])}"
    print_facts(facts)


def _print_comparison(common: dict[str, Any], measured: Sequence[_Measured], *, json: bool) -> None:
    base = measured[0].result.perplexity
    if json:
        print_json(common | {"tables": [each.values for each in measured]})
        return
    rows = [
        [
            each.facts["table"],
            each.facts["encoding"],
            str(each.facts["layers"]),
            num_bytes_text(each.facts["table_bytes"]),
            f"{each.result.perplexity:.3f}",
            f"{100 * (each.result.perplexity / base - 1):+.3f} %",
            f"{each.result.bits_per_byte:.4f}",
        ]
        for each in measured
    ]
    print_table(["table", "encoding", "layers", "size", "perplexity", "more than the first", "bits per byte"], rows)
