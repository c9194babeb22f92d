"""The snapshot of some seconds ago."""

from server.engine.messages import EngineStats
from server.process.recent_stats import WINDOW, RecentStats


def snapshot(steps):
    return EngineStats(steps=steps)


def noted(*pairs):
    recent = RecentStats()
    for at, steps in pairs:
        recent.note(snapshot(steps), at)
    return recent


def test_nothing_was_before_the_first():
    assert RecentStats().before(10.0) is None


def test_soon_after_a_start_the_first_counts_and_it_is_told_how_long_ago_that_is():
    assert (2.0, snapshot(1)) == noted((10.0, 1), (11.0, 5)).before(12.0)


def test_what_was_the_latest_so_long_ago_counts():
    recent = noted(*[(float(second), second) for second in range(20)])
    assert (WINDOW, snapshot(14)) == recent.before(19.5)


def test_nothing_has_happened_since_the_latest():
    recent = noted((10.0, 1), (10.6, 7))
    assert (WINDOW, snapshot(7)) == recent.before(100.0)


def test_of_many_in_a_short_time_the_latest_stays():
    recent = noted(*[(10.0 + index / 1000, index) for index in range(1000)])
    assert len(recent._kept) < 10
    assert (WINDOW, snapshot(999)) == recent.before(100.0)
