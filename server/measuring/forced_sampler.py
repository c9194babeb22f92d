"""A sampler that does its full work, and then says what a text says.

A model of random weights would loop or wander, and even a good one reads other rows at every run: timings would not be
comparable, and hit rates not those of text.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from server.engine.sampling import SampledSequence, SampledTokens, Sampler

FULL_SAMPLING: Mapping[str, Any] = MappingProxyType(
    {"temperature": 0.8, "top_k": 50, "top_p": 0.95, "ignore_eos": True}
)
"""Parameters under which a sampler has everything to do; what ends a text ends no measurement."""


class ForcedSampler:
    """Samples, then takes the text's next tokens; a request's seed is where in the text it begins."""

    def __init__(self, sampler: Sampler, ids: npt.NDArray[np.integer[Any]]) -> None:
        self._sampler, self._ids = sampler, ids

    def sample(self, logits_SV: Any, sequences: Sequence[SampledSequence]) -> SampledTokens:
        """Return the text's next tokens; behind its end it begins again."""
        sampled = self._sampler.sample(logits_SV, sequences)
        places = (each.seed + len(each.prompt_ids) + each.position for each in sequences)
        forced = [int(self._ids[place % len(self._ids)]) for place in places]
        return SampledTokens(forced, sampled.logprobs, sampled.errors)
