"""An arm of a benchmark in a process of its own, so that its memory can be told from that of the others.

The parent writes a line for each thing that it wants, and gets a line of JSON: first the arm's description (`ArmSpec`),
then numbers of tokens to decode, then an empty line for a summary. Streams go on from one measure to the next.
"""

import dataclasses
import json
import select
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from alternatives import OutsideModel, make_naive
from measured import WARM_TOKENS, Measured, open_engine

from paging import Table
from server.measuring.floor import step_floor
from server.measuring.process_memory import process_memory

TIMEOUT = 900.0
"""Seconds after which a process is given up: long prompts of many streams take minutes."""


@dataclass(frozen=True, kw_only=True)
class ArmSpec:
    """What an arm is."""

    model: str
    ids: str
    """A file of token ids, `.npy`."""
    streams: int
    context: int
    """Tokens of each stream before it decodes."""
    most: int
    """Tokens that each stream decodes in all measures together."""
    warm: int = WARM_TOKENS
    """Ids of the text that a paged memory has seen before."""
    options: dict[str, Any] = field(default_factory=dict)
    """Of the engine."""
    kind: Literal["engine", "naive", "outside"] = "engine"
    """This engine; with rows as a first attempt would read them; another library."""


@dataclass(frozen=True, kw_only=True)
class ArmSummary:
    """What an arm came to; of another library only its memory is known."""

    anonymous: int
    """Resident bytes that the process has made."""
    of_files: int
    """Resident bytes of mapped files."""
    device_bytes: int = 0
    """Set aside for weights, keys and values, and rows."""
    miss_rate: float | None = None
    floor: dict[str, float] = field(default_factory=dict)
    """Bytes that a step cannot do without, by what they are."""
    operations: float = 0.0
    """Additions and multiplications of a step."""


class ArmProcess:
    """One such process, as its parent sees it; close it, or use it as a context manager."""

    def __init__(self, spec: ArmSpec) -> None:
        """Start it; `await_ready`, or the first measure, waits until it is there."""
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 closed with the process
        self._process = subprocess.Popen(  # noqa: S603 ourselves
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self._ask(json.dumps(dataclasses.asdict(spec)))
        self._is_ready = False

    def await_ready(self) -> None:
        """Wait until its engine is loaded."""
        if not self._is_ready:
            self._answer()
            self._is_ready = True

    def measure(self, num_tokens: int) -> float:
        """Return the tokens per second of decoding so many of each stream."""
        self.await_ready()
        self._ask(str(num_tokens))
        return float(self._answer())

    def summary(self) -> ArmSummary:
        """Return what it came to so far."""
        self._ask("")
        return ArmSummary(**self._answer())

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait(60)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._errors.close()

    def _ask(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _answer(self) -> Any:
        stdout = self._process.stdout
        assert stdout is not None
        if select.select([stdout], [], [], TIMEOUT)[0] and (line := stdout.readline()):
            return json.loads(line)
        self._errors.seek(0)
        raise RuntimeError(f"the arm's process gives no answer: {self._errors.read()[-2000:]}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def main() -> None:
    """Be an arm's process."""
    spec = ArmSpec(**json.loads(sys.stdin.readline()))
    ids = np.load(spec.ids, mmap_mode="r")
    arm: Measured | OutsideModel
    with ExitStack() as stack:
        if spec.kind == "outside":
            arm = OutsideModel(Path(spec.model), ids, spec.streams, context=spec.context)
        else:
            engine = open_engine(stack, Path(spec.model), spec.streams, spec.options)
            if spec.kind == "naive":
                make_naive(engine, stack.enter_context(Table.open(Path(spec.model) / "table")))
            arm = Measured(engine, ids, spec.streams, context=spec.context, warm=spec.warm)
        say(True)
        for line in sys.stdin:
            say(arm.go_on(int(line), spec.most) if line.strip() else dataclasses.asdict(summarise(arm, spec)))


def summarise(arm: Measured | OutsideModel, spec: ArmSpec) -> ArmSummary:
    """Return what an arm came to."""
    memory = process_memory()
    if not isinstance(arm, Measured):
        return ArmSummary(anonymous=memory.anonymous, of_files=memory.of_files)
    floor = step_floor(arm.engine, num_streams=spec.streams, context=spec.context + spec.most / 2)
    return ArmSummary(
        anonymous=memory.anonymous,
        of_files=memory.of_files,
        device_bytes=sum(arm.engine.info.device_memory.values()),
        miss_rate=arm.use.miss_rate,
        floor=floor.parts,
        operations=floor.operations,
    )


def say(value: object) -> None:
    """Answer the parent."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
