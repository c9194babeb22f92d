import subprocess
import sys
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paging.policy import LRU, PolicyName, make_policy
from paging.simulation import hit_rate_curve, lru_num_hits, next_uses, optimal_num_hits, replay, stack_distances
from paging.simulation.curve import num_rows
from paging.simulation.stack_distance import num_greater_before

TRACES = st.lists(st.integers(0, 12), max_size=80).map(lambda keys: np.array(keys, dtype=np.int32))


def _lru_num_hits(ids_N, num_slots):
    cache, hits = OrderedDict(), 0
    for key in ids_N.tolist():
        if key in cache:
            hits += 1
            cache.move_to_end(key)
        else:
            if len(cache) == num_slots:
                cache.popitem(last=False)
            cache[key] = None
    return hits


def _best_num_hits(ids_N, num_slots):
    """The most hits that any choice of victims has, by trying all of them."""
    caches = {frozenset(): 0}
    for key in ids_N.tolist():
        following = {}
        for cache, hits in caches.items():
            if key in cache:
                options = {cache: hits + 1}
            elif len(cache) < num_slots:
                options = {cache | {key}: hits}
            else:
                options = {cache - {victim} | {key}: hits for victim in cache}
            for option, value in options.items():
                following[option] = max(value, following.get(option, 0))
        caches = following
    return max(caches.values())


@given(permutation=st.integers(0, 40).flatmap(lambda n: st.permutations(range(n))))
def test_greater_ones_before_each_are_counted(permutation):
    expected = [sum(other > value for other in permutation[:place]) for place, value in enumerate(permutation)]
    assert expected == num_greater_before(np.array(permutation, dtype=np.int64)).tolist()


@given(ids_N=TRACES)
def test_a_stack_distance_is_the_number_of_keys_in_between(ids_N):
    expected, last = [], {}
    for position, key in enumerate(ids_N.tolist()):
        if key in last:
            expected.append(len(set(ids_N[last[key] + 1 : position].tolist())))
        last[key] = position
    assert expected == stack_distances(ids_N).tolist()


@given(ids_N=TRACES, num_slots=st.integers(1, 14))
def test_stack_distances_give_the_hits_of_lru(ids_N, num_slots):
    assert _lru_num_hits(ids_N, num_slots) == lru_num_hits(stack_distances(ids_N), num_slots)


@given(ids_N=TRACES, num_slots=st.integers(1, 14))
def test_the_lru_policy_has_the_hits_of_lru(ids_N, num_slots):
    assert _lru_num_hits(ids_N, num_slots) == replay(LRU(num_slots), ids_N).sum()


@given(keys=st.lists(st.integers(0, 5), max_size=25), num_slots=st.integers(1, 5))
def test_the_optimum_is_the_best_of_all_choices(keys, num_slots):
    ids_N = np.array(keys, dtype=np.int64)
    assert _best_num_hits(ids_N, num_slots) == optimal_num_hits(ids_N, next_uses(ids_N), num_slots)


@given(ids_N=TRACES, num_slots=st.integers(1, 14), name=st.sampled_from(PolicyName))
def test_no_policy_beats_the_optimum(ids_N, num_slots, name):
    hits = replay(make_policy(name, num_slots), ids_N).sum()
    assert hits <= optimal_num_hits(ids_N, next_uses(ids_N), num_slots)


def test_the_optimum_is_the_same_where_its_heap_is_tidied():
    ids_N = np.random.default_rng(0).zipf(1.3, size=20_000) % 500
    num_hits = optimal_num_hits(ids_N, next_uses(ids_N), 20)
    # Whoever keeps the 20 commonest keys and one slot for the rest cannot do better.
    commonest = np.sort(np.bincount(ids_N))[-19:].sum() - 19
    assert commonest <= num_hits < 20_000 - len(np.unique(ids_N))


def test_a_cache_of_everything_misses_first_uses_only():
    ids_N = np.random.default_rng(0).integers(0, 50, size=1000)
    (point,) = hit_rate_curve(ids_N, vocab_size=50, fractions=[1.0])
    assert point.rows == 50
    assert point.hit_rate == point.lru == point.optimal == 0.95


def test_a_curve_has_a_point_for_each_fraction_in_order():
    ids_N = np.random.default_rng(0).zipf(1.3, size=3000) % 1000
    points = hit_rate_curve(ids_N, vocab_size=1000, fractions=[0.2, 0.01, 0.05])
    assert [200, 10, 50] == [point.rows for point in points]
    for point in points:
        assert point.optimal >= max(point.hit_rate, point.lru)


def test_a_seed_spares_first_uses():
    ids_N = np.arange(100)
    counts_V = np.zeros(1000, dtype=np.int64)
    counts_V[:60] = 1
    (point,) = hit_rate_curve(ids_N, vocab_size=1000, fractions=[0.1], seed_counts_V=counts_V)
    assert 0.6 == point.hit_rate
    assert 0 == point.lru == point.optimal


def test_progress_rises_to_the_total():
    seen = []
    hit_rate_curve(
        np.zeros(200_000, dtype=np.int32),
        vocab_size=10,
        fractions=[0.1, 0.5],
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == sorted(seen)
    assert (1_000_000, 1_000_000) == seen[-1]
    assert len(seen) > 4


@pytest.mark.parametrize(
    ("fraction", "vocab_size", "rows"),
    [(0.1, 100_277, 10_027), (0.29, 100, 29), (1.0, 257, 257), (0.0001, 257, 1)],
)
def test_a_fraction_of_rows_is_rounded_down_to_one_at_least(fraction, vocab_size, rows):
    assert rows == num_rows(fraction, vocab_size)


def test_policies_and_simulation_import_without_torch():
    code = "import sys, paging.policy, paging.simulation, paging.trace; sys.exit('torch' in sys.modules)"
    assert 0 == subprocess.run([sys.executable, "-c", code], check=False).returncode
