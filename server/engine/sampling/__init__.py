"""Choosing tokens: from a batch's scores to the next id of each sequence, and what is said of how likely it was."""

from server.engine.sampling.checks import check_params
from server.engine.sampling.errors import ScoresError
from server.engine.sampling.logprobs import prompt_logprobs
from server.engine.sampling.sampler import SampledTokens, Sampler
from server.engine.sampling.sequence import SampledSequence

__all__ = [
    "SampledSequence",
    "SampledTokens",
    "Sampler",
    "ScoresError",
    "check_params",
    "prompt_logprobs",
]
