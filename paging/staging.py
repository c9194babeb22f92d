"""A directory that appears whole or not at all.

It is filled beside its target under a hidden name and takes the target's place in one rename. The writer holds a file
lock on it; the kernel drops the lock when a process dies, so whoever can take it knows the directory for debris, even
from inside another container, where process ids mean nothing.

Knows nothing of tables.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
import time
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_LOCKED_BY_SECONDS = 3600
"""A living writer has locked its directory long before."""


class StagingDirectory:
    """A hidden directory beside `target`; ends in `publish` or `discard`. Every method may raise `OSError`."""

    def __init__(self, target: Path) -> None:
        self.target = target.resolve()
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self._name = f".{self.target.name}.partial-{secrets.token_hex(4)}"
        self.path = self.target.parent / self._name
        self.path.mkdir()
        self._lock = _lock(self.path)

    def publish(self, *, replace: bool) -> None:
        """Give the directory its target's name; an existing target is an error, or with `replace` goes away."""
        sync_directory(self.path)
        if replace and self.target.exists():
            if _exchange(self.path, self.target):
                old = self.path
            else:
                # Not atomic, but no instant loses anything: `remove_debris` puts an orphaned old directory back.
                old = self.target.parent / self._name.replace(".partial-", ".replaced-")
                self.target.rename(old)
                try:
                    self.path.rename(self.target)
                except BaseException:
                    old.rename(self.target)
                    raise
            sync_directory(self.target.parent)
            shutil.rmtree(old, ignore_errors=True)
        else:
            self.path.rename(self.target)
            sync_directory(self.target.parent)
        self._unlock()

    def discard(self) -> None:
        """Remove the directory; what cannot be removed is left to the next writer of the same target."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def remove_debris(target: Path) -> None:
    """Remove what dead writers of `target` left beside it; leave alone what a living one is filling."""
    target = target.resolve()
    if not target.parent.is_dir():
        return
    name = re.compile(rf"\.{re.escape(target.name)}\.(partial|replaced)-[0-9a-f]{{8}}")
    for path in target.parent.iterdir():
        if (match := name.fullmatch(path.name)) and path.is_dir() and not path.is_symlink():
            with contextlib.suppress(FileNotFoundError):  # another writer is cleaning up as well
                _remove_if_dead(path, put_back=target if match[1] == "replaced" else None)


def _remove_if_dead(path: Path, *, put_back: Path | None) -> None:
    if not any(path.iterdir()) and time.time() - path.stat().st_mtime < _LOCKED_BY_SECONDS:
        return  # perhaps just made by a living writer, who locks before putting anything in
    lock = _lock(path)
    if lock is None:
        return
    try:
        if put_back is not None and not put_back.exists():
            path.rename(put_back)
        else:
            shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(lock)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _lock(path: Path) -> int | None:
    """Lock a directory for as long as the returned handle is open; None where it is taken, gone or cannot be locked."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def _exchange(first: Path, second: Path) -> bool:
    """Swap two directories in one step; False where this system or file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP}:
        return False
    raise OSError(code, os.strerror(code), str(second))
