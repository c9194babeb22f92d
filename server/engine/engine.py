"""The engine: requests in, tokens out, one step after another.

Knows the loop `schedule -> hold rows -> run -> sample -> hand out`. Each part has a module of its own:

| module                             | part                                                      |
|------------------------------------|-----------------------------------------------------------|
| `server/engine/intake.py`          | what is taken on                                          |
| `server/engine/scheduler.py`       | what runs in a step                                       |
| `server/engine/step_rows.py`       | the rows that it needs: held, waited for, or deferred     |
| `server/engine/sequence_blocks.py` | the blocks that its keys and values go to                 |
| `server/engine/runner.py`          | the model                                                 |
| `server/engine/sampling/`          | the next tokens                                           |
| `server/engine/outputs.py`         | what callers are told                                     |
| `server/engine/answers.py`         | questions beside requests                                 |

One thread calls every method. Ids in, ids out: text is `server/engine/text/`'s.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack

import torch
from torch import Tensor

from paging import HotSetKeeper, TolboothError
from paging.lease import Prefetch
from server.engine.answers import Answers
from server.engine.errors import RequestError, report
from server.engine.intake import Intake
from server.engine.memory_options import LayerShares
from server.engine.messages import EngineInfo, EngineStats, FinishReason, Request, RequestOutput
from server.engine.outputs import RowTiers, StepOutputs, finish_reason, note_tiers
from server.engine.pack_answers import PackAnswers
from server.engine.packs import Packs
from server.engine.prompt_scores import score_prompts
from server.engine.questions import Answer, Question
from server.engine.row_memory import PagedMemory
from server.engine.runner import Runner
from server.engine.sampling import SampledTokens, Sampler
from server.engine.scheduler import Scheduler
from server.engine.sequence import RequestState, Sequence
from server.engine.statistics import StepTally
from server.engine.step import Step

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
        packs = Packs(self._memory, None) if packs is None else packs
        self._answers = Answers(
            memory=self._memory, vocab_size=info.vocab_size, packs=PackAnswers(packs, give_up=self._give_up)
        )
        self._intake = Intake(
            info=info,
            fingerprint=fingerprint,
            shares=LayerShares(0) if shares is None else shares,
            packs=packs,
            shares_prefixes=shares_prefixes,
            max_waiting=scheduler.max_waiting,
        )
        self._row_bytes = row_bytes
        self._keeper = keeper
        self._seeding = seeding
        self._resources = resources or ExitStack()
        self._clock = clock
        self._requests: dict[str, RequestState] = {}
        self._scaled: set[RequestState] = set()  # those that do not get all of every row
        self._tally = StepTally()

    @property
    def has_work(self) -> bool:
        """Whether `step` has anything to do: requests, or rows that are brought in the background."""
        return self.scheduler.has_work or self._is_bringing

    @property
    def works_beside(self) -> bool:
        """Whether the model runs beside the thread that calls `step`: on a GPU."""
        return self.runner.device.type != "cpu"

    def add(self, request: Request) -> None:
        """Queue a request; its prompt's rows are brought from now on.

        Raises `RequestError` for one that cannot be served, `QueueFullError` where too many wait.
        """
        if request.request_id in self._requests:
            raise RequestError(f"request_id {request.request_id:.80} is that of a request under way")
        state = self._intake.take(request)
        self.scheduler.add(state)
        self._requests[request.request_id] = state
        if state.pack is not None:
            state.pack.users.add(request.request_id)
        if state.alpha is not None:
            self._scaled.add(state)

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
    def step(self, meanwhile: Callable[[], None] = lambda: None) -> list[RequestOutput]:
        """Do one step and return what requests gained; waits for rows for a moment where nothing can run.

        meanwhile: called in the middle of the step where there is time, while a GPU works on it or rows are awaited.
        """
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
            meanwhile()
            self._wait()
            return outputs.messages()
        started = self._clock()
        tiers = note_tiers(step)
        try:
            hidden_Nd = self._run(step, meanwhile)
            broken = [] if step.batch is not None else score_prompts(self.runner, step.chunks, hidden_Nd)
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
            self._hand_out(step, ends, tokens, tiers, outputs)
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

    def _wait(self) -> None:
        """Wait a moment for rows, because nothing else can be done."""
        if self.scheduler.started:
            self.scheduler.rows.wait(_IDLE_WAIT)
        elif self._is_bringing:
            self._memory.idle(_SEED_WAIT)

    def _run(self, step: Step, meanwhile: Callable[[], None]) -> Tensor:
        alpha_NL = self.runner.alpha(step.chunks) if self._scaled else None
        rows = self._memory.rows(step.leases, step.places)
        hidden_Nd = self.runner.run(step.chunks, rows, alpha_NL, step.batch)
        if self.works_beside:
            meanwhile()  # the model has been queued, the draw is not waited for yet
        return hidden_Nd

    def _sample(self, step: Step, hidden_Nd: Tensor) -> tuple[list[int], SampledTokens | None]:
        """Return which chunks end with a new token, by their number in the step, and the tokens."""
        if step.batch is not None:
            ends = [*range(len(step.batch))]
            return ends, self.sampler.sample(self.runner.scores(hidden_Nd, ends), step.batch.sampled)
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
        sampled = [step.chunks[index].sequence.sampled for index in ends]
        scores_MV = self.runner.scores(hidden_Nd, positions)
        return ends, self.sampler.sample(scores_MV, [each for each in sampled if each is not None])

    def _hand_out(
        self, step: Step, ends: list[int], tokens: SampledTokens, tiers: RowTiers, outputs: StepOutputs
    ) -> None:
        """Give the sequences of the chunks `ends` their new tokens; `tiers` are those of the rows before these."""
        if step.batch is not None and not tokens.errors and step.batch.take(tokens.token_ids):
            self.scheduler.rows.ask_batch(step.batch)
            outputs.add_tokens(step.batch.sequences, tokens, tiers.last)
            self._tally.generation_tokens += len(ends)
            return
        sequences = [step.chunks[index].sequence for index in ends]
        reasons: dict[int, FinishReason] = {}
        for row, (sequence, token_id) in enumerate(zip(sequences, tokens.token_ids, strict=True)):
            if row in tokens.errors or sequence not in sequence.state.sequences:  # its prompt's scores failed
                reasons[row] = FinishReason.ERROR
                continue
            sequence.append(token_id)
            if (reason := finish_reason(sequence, token_id)) is not None:
                reasons[row] = reason
        # From this instant it is known which rows are needed next.
        self.scheduler.rows.ask([each for row, each in enumerate(sequences) if row not in reasons])
        for row, (sequence, index) in enumerate(zip(sequences, ends, strict=True)):
            reason = reasons.get(row)
            if reason is FinishReason.ERROR:
                if row in tokens.errors:
                    self._fail(sequence, str(tokens.errors[row]), outputs)
                continue
            if reason is not None:
                self._end(sequence)
            outputs.add_token(
                sequence, tokens.token_ids[row], reason=reason, logprobs=tokens.logprobs[row], tier=tiers.last[index]
            )
            self._tally.generation_tokens += 1

    def _end_scored(self, step: Step, outputs: StepOutputs) -> None:
        """End those whose prompt was to be scored and no more."""
        if step.batch is not None:
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
