"""Token shards: written from text, opened as one long array.

A corpus is a list of `.npy` files, each a 1-D array of token ids, read as if they stood end to end; every document
ends with the end-of-text id. Knows nothing of sequences or batches (`models/batches.py`).
"""

import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from models.errors import CorpusError
from models.text import Piece, pieces, total_bytes
from models.tokenizer import encode_batch, end_of_text_id, vocab_size

# Pieces are long enough that a cut between them costs nothing, and a batch has enough of them for many cores while
# the library's records of its tokens (about 100 bytes each) stay near 100 MB.
_PIECE_BYTES = 1 << 13
_BATCH_BYTES = 1 << 21
_COUNT_TOKENS = 1 << 22


class TokenizedCorpus(NamedTuple):
    """What `tokenize_corpus` wrote."""

    shards: list[Path]
    """The files, in order."""
    num_tokens: int
    """Tokens in all shards, ends of documents included."""
    num_documents: int
    """Documents that are not empty."""
    num_bytes: int
    """Bytes of the text files."""


class TokenShards:
    """Memory-mapped shards as one array of `num_tokens` ids, each in [0, vocab_size)."""

    def __init__(self, shards: Sequence[npt.NDArray[Any]], names: Sequence[str], *, vocab_size: int) -> None:
        self._shards = shards
        self._names = names
        self._ends = list(accumulate(len(shard) for shard in shards))
        self.vocab_size = vocab_size

    @classmethod
    def open(cls, paths: Sequence[Path], *, vocab_size: int) -> "TokenShards":
        """Open `.npy` files, and all those in directories, in the order given (inside a directory: by name).

        Raises `CorpusError` for a file that is missing, truncated or not a 1-D array of integers, and where there is
        no token at all. Ids are checked against `vocab_size` when they are read.
        """
        files = [file for path in paths for file in _shards_in(path)]
        shards = [_open_shard(file) for file in files]
        if not sum(map(len, shards)):
            raise CorpusError(f"no tokens in {', '.join(map(str, paths)) or 'an empty list of shards'}")
        return cls(shards, [str(file) for file in files], vocab_size=vocab_size)

    @property
    def num_tokens(self) -> int:
        """Tokens in all shards."""
        return self._ends[-1]

    def read(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Return a copy of the ids in [start, stop), int64; an id outside the vocabulary raises `CorpusError`."""
        if not 0 <= start <= stop <= self.num_tokens:
            raise IndexError(f"[{start}, {stop}) is outside the corpus of {self.num_tokens} tokens")
        ids_N = np.empty(stop - start, dtype=np.int64)
        position = start
        while position < stop:
            index = bisect_right(self._ends, position)
            shard_start = self._ends[index] - len(self._shards[index])
            end = min(stop, self._ends[index])
            part = self._shards[index][position - shard_start : end - shard_start]
            ids_N[position - start : end - start] = self._checked(part, index, position - shard_start)
            position = end
        return ids_N

    def token_counts(self) -> npt.NDArray[np.int64]:
        """Return how often each id occurs, int64 [vocab_size]; streams over the shards."""
        counts_V = np.zeros(self.vocab_size, dtype=np.int64)
        for start in range(0, self.num_tokens, _COUNT_TOKENS):
            ids_N = self.read(start, min(start + _COUNT_TOKENS, self.num_tokens))
            counts_V += np.bincount(ids_N, minlength=self.vocab_size)
        return counts_V

    def _checked(self, ids_N: npt.NDArray[Any], index: int, start: int) -> npt.NDArray[Any]:
        if int(ids_N.max()) < self.vocab_size and int(ids_N.min()) >= 0:
            return ids_N
        bad = int(np.flatnonzero((ids_N >= self.vocab_size) | (ids_N < 0))[0])
        raise CorpusError(
            f"{self._names[index]} has token id {int(ids_N[bad])} at position {start + bad}, outside the vocabulary of "
            f"{self.vocab_size}; tokenize the text with the model's own tokenizer"
        )


def tokenize_corpus(
    files: Sequence[Path],
    tokenizer: Tokenizer,
    directory: Path,
    *,
    shard_tokens: int = 1 << 24,
    on_progress: Callable[[int, int], None] | None = None,
) -> TokenizedCorpus:
    """Tokenize text files into shards of `shard_tokens` ids in the new folder `directory`.

    Ids are uint16 where the vocabulary allows it, else uint32; memory stays near 150 MB whatever the text's size.
    `directory` appears when all is written, never with a part; until then the shards lie in `<directory>.partial`.
    `on_progress` gets bytes (done, total). Raises `CorpusError` where text cannot be read or shards not written.
    """
    total = total_bytes(files)
    if directory.exists():
        raise CorpusError(f"{directory} exists already; remove it or name another folder for the token shards")
    partial = directory.with_name(directory.name + ".partial")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        _remove_shards(partial)  # of a run that was killed
        writer = _ShardWriter(partial, shard_tokens, np.uint16 if vocab_size(tokenizer) <= 1 << 16 else np.uint32)
        try:
            num_documents = _write_tokens(files, tokenizer, writer, total, on_progress)
            partial.rename(directory)
        except BaseException:
            _remove_shards(partial)
            partial.rmdir()
            raise
    except OSError as error:
        raise CorpusError(f"cannot write token shards to {directory}: {error.strerror or error}") from error
    return TokenizedCorpus(
        shards=[directory / path.name for path in writer.paths],
        num_tokens=writer.num_tokens,
        num_documents=num_documents,
        num_bytes=total,
    )


class _ShardWriter:
    """Fills one shard in memory and writes it when it is full."""

    def __init__(self, directory: Path, shard_tokens: int, dtype: type[np.unsignedinteger[Any]]) -> None:
        self._directory = directory
        self._buffer = np.empty(shard_tokens, dtype=dtype)
        self._filled = 0
        self.paths: list[Path] = []
        self.num_tokens = 0

    def append(self, ids: Sequence[int]) -> None:
        ids_N = np.asarray(ids, dtype=self._buffer.dtype)
        self.num_tokens += len(ids_N)
        while len(ids_N):
            part, ids_N = np.split(ids_N, [len(self._buffer) - self._filled])
            self._buffer[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            if self._filled == len(self._buffer):
                self.flush()

    def flush(self) -> None:
        if not self._filled:
            return
        path = self._directory / f"tokens-{len(self.paths):05d}.npy"
        with path.open("xb") as file:
            np.save(file, self._buffer[: self._filled], allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        self.paths.append(path)
        self._filled = 0


def _write_tokens(
    files: Sequence[Path],
    tokenizer: Tokenizer,
    writer: _ShardWriter,
    total: int,
    on_progress: Callable[[int, int], None] | None,
) -> int:
    """Encode all documents of `files` into `writer`; return how many there were."""
    end = end_of_text_id(tokenizer)
    num_documents = 0
    done = 0
    in_document = False
    for batch in _batches_of_pieces(files):
        for piece, ids in zip(batch, encode_batch(tokenizer, [piece.text for piece in batch]), strict=True):
            writer.append(ids)
            in_document = in_document or bool(ids)
            if piece.ends_document and in_document:
                writer.append([end])
                num_documents += 1
                in_document = False
        done += sum(piece.num_bytes for piece in batch)
        if on_progress is not None:
            on_progress(done, total)
    if not num_documents:
        raise CorpusError(f"no text in {', '.join(map(str, files))}; there are only separators")
    writer.flush()
    return num_documents


def _batches_of_pieces(files: Sequence[Path]) -> Iterator[list[Piece]]:
    batch: list[Piece] = []
    num_bytes = 0
    for path in files:
        for piece in pieces(path, piece_bytes=_PIECE_BYTES):
            batch.append(piece)
            num_bytes += piece.num_bytes
            if num_bytes >= _BATCH_BYTES:
                yield batch
                batch, num_bytes = [], 0
    if batch:
        yield batch


def _remove_shards(directory: Path) -> None:
    for path in directory.glob("tokens-*.npy"):
        path.unlink()


def _shards_in(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("*.npy"))
    if not files:
        raise CorpusError(f"no .npy token shards in {path}")
    return files


def _open_shard(path: Path) -> npt.NDArray[Any]:
    try:
        # Unlike np.load, this takes nothing but plain arrays: no archives, no pickled objects.
        shard = np.lib.format.open_memmap(path, mode="r")
    except OSError as error:
        raise CorpusError(f"cannot read the token shard {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise CorpusError(f"{path} is not a whole .npy array: {error}") from error
    if shard.ndim != 1 or not np.issubdtype(shard.dtype, np.integer):
        raise CorpusError(
            f"{path} holds {shard.dtype} of shape {shard.shape}; a token shard is a 1-D array of integers"
        )
    return shard
