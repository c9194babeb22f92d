"""When tokens come, by a clock that goes on when the test says so."""

from types import SimpleNamespace

import pytest

from server.http.metrics.requests import RequestMetrics
from server.http.pace import Pace


class Watched:
    """A request that came at 100, and what the metrics were told of it."""

    def __init__(self):
        self.now = 100.0
        self.metrics = RequestMetrics()
        self.pace = Pace(self.metrics, began=self.now, clock=lambda: self.now)

    def step(self, seconds, **tokens):
        """So many seconds later choices have gained so many tokens: `c0=1`."""
        self.now += seconds
        gains = [(int(name[1:]), count) for name, count in tokens.items()]
        self.pace.note([(SimpleNamespace(index=index), SimpleNamespace(num_tokens=n)) for index, n in gains])

    @property
    def distances(self):
        """How many distances between tokens there are, and their sum."""
        return sum(self.metrics.inter_token_seconds.counts), pytest.approx(self.metrics.inter_token_seconds.sum)


def test_the_first_token_of_any_choice_is_the_first():
    watched = Watched()
    watched.step(0.5, c1=1)
    watched.step(0.5, c0=1)
    assert 0.5 == watched.pace.first_token_seconds == watched.metrics.first_token_seconds.sum
    assert 1 == sum(watched.metrics.first_token_seconds.counts)


def test_a_step_without_tokens_is_no_first_token():
    watched = Watched()
    watched.step(0.5, c0=0)
    assert watched.pace.first_token_seconds is None


def test_distances_are_those_of_one_choice():
    watched = Watched()
    watched.step(1.0, c0=1, c1=1)
    watched.step(0.25, c0=1)
    watched.step(0.25, c1=1)
    assert (2, 0.25 + 0.5) == watched.distances


def test_tokens_that_come_together_share_the_time_since_those_before():
    watched = Watched()
    watched.step(1.0, c0=1)
    watched.step(2.0, c0=10)
    assert (10, 2.0) == watched.distances
    metrics = RequestMetrics()
    metrics.note_tokens(0.2, 1)
    assert metrics.inter_token_seconds.counts.index(1) == watched.metrics.inter_token_seconds.counts.index(10)


def test_tokens_that_come_with_the_first_have_no_distance():
    watched = Watched()
    watched.step(1.0, c0=5)
    assert (0, 0.0) == watched.distances


def test_decoding_lasts_from_the_first_token_to_the_last():
    watched = Watched()
    watched.step(1.0, c0=1)
    watched.step(0.5, c1=1)
    watched.step(0.25, c0=1)
    watched.step(9.0, c0=0)
    assert 0.75 == pytest.approx(watched.pace.decode_seconds)
