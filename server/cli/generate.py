"""`tolbooth generate`."""

import sys
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

    params = SamplingParams(max_tokens=max_tokens, temperature=temperature, seed=seed)
    with LLM(
        "demo" if model is None else model,
        quiet=True,
        table=None if table is None else str(table),
        memory=memory,
        device=device,
        dtype=dtype,
        tol_device_rows=device_rows,
        max_num_seqs=1,
    ) as llm:
        if json:
            (completion,) = llm.generate(prompt, params)
            (output,) = completion.outputs
            _check(completion.error)
            print_json({"text": output.text, "token_ids": output.token_ids, "finish_reason": output.finish_reason})
        else:
            _stream(llm, prompt, params)


def _stream(llm: "LLM", prompt: str, params: SamplingParams) -> None:
    """Write text as it comes; on a terminal behind the prompt, dimmed."""
    console = Console()
    if console.is_terminal:
        console.print(Text(prompt, style="dim"), end="", soft_wrap=True)
    for text, completion in llm.stream(prompt, params):
        _check(completion.error)
        sys.stdout.write(text)
        sys.stdout.flush()
    sys.stdout.write("\n")


def _check(error: str | None) -> None:
    if error is not None:
        raise TolboothError(error)
