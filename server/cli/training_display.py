"""A training run on stderr: loss, tokens per second, time left.

On a terminal that is a bar, elsewhere a line every half minute.
"""

import sys
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bars

from models.evaluation import Evaluation
from models.recipe import TrainingConfig
from models.training import StepResult
from server.progress import Progress
from server.units import duration_text

_LINE_SECONDS = 30.0
_MEAN_STEPS = 20


class TrainingDisplay:
    """Told of each step and validation; use as a context manager."""

    def __init__(self, recipe: TrainingConfig, first_step: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._recipe = recipe
        self._first_step = self._step = first_step
        self._clock = clock
        self._started = clock()
        self._last_line: float | None = None
        self._losses: deque[float] = deque(maxlen=_MEAN_STEPS)
        self._console = Console(stderr=True)
        self._bar = Bars(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task("", completed=first_step, total=recipe.num_steps, state="")

    def on_step(self, result: StepResult) -> None:
        """Show a step that was done, and the mean loss of the last few."""
        self._step = result.step
        self._losses.append(result.loss)
        now = self._clock()
        seconds = max(now - self._started, 1e-9)
        num_steps = self._recipe.num_steps
        rate = (self._step - self._first_step) * self._recipe.tokens_per_step / seconds
        left = (num_steps - self._step) * self._recipe.tokens_per_step / rate
        state = f"loss {sum(self._losses) / len(self._losses):.4f}, {rate:,.0f} tokens/s, {duration_text(left)} left"
        if self._console.is_interactive:
            self._bar.update(self._task, completed=self._step, state=state)
        elif self._last_line is None or now - self._last_line >= _LINE_SECONDS or self._step == num_steps:
            self._last_line = now
            self.say(f"step {self._step} of {num_steps}: {state}")

    def validating(self) -> Callable[[int, int], None]:
        """Return a callback (done, total) for a validation that begins now."""
        if not self._console.is_interactive:
            return Progress().phase("validating")
        return lambda done, total: self._bar.update(self._task, state=f"validating: {100 * done // total} %")

    def on_validation(self, evaluation: Evaluation) -> None:
        """Show what a validation found."""
        self.say(
            f"step {self._step}: validation perplexity {evaluation.perplexity:.3f}, "
            f"{evaluation.bits_per_byte:.4f} bits per byte"
        )

    def say(self, line: str) -> None:
        """Print a line, above the bar where there is one."""
        if self._console.is_interactive:
            self._bar.console.print(line, markup=False, highlight=False)
        else:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()

    def __enter__(self) -> Self:
        if self._console.is_interactive:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._console.is_interactive:  # elsewhere it would print an empty line
            self._bar.stop()
