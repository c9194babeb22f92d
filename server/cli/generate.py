"""`tolbooth generate`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from paging import TolboothError
from server.cli.options import DeviceOption, DeviceRowsOption, DtypeOption, JsonOption, ModelArgument, TableOption
from server.cli.output import print_json
from server.engine.choices import Device, Memory
from server.engine.params import SamplingParams

if TYPE_CHECKING:
    from server.llm import LLM

_PACK = "pack"
"""What a pack is called here."""


def generate(
    model: ModelArgument = None,
    *,
    prompt: Annotated[str, typer.Option(help="The text to go on from.")],
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens to generate.")] = 128,
    temperature: Annotated[float, typer.Option(min=0, help="Randomness; 0 takes the likeliest token.")] = 0.8,
    seed: Annotated[
        int | None, typer.Option(help="The same seed gives the same text.", show_default="another one each time")
    ] = None,
    memory: Annotated[
        Memory | None,
        typer.Option(help="Where the rows of a model with a memory come from.", show_default="paged"),
    ] = None,
    alpha: Annotated[
        list[float] | None,
        typer.Option(help="How much of each layer's row is added: once, or once for each layer.", show_default="1"),
    ] = None,
    drop_layers: Annotated[
        list[int] | None, typer.Option(metavar="LAYER", help="A layer whose rows are left out; again for more.")
    ] = None,
    pack: Annotated[Path | None, typer.Option(metavar="DIR", help="A memory pack to lay over the table.")] = None,
    device_rows: DeviceRowsOption = None,
    table: TableOption = None,
    device: DeviceOption = Device.AUTO,
    dtype: DtypeOption = None,
    json: JsonOption = False,
) -> None:
    """Continue a text.

    Example: tolbooth generate --prompt "Once upon a time" --max-tokens 200
    """
    from server.llm import LLM  # noqa: PLC0415 loads torch

    chosen = None if pack is None else _PACK
    params = SamplingParams(max_tokens=max_tokens, temperature=temperature, seed=seed)
    with LLM(
        "demo" if model is None else model,
        quiet=True,
        table=None if table is None else str(table),
        memory=memory,
        device=device,
        dtype=dtype,
        tol_device_rows=device_rows,
        tol_alpha=alpha or (),
        tol_drop_layers=drop_layers or (),
        pack=() if pack is None else (f"{_PACK}={pack}",),
        max_num_seqs=1,
    ) as llm:
        if json:
            (completion,) = llm.generate(prompt, params, pack=chosen)
            (output,) = completion.outputs
            _check(completion.error)
            print_json({"text": output.text, "token_ids": output.token_ids, "finish_reason": output.finish_reason})
        else:
            _stream(llm, prompt, params, chosen)


def _stream(llm: "LLM", prompt: str, params: SamplingParams, pack: str | None) -> None:
    """Write text as it comes; on a terminal behind the prompt, dimmed."""
    console = Console()
    if console.is_terminal:
        console.print(Text(prompt, style="dim"), end="", soft_wrap=True)
    for text, completion in llm.stream(prompt, params, pack=pack):
        _check(completion.error)
        sys.stdout.write(text)
        sys.stdout.flush()
    sys.stdout.write("\n")


def _check(error: str | None) -> None:
    if error is not None:
        raise TolboothError(error)
