"""Packs that come and go at any moment among requests: each request sees the rows of its own pack from first to last.

The engine on fakes, as in the scheduler's machine; what a token is to the model depends on the row that it has.
"""

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from models.pack_card import PackCard
from models.packs import row_keys
from server.engine.errors import RequestError
from server.engine.messages import FinishReason
from server.engine.packs import LoadedPack, Packs
from server.engine.questions import ListPacks, UnloadPack
from tests.paging.pager_fakes import random_rows
from tests.server.engine.fake_model import (
    BLOCK,
    VOCAB,
    FakeRunner,
    Outcomes,
    check_idle,
    make_engine,
    reference,
    request,
)
from tests.server.engine.fake_rows import ClockedStorage, FakeMemory

MAX_MODEL_LEN = 24
COMMON = [3, 7, 3, 11, 2, 5, 13, 1, 17, 7, 19, 4, 23, 6]
NAMES = ["a", "b", "c"]
IDS = st.sets(st.sampled_from(COMMON), min_size=3)


class FakePack(LoadedPack):
    """A pack of random rows; `mark` tells its tokens from every other pack's, that came before it or comes after."""

    def __init__(self, name, keys, ids, serial):
        card = PackCard(name=name, version=1, backbone="", base="", table_id=str(serial), description="", history=())
        super().__init__(name, card, keys, row_keys(np.array(ids), keys, VOCAB), num_bytes=0)
        self.ids, self.serial = frozenset(ids), serial

    def mark(self, token_id):
        return token_id + VOCAB * self.serial if token_id in self.ids else token_id


class FakePacks(Packs):
    """Packs that are made up rather than read."""

    def __init__(self, memory, delay):
        super().__init__(memory, None)
        self.num_made, self.delay = 0, delay

    def lay(self, name, ids):
        self.num_made += 1
        rows = random_rows(len(ids), seed=self.num_made)
        storage = ClockedStorage(rows, self._memory.clock, self.delay, queue_depth=2)
        keys = self._memory.pager.attach(storage)
        self._memory._attached[keys] = storage
        self._packs[name] = FakePack(name, keys, ids, self.num_made)


class PackRunner(FakeRunner):
    """A model to which a token is what its row is."""

    def marks_of(self, sequence):
        pack = sequence.state.pack
        return sequence.ids if pack is None else [pack.mark(token_id) for token_id in sequence.ids]

    def run(self, chunks, rows, alpha_NL=None, batch=None):
        for chunk in chunks:
            pack = chunk.sequence.state.pack
            assert pack is None or pack.keys in rows.memory._attached, "a pack went while it was used"
        return super().run(chunks, rows, alpha_NL, batch)


class PacksMachine(RuleBasedStateMachine):
    @initialize(
        lanes=st.integers(1, 4),
        spare_tokens=st.sampled_from([0, 3, 12]),
        spare_slots=st.sampled_from([0, 1, 20]),
        host_slots=st.sampled_from([0, 3]),
        spare_blocks=st.sampled_from([0, 3, 40]),
        delay=st.sampled_from([0.0, 4e-4, 0.05]),
        packs=st.lists(IDS, min_size=1, max_size=3),
    )
    def start(self, lanes, spare_tokens, spare_slots, host_slots, spare_blocks, delay, packs):
        self.memory = FakeMemory(
            lanes + 1 + spare_slots, num_rows=VOCAB, host_slots=host_slots, queue_depth=2, delay=delay
        )
        self.packs = FakePacks(self.memory, lambda _: delay)
        self.engine = make_engine(
            self.memory,
            max_num_seqs=lanes,
            max_num_batched_tokens=lanes + spare_tokens,
            num_blocks=MAX_MODEL_LEN // BLOCK + spare_blocks,
            max_model_len=MAX_MODEL_LEN,
            runner_type=PackRunner,
            packs=self.packs,
        )
        self.outcomes = Outcomes()
        self.asked, self.chosen, self.aborted, self.ended = {}, {}, set(), set()
        for name, ids in zip(NAMES, packs, strict=False):
            self.packs.lay(name, sorted(ids))

    @rule(name=st.sampled_from(NAMES), ids=IDS)
    def load(self, name, ids):
        loaded = {pack.name: pack for pack in self.packs.loaded}
        if name in loaded and not loaded[name].users:
            self.engine.answer(UnloadPack(name=name))
            loaded = {pack.name: pack for pack in self.packs.loaded}
        if name not in loaded:
            self.packs.lay(name, sorted(ids))

    @rule(name=st.sampled_from(NAMES), at_once=st.booleans())
    def unload(self, name, at_once):
        pack = next((pack for pack in self.packs.loaded if pack.name == name), None)
        if pack is None:
            return
        users = set(pack.users)
        self.engine.answer(UnloadPack(name=name, at_once=at_once))
        if at_once:
            self.ended |= users

    @rule(
        which=st.integers(0, 5),
        renewed=st.none() | IDS,
        num_common=st.sampled_from([1, 5, 9, len(COMMON)]),
        own=st.lists(st.integers(0, VOCAB - 1), max_size=4),
        n=st.sampled_from([1, 1, 2]),
        max_tokens=st.sampled_from([1, 3, 8]),
        priority=st.integers(-1, 1),
    )
    def add(self, which, renewed, num_common, own, n, max_tokens, priority):
        if renewed is not None:
            self.load(NAMES[which % len(NAMES)], renewed)
        loaded = {each.name: each for each in self.packs.loaded if not each.is_leaving}
        choices = [*loaded, None]
        pack = choices[which % len(choices)]
        name = f"r{len(self.asked)}"
        asked = request(
            name,
            [*COMMON[:num_common], *own],
            n=n,
            max_tokens=max_tokens,
            priority=priority,
            pack=pack,
            temperature=0.0,
        )
        self.engine.add(asked)
        self.asked[name], self.chosen[name] = asked, None if pack is None else loaded[pack]

    @rule(name=st.sampled_from(NAMES))
    def choose_what_is_not_there(self, name):
        if all(pack.name != name or pack.is_leaving for pack in self.packs.loaded):
            with pytest.raises(RequestError, match="not loaded"):
                self.engine.add(request("none", COMMON, pack=name))

    @rule(times=st.integers(1, 6))
    def step(self, times):
        for _ in range(times):
            self.outcomes.take(self.engine.step())
            self.engine.check_integrity()

    @rule(which=st.integers(0, 30))
    def abort(self, which):
        if self.asked:
            name = f"r{which % len(self.asked)}"
            self.engine.abort(name)
            self.aborted.add(name)

    @invariant()
    def laws_hold(self):
        if not hasattr(self, "engine"):
            return
        self.engine.check_integrity()
        under_way = {name for name, pack in self.chosen.items() if name in self.engine._requests and pack is not None}
        assert under_way == set().union(*(pack.users for pack in self.packs.loaded))

    def teardown(self):
        if not hasattr(self, "engine"):
            return
        while self.engine.has_work:
            self.step(1)
        for name, asked in self.asked.items():
            pack = self.chosen[name]
            for choice in range(asked.params.n):
                expected, reason = reference(
                    asked, choice, max_model_len=MAX_MODEL_LEN, mark=int if pack is None else pack.mark
                )
                got = self.outcomes.tokens.get((name, choice), [])
                end = self.outcomes.ends.get((name, choice))
                if end is reason:
                    assert expected == got
                else:
                    assert expected[: len(got)] == got
                    assert name in self.aborted or (end is FinishReason.ERROR and name in self.ended)
        for pack in self.packs.loaded:
            if not pack.is_leaving:
                self.engine.answer(UnloadPack(name=pack.name))
        for storage in self.memory.storages:
            storage.let_go()
        self.memory.poll()
        assert [] == list(self.engine.answer(ListPacks()).packs)
        assert 1 == len(self.memory.pager._parts.space.ranges)
        check_idle(self.engine)


TestPacksMachine = PacksMachine.TestCase
TestPacksMachine.settings = settings(
    max_examples=50, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
