"""What many requests' records come to."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from server.loadgen.client import Record

_PERCENTILES = (50, 90, 99)


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """Some times, in seconds."""

    mean: float
    p50: float
    p90: float
    p99: float


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What a request must keep to count as good; None: no matter. In seconds."""

    ttft: float | None = None
    tpot: float | None = None
    e2e: float | None = None

    def is_met(self, record: Record) -> bool:
        """Whether a request was answered whole and in time."""
        pairs = ((self.ttft, record.first_token), (self.tpot, record.per_token), (self.e2e, record.whole))
        return record.is_ok and all(most is None or took is None or took <= most for most, took in pairs)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What clients saw of a load."""

    requests: int
    failed: int
    errors: Mapping[str, int]
    """How often each reason for failing was given, the commonest first."""
    seconds: float
    """From the first request to the last byte."""
    requests_per_second: float
    """Answered whole."""
    prompt_tokens: int
    completion_tokens: int
    """Of whole answers, by the server's count."""
    tokens_per_second: float
    """Completion tokens a second."""
    goodput: float | None
    """Requests a second that met the goal; None without one."""
    ttft: Distribution | None
    """Time to the first piece."""
    itl: Distribution | None
    """Time between pieces of an answer."""
    tpot: Distribution | None
    """Time for each token after the first."""
    e2e: Distribution | None
    """Time to the whole answer."""

    def to_json(self) -> dict[str, object]:
        """Return it as JSON has it."""
        return dataclasses.asdict(self)


def summarise(records: Sequence[Record], seconds: float, goal: Goal | None = None) -> Summary:
    """Return what the records of a load that took so many seconds come to."""
    whole = [record for record in records if record.is_ok]
    tokens = sum(record.completion_tokens or 0 for record in whole)
    errors = Counter(record.error for record in records if record.error is not None)
    return Summary(
        requests=len(records),
        failed=len(records) - len(whole),
        errors=dict(errors.most_common()),
        seconds=seconds,
        requests_per_second=len(whole) / seconds,
        prompt_tokens=sum(record.prompt_tokens or 0 for record in whole),
        completion_tokens=tokens,
        tokens_per_second=tokens / seconds,
        goodput=None if goal is None else sum(goal.is_met(record) for record in records) / seconds,
        ttft=_distribution(record.first_token for record in whole),
        itl=_distribution(gap for record in whole for gap in record.between_pieces),
        tpot=_distribution(record.per_token for record in whole),
        e2e=_distribution(record.whole for record in whole),
    )


def _distribution(times: Iterable[float | None]) -> Distribution | None:
    """Return the distribution of those times that there are; None where there are none."""
    found = [time for time in times if time is not None]
    if not found:
        return None
    p50, p90, p99 = np.percentile(found, _PERCENTILES).tolist()
    return Distribution(mean=float(np.mean(found)), p50=p50, p90=p90, p99=p99)
