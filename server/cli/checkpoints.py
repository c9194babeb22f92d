"""`tolbooth init` and `tolbooth import`: checkpoints that were not trained here."""

import dataclasses
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from models.errors import ConfigError
from models.presets import preset
from paging import Encoding
from server.cli.output import print_facts
from server.engine.choices import Dtype
from server.progress import Progress
from server.units import num_bytes_text


class TableOf(StrEnum):
    """What the table of a random model is filled with."""

    COMPUTED = "computed"  # the outputs of its FFNs
    SYNTHETIC = "synthetic"  # made-up rows


OutOption = Annotated[Path, typer.Option(metavar="DIR", help="The directory to write; it must not hold a checkpoint.")]


def init(
    name: Annotated[str, typer.Argument(metavar="PRESET", help="A name that `tolbooth presets` lists.")],
    *,
    out: OutOption,
    vocab_size: Annotated[int | None, typer.Option(min=1, help="Ids; the preset's where not given.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seeds the weights and the rows of a synthetic table.")] = 0,
    table: Annotated[TableOf | None, typer.Option(help="Write a table too, in DIR/table.")] = None,
    encoding: Annotated[Encoding, typer.Option(help="How the table's values are stored.")] = Encoding.BF16,
) -> None:
    """Write a checkpoint of random weights, for benchmarks.

    Example: tolbooth init 250m-memoryllm --table synthetic --out random-250m
    """
    from models.export import export_table, table_geometry, write_synthetic_table  # noqa: PLC0415 loads torch
    from models.initialise import initialise  # noqa: PLC0415 loads torch
    from server.engine.model_tables import TABLE_DIRECTORY  # noqa: PLC0415 loads torch

    config = preset(name)
    if vocab_size is not None:
        config = dataclasses.replace(config, vocab_size=vocab_size)
    if table is not None and not config.has_memory:
        raise ConfigError(f"{name} is a dense model and has no table; leave out --table")
    with Progress() as progress:
        fingerprints = initialise(config, out, seed=seed, on_progress=progress.phase("weights"))
        if table is TableOf.COMPUTED:
            export_table(out, out / TABLE_DIRECTORY, encoding=encoding, on_progress=progress.phase("table"))
        elif table is TableOf.SYNTHETIC:
            assert fingerprints.table is not None
            write_synthetic_table(
                table_geometry(config, encoding),
                out / TABLE_DIRECTORY,
                fingerprint=fingerprints.table,
                seed=seed,
                on_progress=progress.phase("table"),
            )
    facts = {"checkpoint": str(out), "parameters": f"{config.total_params:,} and embeddings"}
    if table is not None:
        facts["table"] = f"{out / TABLE_DIRECTORY}, {num_bytes_text(_directory_bytes(out / TABLE_DIRECTORY))}, {table}"
    print_facts(facts)


def import_(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="A checkpoint directory: `transformers` LLaMA or ours.")
    ],
    *,
    out: OutOption,
    dtype: Annotated[
        Dtype | None, typer.Option(help="How weights are stored.", show_default="as they are in SRC")
    ] = None,
    slim: Annotated[
        bool, typer.Option("--slim", help="Leave out the memory's FFNs; the model then needs its ToL table.")
    ] = False,
) -> None:
    """Take over a LLaMA checkpoint in Hugging Face's format, or copy one of ours in another dtype or without its FFNs.

    Example: tolbooth import downloads/llama --out llama
    """
    from models.config import ModelConfig  # noqa: PLC0415 beside the next
    from models.importing import import_checkpoint  # noqa: PLC0415 loads torch
    from server.engine.loading import TORCH_DTYPES  # noqa: PLC0415 loads torch

    stored = None if dtype is None else TORCH_DTYPES[dtype]
    with Progress() as progress:
        import_checkpoint(source, out, dtype=stored, slim=slim, on_progress=progress.phase("weights"))
    config = ModelConfig.load(out)
    print_facts({"checkpoint": str(out), "kind": config.model_type, "parameters": f"{config.total_params:,}"})


def _directory_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())
