"""Brings a checkpoint's weights into the page cache before they are asked for, in long reads by several threads.

Whoever maps a file reads it in the order in which it happens to be used, a few pages at a time, each of which is waited
for. Imports without torch, so that reading can begin before that is loaded. Where something is wrong with a
file, nothing is said here: loading it says so.
"""

import json
import os
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from models.fingerprint import is_memory

_FILES = "model*.safetensors"
_LENGTH = struct.Struct("<Q")
_MAX_HEADER_BYTES = 100_000_000
"""More is no header; safetensors draws the line there too."""
_PIECE_BYTES = 4 * 2**20
_NUM_THREADS = 2
"""More are no faster on one disk, and whoever starts meanwhile needs the cores."""


class Span(NamedTuple):
    """Bytes of a file."""

    path: Path
    start: int
    end: int


def read_ahead(directory: Path, *, with_memory: bool, on_progress: Callable[[int, int], None]) -> None:
    """Read a checkpoint's tensors and keep none; blocks. `on_progress` is called with (bytes read, bytes in all).

    with_memory: the memory's FFNs too, which nobody reads where a table is present. What `on_progress` raises ends it.
    """
    spans = weight_spans(directory, with_memory=with_memory)
    pieces = [piece for span in spans for piece in _pieces(span)]
    total, done = sum(span.end - span.start for span in spans), 0
    buffers = threading.local()

    def read(piece: Span) -> int:
        if not hasattr(buffers, "buffer"):
            buffers.buffer = memoryview(bytearray(_PIECE_BYTES))
        _read(piece, buffers.buffer)
        return piece.end - piece.start

    pool = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="read-ahead")
    try:
        for num_bytes in pool.map(read, pieces):
            done += num_bytes
            on_progress(done, total)
    finally:
        pool.shutdown(cancel_futures=True)


def weight_spans(directory: Path, *, with_memory: bool) -> list[Span]:
    """Return where a checkpoint's tensors lie; nothing of files that are not sound."""
    spans = []
    for path in sorted(directory.glob(_FILES)):
        try:
            spans += list(_spans(path, with_memory=with_memory))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
    return spans


def _spans(path: Path, *, with_memory: bool) -> Iterator[Span]:
    with path.open("rb") as file:
        (length,) = _LENGTH.unpack(file.read(_LENGTH.size).ljust(_LENGTH.size, b"\0"))
        if length > _MAX_HEADER_BYTES:
            return
        header = json.loads(file.read(length))
        data, size = file.tell(), os.fstat(file.fileno()).st_size
    offsets = sorted(
        tuple(map(int, spec["data_offsets"]))
        for name, spec in header.items()
        if name != "__metadata__" and (with_memory or not is_memory(name))
    )
    start = end = 0
    for first, last in offsets:
        if first != end:
            yield from _span(path, data + start, data + end, size)
            start = first
        end = last
    yield from _span(path, data + start, data + end, size)


def _span(path: Path, start: int, end: int, size: int) -> Iterator[Span]:
    if 0 <= start < end <= size:
        yield Span(path, start, end)


def _pieces(span: Span) -> Iterator[Span]:
    for start in range(span.start, span.end, _PIECE_BYTES):
        yield Span(span.path, start, min(start + _PIECE_BYTES, span.end))


def _read(piece: Span, buffer: memoryview) -> None:
    try:
        handle = os.open(piece.path, os.O_RDONLY)
        try:
            os.preadv(handle, [buffer[: piece.end - piece.start]], piece.start)
        finally:
            os.close(handle)
    except OSError:  # whoever needs these bytes will be told
        return
