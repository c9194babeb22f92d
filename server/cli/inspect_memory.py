"""`tolbooth inspect token`, `cell` and `clusters`: what one token reads, what one cell stores, who reads alike."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from models.analysis.clusters import find_clusters
from models.analysis.findings import cluster_findings
from models.analysis.highest import Ranking, highest
from models.analysis.lens import promoted_tokens
from models.analysis.neighbours import Neighbours, nearest_tokens
from models.analysis.survey import count_outliers, top_tokens
from models.errors import ConfigError
from server.cli.inspected import NUM_CLUSTERS, ClustersOption, Inspected, InspectedText, LayerOption
from server.cli.options import JsonOption, ModelArgument
from server.cli.output import print_facts, print_json
from server.progress import Progress

TopOption = Annotated[int, typer.Option(min=1, max=100, help="How many of each to list.")]


def token(
    text: Annotated[
        str,
        typer.Argument(metavar="TOKEN", help='A token as it is, spaces included, such as " Paris"; or its id, as #17.'),
    ],
    model: ModelArgument = None,
    *,
    layer: Annotated[int | None, typer.Option(min=0, help="Only this layer.", show_default="all")] = None,
    top: TopOption = 6,
    json: JsonOption = False,
) -> None:
    """Tell which cells a token reads in each layer, and which tokens read the same ones.

    Example: tolbooth inspect token " Paris"
    """
    inspected = Inspected.find(model)
    memory = inspected.memory
    token_id = inspected.token_id(text)
    layers = range(memory.config.num_hidden_layers) if layer is None else [layer]
    found: list[dict[str, Any]] = []
    with Progress() as progress:
        for number in layers:
            cells = memory.cells(number)
            phase = progress.phase(f"neighbours in layer {number}")
            near = nearest_tokens(memory, cells, token_id, top, on_progress=phase)
            c_1K = cells.coefficients(memory.embeddings(np.array([token_id])))
            strongest = highest(c_1K[0], top, by_magnitude=True)
            found.append(
                {
                    "layer": number,
                    "outliers": int(count_outliers(c_1K)[0]),
                    "cells": _cells(strongest),
                    "nearest": _nearest(inspected, near),
                }
            )
    counted = None if inspected.counts is None else int(inspected.counts[token_id])
    if json:
        word = inspected.word(token_id)
        print_json({"token": word, "token_id": token_id, "training_count": counted, "layers": found})
        return
    facts = {"token": f"{inspected.word(token_id)}, id {token_id}"}
    if counted is not None:
        facts["in training"] = f"{counted:,} times"
    for each in found:
        facts[f"layer {each['layer']}"] = "cells    " + "  ".join(
            f"{c['cell']} ({c['coefficient']:+.2f})" for c in each["cells"]
        )
        facts[f"  nearest {each['layer']}"] = "tokens   " + "  ".join(
            f"{n['token']} {n['cosine']:.2f}" for n in each["nearest"]
        )
    print_facts(facts)


def cell(
    model: ModelArgument = None,
    *,
    layer: LayerOption,
    cell: Annotated[int, typer.Option(min=0, help="The cell, from 0.")],
    top: TopOption = 10,
    json: JsonOption = False,
) -> None:
    """Tell which tokens read a cell most, and what its value promotes in the vocabulary.

    Example: tolbooth inspect cell --layer 3 --cell 17
    """
    inspected = Inspected.find(model)
    memory = inspected.memory
    cells = memory.cells(layer)
    if cell >= cells.num_cells:
        raise ConfigError(f"there is no cell {cell}; layer {layer} has cells 0 to {cells.num_cells - 1}")
    readers = top_tokens(memory, cells, cell, top)
    promoted = promoted_tokens(memory, cells, np.array([cell]), top)
    values: dict[str, Any] = {
        "layer": layer,
        "cell": cell,
        "read_by": [
            {"token": inspected.word(token_id), "token_id": token_id, "coefficient": float(value)}
            for token_id, value in zip(readers.ids_Rn.tolist(), readers.values_Rn, strict=True)
        ],
        "promotes": _scored(inspected, promoted.up, 1),
        "suppresses": _scored(inspected, promoted.down, -1),
    }
    if json:
        print_json(values)
        return
    print_facts(
        {
            "cell": f"{cell} of layer {layer}",
            "read by": "  ".join(f"{each['token']} ({each['coefficient']:+.2f})" for each in values["read_by"]),
            "promotes": "  ".join(each["token"] for each in values["promotes"]),
            "suppresses": "  ".join(each["token"] for each in values["suppresses"]),
        }
    )


def clusters(
    model: ModelArgument = None,
    *,
    layer: LayerOption,
    clusters: ClustersOption = NUM_CLUSTERS,
    text: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="UTF-8 text to name clusters by what tokens stand behind.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Group the tokens that read the same cells of a layer, and name the groups by rule.

    Example: tolbooth inspect clusters --layer 3 --text book.txt
    """
    inspected = Inspected.find(model)
    memory = inspected.memory
    cells = memory.cells(layer)
    vocabulary = inspected.vocabulary(InspectedText(text) if text else None)
    with Progress() as progress:
        clustering = find_clusters(memory, cells, clusters, on_progress=progress.phase("clusters"))
    found = cluster_findings(clustering, vocabulary.traits)
    named = sum(each["named"] for each in found)
    if json:
        for each in found:
            each["tokens"] = [{"token": inspected.word(token_id), "token_id": token_id} for token_id in each["tokens"]]
        print_json({"layer": layer, "named": named, "explained": clustering.explained, "clusters": found})
        return
    typer.echo(
        f"layer {layer}: {named} of {len(found)} clusters are named; {clustering.explained:.0%} of variance explained\n"
    )
    for each in found:
        fit = f"{each['confidence']:.0%} fit" if each["named"] else f"best trait fits {each['confidence']:.0%}"
        typer.echo(f"{each['cluster']:>3}  {each['name']} ({each['size']:,} tokens, {fit})")
        typer.echo("     " + " ".join(inspected.word(token_id) for token_id in each["tokens"][:12]))


def _cells(strongest: Ranking) -> list[dict[str, Any]]:
    pairs = zip(strongest.ids_Rn.tolist(), strongest.values_Rn, strict=True)
    return [{"cell": number, "coefficient": float(value)} for number, value in pairs]


def _nearest(inspected: Inspected, near: Neighbours) -> list[dict[str, Any]]:
    return [
        {"token": inspected.word(token_id), "token_id": token_id, "cosine": float(cosine), "row_cosine": float(part)}
        for token_id, cosine, part in zip(near.ids_n.tolist(), near.cell_cosine_n, near.part_cosine_n, strict=True)
    ]


def _scored(inspected: Inspected, ranking: Ranking, sign: int) -> list[dict[str, Any]]:
    pairs = zip(ranking.ids_Rn[0].tolist(), ranking.values_Rn[0], strict=True)
    return [{"token": inspected.word(each), "token_id": each, "score": sign * float(score)} for each, score in pairs]
