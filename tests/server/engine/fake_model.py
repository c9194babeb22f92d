"""A model without tensors: what comes next is a function of the tokens before it, as read from the cache's blocks."""

import torch

from server.engine.blocks import BlockPool
from server.engine.engine import Engine
from server.engine.messages import EngineInfo, FinishReason, Request
from server.engine.params import SamplingParams
from server.engine.row_memory import PagedMemory
from server.engine.sampling import SampledSequence, Sampler
from server.engine.scheduler import Scheduler
from server.engine.sequence_blocks import SequenceBlocks
from server.engine.step_rows import StepRows
from tests.server.engine.fake_rows import FakeMemory

VOCAB = 24
EOS = 0
BLOCK = 4
STEP_SECONDS = 1e-3
CPU = torch.device("cpu")


def prefix_hashes(ids):
    """What a position's keys and values depend on: all tokens up to it."""
    hashes, last = [], 1
    for token_id in ids:
        last = (last * 6364136223846793005 + token_id * 1442695040888963407 + 99) % (2**61 - 1)
        hashes.append(last)
    return hashes


def scores_of(prefix_hash):
    return [(prefix_hash * (2 * token_id + 3) >> 17) % 1009 / 200 for token_id in range(VOCAB)]


class FakeRunner:
    """Sees to it that every chunk finds its rows and its context; notes what ran."""

    device = CPU

    def __init__(self, *, num_blocks, max_num_seqs, max_num_batched_tokens, clock):
        self.slots = [None] * (num_blocks * BLOCK)
        self.max_num_seqs, self.max_num_batched_tokens = max_num_seqs, max_num_batched_tokens
        self.clock = clock
        self.steps = []
        """Of each step the request, choice, first position and length of every chunk."""
        self.error = None
        """What the next step raises."""
        self._hashes = []

    def marks_of(self, sequence):
        """What a sequence's tokens are to the model: a number for each."""
        return sequence.ids

    def check_batch(self, batch, chunks):
        """See that a batch says of its sequences what they say themselves, and that they have no more than that."""
        sequences = [chunk.sequence for chunk in chunks]
        assert sequences == batch.sequences
        assert [1] * len(chunks) == [chunk.length for chunk in chunks] == [each.num_pending for each in sequences]
        assert [each.num_computed for each in sequences] == batch.positions_N.tolist()
        assert [each.ids[-1] for each in sequences] == batch.ids_N.tolist()
        assert [each.keys[-1] for each in sequences] == batch.keys_N.tolist()
        assert [each.sampled for each in sequences] == batch.sampled
        assert [each.table for each in sequences] == batch.tables
        slots = [each.table.slot(each.num_computed) for each in sequences]
        if len(self.steps) % 3:  # whether or not somebody asks for them at every step
            assert slots == batch.slots().tolist()
        assert all(each.state.generates for each in sequences)

    def run(self, chunks, rows, alpha_NL=None, batch=None):
        assert alpha_NL is None
        if batch is not None:
            self.check_batch(batch, chunks)
        assert 0 < len(chunks) <= self.max_num_seqs
        assert sum(chunk.length for chunk in chunks) <= self.max_num_batched_tokens
        starts = [chunk.sequence.num_computed for chunk in chunks]
        news = [chunk.sequence.ids[start:][: chunk.length] for start, chunk in zip(starts, chunks, strict=True)]
        keys = [chunk.sequence.keys[start:][: chunk.length] for start, chunk in zip(starts, chunks, strict=True)]
        rows.check([key for some in keys for key in some])
        self.clock.now += STEP_SECONDS
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        self._hashes = []
        for start, new, chunk in zip(starts, news, chunks, strict=True):
            assert len(new) == chunk.length > 0
            hashes = prefix_hashes(self.marks_of(chunk.sequence)[: start + len(new)])
            slots = chunk.sequence.table.slots(0, len(hashes))
            assert [self.slots[slot] for slot in slots[:start]] == hashes[:start], "the context is another's"
            for slot, value in zip(slots[start:], hashes[start:], strict=True):
                self.slots[slot] = value
            self._hashes += hashes[start:]
        self.steps.append(
            [
                (chunk.sequence.state.request.request_id, chunk.sequence.choice, start, chunk.length)
                for start, chunk in zip(starts, chunks, strict=True)
            ]
        )
        return torch.zeros(len(self._hashes), 1)

    def scores(self, hidden_Nd, positions):
        assert len(hidden_Nd) == len(self._hashes)
        return torch.tensor([scores_of(self._hashes[position]) for position in positions])


def make_engine(
    memory=None,
    *,
    max_num_seqs=4,
    max_num_batched_tokens=16,
    num_blocks=64,
    max_model_len=40,
    defer_after=0.0,
    row_timeout=60.0,
    max_waiting=1000,
    runner_type=FakeRunner,
    **options,
):
    """An engine of fakes; `engine.runner` and `engine.memory` are there to look at."""
    memory = memory or FakeMemory(max_num_seqs + 1)
    runner = runner_type(
        num_blocks=num_blocks,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        clock=memory.clock,
    )
    rows = StepRows(
        memory,
        defer_after=defer_after,
        most_tokens=max_num_batched_tokens - max_num_seqs + 1,
        row_timeout=row_timeout,
        clock=memory.clock,
    )
    scheduler = Scheduler(
        blocks=SequenceBlocks(BlockPool(num_blocks), block_size=BLOCK),
        rows=rows,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        max_waiting=max_waiting,
        clock=memory.clock,
    )
    info = EngineInfo(
        max_model_len=max_model_len,
        vocab_size=VOCAB,
        eos_token_id=EOS,
        bos_token_id=None,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        kv_blocks=num_blocks,
        block_size=BLOCK,
        num_parameters=0,
        device="cpu",
        dtype="none",
        granted={},
    )
    engine = Engine(runner=runner, scheduler=scheduler, info=info, fingerprint="fake", clock=memory.clock, **options)
    engine.runner, engine.memory = runner, memory
    return engine


def request(
    request_id, prompt_ids, *, priority=0, cache_salt=None, return_tiers=False, pack=None, memory=None, **params
):
    return Request(
        request_id=request_id,
        prompt_ids=prompt_ids,
        params=SamplingParams(**({"temperature": 0.0, "seed": 5, "ignore_eos": True} | params)),
        priority=priority,
        cache_salt=cache_salt,
        return_tiers=return_tiers,
        pack=pack,
        memory=memory,
    )


def reference(asked, choice, *, max_model_len=40, mark=int):
    """Return the tokens of a choice and why they end, from the function alone; `mark`: what a token is to the model."""
    params, ids, output = asked.params, [*asked.prompt_ids], []
    sampled = SampledSequence(
        params, seed=params.seed, choice=choice, prompt_ids=asked.prompt_ids, output_ids=output, eos_token_id=EOS
    )
    while params.max_tokens is None or len(output) < params.max_tokens:
        scores = torch.tensor([scores_of(prefix_hashes(map(mark, ids))[-1])])
        (token_id,) = Sampler(VOCAB, CPU).sample(scores, [sampled]).token_ids
        output.append(token_id)
        ids.append(token_id)
        if token_id in params.stop_token_ids or (token_id == EOS and not params.ignore_eos):
            return output, FinishReason.STOP
        if len(ids) == max_model_len:
            break
    return output, FinishReason.LENGTH


class Outcomes:
    """What callers were told: tokens and end of each choice, and the last message of each request."""

    def __init__(self):
        self.tokens, self.ends, self.finished, self.errors, self.first = {}, {}, {}, {}, {}
        self.logprobs = {}

    def take(self, messages):
        """Note messages, and see that nobody is told anything after the end."""
        for message in messages:
            name = message.request_id
            assert name not in self.finished, f"{name} goes on after its end"
            if message.num_cached_tokens is not None:
                assert name not in self.first, f"{name} begins twice"
                self.first[name] = message
            for output in message.choices:
                key = name, output.choice
                assert key not in self.ends, f"{key} goes on after its end"
                self.tokens.setdefault(key, []).extend(output.token_ids)
                self.logprobs.setdefault(key, []).extend(output.logprobs or ())
                if output.finish_reason is not None:
                    self.ends[key] = output.finish_reason
            if message.error is not None:
                self.errors[name] = message.error
            if message.is_finished:
                self.finished[name] = message

    def forget(self, name):
        """Forget a request whose name may be used again."""
        for noted in (self.tokens, self.ends):
            for key in [key for key in noted if key[0] == name]:
                del noted[key]
        for noted in (self.finished, self.errors, self.first):
            noted.pop(name, None)


def run_all(engine, *requests, most_steps=2000):
    """Add requests and step until nothing is left; every law holds between any two steps."""
    outcomes = Outcomes()
    for each in requests:
        engine.add(each)
    for _ in range(most_steps):
        if not engine.has_work:
            break
        outcomes.take(engine.step())
        engine.check_integrity()
    assert not engine.has_work, f"not over after {most_steps} steps"
    check_idle(engine)
    return outcomes


def check_idle(engine):
    """See that an engine with nothing to do holds nothing."""
    assert 0 == engine.scheduler.blocks.pool.num_held
    assert not engine._requests
    if isinstance(engine._memory, PagedMemory):
        stats = engine._memory.stats()
        assert (0, 0) == (stats.device_leased_rows, stats.waiting_leases)
        assert not engine._memory.pager._parts.asks.count.any(), "a prefetch was not cancelled"
