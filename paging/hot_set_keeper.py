"""Keeps a storage's hot set in a file: restored at the start, saved now and then while serving, and at the end.

Knows when to save; the file is `paging/hot_set.py`'s. The loop that serves never waits for a disk: the pager's thread
takes a snapshot, a thread of the keeper's own writes it.

The hot set is what this very traffic wanted, a frequency list only what some text had: where `restore` returned
something, the hot set wins and nothing else should be seeded; where it returned None or raised, seed from counts.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path

from paging.errors import HotSetError
from paging.hot_set import HotSet, load_hot_set, save_hot_set
from paging.keys import KeyRange
from paging.lease import Prefetch
from paging.pager import Pager
from paging.storage.workers import Workers


class HotSetKeeper:
    """The hot set of one attached storage and its file. Close it before the storage is detached.

    A file that cannot be written ends nothing: `error` has the latest failure until a later save succeeds.
    """

    def __init__(
        self,
        pager: Pager,
        keys: KeyRange,
        path: Path,
        *,
        fingerprint: str,
        interval: float = 300.0,
        on_error: Callable[[HotSetError], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Look after the rows of `keys`, whose table has this fingerprint; call `restore` first.

        interval: seconds between two saves. on_error: told of the first of several failures in a row, by `tick` or
        `close` in their caller's thread.
        """
        self.path = path
        self.error: HotSetError | None = None
        """Why the last save failed; None where it did not."""
        self._pager, self._keys, self._fingerprint = pager, keys, fingerprint
        self._interval, self._clock = interval, clock
        self._due = clock() + interval
        self._on_error = on_error
        self._unreported: HotSetError | None = None
        self._restored: Prefetch | None = None
        self._may_save = True
        self._is_writing = False
        self._writer = Workers[HotSet]("tolbooth-hot-set", num_threads=1, serve=self._write)

    def restore(self) -> Prefetch | None:
        """Tell the policies what was hot and start bringing it while others are served; None where there is no file.

        Raises `HotSetError` where the file cannot be used; serving without it is fine. A file that is no hot set is not
        overwritten either, until it has been deleted and the keeper is made anew; one of another table is.
        """
        try:
            saved = load_hot_set(self.path, fingerprint=self._fingerprint, num_rows=len(self._keys))
        except HotSetError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            self._may_save = error.is_replaceable
            raise
        self._restored = self._pager.seed(saved.rows + self._keys.start, saved.heat)
        return self._restored

    def tick(self) -> None:
        """Save if it is time to, in the background; else as good as free. Called from the pager's thread, often."""
        if self._unreported is not None:
            self._report()
        if self._clock() >= self._due:
            self._due = self._clock() + self._interval
            if not self._is_writing:  # else the disk is slow, and the next time will do
                self._save()

    def close(self, timeout: float = 10.0) -> None:
        """Save once more, for at most `timeout` seconds; a file that is not written by then stays the old one."""
        if self._due == math.inf:
            return
        self._due = math.inf
        self._save()
        if not self._writer.stop(timeout):
            self._fail(HotSetError(f"the hot set {self.path} was not written within {timeout:g} s; is the disk stuck?"))
        if self._unreported is not None:
            self._report()

    def _save(self) -> None:
        # While what was restored is still coming in, the file is better than what the tiers hold.
        if not self._may_save or (self._restored is not None and self._restored.is_bringing):
            return
        hot_set = self._pager.hot_set(self._keys)
        if len(hot_set.rows):
            self._is_writing = True
            self._writer.put([hot_set])

    def _write(self, hot_set: HotSet) -> None:
        try:
            save_hot_set(self.path, hot_set, fingerprint=self._fingerprint)
            self.error = None
        except HotSetError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001  whatever it is, it must not end the thread unnoticed
            self._fail(HotSetError(f"cannot write the hot set {self.path}: {error!r}"))
        finally:
            self._is_writing = False

    def _fail(self, error: HotSetError) -> None:
        if self.error is None:
            self._unreported = error
        self.error = error

    def _report(self) -> None:
        error, self._unreported = self._unreported, None
        if self._on_error is not None and error is not None:
            self._on_error(error)
