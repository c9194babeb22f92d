"""Choosing the next token from its scores."""

import torch
import xxhash
from torch import Tensor


def sample(logits_V: Tensor, *, temperature: float, seed: int, position: int) -> int:
    """Return a token id drawn from `softmax(logits / temperature)`, or the greatest logit's where `temperature` is 0.

    The draw is a pure function of (seed, position of the token in the output), whatever else runs beside it.
    """
    if temperature == 0:
        return int(logits_V.argmax())
    key = xxhash.xxh3_64_intdigest(f"{seed} {position}".encode()) >> 1
    generator = torch.Generator().manual_seed(key)
    # Gumbel's trick: the greatest of logits plus Gumbel noise is a draw from their softmax.
    noise_V = -torch.empty(len(logits_V), dtype=torch.float64).exponential_(generator=generator).log()
    return int((logits_V.double().cpu() / temperature + noise_V).argmax())
