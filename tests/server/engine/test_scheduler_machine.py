"""The whole engine on fakes, with everything happening at any time: outputs are always those of each request alone.

Rows come late, in any order, broken or not at all; requests come and are aborted at any moment; slots, blocks and
tokens of a step are as few as an engine may have.
"""

import math

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from server.engine.messages import FinishReason
from server.engine.sampling import prompt_logprobs
from tests.server.engine.fake_model import (
    BLOCK,
    STEP_SECONDS,
    VOCAB,
    Outcomes,
    check_idle,
    make_engine,
    prefix_hashes,
    reference,
    request,
    scores_of,
)
from tests.server.engine.fake_rows import FakeMemory

MAX_MODEL_LEN = 24
ROW_TIMEOUT = 5.0
COMMON = [3, 7, 3, 11, 2, 5, 13, 1, 17, 7, 19, 4, 23, 6, 8, 10, 9, 12, 14, 15, 16, 18]
DELAYS = st.lists(st.sampled_from([0.0, 0.0, 4e-4, 3e-3, 0.05, math.inf]), min_size=1, max_size=5)


class SchedulerMachine(RuleBasedStateMachine):
    @initialize(
        lanes=st.integers(1, 4),
        spare_tokens=st.sampled_from([0, 1, 3, 12]),
        spare_slots=st.sampled_from([0, 0, 1, 4, 19]),
        host_slots=st.sampled_from([0, 0, 3]),
        spare_blocks=st.sampled_from([0, 0, 1, 3, 40]),
        defer_after=st.sampled_from([0.0, 0.5, math.inf]),
        delays=DELAYS,
        queue_depth=st.integers(1, 4),
        last_delay=st.sampled_from([0.0, 2.5 * STEP_SECONDS]),
    )
    def start(
        self, lanes, spare_tokens, spare_slots, host_slots, spare_blocks, defer_after, delays, queue_depth, last_delay
    ):
        self.last_delay = last_delay
        self.memory = FakeMemory(
            lanes + 1 + spare_slots,
            num_rows=VOCAB,
            host_slots=host_slots,
            queue_depth=queue_depth,
            delay=lambda row: delays[row % len(delays)],
        )
        self.engine = make_engine(
            self.memory,
            max_num_seqs=lanes,
            max_num_batched_tokens=lanes + spare_tokens,
            num_blocks=MAX_MODEL_LEN // BLOCK + spare_blocks,
            max_model_len=MAX_MODEL_LEN,
            defer_after=defer_after,
            row_timeout=ROW_TIMEOUT,
        )
        self.outcomes = Outcomes()
        self.asked, self.added_at, self.aborted = {}, {}, set()
        self.ever_bad = set()

    @rule(
        num_common=st.integers(0, len(COMMON)),
        own=st.lists(st.integers(0, VOCAB - 1), max_size=6),
        n=st.sampled_from([1, 1, 1, 2, 3]),
        priority=st.integers(-1, 1),
        max_tokens=st.sampled_from([0, 1, 2, 5, 9, None]),
        stops=st.lists(st.integers(0, VOCAB - 1), max_size=3),
        ignore_eos=st.booleans(),
        temperature=st.sampled_from([0.0, 1.0]),
        scored=st.sampled_from([None, None, 0, 2]),
        salt=st.sampled_from([None, None, "a"]),
    )
    def add(self, num_common, own, n, priority, max_tokens, stops, ignore_eos, temperature, scored, salt):
        prompt_ids = ([*COMMON[:num_common], *own] or [1])[: MAX_MODEL_LEN - 1]
        name = f"r{len(self.asked)}"
        self.asked[name] = request(
            name,
            prompt_ids,
            n=n,
            priority=priority,
            max_tokens=max_tokens,
            stop_token_ids=stops,
            ignore_eos=ignore_eos,
            temperature=temperature,
            prompt_logprobs=scored,
            cache_salt=salt,
        )
        self.added_at[name] = self.memory.clock()
        self.engine.add(self.asked[name])

    @rule(times=st.integers(1, 6))
    def step(self, times):
        for _ in range(times):
            self.one_step()

    def one_step(self):
        """One step; return whether a token ran."""
        scheduler = self.engine.scheduler
        were_waiting, num_steps = [*scheduler.waiting], len(self.engine.runner.steps)
        could_begin = [sequence for sequence in were_waiting if can_begin(sequence)]
        self.take(self.engine.step())
        self.engine.check_integrity()
        # Of those that waited none has begun while a better one could have.
        begun = [sequence for sequence in were_waiting if sequence in scheduler.started]
        first = next((sequence for sequence in could_begin if sequence in scheduler.waiting), None)
        if begun and first is not None:
            assert max(sequence.order for sequence in begun) < first.order
        return len(self.engine.runner.steps) > num_steps

    def take(self, messages):
        self.outcomes.take(messages)
        for message in messages:
            for output in message.choices:
                assert (message.request_id, output.choice) not in self.aborted
                if output.finish_reason is not None:
                    self.check_end(message, output)
            if message.prompt_logprobs is not None:
                assert self.scores_of_prompt(message.request_id) == [*message.prompt_logprobs]

    def check_end(self, message, output):
        name, asked = message.request_id, self.asked[message.request_id]
        tokens, reason = reference(asked, output.choice, max_model_len=MAX_MODEL_LEN)
        got = self.outcomes.tokens[name, output.choice]
        if output.finish_reason is not FinishReason.ERROR:
            assert (tokens, reason) == (got, output.finish_reason)
            return
        assert tokens[: len(got)] == got
        if "did not arrive" in message.error:
            assert self.memory.clock() - self.added_at[name] > ROW_TIMEOUT
        else:
            bad = {row for row in self.ever_bad if f"row {row} is bad" in message.error}
            assert bad <= {*asked.prompt_ids, *tokens}
            assert 1 == len(bad)

    def scores_of_prompt(self, name):
        asked = self.asked[name]
        scores = torch.tensor([scores_of(value) for value in prefix_hashes(asked.prompt_ids)[:-1]])
        num = asked.params.prompt_logprobs
        return [None, *(prompt_logprobs(scores, asked.prompt_ids[1:], num) if len(scores) else [])]

    @rule(which=st.integers(0, 30), choice=st.none() | st.integers(0, 2))
    def abort(self, which, choice):
        if not self.asked:
            return
        name = f"r{which % len(self.asked)}"
        self.engine.abort(name, choice)
        choices = range(self.asked[name].params.n) if choice is None else [choice]
        self.aborted |= {(name, each) for each in choices if (name, each) not in self.outcomes.ends}

    @rule(index=st.integers(0, 3))
    def arrive(self, index):
        if self.memory.storage.under_way:
            self.memory.storage.end(index % len(self.memory.storage.under_way))

    @rule(row=st.integers(0, VOCAB - 1), is_bad=st.booleans())
    def spoil(self, row, is_bad):
        bad_rows = self.memory.storage.bad_rows
        if is_bad:
            bad_rows.add(row)
            self.ever_bad.add(row)
        else:
            bad_rows.discard(row)

    @rule(seconds=st.sampled_from([0.01, 1.0, 6.0]))
    def let_time_pass(self, seconds):
        self.memory.clock.now += seconds

    @rule()
    def break_a_step(self):
        self.engine.runner.error = RuntimeError("broken on purpose")
        try:
            self.take(self.engine.step())
        except RuntimeError:
            return
        finally:
            self.engine.runner.error = None
        self.engine.check_integrity()

    @invariant()
    def laws_hold(self):
        if hasattr(self, "engine"):
            self.engine.check_integrity()

    def teardown(self):
        if not hasattr(self, "engine"):
            return
        # Nothing hangs: once rows come in, every step does something, and the first in order is not passed over.
        self.memory.storage.let_go(self.last_delay)
        scheduler = self.engine.scheduler
        num_idle, num_passed, last = 0, 0, None
        most_passed = 20 + 5 * sum(asked.params.n for asked in self.asked.values())  # one row at a time for each
        while self.engine.has_work:
            num_idle = 0 if self.one_step() else num_idle + 1
            assert num_idle < 20, "nothing runs"
            first = min([*scheduler.started, *scheduler.waiting], key=lambda each: each.order, default=None)
            state = first and (first.order, first.num_computed, len(first.ids))
            num_passed = num_passed + 1 if state == last else 0
            last = state
            assert num_passed < most_passed, "the first in order is passed over"
        check_idle(self.engine)
        for name, asked in self.asked.items():
            choices = {(name, choice) for choice in range(asked.params.n)}
            assert choices - self.aborted == choices & self.outcomes.ends.keys()
            assert (name in self.outcomes.finished) <= bool(choices - self.aborted)


def can_begin(sequence):
    state = sequence.state
    return state.is_prompt_computed or sequence is state.sequences[0]


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
