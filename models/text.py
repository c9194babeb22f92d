"""Text files as documents: read whole, streamed in pieces, or sampled.

Knows UTF-8 and where documents end: at the end of a file and at a line that is `<|endoftext|>` and nothing else.
Line ends stay as they are, so that bytes can be counted. Knows no tokens.
"""

import codecs
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from models.errors import CorpusError
from models.tokenizer import END_OF_TEXT

_SEPARATOR_LINE = re.compile(rf"^{re.escape(END_OF_TEXT)}\r*(?:\n|\Z)", re.MULTILINE)
_LAST_LINE_START = re.compile(rb".*\n(?=\S)", re.DOTALL)
_LAST_SPACE = re.compile(rb".*\S(?= \S)", re.DOTALL)


class Piece(NamedTuple):
    """Some consecutive lines of one document."""

    text: str
    """What they say; empty where a document ends right after a cut."""
    ends_document: bool
    """Whether the document ends here."""
    num_bytes: int
    """Bytes of the file from the previous piece to the end of this one, separators included."""


def read_text(files: Sequence[Path]) -> str:
    """Return the files' text, one after the other; missing files, bad UTF-8 and nothing at all raise `CorpusError`."""
    texts = []
    for path in files:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise _cannot_read(path, error) from error
        texts.append(_decode(data, path, 0))
    text = "".join(texts)
    if not text:
        raise _no_text(files)
    return text


def split_documents(text: str) -> list[str]:
    """Return the documents of `text` without the separator lines; empty ones are left out."""
    return [document for document in _SEPARATOR_LINE.split(text) if document]


def total_bytes(files: Sequence[Path]) -> int:
    """Return the size of all files; raises `CorpusError` where one is missing or all are empty."""
    total = sum(map(_num_bytes, files))
    if total == 0:
        raise _no_text(files)
    return total


def pieces(path: Path, *, piece_bytes: int) -> Iterator[Piece]:
    """Stream a file's documents in pieces of `piece_bytes` to three times that; the last of a document may be shorter.

    A long document is cut before a line that starts with something else than white space, failing that before a
    space, failing that between two characters. At the first two, tokens of our tokenizers end in any case.
    """
    try:
        with path.open("rb") as file:
            yield from _pieces(file, path, piece_bytes)
    except OSError as error:
        raise _cannot_read(path, error) from error


def sample_text(files: Sequence[Path], *, max_bytes: int, window_bytes: int = 1 << 18) -> Iterator[str]:
    """Yield at most `max_bytes` of text without separators, in windows of lines spread evenly over all files.

    Reads no more than it yields, so that a part of a corpus of any size is quickly had. All of a corpus that is no
    larger is yielded.
    """
    total = total_bytes(files)
    if max_bytes >= total:
        for path in files:
            yield from (piece.text for piece in pieces(path, piece_bytes=window_bytes) if piece.text)
        return
    window_bytes = min(window_bytes, max_bytes)
    num_windows = max_bytes // window_bytes
    window = 0
    files_start = 0  # the files count as if they stood end to end
    for path in files:
        size = _num_bytes(path)
        try:
            with path.open("rb") as file:
                while window < num_windows and (start := window * total // num_windows - files_start) < size:
                    lines = _window(file, path, max(0, min(start, size - window_bytes)), window_bytes)
                    yield from split_documents(lines)
                    window += 1
        except OSError as error:
            raise _cannot_read(path, error) from error
        files_start += size


def _pieces(file: BinaryIO, path: Path, piece_bytes: int) -> Iterator[Piece]:
    pending = bytearray()
    start = 0  # where in the file `pending` starts
    at_line_start = True
    # A read is never shorter than a separator line, so one is always seen whole.
    read_bytes = max(piece_bytes, len(END_OF_TEXT) + 2)
    while line := file.readline(read_bytes):
        if at_line_start and line.rstrip(b"\r\n") == END_OF_TEXT.encode():
            num_bytes = len(pending) + len(line)
            yield Piece(text=_decode(pending, path, start), ends_document=True, num_bytes=num_bytes)
            pending.clear()
            start += num_bytes
            continue
        pending += line
        at_line_start = line.endswith(b"\n")
        if len(pending) >= 2 * read_bytes:
            cut = _last_cut(pending, read_bytes)
            yield Piece(text=_decode(pending[:cut], path, start), ends_document=False, num_bytes=cut)
            del pending[:cut]
            start += cut
    if pending:
        yield Piece(text=_decode(pending, path, start), ends_document=True, num_bytes=len(pending))


def _last_cut(data: bytearray, minimum: int) -> int:
    """Return the last good place to cut `data`, at or after `minimum`."""
    for last in (_LAST_LINE_START, _LAST_SPACE):
        if match := last.match(data, minimum - 1):
            return match.end()
    cut = len(data) - 1
    while cut > minimum and data[cut] & 0xC0 == 0x80:  # inside a character
        cut -= 1
    return cut


def _window(file: BinaryIO, path: Path, start: int, num_bytes: int) -> str:
    """Return the whole lines among `num_bytes` bytes at `start`; the whole characters where there is no line."""
    file.seek(start)
    data = file.read(num_bytes)
    first = data.find(b"\n") + 1 if start else 0
    last = data.rfind(b"\n") + 1
    if first < last:
        return _decode(data[first:last], path, start + first)
    # One long line: only a character that the window's borders cut through is dropped.
    while first < min(3, len(data)) and data[first] & 0xC0 == 0x80:
        first += 1
    return _decode(data[first:], path, start + first, final=False)


def _decode(data: bytes | bytearray, path: Path, offset: int, *, final: bool = True) -> str:
    """Return `data` as text; without `final`, less a character that its end cuts through."""
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(data, final)
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{path} is not UTF-8 text: bad byte 0x{data[error.start]:02x} at offset {offset + error.start}; convert it"
        ) from error


def _num_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise _cannot_read(path, error) from error


def _no_text(files: Sequence[Path]) -> CorpusError:
    return CorpusError(f"no text in {', '.join(map(str, files)) or 'an empty list of files'}; give a file with some")


def _cannot_read(path: Path, error: OSError) -> CorpusError:
    return CorpusError(f"cannot read the text {path}: {error.strerror or error}")
