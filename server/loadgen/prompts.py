"""Prompts of real text, or of a trace's token ids.

Knows files. A server's tokenizer it does not know: of a text, a prompt's length is counted in characters.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from models.errors import ConfigError
from paging.trace import load_trace

CHARACTERS_PER_TOKEN = 4
"""Of English text in vocabularies of usual sizes, roughly; what it really was, the server's usage says."""

Prompt = str | list[int]

_MAX_ID = 1 << 24
_MAX_TEXT_BYTES = 1 << 30


def text_prompts(path: Path, *, count: int, num_tokens: int, seed: int) -> list[Prompt]:
    """Cut `count` prompts of about `num_tokens` tokens out of a UTF-8 text, at random places that overlap little.

    Raises `ConfigError` where the text cannot be read or is too short for one prompt.
    """
    try:
        if path.stat().st_size > _MAX_TEXT_BYTES:
            raise ConfigError(f"the text {path} is larger than {_MAX_TEXT_BYTES} bytes; give a part of it")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the text {path}: {error}") from error
    length = num_tokens * CHARACTERS_PER_TOKEN
    return [text[start : start + length] for start in _starts(len(text), length, count, seed, f"the text {path}")]


def trace_prompts(path: Path, *, count: int, num_tokens: int, seed: int) -> list[Prompt]:
    """Cut `count` prompts of `num_tokens` ids out of a trace (`.npy`); `TraceError` or `ConfigError` as above."""
    ids_N = load_trace(path, vocab_size=_MAX_ID)
    starts = _starts(len(ids_N), num_tokens, count, seed, f"the trace {path}")
    return [ids_N[start : start + num_tokens].tolist() for start in starts]


def _starts(available: int, length: int, count: int, seed: int, source: str) -> Sequence[int]:
    """Return where prompts begin: each in a stretch of its own, in random order."""
    if available < length:
        raise ConfigError(f"{source} has {available:,} of the {length:,} characters or ids that one prompt takes")
    generator = np.random.default_rng(seed)
    last = available - length
    stretches = np.linspace(0, last, count + 1)
    starts = stretches[:-1] + generator.random(count) * np.diff(stretches)
    starts_list: list[int] = generator.permutation(starts.astype(np.int64)).tolist()
    return starts_list
