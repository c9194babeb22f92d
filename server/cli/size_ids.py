"""The ids that `tolbooth size` replays: a text encoded with a model's tokenizer, or a trace."""

from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from models.config import ModelConfig
from models.errors import ConfigError, CorpusError
from models.text import Piece, pieces, total_bytes
from paging.errors import TraceError
from paging.frequencies import count_keys
from paging.trace import check_ids, load_trace

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MAX_TOKENS = 10_000_000
"""The most ids that are replayed: each takes some 140 bytes of memory."""
_PIECE_BYTES = 1 << 13
_BATCH_PIECES = 64


def vocabulary(config: ModelConfig | None, given: int | None) -> int:
    """Return the vocabulary's size: the model's, or the one given where there is no model."""
    if config is None:
        if given is None:
            raise ConfigError("the vocabulary is not known; give --vocab-size, or the MODEL that the trace is for")
        return given
    if given is not None and given != config.vocab_size:
        raise ConfigError(f"--vocab-size is {given:,}, the model's vocabulary {config.vocab_size:,}; leave it out")
    return config.vocab_size


def read_trace(path: Path, *, vocab_size: int) -> npt.NDArray[np.integer[Any]]:
    """Open and check a trace; one that is too long raises `TraceError`."""
    ids_N = load_trace(path, vocab_size=vocab_size)
    if len(ids_N) > MAX_TOKENS:
        raise TraceError(f"the trace {path} has {len(ids_N):,} ids; at most {MAX_TOKENS:,} are replayed, cut it")
    return ids_N


def encode_text(
    files: Sequence[Path],
    tokenizer: "Tokenizer",
    *,
    vocab_size: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> npt.NDArray[np.int32]:
    """Return the ids of text files, each document followed by the end of text; on_progress gets bytes."""
    from models.tokenizer import encode_batch, end_of_text_id  # noqa: PLC0415 loads tokenizers

    end_id = end_of_text_id(tokenizer)
    ids = array("i")
    done, total = 0, total_bytes(files)
    parts = (piece for path in files for piece in pieces(path, piece_bytes=_PIECE_BYTES))
    for batch in _batches(parts):
        for piece, piece_ids in zip(batch, encode_batch(tokenizer, [piece.text for piece in batch]), strict=True):
            ids.extend(piece_ids)
            if piece.ends_document:
                ids.append(end_id)
        if len(ids) > MAX_TOKENS:
            raise CorpusError(f"the text has more than {MAX_TOKENS:,} tokens; that is the most replayed, cut it")
        done += sum(piece.num_bytes for piece in batch)
        if on_progress:
            on_progress(done, total)
    ids_N = np.frombuffer(ids, dtype=np.int32)
    check_ids(ids_N, vocab_size=vocab_size, source="the text")
    return ids_N


def count_traces(paths: Sequence[Path], *, vocab_size: int) -> npt.NDArray[np.int64] | None:
    """Return how often each id occurs in the traces together, int64 [V]; None where there are none."""
    if not paths:
        return None
    counts_V = np.zeros(vocab_size, dtype=np.int64)
    for path in paths:
        counts_V += count_keys(load_trace(path, vocab_size=vocab_size), vocab_size)
    return counts_V


def _batches(items: Iterator[Piece]) -> Iterator[list[Piece]]:
    while batch := list(islice(items, _BATCH_PIECES)):
        yield batch
