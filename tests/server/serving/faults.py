"""Faults for an engine in another process: a plan in a file, which may change while the engine runs.

`PLAN.json` says what is injected from the next read on. While `PLAN.hold` is there, an engine does not get through
loading; `PLAN.held` says that one waits. `PLAN.release` lets go of all reads that are late. Only for tests.
"""

import threading
import time
from pathlib import Path

import msgspec

from paging.storage.faulty import FaultPlan, FaultyStorage

_PATIENCE = 120.0
_INTERVAL = 0.01


class FaultFile:
    """Where a plan lies."""

    def __init__(self, path):
        self.path = Path(path)
        self._hold, self._held, self._release = (
            self.path.with_suffix(suffix) for suffix in (".hold", ".held", ".release")
        )

    def write(self, **plan):
        """Inject this from the next read on: the fields of `FaultPlan`."""
        self._replace(self.path, msgspec.json.encode(FaultPlan(**plan)))

    def read(self):
        return msgspec.json.decode(self.path.read_bytes(), type=FaultPlan)

    def hold_loading(self):
        """Let no engine get through loading until `go_on` is called."""
        self._held.unlink(missing_ok=True)
        self._replace(self._hold, b"")

    def go_on(self):
        self._hold.unlink(missing_ok=True)

    @property
    def is_holding(self):
        """Whether an engine waits in the middle of loading."""
        return self._held.exists()

    def wait_to_go_on(self):
        """Wait where an engine is to wait while it loads."""
        deadline = time.monotonic() + _PATIENCE
        if self._hold.exists():
            self._replace(self._held, b"")  # once: who asks again is told of the next engine
        while self._hold.exists() and time.monotonic() < deadline:
            time.sleep(_INTERVAL)

    def release(self):
        """Let go of all reads that are late, and make none late from now on."""
        self._replace(self._release, b"")

    def wait_for_release(self):
        while not self._release.exists():
            time.sleep(_INTERVAL)

    @staticmethod
    def _replace(path, data):
        part = path.with_name(f"{path.name}.part")
        part.write_bytes(data)
        part.replace(path)


class PlannedStorage(FaultyStorage):
    """Reads its plan again whenever rows are asked for."""

    def __init__(self, storage, faults):
        super().__init__(storage, faults.read())
        self._faults = faults
        threading.Thread(target=self._await_release, daemon=True).start()

    def submit(self, reads, completions):
        self._plan = self._faults.read()
        super().submit(reads, completions)

    def _await_release(self):
        self._faults.wait_for_release()
        self.stop()
