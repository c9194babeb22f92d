"""`tolbooth generate`."""

import secrets
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from models.bundled import resolve_model
from server.cli.options import (
    DeviceOption,
    DeviceRowsOption,
    DtypeOption,
    JsonOption,
    MemoryOption,
    ModelArgument,
    TableOption,
)
from server.cli.output import print_json
from server.cli.progress import Progress
from server.engine.choices import Device

if TYPE_CHECKING:
    from server.engine.generation import GeneratedToken
    from server.engine.loading import LoadedModel


def generate(
    model: ModelArgument = None,
    *,
    prompt: Annotated[str, typer.Option(help="The text to go on from.")],
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens to generate.")] = 128,
    temperature: Annotated[float, typer.Option(min=0, help="Randomness; 0 takes the likeliest token.")] = 0.8,
    seed: Annotated[
        int | None, typer.Option(help="The same seed gives the same text.", show_default="another one each time")
    ] = None,
    memory: MemoryOption = None,
    device_rows: DeviceRowsOption = None,
    table: TableOption = None,
    device: DeviceOption = Device.AUTO,
    dtype: DtypeOption = None,
    json: JsonOption = False,
) -> None:
    """Continue a text.

    Example: tolbooth generate --prompt "Once upon a time" --max-tokens 200
    """
    from models.tokenizer import encode  # noqa: PLC0415 loads tokenizers
    from server.engine.generation import generate as generated  # noqa: PLC0415 loads torch
    from server.engine.loading import load  # noqa: PLC0415 loads torch

    with Progress() as progress:
        loaded = load(
            resolve_model(model),
            memory=memory,
            device_rows=device_rows,
            table=table,
            dtype=dtype,
            device=device,
            on_progress=progress.update,
        )
    with loaded:
        prompt_ids = encode(loaded.require_tokenizer(), prompt)
        start_id = loaded.model.config.bos_token_id
        if not prompt_ids and start_id is not None:
            prompt_ids = [start_id]
        output = generated(
            loaded.model,
            loaded.rows,
            prompt_ids,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=secrets.randbits(32) if seed is None else seed,
        )
        if json:
            _print_json(loaded, prompt_ids, output)
        else:
            _stream(loaded, prompt, prompt_ids, output)


def _print_json(loaded: "LoadedModel", prompt_ids: list[int], output: Iterator["GeneratedToken"]) -> None:
    tokens = list(output)
    text = "".join(_texts(loaded, prompt_ids, iter(tokens)))
    token_ids = [token.token_id for token in tokens]
    print_json({"text": text, "token_ids": token_ids, "finish_reason": tokens[-1].finish_reason})


def _stream(loaded: "LoadedModel", prompt: str, prompt_ids: list[int], output: Iterator["GeneratedToken"]) -> None:
    """Write text as it comes; on a terminal behind the prompt, dimmed."""
    console = Console()
    if console.is_terminal:
        console.print(Text(prompt, style="dim"), end="", soft_wrap=True)
    for text in _texts(loaded, prompt_ids, output):
        sys.stdout.write(text)
        sys.stdout.flush()
    sys.stdout.write("\n")


def _texts(loaded: "LoadedModel", prompt_ids: list[int], output: Iterator["GeneratedToken"]) -> Iterator[str]:
    """Yield pieces of text, of whole characters only and without special tokens; a character cut off is left out."""
    from tokenizers.decoders import DecodeStream  # noqa: PLC0415 only here

    tokenizer = loaded.require_tokenizer()
    # It knows the prompt, since some tokenizers drop a space where a text begins.
    stream = DecodeStream(ids=prompt_ids, skip_special_tokens=True)
    for token in output:
        text = stream.step(tokenizer, token.token_id)
        if text:
            yield text
