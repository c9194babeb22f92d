"""`tolbooth eval`."""

from pathlib import Path
from typing import Annotated

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
    TableOption,
)
from server.cli.output import print_facts, print_json
from server.engine.choices import Device
from server.progress import Progress


def evaluate(
    model: ModelArgument = None,
    *,
    text: Annotated[list[Path], typer.Option(metavar="FILE", help="UTF-8 text; give it again for more files.")],
    memory: MemoryOption = None,
    device_rows: DeviceRowsOption = None,
    table: TableOption = None,
    context_length: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a window.", show_default="the model's context")
    ] = None,
    device: DeviceOption = Device.AUTO,
    dtype: DtypeOption = None,
    json: JsonOption = False,
) -> None:
    """Measure how well a model predicts a text: perplexity and bits per byte.

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
    with (
        Progress() as progress,
        load(
            directory,
            memory=memory,
            device_rows=device_rows,
            least_device_rows=context_length or longest,
            table=table,
            dtype=dtype,
            device=device,
            on_progress=progress.update,
        ) as loaded,
    ):
        result = evaluation.evaluate(
            loaded.model,
            loaded.rows,
            evaluation.EvaluationText.from_text(content, loaded.require_tokenizer()),
            context_length=context_length,
            on_progress=progress.phase("evaluating"),
        )
        values = {
            "model": model or DEFAULT_MODEL,
            "memory": loaded.memory,
            "context_length": context_length or longest,
            "tokens": result.tokens,
            "bytes": result.bytes,
            "perplexity": result.perplexity,
            "bits_per_byte": result.bits_per_byte,
        }
    if json:
        print_json(values)
        return
    print_facts(
        {
            "model": str(values["model"]),
            "memory": str(values["memory"] or "none"),
            "context": f"{values['context_length']:,} tokens",
            "text": f"{result.tokens:,} tokens, {result.bytes:,} bytes",
            "perplexity": f"{result.perplexity:.3f}",
            "bits per byte": f"{result.bits_per_byte:.4f}",
        }
    )
