import pytest

from server.measuring.intervals import median_interval


def test_an_interval_is_as_narrow_as_its_confidence_allows():
    interval = median_interval(range(9))
    assert (4, 1, 7) == (interval.median, interval.low, interval.high)
    assert pytest.approx(1 - 2 * (1 + 9) / 2**9) == interval.confidence


def test_few_samples_give_their_whole_range_and_its_confidence():
    interval = median_interval([3.0, 1.0, 2.0])
    assert (2.0, 1.0, 3.0, 0.75) == (interval.median, interval.low, interval.high, interval.confidence)


def test_one_sample_says_nothing_of_the_spread():
    assert 0 == median_interval([1.0]).confidence


def test_no_samples_have_no_median():
    with pytest.raises(ValueError, match="no samples"):
        median_interval([])
