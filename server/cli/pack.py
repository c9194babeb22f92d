"""`tolbooth pack`: memory packs made, changed and looked at."""

import math
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from models.bundled import resolve_model
from models.config import ModelConfig
from models.errors import ConfigError, PackError
from server.cli.options import JsonOption, ModelArgument, TableOption
from server.cli.output import print_facts, print_json, print_table
from server.progress import Progress
from server.units import num_bytes_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tokenizers import Tokenizer
    from torch import Tensor

    from models.pack_card import PackCard
    from models.pack_making import Ids, PackMaker
    from models.packs import Pack

_MOST_SHOWN = 20
"""Rows that `show` lists."""

pack = typer.Typer(
    help="Make, change and look at memory packs: rows that lie over a model's table.", no_args_is_help=True
)

PackArgument = Annotated[Path, typer.Argument(metavar="PACK", help="The pack's directory.")]
BaseOption = Annotated[
    str | None,
    typer.Option("--model", metavar="MODEL", help="The model that the pack is for.", show_default="demo"),
]


@pack.command("create")
def create(
    model: ModelArgument = None,
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the pack goes.")],
    tuned: Annotated[
        Path,
        typer.Option("--from", metavar="DIR", help="A copy of the model that `tolbooth train --memory-only` made."),
    ],
    name: Annotated[str | None, typer.Option(help="The pack's name.", show_default="the directory's")] = None,
    threshold: Annotated[
        float | None,
        typer.Option(min=0, help="Take rows that differ by more than this share of their norm.", show_default="0"),
    ] = None,
    text: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Take the rows of all tokens of this text instead; again for more files."),
    ] = None,
    table: TableOption = None,
    description: Annotated[str, typer.Option(help="What the pack is for.")] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the pack that is there.")] = False,
    json: JsonOption = False,
) -> None:
    """Make a pack of what a copy of the model learned whose memory alone was trained further.

    (From edits a pack is begun by `tolbooth pack edit`.)

    Example: tolbooth pack create demo --from runs/python/model --out packs/python --text python.txt
    """
    if threshold is not None and text:
        raise ConfigError("rows are chosen by --threshold or by --text; give one of them")
    with Progress() as progress, _maker(model, table, progress) as maker:
        card = maker.from_tuned(
            tuned,
            out,
            name=name or out.resolve().name,
            threshold=threshold or 0.0,
            ids=_ids_of(text, model) if text else None,
            description=description,
            replace=overwrite,
            on_progress=progress.phase("comparing rows"),
        )
    _say(out, card, json=json)


@pack.command("edit")
def edit(
    directory: PackArgument,
    *,
    token: Annotated[
        list[str],
        typer.Option(metavar="TEXT", help='The token: its text, such as " Paris", or its id as #17; repeatable.'),
    ],
    layer: Annotated[
        list[int] | None, typer.Option(min=0, help="The layer; again for more.", show_default="all of the table's")
    ] = None,
    scale: Annotated[float, typer.Option(help="Factor for the row; 0 suppresses it.")] = 1.0,
    add: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Add the tensor `vector` of a safetensors file: [d], or [layers, d]."),
    ] = None,
    add_token: Annotated[str | None, typer.Option(metavar="TEXT", help="Add another token's row.")] = None,
    weight: Annotated[float | None, typer.Option(help="Factor for what is added.", show_default="1")] = None,
    model: BaseOption = None,
    table: TableOption = None,
    name: Annotated[
        str | None, typer.Option(help="The pack's name.", show_default="as it is, or the directory's")
    ] = None,
    description: Annotated[str | None, typer.Option(help="What the pack is for.", show_default="as it is")] = None,
    json: JsonOption = False,
) -> None:
    """Change rows: scale them, add to them. The pack is begun where there is none; further edits go on from it.

    Example: tolbooth pack edit packs/no-paris --token " Paris" --layer 3 --scale 0
    """
    from models.pack_making import Edit  # noqa: PLC0415 loads torch

    if add is not None and add_token is not None:
        raise ConfigError("an edit adds a file's vector or a token's row; give one of --add and --add-token")
    if weight is not None and add is None and add_token is None:
        raise ConfigError("--weight is for what is added; give --add or --add-token")
    if scale == 1 and add is None and add_token is None:
        raise ConfigError("say what to change: --scale, --add or --add-token")
    with Progress() as progress, _maker(model, table, progress) as maker:
        tokens = _Tokens(model)
        change = Edit(
            ids=tuple(tokens.id_of(each) for each in token),
            layers=tuple(layer or ()),
            scale=scale,
            addition_Ld=None if add is None else _vector(add, maker, layer or []),
            added_id=None if add_token is None else tokens.id_of(add_token),
            weight=1.0 if weight is None else weight,
        )
        begins = not directory.exists()
        card = maker.edited(
            directory,
            change,
            name=name or (directory.resolve().name if begins else None),
            description=description,
        )
    _say(directory, card, json=json)


@pack.command("show")
def show(
    directory: PackArgument,
    *,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", metavar="MODEL", help="Compare with this model's table, and name tokens by their text."
        ),
    ] = None,
    table: TableOption = None,
    json: JsonOption = False,
) -> None:
    """Say what a pack is, how it was made, and with --model which rows it changes most.

    Example: tolbooth pack show packs/no-paris --model demo
    """
    from models.packs import Pack  # noqa: PLC0415 loads torch

    if table is not None and model is None:
        raise ConfigError("--table is one of a model's tables; name the model too")
    with Pack.open(directory) as opened:
        facts = _facts(directory, opened)
        changes = None if model is None else _changes(opened, model, table)
    if json:
        print_json(facts if changes is None else {**facts, "changes": changes})
        return
    history = facts.pop("history")
    facts |= {"rows": f"{facts['rows']:,}", "bytes": num_bytes_text(facts["bytes"])}
    print_facts({key: str(value) for key, value in facts.items() if value != ""})
    for step in history:
        print_facts({"made by": step})
    if changes is not None:
        headers = ["token", "id", *(f"layer {number}" for number in changes["layers"])]
        print_table(
            headers,
            [
                [
                    repr(row["token"]),
                    str(row["id"]),
                    *("new" if share is None else f"{share:.1%}" for share in row["change"]),
                ]
                for row in changes["most_changed"]
            ],
        )


class _Tokens:
    """A model's tokens, by name."""

    def __init__(self, model: str | None) -> None:
        from models.tokenizer import TOKENIZER_FILE, load_tokenizer  # noqa: PLC0415 loads tokenizers

        directory = resolve_model(model)
        self._vocab_size = ModelConfig.load(directory).vocab_size
        self.tokenizer: Tokenizer = load_tokenizer(directory / TOKENIZER_FILE)

    def id_of(self, text: str) -> int:
        """Return the token that a person means."""
        from server.cli.token_names import token_id  # noqa: PLC0415 loads tokenizers

        return token_id(self.tokenizer, text, vocab_size=self._vocab_size)


@contextmanager
def _maker(model: str | None, table: Path | None, progress: Progress) -> "Iterator[PackMaker]":
    """Open a model's table, and make packs over it."""
    from models.pack_making import PackMaker  # noqa: PLC0415 loads torch
    from server.engine.model_tables import open_model_table  # noqa: PLC0415 loads torch

    directory = resolve_model(model)
    config = ModelConfig.load(directory)
    if not config.has_memory:
        raise PackError(f"{directory} is a dense model; packs lie over the rows of a memory, and it has none")
    with open_model_table(directory, config, table, progress.update) as opened:
        yield PackMaker(directory, config, opened)


def _ids_of(files: list[Path], model: str | None) -> "Ids":
    """Return the ids of all tokens of some text."""
    import numpy as np  # noqa: PLC0415 beside the next

    from models.text import read_text, split_documents  # noqa: PLC0415 loads tokenizers
    from models.tokenizer import encode_batch  # noqa: PLC0415 loads tokenizers

    documents = encode_batch(_Tokens(model).tokenizer, split_documents(read_text(files)))
    return np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *(np.array(ids, np.int64) for ids in documents)]))


def _vector(file: Path, maker: "PackMaker", layers: list[int]) -> "Tensor":
    from models.row_edits import chosen_layers, load_vector  # noqa: PLC0415 loads torch

    geometry = maker.base.geometry
    assert geometry is not None, "packs are made over tables"
    return load_vector(file, num_layers=len(chosen_layers(geometry, layers)), hidden_size=geometry.hidden_size)


def _facts(directory: Path, opened: "Pack") -> dict[str, Any]:
    card, geometry = opened.card, opened.table.geometry
    return {
        "pack": str(directory),
        "name": card.name,
        "version": card.version,
        "description": card.description,
        "rows": len(opened.ids),
        "bytes": len(opened.ids) * geometry.row_bytes,
        "encoding": geometry.label,
        "backbone": card.backbone,
        "base": card.base,
        "table_id": card.table_id,
        "history": list(card.history),
    }


def _changes(opened: "Pack", model: str, table: Path | None) -> dict[str, Any]:
    """Say which rows a pack changes most, layer by layer."""
    from server.engine.text import token_text  # noqa: PLC0415 loads tokenizers

    tokens = _Tokens(model)
    with Progress() as progress, _maker(model, table, progress) as maker:
        ids, shares = maker.changes(opened)
    order = (-shares.max(axis=1)).argsort(kind="stable")[:_MOST_SHOWN]
    return {
        "layers": list(opened.table.geometry.layers),
        "most_changed": [
            {
                "token": token_text(tokens.tokenizer, int(ids[row])).text,
                "id": int(ids[row]),
                "change": [share if math.isfinite(share) else None for share in shares[row].tolist()],
            }
            for row in order
        ],
    }


def _say(directory: Path, card: "PackCard", *, json: bool) -> None:
    from models.packs import Pack  # noqa: PLC0415 loads torch

    with Pack.open(directory) as opened:
        facts = _facts(directory, opened)
    if json:
        print_json(facts)
        return
    print_facts(
        {
            "pack": str(directory),
            "name": f"{card.name}, version {card.version}",
            "rows": f"{facts['rows']:,}",
            "serve it": f"tolbooth serve --pack {card.name}={directory}",
        }
    )
