"""How long a server takes from its command to serving, and to the first token of a first request; cold and warm.

    make bench-start
    .venv/bin/python benchmarks/bench_start.py --scratch DIR --out docs/benchmarks/start-2026-11-24

Cold: the model's and the table's files are out of the page cache before the command. The libraries' are in it, as they
are for whoever has this environment in use.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from harness import Arm, Comparison, compare, write_report
from measured import random_model

from models.bundled import resolve_model
from models.checkpoint import read_fingerprints
from models.tokenizer import TOKENIZER_FILE
from server.engine.model_tables import cached_table

READY_SECONDS = 300
PROMPT = [7 * index % 1000 for index in range(32)]
PAGED = ("--tol-device-fraction", "0.1", "--no-keep-hot-set")
ARMS = {
    "paged 10 %": PAGED,
    "resident": ("--memory", "resident"),
    "computed": ("--memory", "computed"),
}


@dataclass
class Start:
    """One way to start a server, and how long each start took."""

    model: Path
    options: Sequence[str]
    files: Sequence[Path]
    """Directories whose files are read at a start."""
    is_cold: bool
    ready_seconds: list[float] = field(default_factory=list)
    phases: list[str] = field(default_factory=list)

    def prepare(self) -> None:
        """Put the files out of the page cache where the start is to be cold; else read them."""
        for path in (path for folder in self.files for path in sorted(folder.iterdir()) if path.is_file()):
            with path.open("rb", buffering=0) as file:
                if self.is_cold:
                    os.fsync(file.fileno())
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                else:
                    while file.read(2**22):
                        pass

    def run(self) -> float:
        """Start, serve one request, end; return the seconds from the command to the request's first token."""
        command = (str(Path(sys.executable).with_name("tolbooth")), "serve", str(self.model), "--port", "0")
        started = time.perf_counter()
        with subprocess.Popen(  # noqa: S603 our own command
            [*command, "--served-model-name", "it", *self.options],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            try:
                facts = _facts(process)
                self.ready_seconds.append(time.perf_counter() - started)
                self.phases.append(facts["loaded"])
                _await_token(int(facts["serving"].rsplit(":", 1)[1].partition("/")[0]))
                return time.perf_counter() - started
            finally:
                process.terminate()


def _facts(process: "subprocess.Popen[str]") -> Mapping[str, str]:
    """Return what a server says until it serves."""
    facts = {}
    assert process.stdout is not None
    for line in process.stdout:
        name, _, value = line.partition("  ")
        facts[name] = value.strip()
        if name == "serving":
            return facts
    raise RuntimeError("the server did not start")


def _await_token(port: int) -> None:
    body = {"model": "it", "prompt": PROMPT, "max_tokens": 1, "ignore_eos": True, "stream": True}
    connection = HTTPConnection("127.0.0.1", port, timeout=READY_SECONDS)
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    while not (line := response.readline()).startswith(b"data:"):
        if not line:
            raise RuntimeError("the stream ended without a token")
    connection.close()


def main() -> None:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=Path, help="where random models are made, and found again")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["250m", "demo"], nargs="*", default=["250m", "demo"])
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/start"), help="report, without its ending")
    options = parser.parse_args()
    comparisons: list[Comparison] = []
    facts: list[str] = []
    with ExitStack() as stack:
        scratch = options.scratch or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tolbooth-bench-")))
        if "demo" in options.only:
            demo = resolve_model("demo")
            fingerprint = read_fingerprints(demo).table
            assert fingerprint is not None, "the demo has a memory"
            table = cached_table(fingerprint)
            if not table.exists():
                Start(demo, PAGED, [demo], is_cold=False).run()  # makes the table
            for is_cold in (False, True):
                ways = {name: Start(demo, arm, [demo, table], is_cold) for name, arm in ARMS.items()}
                comparisons.append(measure("demo", ways, options.rounds, facts))
        if "250m" in options.only:
            model = random_model(scratch, "250m-memoryllm", with_table=True)
            dense = random_model(scratch, "250m-dense", with_table=False)
            tokenizer = (resolve_model("demo") / TOKENIZER_FILE).read_bytes()
            for directory in (model, dense):
                if not (directory / TOKENIZER_FILE).exists():
                    (directory / TOKENIZER_FILE).write_bytes(tokenizer)
            for is_cold in (False, True):
                ways = {name: Start(model, arm, [model, model / "table"], is_cold) for name, arm in ARMS.items()}
                ways["dense"] = Start(dense, (), [dense], is_cold)
                comparisons.append(measure("250m", ways, options.rounds, facts))
    for comparison in comparisons:
        print(comparison.to_markdown())
    remarks = "\n".join(f"- {fact}" for fact in facts)
    more: dict[str, Any] = {"facts_measured": facts}
    write_report(comparisons, options.out, title="Starting", remarks=remarks, more=more)


def measure(model: str, ways: Mapping[str, Start], rounds: int, facts: list[str]) -> Comparison:
    """Compare ways to start a model."""
    how = "cold" if next(iter(ways.values())).is_cold else "warm"
    result = compare(
        f"{model}, {how}: command to first token",
        [Arm(name=name, run=way.run, prepare=way.prepare) for name, way in ways.items()],
        unit="s",
        rounds=rounds,
        warm_up=False,
        conditions={"request": f"{len(PROMPT)} prompt tokens, streamed", "page cache": f"{how} for the model's files"},
    )
    for name, way in ways.items():
        middle = sorted(range(rounds), key=way.ready_seconds.__getitem__)[rounds // 2]
        ready = way.ready_seconds[middle]
        facts.append(f"{model}, {how}, {name}: serves {ready:.2f} s after the command (median); {way.phases[middle]}.")
    return result


if __name__ == "__main__":
    main()
