"""The engine: requests in, tokens out, one step after another.

Knows the loop `schedule -> hold rows -> run -> sample -> hand out`. Each part has a module of its own:

| module                             | part                                                      |
|------------------------------------|-----------------------------------------------------------|
| `server/engine/scheduler.py`       | what runs in a step                                       |
| `server/engine/step_rows.py`       | the rows that it needs: held, waited for, or deferred     |
| `server/engine/sequence_blocks.py` | the blocks that its keys and values go to                 |
| `server/engine/runner.py`          | the model                                                 |
| `server/engine/sampling/`          | the next tokens                                           |
| `server/engine/outputs.py`         | what callers are told                                     |
| `server/engine/answers.py`         | questions beside requests                                 |

One thread calls every method. Ids in, ids out: text is `server/engine/text/`'s.
"""

import secrets
import time
from collections.abc import Callable
from contextlib import ExitStack

import torch
from torch import Tensor

from paging import HotSetKeeper, TolboothError
from paging.lease import Prefetch
from server.engine.answers import Answers
from server.engine.blocks import PrefixKey
from server.engine.errors import RequestError, report
from server.engine.memory_options import LayerShares
from server.engine.messages import ChoiceOutput, EngineInfo, EngineStats, FinishReason, Request, RequestOutput
from server.engine.outputs import StepOutputs, finish_reason, note_tiers, tier_of
from server.engine.pack_answers import PackAnswers
from server.engine.packs import Packs
from server.engine.prompt_scores import score_prompts
from server.engine.questions import Answer, Question
from server.engine.row_memory import PagedMemory
from server.engine.runner import Runner
from server.engine.sampling import (
    SampledSequence,
    SampledTokens,
    Sampler,
    check_params,
)
from server.engine.scheduler import Scheduler
from server.engine.sequence import RequestState, Sequence
from server.engine.statistics import StepTally
from server.engine.step_rows import Step

_IDLE_WAIT = 0.02
"""Seconds that a step waits for rows where nothing can run; then its caller may have something new."""
_SEED_WAIT = 0.002
"""The same where there is no request, only rows that are brought ahead."""


class Engine:
    """Serves many requests at once; made by `server.engine.starting.start_engine`."""

    def __init__(
        self,
        *,
        runner: Runner,
        scheduler: Scheduler,
        info: EngineInfo,
        fingerprint: str,
        shares: LayerShares | None = None,
        packs: Packs | None = None,
        shares_prefixes: bool = True,
        row_bytes: int = 0,
        keeper: HotSetKeeper | None = None,
        seeding: Prefetch | None = None,
        resources: ExitStack | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Put the parts together.

        fingerprint: of the weights; keys and values are shared under it. shares: how much of each layer's row requests
        get; None: all. packs: what requests may lay over the memory; None: nothing. shares_prefixes: whether requests
        find one another's. keeper: saves the hot set now and then. seeding: rows that are brought at the start, in the
        background. resources: closed with the engine.
        """
        self.info = info
        self.scheduler = scheduler
        self.sampler = Sampler(info.vocab_size, runner.device)
        self.runner = runner
        self._memory = scheduler.rows.memory
        self._shares = LayerShares(0) if shares is None else shares
        self._packs = Packs(self._memory, None) if packs is None else packs
        self._answers = Answers(
            memory=self._memory, vocab_size=info.vocab_size, packs=PackAnswers(self._packs, give_up=self._give_up)
        )
        self._fingerprint = fingerprint
        self._shares_prefixes = shares_prefixes
        self._row_bytes = row_bytes
        self._keeper = keeper
        self._seeding = seeding
        self._resources = resources or ExitStack()
        self._clock = clock
        self._requests: dict[str, RequestState] = {}
        self._scaled: set[RequestState] = set()  # those that do not get all of every row
        self._num_added = 0
        self._tally = StepTally()

    @property
    def has_work(self) -> bool:
        """Whether `step` has anything to do: requests, or rows that are brought in the background."""
        return self.scheduler.has_work or self._is_bringing

    def add(self, request: Request) -> None:
        """Queue a request; its prompt's rows are brought from now on.

        Raises `RequestError` for one that cannot be served, `QueueFullError` where too many wait.
        """
        params = request.params
        self._check(request)
        salt = f"salt {request.cache_salt}" if request.cache_salt is not None else ""
        if not self._shares_prefixes:
            salt = f"request {self._num_added}"
        pack = None if request.pack is None else self._packs.named(request.pack)
        alpha = self._shares.of(request.memory)
        root = PrefixKey(
            model=self._fingerprint, overlay="" if pack is None else pack.identity, alpha=alpha or (), salt=salt
        ).digest()
        state = RequestState(request, arrival=self._num_added, root=root, pack=pack, alpha=alpha)
        seed = secrets.randbits(64) if params.seed is None else params.seed
        for choice in range(params.n):
            sequence = Sequence(state, choice, block_size=self.info.block_size)
            sequence.sampled = SampledSequence(
                params,
                seed=seed,
                choice=choice,
                prompt_ids=state.prompt_ids,
                output_ids=sequence.output_ids,
                eos_token_id=self.info.eos_token_id,
                bad_word_ids=request.bad_word_ids,
            )
            state.sequences.append(sequence)
        self.scheduler.add(state)
        self._requests[request.request_id] = state
        if pack is not None:
            pack.users.add(request.request_id)
        if alpha is not None:
            self._scaled.add(state)
        self._num_added += 1

    def abort(self, request_id: str, choice: int | None = None) -> None:
        """End a request or one of its choices, and free what it holds; unknown ids are ignored.

        Nothing more is said of what was aborted; where it was the last that a request had, nothing of the request.
        """
        state = self._requests.get(request_id)
        if state is None:
            return
        for sequence in [*state.sequences]:
            if choice is None or sequence.choice == choice:
                self.scheduler.remove(sequence)
        self._forget_if_over(state)

    @torch.inference_mode()
    def step(self) -> list[RequestOutput]:
        """Do one step and return what requests gained; waits for rows for a moment where nothing can run."""
        outputs = StepOutputs(row_bytes=self._row_bytes)
        if self._keeper is not None:
            self._keeper.tick()
        self._answers.advance()
        if failures := self.scheduler.failures():
            for sequence, failure in failures:
                self._fail(sequence, report(failure), outputs)
            return outputs.messages()  # before anything else can go wrong or be waited for
        step = self.scheduler.schedule()
        if step is None:
            self._wait()
            return outputs.messages()
        started = self._clock()
        tiers = note_tiers(step)
        try:
            alpha_NL = self.runner.alpha(step.chunks) if self._scaled else None
            hidden_Nd = self.runner.run(step.chunks, self._memory.rows(step.leases), alpha_NL)
            broken = score_prompts(self.runner, step.chunks, hidden_Nd)
            ends, tokens = self._sample(step, hidden_Nd)
        except BaseException as error:
            self.scheduler.abandon(step)
            if not isinstance(error, TolboothError):
                raise
            why = report(error)
            for chunk in step.chunks:  # a memory that is not paged says only here what it cannot read
                self._fail(chunk.sequence, why, outputs)
            return outputs.messages()
        self.scheduler.finish(step, self._clock() - started)
        self._tally.note_rows(tiers.counts)
        for sequence, why in broken:
            self._fail(sequence, why, outputs)
        if tokens is not None:
            self._hand_out(
                [step.chunks[index].sequence for index in ends], tokens, [tiers.last[index] for index in ends], outputs
            )
        self._end_scored(step, outputs)
        return outputs.messages()

    def stats(self) -> EngineStats:
        """Return a snapshot of counters and sizes."""
        return self._tally.snapshot(self.scheduler)

    def answer(self, question: Question) -> Answer:
        """Answer a question between two steps; raises `RequestError` or `QueueFullError` for what cannot be done."""
        return self._answers.answer(question)

    def check_integrity(self) -> None:
        """Raise `AssertionError` naming a law that does not hold, between steps."""
        self.scheduler.check_integrity()
        if isinstance(self._memory, PagedMemory):
            self._memory.pager.check_integrity()

    def close(self) -> None:
        """Abort what runs, save the hot set, and close memory and files. Twice is once."""
        for request_id in [*self._requests]:
            self.abort(request_id)
        self._resources.close()

    @property
    def _is_bringing(self) -> bool:
        """Whether rows are brought that no request waits for."""
        return self._answers.is_bringing or (self._seeding is not None and self._seeding.is_bringing)

    def _check(self, request: Request) -> None:
        params, info, length = request.params, self.info, len(request.prompt_ids)
        if request.request_id in self._requests:
            raise RequestError(f"request_id {request.request_id:.80} is that of a request under way")
        if not length:
            raise RequestError("the prompt has no tokens; give at least one", param="prompt")
        if length + (params.max_tokens != 0) > info.max_model_len:
            raise RequestError(
                f"the prompt has {length} tokens; the model takes {info.max_model_len} with the output", param="prompt"
            )
        if not 0 <= min(request.prompt_ids) <= max(request.prompt_ids) < info.vocab_size:
            raise RequestError(
                f"the prompt has token ids outside the vocabulary, 0 to {info.vocab_size - 1}", param="prompt"
            )
        if params.n > self.scheduler.max_waiting:
            raise RequestError(f"n is {params.n}; at most {self.scheduler.max_waiting} may wait at once", param="n")
        check_params(params, info.vocab_size, request.bad_word_ids)

    def _wait(self) -> None:
        """Wait a moment for rows, because nothing else can be done."""
        if self.scheduler.started:
            self.scheduler.rows.wait(self.scheduler.started, _IDLE_WAIT)
        elif self._is_bringing:
            self._memory.idle(_SEED_WAIT)

    def _sample(self, step: Step, hidden_Nd: Tensor) -> tuple[list[int], SampledTokens | None]:
        """Return which chunks end with a new token, by their number in the step, and the tokens."""
        if step.is_repeated:
            ends = list(range(len(step.chunks)))
            return ends, self._draw(step, ends, self.runner.scores(hidden_Nd, ends))
        ends = []
        positions: list[int] = []
        start = 0
        for index, (sequence, length, _) in enumerate(step.chunks):
            start += length
            if length == len(sequence.ids) - sequence.num_computed and sequence.state.generates:
                ends.append(index)
                positions.append(start - 1)
        if not ends:
            return ends, None
        return ends, self._draw(step, ends, self.runner.scores(hidden_Nd, positions))

    def _draw(self, step: Step, ends: list[int], scores_MV: Tensor) -> SampledTokens:
        sampled = [step.chunks[index].sequence.sampled for index in ends]
        return self.sampler.sample(scores_MV, [each for each in sampled if each is not None])

    def _hand_out(
        self, sequences: list[Sequence], tokens: SampledTokens, tiers: list[int], outputs: StepOutputs
    ) -> None:
        """Give sequences their new tokens; `tiers` are those of the rows before these."""
        eos_token_id, max_model_len = self.info.eos_token_id, self.info.max_model_len
        reasons: list[FinishReason | None] = []
        for row, (sequence, token_id) in enumerate(zip(sequences, tokens.token_ids, strict=True)):
            if row in tokens.errors or sequence not in sequence.state.sequences:  # its prompt's scores failed
                reasons.append(FinishReason.ERROR)
                continue
            sequence.append(token_id)
            reasons.append(finish_reason(sequence, token_id, eos_token_id, max_model_len))
        # From this instant it is known which rows are needed next.
        self.scheduler.rows.ask([each for each, reason in zip(sequences, reasons, strict=True) if reason is None])
        for row, (sequence, token_id, reason) in enumerate(zip(sequences, tokens.token_ids, reasons, strict=True)):
            if reason is FinishReason.ERROR:
                if row in tokens.errors:
                    self._fail(sequence, str(tokens.errors[row]), outputs)
                continue
            request, stop_token_id = sequence.state.request, None
            if reason is not None:
                self._end(sequence)
                if reason is FinishReason.STOP and token_id in request.params.stop_token_ids:
                    stop_token_id = token_id
            logprobs = tokens.logprobs[row]
            outputs.add(
                sequence,
                ChoiceOutput(
                    choice=sequence.choice,
                    token_ids=(token_id,),
                    logprobs=None if logprobs is None else (logprobs,),
                    finish_reason=reason,
                    stop_token_id=stop_token_id,
                    tiers=(tier_of(tiers[row]),) if request.return_tiers else None,
                ),
            )
            self._tally.generation_tokens += 1

    def _end_scored(self, step: Step, outputs: StepOutputs) -> None:
        """End those whose prompt was to be scored and no more."""
        if step.is_repeated:
            return  # all of them generate
        for sequence, _, _ in step.chunks:
            state = sequence.state
            if not state.generates and not sequence.num_pending and sequence in state.sequences:
                self._end(sequence)
                outputs.end(sequence, FinishReason.LENGTH)

    def _fail(self, sequence: Sequence, why: str, outputs: StepOutputs) -> None:
        """End a sequence with an error; with it its request's others, where they need the same prompt."""
        state = sequence.state
        failed = [sequence] if state.is_prompt_computed else [*state.sequences]
        for each in failed:
            if each in state.sequences:
                self._end(each)
                outputs.end(each, FinishReason.ERROR, error=why)

    def _end(self, sequence: Sequence) -> None:
        self.scheduler.remove(sequence)
        self._forget_if_over(sequence.state)

    def _forget_if_over(self, state: RequestState) -> None:
        if not state.sequences:
            self._requests.pop(state.request.request_id, None)
            self._scaled.discard(state)
            if state.pack is not None:
                state.pack.users.discard(state.request.request_id)

    def _give_up(self, request_id: str, error: Exception) -> None:
        """End a request with an error at the next step."""
        if (state := self._requests.get(request_id)) is not None:
            self.scheduler.give_up(state.sequences, error)
