"""Names for clusters of tokens, by rule: what most members have in common and most other tokens have not."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from models.analysis.traits import Bools, Traits

UNNAMED = "unnamed"
LEAST_SHARE = 0.5
"""A trait names a cluster where so many of its members have it ..."""
LEAST_LIFT = 2.0
"""... and so many times the share of the vocabulary that has it; a share of 0.9 does with less, 1.25."""
_NEARLY_ALL = 0.9
_LEAST_LIFT_OF_NEARLY_ALL = 1.25
_LEAST_MEMBERS = 3


@dataclass(frozen=True, kw_only=True)
class ClusterName:
    """What a cluster is called, and what that rests on."""

    name: str
    """A trait, or `unnamed`."""
    confidence: float
    """The share of the members that have the trait; of the best trait of all where the cluster is unnamed."""
    base_rate: float
    """The share of the whole vocabulary that has it."""
    also: tuple[str, ...]
    """Up to two further traits that would have done."""

    @property
    def is_named(self) -> bool:
        """Whether any rule covered enough."""
        return self.name != UNNAMED


def name_cluster(members_V: Bools, traits: Traits) -> ClusterName:
    """Return the trait that tells these tokens from the others best: by what it explains, share x log2(lift)."""
    num_members = int(members_V.sum())
    found: list[tuple[float, str, float, float]] = []
    best = (0.0, 0.0)
    for name, has_V in traits.items():
        base = float(has_V.mean())
        share = float(has_V[members_V].mean()) if num_members else 0.0
        if base == 0 or share == 0:
            continue
        best = max(best, (share, base)) if share > base else best
        lift = share / base
        enough = lift >= LEAST_LIFT or (share >= _NEARLY_ALL and lift >= _LEAST_LIFT_OF_NEARLY_ALL)
        if share >= LEAST_SHARE and enough:
            found.append((share * float(np.log2(lift)), name, share, base))
    if not found or num_members < _LEAST_MEMBERS:
        return ClusterName(name=UNNAMED, confidence=best[0], base_rate=best[1], also=())
    found.sort(reverse=True)
    _, name, share, base = found[0]
    also = tuple(other for _, other, _, _ in found[1:3])
    return ClusterName(name=name, confidence=share, base_rate=base, also=also)


def name_clusters(labels_V: npt.NDArray[np.integer[Any]], num_clusters: int, traits: Traits) -> list[ClusterName]:
    """Return the name of each cluster."""
    return [name_cluster(labels_V == cluster, traits) for cluster in range(num_clusters)]
