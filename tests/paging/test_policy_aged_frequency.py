import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paging.policy import LRU, AgedFrequency
from paging.policy.aged_frequency import HALF_LIFE_SHARE, MAX_DOUBLINGS
from paging.simulation import ScalarAgedFrequency, replay


def _nothing_held(policy):
    return np.zeros(policy.num_slots, dtype=np.bool_)


def _zipf(rng, num_keys, num_requests):
    weights = 1 / np.arange(2, num_keys + 2)
    return rng.choice(num_keys, size=num_requests, p=weights / weights.sum())


@given(
    keys=st.lists(st.integers(0, 60), max_size=300),
    num_slots=st.integers(1, 40),
    counts=st.none() | st.lists(st.integers(0, 100), min_size=61, max_size=61),
)
def test_the_scalar_twin_has_the_same_hits(keys, num_slots, counts):
    seed = None if counts is None else np.array(counts)
    twin = ScalarAgedFrequency(num_slots, seed_counts_V=seed)
    hits = replay(AgedFrequency(num_slots), np.array(keys, dtype=np.int64), seed_counts_V=seed)
    assert hits.tolist() == [twin.request(key) for key in keys]


@pytest.mark.parametrize(("num_slots", "num_keys"), [(1, 3), (5, 20), (300, 2000)])
def test_the_scalar_twin_has_the_same_hits_over_many_half_lives(num_slots, num_keys):
    keys = _zipf(np.random.default_rng(0), num_keys, 12_000)
    twin = ScalarAgedFrequency(num_slots)
    assert replay(AgedFrequency(num_slots), keys).tolist() == [twin.request(key) for key in keys.tolist()]


def test_of_rows_last_requested_together_the_rarest_goes_first():
    policy = AgedFrequency(3)
    policy.insert(np.arange(3), np.arange(3))
    policy.touch(np.array([0, 0, 1, 2, 2, 2]))
    assert [1, 0, 2] == policy.evict(3, _nothing_held(policy)).tolist()


def test_of_rows_requested_equally_often_the_oldest_goes_first():
    policy = AgedFrequency(3)
    policy.insert(np.arange(3), np.arange(3))
    for slot in (1, 2, 0):
        policy.touch(np.array([slot]))
    assert [1, 2, 0] == policy.evict(3, _nothing_held(policy)).tolist()


def test_counts_outlive_residency():
    policy = AgedFrequency(2)
    policy.insert(np.array([0, 1]), np.array([5, 6]))
    policy.touch(np.array([0, 0, 0, 1]))
    policy.remove(np.array([0]))
    policy.insert(np.array([0]), np.array([5]))
    assert [1] == policy.evict(1, _nothing_held(policy)).tolist()


def test_seeded_rows_that_were_never_requested_leave_in_order_of_frequency():
    policy = AgedFrequency(4)
    policy.seed(np.array([10, 11, 12, 13]), np.array([5, 1, 7, 3]))
    policy.insert(np.arange(4), np.array([10, 11, 12, 13]))
    assert [1, 3, 0, 2] == policy.evict(4, _nothing_held(policy)).tolist()


def test_an_empty_frequency_list_changes_nothing():
    policy = AgedFrequency(2)
    policy.seed(np.arange(3), np.zeros(3, dtype=np.int64))
    policy.insert(np.arange(2), np.arange(2))
    assert [0, 0] == policy.heat(np.arange(2)).tolist()


def test_heat_is_about_the_rate_of_requests():
    policy = AgedFrequency(10)
    policy.insert(np.arange(10), np.arange(10))
    for _ in range(5):
        policy.touch(np.arange(10))
    # 5 requests of each row and no age: 5 / (0.3 * 10), less a little for the half-life.
    assert policy.heat(np.arange(10)) == pytest.approx(np.full(10, 5 / 3), rel=0.1)


def test_counts_stay_finite_and_in_order_through_days_of_requests():
    policy = AgedFrequency(4)
    policy.insert(np.arange(4), np.arange(4))
    policy.touch(np.array([0, 1, 1]))
    policy._clock = 1e12  # as if so many requests had passed
    policy.touch(np.array([2, 2, 3]))
    heat = policy.heat(np.arange(4))
    assert np.isfinite(heat).all()
    assert heat[2] == pytest.approx(2 * heat[3])
    assert heat[:2].max() < heat[3]


def test_rescaling_keeps_the_order_of_counts():
    policy = AgedFrequency(2)
    policy.insert(np.arange(2), np.arange(2))
    policy.touch(np.array([0, 0, 0, 1]))
    policy._clock += MAX_DOUBLINGS * HALF_LIFE_SHARE * 2 + 1
    policy.touch(np.array([1]))
    policy.touch(np.array([0]))
    before = policy.heat(np.arange(2))
    assert before == pytest.approx([1 / 0.6, 1 / 1.6], rel=0.02)


@settings(max_examples=8, deadline=None)
@given(random=st.randoms(use_true_random=False), num_slots=st.integers(40, 120))
def test_a_scan_of_ten_times_the_slots_leaves_the_hot_set(random, num_slots):
    num_hot = num_slots // 2
    hot = [key for _ in range(15) for key in random.sample(range(num_hot), num_hot)]
    cache = ScalarAgedFrequency(num_slots)
    for key in hot + [num_hot + key for key in random.sample(range(50 * num_slots), 10 * num_slots)]:
        cache.request(key)
    assert set(range(num_hot)) <= cache.resident()


@pytest.mark.parametrize("num_slots", [2_000, 10_000])
def test_a_prompt_of_100_000_distinct_ids_hardly_lowers_the_hit_rate_after_it(num_slots):
    rng = np.random.default_rng(0)
    text = rng.permutation(100_000)[_zipf(rng, 100_000, 70_000)].tolist()
    prompt = rng.permutation(100_000).tolist()

    def hit_rate_after(interlude):
        cache = ScalarAgedFrequency(num_slots)
        for key in text[:60_000] + interlude:
            cache.request(key)
        return sum(map(cache.request, text[60_000:])) / 10_000

    assert hit_rate_after(prompt) > hit_rate_after([]) - 0.02


def test_the_same_prompt_washes_out_lru():
    rng = np.random.default_rng(0)
    hot = np.tile(np.arange(50), 15)
    keys = np.concatenate([hot, 50 + rng.permutation(1000), np.arange(50)])
    assert not replay(LRU(100), keys)[-50:].any()
    assert replay(AgedFrequency(100), keys)[-50:].all()
