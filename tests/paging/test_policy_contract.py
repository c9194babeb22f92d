"""What every eviction policy keeps to, against a plain dict of slots."""

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from paging.keys import KeyRange
from paging.policy import PolicyName, make_policy

_NUM_KEYS = 40


class PolicyMachine(RuleBasedStateMachine):
    """Two policies with equal calls; a dict knows which slots hold which rows."""

    name: PolicyName

    @initialize(num_slots=st.integers(1, 12), seed=st.lists(st.integers(0, 9), max_size=_NUM_KEYS))
    def start(self, num_slots, seed):
        self.policies = [make_policy(self.name, num_slots) for _ in range(2)]
        self.num_slots = num_slots
        self.rows = {}
        self.held = np.zeros(num_slots, dtype=np.int32)
        for policy in self.policies:
            policy.seed(np.arange(len(seed)), np.array(seed, dtype=np.int64))

    @precondition(lambda self: len(self.rows) < self.num_slots)
    @rule(data=st.data())
    def insert(self, data):
        free = sorted(set(range(self.num_slots)) - self.rows.keys())
        slots = data.draw(st.lists(st.sampled_from(free), min_size=1, unique=True))
        absent = sorted(set(range(_NUM_KEYS)) - set(self.rows.values()))
        keys = data.draw(st.lists(st.sampled_from(absent), min_size=len(slots), max_size=len(slots), unique=True))
        self.rows |= dict(zip(slots, keys, strict=True))
        for policy in self.policies:
            policy.insert(np.array(slots), np.array(keys))

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def touch(self, data):
        slots = data.draw(st.lists(st.sampled_from(sorted(self.rows)), min_size=1, max_size=20))
        for policy in self.policies:
            policy.touch(np.array(slots))

    @rule(data=st.data(), holds=st.integers(0, 2))
    def hold(self, data, holds):
        self.held[data.draw(st.integers(0, self.num_slots - 1))] = holds

    @rule(count=st.integers(0, 14))
    def evict(self, count):
        victims, same = (policy.evict(count, self.held).tolist() for policy in self.policies)
        assert victims == same
        assert len(victims) == len(set(victims))
        assert set(victims) <= {slot for slot in self.rows if not self.held[slot]}
        assert len(victims) == min(count, sum(not self.held[slot] for slot in self.rows))
        for slot in victims:
            del self.rows[slot]

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def remove(self, data):
        slots = data.draw(st.lists(st.sampled_from(sorted(self.rows)), min_size=1, unique=True))
        for policy in self.policies:
            policy.remove(np.array(slots))
        for slot in slots:
            del self.rows[slot]

    @rule(start=st.integers(0, _NUM_KEYS - 1), length=st.integers(1, _NUM_KEYS))
    def forget(self, start, length):
        keys = KeyRange(start, start + length)
        for slot in [slot for slot, key in self.rows.items() if key in keys]:
            for policy in self.policies:
                policy.remove(np.array([slot]))
            del self.rows[slot]
        for policy in self.policies:
            policy.forget(keys)

    @invariant()
    def residents_are_the_rows_inserted_and_not_gone(self):
        for policy in self.policies:
            assert policy.num_slots == self.num_slots
            assert sorted(self.rows) == policy.resident().tolist()

    @invariant()
    def heat_is_a_finite_number_not_below_zero(self):
        for policy in self.policies:
            heat = policy.heat(policy.resident())
            assert len(heat) == len(self.rows)
            assert np.isfinite(heat).all()
            assert (heat >= 0).all()


class LRUMachine(PolicyMachine):
    name = PolicyName.LRU


class S3FIFOMachine(PolicyMachine):
    name = PolicyName.S3_FIFO


class AgedFrequencyMachine(PolicyMachine):
    name = PolicyName.AGED_FREQUENCY


TestLRU = LRUMachine.TestCase
TestS3FIFO = S3FIFOMachine.TestCase
TestAgedFrequency = AgedFrequencyMachine.TestCase
TestLRU.settings = TestS3FIFO.settings = TestAgedFrequency.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None
)


@pytest.mark.parametrize("name", PolicyName)
def test_an_occupied_slot_is_not_filled_again(name):
    policy = make_policy(name, 2)
    policy.insert(np.array([0]), np.array([7]))
    with pytest.raises(AssertionError):
        policy.insert(np.array([0]), np.array([8]))


@pytest.mark.parametrize("name", PolicyName)
def test_a_free_slot_is_not_removed(name):
    with pytest.raises(AssertionError):
        make_policy(name, 2).remove(np.array([0]))


@pytest.mark.parametrize("name", PolicyName)
def test_a_row_requested_all_the_time_stays(name):
    policy = make_policy(name, 8)
    policy.insert(np.arange(8), np.arange(8))
    policy.touch(np.arange(8))
    held = np.zeros(8, dtype=np.bool_)
    (favourite,) = policy.resident()[3:4]
    for key in range(100, 400):
        policy.touch(np.array([favourite, favourite]))
        (victim,) = policy.evict(1, held)
        assert victim != favourite
        policy.insert(np.array([victim]), np.array([key]))
        policy.touch(np.array([victim]))


@pytest.mark.parametrize("name", PolicyName)
def test_a_forgotten_key_is_as_good_as_new(name):
    outcomes = []
    for key in (3, 1000):  # one that was seeded, requested and evicted, one never heard of
        policy = make_policy(name, 4)
        policy.seed(np.arange(8), np.arange(8))
        held = np.zeros(4, dtype=np.bool_)
        for first in (0, 4):
            policy.insert(np.arange(4), np.arange(first, first + 4))
            policy.touch(np.array([0, 1, 2, 3, 3, 3]))
            policy.evict(4, held)
        policy.forget(KeyRange(2, 6))
        policy.insert(np.arange(4), np.array([1, key, 6, 2000]))
        policy.touch(np.array([0, 2]))
        outcomes.append((policy.heat(np.arange(4)).tolist(), policy.evict(4, held).tolist()))
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("name", PolicyName)
def test_keys_that_were_never_heard_of_can_be_forgotten(name):
    policy = make_policy(name, 4)
    policy.forget(KeyRange(10, 10**6))
    assert [] == policy.resident().tolist()
