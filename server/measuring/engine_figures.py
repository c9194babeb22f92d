"""How fast engines decode and take prompts in: figures of several engines, measured in turns.

Knows engines over one text. Knows nothing of where engines and text come from.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from server.measuring.comparison import Arm, Comparison, OnArm, compare
from server.measuring.floor import step_floor
from server.measuring.intervals import Interval
from server.measuring.streams import Decoded, RowUse, Streams


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One engine in one test."""

    test: str
    """`tg128` for 128 decoding steps, `pp512` for a prompt of 512 tokens."""
    streams: int
    arm: str
    context: float
    """Tokens behind the middle of what was measured, on average."""
    tokens_per_second: Interval
    samples: list[float]
    ratio: Interval
    """To the first arm, round by round."""
    milliseconds: float
    """Of a step, or of the whole prompt to its first token; the median."""
    miss_rate: float | None
    """None where the memory is not paged."""
    host_rate: float | None
    """Share of row requests that the host tier answered."""
    floor_share: float | None
    """Of the bandwidth floor; None for prompts, which are bound by arithmetic."""


class EngineFigures:
    """Takes figures of arms, the first of which ratios divide by."""

    def __init__(
        self,
        arms: Mapping[str, Streams],
        *,
        repetitions: int,
        bandwidth: float,
        warm_ids: int = 0,
        on_progress: Callable[[str], OnArm] = lambda _: lambda _done, _total, _arm: None,
    ) -> None:
        """Take engines that serve nobody else. warm_ids: where the text begins for streams; what comes before is warm.

        on_progress: called with a test's name, gives what is told of its runs.
        """
        self._arms, self._repetitions = dict(arms), repetitions
        self._bandwidth, self._warm_ids = bandwidth, warm_ids
        self._on_progress = on_progress

    def decode(self, num_streams: int, *, context: int, num_tokens: int) -> list[Figure]:
        """Decode `num_tokens` steps with a context of so many tokens before the first, for each arm."""
        uses, found = self._uses(), {name: list[Decoded]() for name in self._arms}

        def run(name: str, streams: Streams) -> float:
            starts = streams.starts(num_streams, context + num_tokens, behind=self._warm_ids)
            streams.begin(starts, context=context, num_tokens=num_tokens)
            decoded = streams.run(num_tokens, uses[name])
            streams.end()
            found[name].append(decoded)
            return decoded.tokens_per_second

        test = f"tg{num_tokens}"
        comparison = self._compare(f"{test}, {num_streams} at once", run)
        figures = []
        for name, streams in self._arms.items():
            middle = sum(each.context for each in found[name]) / len(found[name])
            rate = comparison.value(name).median
            floor = step_floor(streams.engine, num_streams=num_streams, context=middle)
            share = floor.seconds(self._bandwidth) * rate / num_streams
            figures.append(self._figure(comparison, test, num_streams, name, middle, uses[name], num_streams, share))
        return figures

    def prefill(self, length: int) -> list[Figure]:
        """Take in a prompt of `length` tokens at a time, for each arm."""
        uses = self._uses()

        def run(name: str, streams: Streams) -> float:
            (start,) = streams.starts(1, length, behind=self._warm_ids)
            return length / streams.prefill(start, length, uses[name])

        test = f"pp{length}"
        comparison = self._compare(test, run)
        return [self._figure(comparison, test, 1, name, length / 2, uses[name], length, None) for name in self._arms]

    def _uses(self) -> dict[str, RowUse]:
        return {name: RowUse() for name in self._arms}

    def _compare(self, title: str, run: Callable[[str, Streams], float]) -> Comparison:
        return compare(
            title,
            [
                Arm(name=name, run=lambda name=name, streams=streams: run(name, streams))  # type: ignore[misc]
                for name, streams in self._arms.items()
            ],
            unit="tokens/s",
            rounds=self._repetitions,
            on_arm=self._on_progress(title),
        )

    def _figure(  # noqa: PLR0917 a figure's parts, said once for both tests
        self,
        comparison: Comparison,
        test: str,
        streams: int,
        arm: str,
        context: float,
        use: RowUse,
        tokens: int,
        floor_share: float | None,
    ) -> Figure:
        rate = comparison.value(arm)
        return Figure(
            test=test,
            streams=streams,
            arm=arm,
            context=context,
            tokens_per_second=rate,
            samples=list(comparison.samples[arm]),
            ratio=comparison.ratio(arm),
            milliseconds=1e3 * tokens / rate.median,
            miss_rate=use.miss_rate,
            host_rate=use.host_hits / use.requests if use.requests else None,
            floor_share=floor_share,
        )
