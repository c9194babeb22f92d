"""`tolbooth inspect report`: everything about a model's memory, as one page and as JSON."""

import datetime as dt
from pathlib import Path
from typing import Annotated, Any

import typer

from models.analysis.clusters import require_sklearn
from models.analysis.findings import memory_findings, mentioned_tokens
from models.analysis.probes import CHANCE
from models.analysis.report import check_page, count_named, write_report
from models.bundled import DEFAULT_MODEL
from server.cli.inspect_worth import worths
from server.cli.inspected import NUM_CLUSTERS, BesideOption, ClustersOption, Inspected, InspectedText, TextOption
from server.cli.options import DeviceOption, JsonOption, ModelArgument
from server.cli.output import print_facts, print_json
from server.engine.choices import Device
from server.progress import Progress
from server.units import num_bytes_text


def report(
    model: ModelArgument = None,
    *,
    text: TextOption,
    out: Annotated[Path, typer.Option(metavar="FILE.html", help="Where the page goes; the JSON goes beside it.")],
    beside: BesideOption = None,
    clusters: ClustersOption = NUM_CLUSTERS,
    device: DeviceOption = Device.AUTO,
    json: JsonOption = False,
) -> None:
    """Write a page that shows a model's memory: layers, clusters, tokens, cells; it needs nothing from elsewhere.

    Example: tolbooth inspect report demo --text book.txt --beside demo-dense --out demo.html
    """
    require_sklearn()
    check_page(out)
    inspected = Inspected.find(model)
    memory = inspected.memory
    sample = InspectedText(text)
    with Progress() as progress:
        models = worths(model, beside, sample, device, progress)
        found = memory_findings(
            memory, inspected.vocabulary(sample), num_clusters=clusters, on_progress=progress.update
        )
        config = inspected.config
        values: dict[str, Any] = {
            "made": dt.datetime.now(dt.UTC).date().isoformat(),
            "model": {
                "name": model or DEFAULT_MODEL,
                "kind": config.model_type,
                "vocab_size": config.vocab_size,
                "hidden_size": config.hidden_size,
                "layers": config.num_hidden_layers,
                "cells": config.intermediate_size,
                "parameters": config.total_params,
            },
            "text": {"files": [file.name for file in sample.files], "bytes": sample.measured.num_bytes},
            "memory": found,
            "importance": [each for worth in models for each in worth.importance()],
            "alpha": [each for worth in models for each in worth.alpha()],
            "probes": models[0].probe_facts(),
            "chance": CHANCE,
            "vocabulary": {str(token_id): inspected.word(token_id) for token_id in sorted(mentioned_tokens(found))},
        }
    json_path = write_report(values, out)
    named, total = count_named(values)
    if json:
        print_json({"page": str(out), "json": str(json_path), "clusters": total, "named_clusters": named})
        return
    print_facts(
        {
            "page": f"{out}, {num_bytes_text(out.stat().st_size)}",
            "json": f"{json_path}, {num_bytes_text(json_path.stat().st_size)}",
            "clusters": f"{named} of {total} named",
        }
    )
