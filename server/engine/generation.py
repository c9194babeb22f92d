"""One sequence from prompt to end: prefill, then token after token, over a key/value cache.

Knows a model, its memory and how tokens are chosen. Knows nothing of batches of requests or of HTTP.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch

from models.attention import PagedContext
from models.errors import ConfigError
from models.kv_cache import BlockTable, KVCache
from models.rows import RowSource
from models.transformer import Transformer
from server.engine.sampling import sample

_PREFILL_TOKENS = 512


class FinishReason(StrEnum):
    """Why generation ended."""

    STOP = "stop"  # the model ended the text
    LENGTH = "length"  # `max_tokens`, or the model's context, is used up


@dataclass(frozen=True)
class GeneratedToken:
    """One token of the output."""

    token_id: int
    finish_reason: FinishReason | None
    """Set on the last token."""


@torch.inference_mode()
def generate(
    model: Transformer,
    rows: RowSource | None,
    prompt_ids: Sequence[int],
    *,
    max_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
) -> Iterator[GeneratedToken]:
    """Yield the tokens that follow `prompt_ids`, an end-of-text token included; greedy where `temperature` is 0.

    rows: the memory of a kind that has one. Raises `ConfigError` for a prompt of no tokens, ids outside the vocabulary
    or a prompt that fills the context.
    """
    config = model.config
    room = config.max_position_embeddings - len(prompt_ids)
    if not prompt_ids:
        raise ConfigError("the prompt has no tokens; give at least one")
    if room < 1:
        raise ConfigError(
            f"the prompt has {len(prompt_ids)} tokens; the model's context is {config.max_position_embeddings}, "
            f"so a prompt can have {config.max_position_embeddings - 1}"
        )
    if not all(0 <= token_id < config.vocab_size for token_id in prompt_ids):
        raise ConfigError(f"the prompt has token ids outside the vocabulary of {config.vocab_size}")
    if max_tokens < 1 or not 0 <= temperature < math.inf:
        raise ConfigError("max_tokens must be at least 1, temperature finite and at least 0")
    max_tokens = min(max_tokens, room)
    weight = model.head_weight
    num_blocks = -(-(len(prompt_ids) + max_tokens) // 16)
    cache = KVCache(config, num_blocks=num_blocks, block_size=16, dtype=weight.dtype, device=weight.device)
    table = BlockTable(16, range(num_blocks))
    pending, position = list(prompt_ids), 0
    for index in range(max_tokens):
        while pending:
            num_tokens = _chunk_length(pending, None if rows is None else rows.max_rows)
            chunk, pending = pending[:num_tokens], pending[num_tokens:]
            ids_N = torch.tensor(chunk, device=weight.device)
            positions_N = torch.arange(position, position + len(chunk), device=weight.device)
            position += len(chunk)
            context = PagedContext(
                cache=cache,
                query_lengths=[len(chunk)],
                context_lengths=[position],
                block_tables=[table],
            )
            hidden_Nd = model(ids_N, positions_N, context, None if rows is None else rows.fetch(ids_N))
        logits_V = model.logits(hidden_Nd[-1:])[0].float()
        token_id = sample(logits_V, temperature=temperature, seed=seed, position=index)
        reason = None
        if token_id == config.eos_token_id:
            reason = FinishReason.STOP
        elif index == max_tokens - 1:
            reason = FinishReason.LENGTH
        yield GeneratedToken(token_id, reason)
        if reason:
            return
        pending = [token_id]


def _chunk_length(ids: Sequence[int], max_rows: int | None) -> int:
    """Return the tokens to take next: as many as prefill takes at once, with at most `max_rows` different ids."""
    limit = min(len(ids), _PREFILL_TOKENS)
    if max_rows is None:
        return limit
    held: set[int] = set()
    for length, token_id in enumerate(ids[:limit]):
        held.add(token_id)
        if len(held) > max_rows:
            return length
    return limit
