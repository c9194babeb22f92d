"""All that is found out about a model's memory, as plain JSON values: what the report shows and what lies beside it.

Knows how the analyses go together. Does not know how they look (`models/analysis/report.py`), nor where tokens' bytes
and a text's ids come from.

Shape legend: V vocabulary, L layers, K cells, S tokens looked at one by one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from models.analysis.cells import CellMemory, Cells
from models.analysis.clusters import Clustering, find_clusters, require_sklearn
from models.analysis.highest import Ranking, highest
from models.analysis.lens import promoted_tokens
from models.analysis.naming import ClusterName, name_clusters
from models.analysis.neighbours import all_neighbours
from models.analysis.survey import LayerSurvey, rank_for_energy, survey
from models.analysis.token_map import map_tokens
from models.analysis.traits import Traits

NEIGHBOURS = 10
"""Of each token; the clustering coefficient looks at as many."""
_MOST_TOKENS = 4096
"""Tokens looked at one by one, the commonest: their neighbours cost S x V x K operations a layer."""
_MOST_CELLS = 768
"""Cells listed of a layer, those that are read most."""
_MAP_TOKENS = 1000
_SHOWN_NEIGHBOURS = 6
_PROMOTED = 6

PhaseProgress = Callable[[str, int, int], None]
"""Called with (phase, done, total)."""


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """What is known of a model's tokens beside its weights."""

    traits: Traits
    counts_V: npt.NDArray[np.int64] | None
    """How often each occurred in training; None where nobody counted."""

    def common_tokens(self, num_tokens: int, most: int) -> npt.NDArray[np.int64]:
        """Return the commonest ids, the first ones where nobody counted."""
        if self.counts_V is None:
            return np.arange(min(num_tokens, most))
        return np.argsort(-self.counts_V, kind="stable")[:most]


def memory_findings(
    memory: CellMemory, vocabulary: Vocabulary, *, num_clusters: int, on_progress: PhaseProgress
) -> dict[str, Any]:
    """Return what is found in all layers; a missing scikit-learn or too many clusters raise `ConfigError`."""
    require_sklearn()
    from sklearn.metrics import adjusted_rand_score  # type: ignore[import-untyped]  # noqa: PLC0415 an extra

    ids_S = vocabulary.common_tokens(memory.config.vocab_size, _MOST_TOKENS)
    layers, labels = [], []
    for layer in range(memory.config.num_hidden_layers):
        found, clustering = layer_findings(
            memory, layer, vocabulary, ids_S, num_clusters=num_clusters, on_progress=on_progress
        )
        layers.append(found)
        labels.append(clustering.labels_V)
    agreement = [[round(float(adjusted_rand_score(first, second)), 4) for second in labels] for first in labels]
    return {
        "tokens": ids_S.tolist(),
        "counts": None if vocabulary.counts_V is None else vocabulary.counts_V[ids_S].tolist(),
        "layers": layers,
        "cluster_agreement": agreement,
    }


def layer_findings(
    memory: CellMemory,
    layer: int,
    vocabulary: Vocabulary,
    ids_S: npt.NDArray[np.int64],
    *,
    num_clusters: int,
    on_progress: PhaseProgress,
) -> tuple[dict[str, Any], Clustering]:
    """Return what is found in one layer, and its clusters."""

    def phase(what: str) -> Callable[[int, int], None]:
        return lambda done, total: on_progress(f"layer {layer}: {what}", done, total)

    cells = memory.cells(layer)
    surveyed = survey(memory, cells, on_progress=phase("coefficients"))
    clustering = find_clusters(memory, cells, num_clusters, on_progress=phase("clusters"))
    neighbours = all_neighbours(memory, cells, ids_S, NEIGHBOURS, on_progress=phase("neighbours"))
    map_S = ids_S[:_MAP_TOKENS]
    places = map_tokens(memory, cells, map_S).tolist()
    phase("map")(1, 1)
    found = {
        "layer": layer,
        "outliers": _outliers(surveyed),
        "singular_values": [_rounded(value) for value in surveyed.singular_values],
        "rank_90": rank_for_energy(surveyed.singular_values, 0.9),
        "rank_99": rank_for_energy(surveyed.singular_values, 0.99),
        "clustering": {
            "coefficient": round(clustering.coefficient(ids_S, neighbours.ids_Rn), 4),
            "chance": round(clustering.chance, 4),
            "explained": round(clustering.explained, 4),
        },
        "clusters": cluster_findings(clustering, vocabulary.traits),
        "cells": _cells(memory, cells, surveyed),
        "map": [[int(token_id), round(x, 4), round(y, 4)] for token_id, (x, y) in zip(map_S, places, strict=True)],
        "of_tokens": {
            "cluster": clustering.labels_V[ids_S].tolist(),
            "outliers": surveyed.outliers_V[ids_S].tolist(),
            "cells": [_pairs(*row) for row in zip(*_of(surveyed.cells_of_token, ids_S), strict=True)],
            "near": [
                _pairs(ids_n[:_SHOWN_NEIGHBOURS], values_n[:_SHOWN_NEIGHBOURS])
                for ids_n, values_n in zip(*neighbours, strict=True)
            ],
        },
    }
    return found, clustering


def cluster_findings(clustering: Clustering, traits: Traits) -> list[dict[str, Any]]:
    """Return a layer's clusters with their names, those without members left out."""
    names: list[ClusterName] = name_clusters(clustering.labels_V, len(clustering.central), traits)
    return [
        {
            "cluster": number,
            "size": int(clustering.sizes[number]),
            "name": name.name,
            "named": name.is_named,
            "confidence": round(name.confidence, 3),
            "base_rate": round(name.base_rate, 3),
            "also": list(name.also),
            "tokens": clustering.central[number].tolist(),
        }
        for number, name in enumerate(names)
        if clustering.sizes[number]
    ]


def mentioned_tokens(findings: dict[str, Any]) -> set[int]:
    """Return the ids of all tokens that `memory_findings` speaks of."""
    ids = set(findings["tokens"])
    for layer in findings["layers"]:
        ids.update(token for token, _ in layer["outliers"]["tokens"])
        ids.update(token for cluster in layer["clusters"] for token in cluster["tokens"])
        ids.update(token for near in layer["of_tokens"]["near"] for token, _ in near)
        for cell in layer["cells"]:
            ids.update(token for token, _ in cell["tokens"])
            ids.update(cell["up"] + cell["down"])
    return ids


def _outliers(surveyed: LayerSurvey) -> dict[str, Any]:
    outliers_V = surveyed.outliers_V
    most = highest(outliers_V, 10)
    return {
        "mean": round(float(outliers_V.mean()), 3),
        "share_of_tokens": round(float((outliers_V > 0).mean()), 4),
        "tokens": [[token, int(count)] for token, count in zip(most.ids_Rn.tolist(), most.values_Rn, strict=True)],
    }


def _cells(memory: CellMemory, cells: Cells, surveyed: LayerSurvey) -> list[dict[str, Any]]:
    listed = highest(surveyed.magnitude_K, _MOST_CELLS)
    promoted = promoted_tokens(memory, cells, listed.ids_Rn, _PROMOTED)
    tokens = _of(surveyed.tokens_of_cell, listed.ids_Rn)
    return [
        {
            "cell": int(cell),
            "magnitude": _rounded(listed.values_Rn[index]),
            "tokens": _pairs(tokens.ids_Rn[index], tokens.values_Rn[index]),
            "up": promoted.up.ids_Rn[index].tolist(),
            "down": promoted.down.ids_Rn[index].tolist(),
        }
        for index, cell in enumerate(listed.ids_Rn)
    ]


def _of(ranking: Ranking, lists: npt.NDArray[np.int64]) -> Ranking:
    return Ranking(ranking.ids_Rn[lists], ranking.values_Rn[lists])


def _pairs(ids_n: Sequence[int], values_n: Sequence[float]) -> list[list[float]]:
    return [[int(each), _rounded(value)] for each, value in zip(ids_n, values_n, strict=True)]


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
