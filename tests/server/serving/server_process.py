"""`tolbooth serve` in a process of its own, its engine in another: started, watched from outside, ended."""

import contextlib
import os
import signal
import ssl
import subprocess
import sys
import time
from pathlib import Path

import httpx

from tests.server.serving.faults import FaultFile

PATIENCE = 120.0
"""Seconds that a test waits for what must happen, before it fails."""
LONGEST = 600
"""Seconds that a test may take, engines that it starts included: most of a start is importing."""

_ROOT = Path(__file__).parents[3]
_INTERVAL = 0.02
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Never used; for each client that has none httpx reads all the certificates of this machine."""
_COMMAND = (sys.executable, "-m", "tests.server.serving.serve")


def eventually(condition, what, timeout=PATIENCE):
    """Ask until the answer is true, and return it; fail after the time-out."""
    deadline = time.monotonic() + timeout
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"within {timeout:g} s it did not come true that {what}"
        time.sleep(_INTERVAL)
    return answer


class ServerProcess:
    """A server that was started in a session of its own, as from a shell; what it prints goes to a file."""

    def __init__(self, folder, model, *arguments, faulty=False):
        folder.mkdir(parents=True, exist_ok=True)
        self.faults = FaultFile(folder / "plan.json")
        self.faults.write()
        self._output = folder / "output.txt"
        command = [*_COMMAND, *(["--faults", self.faults.path] if faulty else [])]
        command += ["serve", model, "--port", "0", "--device", "cpu", "--threads", "1", *arguments]
        environment = {**os.environ, "XDG_CACHE_HOME": str(folder), "XDG_DATA_HOME": str(folder)}
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=environment,
                cwd=_ROOT,
                start_new_session=True,
            )
        self.url = ""
        self._processes = {self.process.pid}

    @property
    def output(self):
        return self._output.read_text(encoding="utf-8", errors="replace")

    @property
    def pid(self):
        return self.process.pid

    @property
    def engine_pid(self):
        """The engine's process; None where there is none now."""
        pids = self.children
        return pids[0] if pids else None

    @property
    def children(self):
        """The processes that the server has started and not waited for."""
        pids = []
        for path in Path(f"/proc/{self.pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):  # the thread, or the server, has just ended
                pids += [int(pid) for pid in path.read_text().split()]
        self._processes.update(pids)
        return pids

    @property
    def num_files(self):
        """Open files and sockets of the API process."""
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())

    @property
    def resident_bytes(self):
        """Memory of the API process."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def listen(self):
        """Wait until the server answers, though it may not serve yet."""
        self.url = self._said("listening").partition(",")[0]

    def ready(self):
        """Wait until requests are served."""
        self.listen()
        self._said("serving")

    def get(self, path):
        return httpx.get(f"{self.url}{path}", timeout=PATIENCE, verify=NO_TLS)

    def post(self, path="/v1/completions", **body):
        return httpx.post(f"{self.url}{path}", json=body, timeout=PATIENCE, verify=NO_TLS)

    def figures(self):
        """Return the metrics by name, labels included."""
        lines = [line for line in self.get("/metrics").text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def is_idle(self):
        """Whether nothing is held for any request."""
        figures = self.figures()
        return not any(figures[f"tolbooth_{name}"] for name in _HELD)

    def await_idle(self):
        eventually(self.is_idle, "nothing is held for any request")

    def await_health(self, status):
        eventually(lambda: status == self.get("/health").status_code, f"health is {status}")

    def kill_engine(self):
        """Kill the engine's process, as the system does when memory is short."""
        pid = eventually(lambda: self.engine_pid, "an engine's process is there")
        os.kill(pid, signal.SIGKILL)
        return pid

    def signal(self, number, *, to_all=False):
        """Send a signal to the server; to_all: as a terminal does, to its engine too."""
        (os.killpg if to_all else os.kill)(self.pid, number)

    def await_exit(self):
        """Wait for the end and return the exit code; no process of the server may be left."""
        _ = self.children
        code = self.process.wait(PATIENCE)
        eventually(lambda: not any(map(is_running, self._processes)), "no process of the server is left")
        return code

    def close(self):
        """End what is left, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait(PATIENCE)
        self.process.stdin.close()

    def _said(self, start):
        """Wait for a line that begins so, and return what follows."""

        def line():
            found = [line for line in self.output.splitlines(keepends=True) if line.startswith(start)]
            assert found or self.process.poll() is None, self.output
            return found and found[0].endswith("\n") and found[0].removeprefix(start).strip()

        return eventually(line, f"the server says {start!r}")


_HELD = (
    "requests_running",
    "requests_waiting",
    "requests_deferred",
    "kv_cache_usage_ratio",
    "tol_leased_rows",
    "tol_waiting_leases",
)


def is_running(pid):
    """Whether a process has not ended; one that nobody has waited for yet has."""
    try:
        return state_of(pid) != "Z"
    except FileNotFoundError:
        return False


def state_of(pid):
    """Return a process's state, Z for one that has ended and was not waited for."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].partition(" ")[0]
