"""`tolbooth train`: its options; what it does is `server/cli/training.py`'s."""

from pathlib import Path
from typing import Annotated, Any

import typer

from models.recipe import Cadence, TrainingConfig
from server.cli.architecture import Base, Sizes
from server.cli.fields import with_fields
from server.cli.origin import Origin
from server.engine.choices import Device


@with_fields(sizes=Sizes, recipe=TrainingConfig, cadence=Cadence)
def train(
    *,
    text: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="UTF-8 text to train on; give it again for more files.")
    ] = None,
    shards: Annotated[
        list[Path] | None,
        typer.Option(metavar="PATH", help="Token shards, .npy files or folders of them, in place of text."),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A tokenizer.json.", show_default="a byte-level BPE is trained on the text"),
    ] = None,
    valid_text: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Text to validate on; give it again for more files.")
    ] = None,
    preset: Annotated[str | None, typer.Option(metavar="NAME", help="Start from the sizes of a preset.")] = None,
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="Start from the sizes in a config.json.")] = None,
    init_from: Annotated[
        str | None,
        typer.Option(
            "--init-from", "--from", metavar="MODEL", help="Start from the weights of a checkpoint or bundled model."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The run's directory.", show_default="a new one among your data"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, as it began.")] = False,
    device: Annotated[Device, typer.Option(help="Where to train.")] = Device.AUTO,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="PyTorch's choice")] = None,
    sizes: dict[str, Any],
    recipe: dict[str, Any],
    cadence: dict[str, Any],
) -> None:
    """Train a model on text or token shards; interrupting saves, and --resume goes on with the same numbers.

    Sizes given one by one override those of --preset or --config. On CUDA the precision is bf16 where it is not given.

    Example: tolbooth train --text books.txt --preset 250m-memoryllm --vocab-size 32000 --max-tokens 1000000000
    """
    from server.cli import training  # noqa: PLC0415 loads torch

    request = training.Request(
        origin=Origin.of(
            text=text or (), shards=shards or (), tokenizer=tokenizer, valid_text=valid_text or (), init_from=init_from
        ),
        base=Base(preset=preset, config=config),
        sizes=Sizes(**sizes),
        recipe=recipe,
        cadence=cadence,
        device=device,
        threads=threads,
    )
    if resume:
        training.resume_run(request, out)
    else:
        training.start_run(request, out)
