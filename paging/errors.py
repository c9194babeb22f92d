"""The tree of exceptions that a person may see.

TolboothError                 the user's or the environment's fault; the command line prints it, exit code 2
├── TableError                a ToL table cannot be opened, written or trusted
│   ├── TableFormatError      not a table, an unknown version, a broken or foreign file
│   ├── TableMismatchError    a sound table, but of another model or geometry
│   ├── TableWriteError       a table cannot be written here: full disk, existing data, missing rows
│   ├── EncodingError         values do not fit the encoding asked for
│   └── RowReadError          a row's bytes could not be read or fail their checksum
├── TraceError                a trace of token ids cannot be read or does not fit the vocabulary
├── FrequencyError            a frequency list cannot be read or written
├── StorageError              the way of reading that was asked for does not work here
├── HotSetError               a saved hot set cannot be read or written
├── BudgetError               a memory budget is too small or not well formed
├── LeaseError                a lease cannot be had
│   ├── LeaseTooLargeError    more rows than slots; says how many fit
│   └── LeaseTimeoutError     its rows did not arrive in time
├── KeysInUseError            a storage cannot be detached while its rows are leased
└── (models/errors.py)        checkpoints, configurations, training data
"""

from enum import StrEnum
from pathlib import Path


class TolboothError(Exception):
    """Something a person can put right; the message says what, where and what to do."""


class TableError(TolboothError):
    """A ToL table cannot be opened, written or trusted."""


class TableFormatError(TableError):
    """The directory is no table, or a file of it is broken, truncated or foreign."""


class TableMismatchError(TableError):
    """The table is sound but belongs to another model or has another geometry."""


class TableWriteError(TableError):
    """A table cannot be written: the disk is full, something else is there, or rows are missing."""


class EncodingError(TableError):
    """Values cannot be stored in the encoding asked for."""


class ReadErrorKind(StrEnum):
    """What was wrong with a row that could not be read; the names that errors are counted under."""

    IO = "io"  # the system refused, or the disk failed
    SHORT = "short"  # the file ends too soon
    CHECKSUM = "checksum"  # the bytes are others than were written
    CLOSED = "closed"  # the storage was closed before its turn came


class RowReadError(TableError):
    """A row could not be read whole, or its bytes fail their checksum; says which and why where it is about one row."""

    def __init__(
        self,
        message: str,
        *,
        row: int | None = None,
        path: Path | None = None,
        offset: int | None = None,
        cause: str | None = None,
        kind: ReadErrorKind = ReadErrorKind.IO,
    ) -> None:
        super().__init__(message)
        self.row = row
        self.path = path
        self.offset = offset
        self.cause = cause
        self.kind = kind


class StorageError(TolboothError):
    """The way of reading rows that was asked for does not work where the table lies."""


class HotSetError(TolboothError):
    """A saved hot set cannot be read or written, or is of another table."""

    def __init__(self, message: str, *, is_replaceable: bool = False) -> None:
        super().__init__(message)
        self.is_replaceable = is_replaceable
        """Whether the file is a hot set all the same, so that nothing of value is lost with it."""


class BudgetError(TolboothError):
    """A tier's memory budget is not well formed, or too small to serve from."""


class LeaseError(TolboothError):
    """A lease cannot be had."""


class LeaseTooLargeError(LeaseError):
    """A lease or a pin needs more rows at once than there can be room for."""

    def __init__(self, message: str, *, fits: int) -> None:
        super().__init__(message)
        self.fits = fits
        """Rows that a lease can have now."""


class LeaseTimeoutError(LeaseError):
    """The rows of a lease did not arrive in the time given."""


class KeysInUseError(TolboothError):
    """A storage cannot be detached while its rows are leased, pinned, waited for or being read."""


class TraceError(TolboothError):
    """A trace cannot be read, or holds something else than ids of the vocabulary."""


class FrequencyError(TolboothError):
    """A frequency list cannot be read or written, or is of another vocabulary."""
