"""An engine in this process that says what it is told to; everything else as `EngineClient` does it."""

import asyncio

import msgspec

from server.engine.messages import (
    Candidate,
    ChoiceOutput,
    EngineInfo,
    EngineStats,
    FinishReason,
    MemoryUse,
    PositionLogprobs,
    RequestOutput,
    RequestTiming,
    Tier,
)
from server.process.client import EngineState
from server.process.errors import EngineDiedError, EngineUnavailableError
from server.process.stream import RequestStream

END_OF_TEXT = 0
MEMORY = MemoryUse(rows=9, device_hits=5, host_hits=3, major_faults=1, bytes_read=4096, stall_seconds=0.25)
STATS = EngineStats(
    requests_running=2,
    requests_waiting=3,
    requests_deferred=1,
    prompt_tokens=10,
    cached_prompt_tokens=4,
    generation_tokens=77,
    preemptions=0,
    steps=20,
    deferred_steps=1,
    stall_seconds=0.5,
    kv_blocks=8,
    kv_blocks_used=2,
    resident_bytes=1 << 20,
    batch_sizes=[12, 8, *[0] * 10],
    batch_sizes_sum=28,
    row_device_hits=5,
    row_host_hits=3,
    row_major_faults=1,
    memory={
        "bytes_read": 4096,
        "device_rows": 7,
        "read_latency_counts": [0, 1, 2, *[0] * 18],
        "read_latency_sum": 0.0001,
        "read_errors_by_cause": {"checksum": 2},
    },
)

TABLE = {
    "encoding": "int8",
    "layers": 2,
    "vocab_size": 300,
    "row_bytes": 4096,
    "table_bytes": 300 * 4096,
    "storage": "direct",
    "policy": "lru",
}


class FakeEngine:
    """Continues every prompt with `script`, again and again, a token a step; `gate` holds its steps up."""

    def __init__(self, *, max_model_len=64, vocab_size=300):
        self.state = EngineState.READY
        self.info = EngineInfo(
            max_model_len=max_model_len,
            vocab_size=vocab_size,
            eos_token_id=END_OF_TEXT,
            bos_token_id=None,
            max_num_seqs=4,
            max_num_batched_tokens=64,
            kv_blocks=8,
            block_size=16,
            num_parameters=1,
            device="cpu",
            dtype="float32",
            granted={"policy": "fake"},
            table=TABLE,
            device_memory={"weights": 100, "kv_cache": 200, "tol_cache": 300},
            startup_seconds={"weights": 0.5},
        )
        self.stats = STATS
        self.num_restarts = 0
        self.failure = None
        self.progress = None
        self.script = [66, 67, 68]
        self.num_cached_tokens = 0
        self.refusal = None
        """Raised in place of the first output of the next requests."""
        self.dies_after = None
        """Steps after which it dies."""
        self.breaks_after = None
        """Steps after which a request is given up."""
        self.holds_after = None
        """Steps after which the gate closes."""
        self.is_ready = asyncio.Event()
        self.is_ready.set()
        self.gate = asyncio.Event()
        self.gate.set()
        self.submitted = asyncio.Event()
        self.was_started = asyncio.Event()
        self.is_stopped = False
        self.requests = []
        self.aborted = []
        self.abort_came = asyncio.Event()
        self._streams = {}
        self._tasks = set()

    async def start(self):
        """Loads when it is told to."""
        self.was_started.set()

    async def wait_ready(self, timeout):  # noqa: ASYNC109 as the client has it
        async with asyncio.timeout(timeout):
            await self.is_ready.wait()
        return self.info

    async def stop(self, timeout):  # noqa: ARG002, ASYNC109 as the client has it
        self.is_stopped = True
        self.state = EngineState.STOPPED
        for stream in self._streams.values():
            stream.fail(EngineDiedError("the server stops; the request was not finished"))
        for task in self._tasks:
            task.cancel()

    async def refresh_stats(self, timeout):  # noqa: ARG002, ASYNC109 as the client has it
        return self.stats

    def submit(self, request):
        if self.state is not EngineState.READY:
            raise EngineUnavailableError(f"the engine is {self.state}", retry_after=2.5)
        # What cannot cross the socket must not be asked for.
        self.requests.append(msgspec.msgpack.decode(msgspec.msgpack.encode(request), type=type(request)))
        stream = RequestStream(request, lambda: self.abort(request.request_id))
        self._streams[request.request_id] = stream
        task = asyncio.get_running_loop().create_task(self._run(request, stream))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.submitted.set()
        return stream

    def abort(self, request_id, choice=None):
        self.aborted.append((request_id, choice))
        self.abort_came.set()
        stream = self._streams.get(request_id)
        if stream is not None:
            stream.end() if choice is None else stream.expect_no_more([choice])

    async def _run(self, request, stream):
        params = request.params
        if self.refusal is not None:
            stream.fail(self.refusal)
            return
        running = set(range(params.n))
        for step in range(max(params.max_tokens, 1)):
            await asyncio.sleep(0)
            if step == self.holds_after:
                self.gate.clear()
            await self.gate.wait()
            if stream.is_over:
                return
            if step == self.dies_after:
                stream.fail(EngineDiedError("the engine was killed; the request was not finished"))
                return
            if step == self.breaks_after:
                broken = [ChoiceOutput(choice=choice, finish_reason=FinishReason.ERROR) for choice in running]
                stream.put(self._output(request, broken, error="a row could not be read", is_finished=True))
                return
            choices = [self._choice(request, choice, step) for choice in sorted(running)]
            running -= {choice.choice for choice in choices if choice.finish_reason is not None}
            stream.put(self._output(request, choices, is_first=step == 0, is_finished=not running))
            if not running:
                return

    def _choice(self, request, choice, step):
        params = request.params
        if params.max_tokens == 0:
            return ChoiceOutput(choice=choice, finish_reason=FinishReason.LENGTH)
        token_id = self.script[step % len(self.script)]
        reason = FinishReason.LENGTH if step + 1 == params.max_tokens else None
        stops = token_id in params.stop_token_ids
        if stops or (token_id == END_OF_TEXT and not params.ignore_eos):
            reason = FinishReason.STOP
        return ChoiceOutput(
            choice=choice,
            token_ids=[token_id],
            logprobs=None if params.logprobs is None else [position(token_id, params.logprobs)],
            finish_reason=reason,
            stop_token_id=token_id if stops else None,
            tiers=[Tier.HOST if step else Tier.STORAGE] if request.return_tiers else None,
        )

    def _output(self, request, choices, *, is_first=False, is_finished, error=None):
        asked = request.params.prompt_logprobs if is_first else None
        prompt = None
        if asked is not None:
            prompt = [None, *(position(token_id, asked) for token_id in request.prompt_ids[1:])]
        return RequestOutput(
            request_id=request.request_id,
            choices=choices,
            prompt_logprobs=prompt,
            num_cached_tokens=self.num_cached_tokens if is_first else None,
            is_finished=is_finished,
            error=error,
            memory=MEMORY if is_finished else None,
            timing=RequestTiming(queue_seconds=0.25, prefill_seconds=0.5) if is_first else None,
        )


def position(token_id, num_top):
    """The token that stands somewhere is the second likeliest; the likeliest is the next one in the vocabulary."""
    top = [Candidate(token_id + 1, -0.25, 1), Candidate(token_id, -1.5, 2), Candidate(token_id + 2, float("-inf"), 3)]
    return PositionLogprobs(Candidate(token_id, -1.5, 2), top[:num_top])
