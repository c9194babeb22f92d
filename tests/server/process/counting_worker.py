"""The engine's process with an engine that counts, for tests: `counting_worker.py FOLDER --fd N`.

The model's name says how it is loaded, a request's first prompt token how it is served.
"""

import os
import signal
import sys
import threading
from pathlib import Path

from paging import TolboothError
from server.engine.errors import QueueFullError, RequestError
from server.engine.messages import BATCH_SIZES, ChoiceOutput, EngineInfo, EngineStats, FinishReason, RequestOutput
from server.engine.questions import ListRecentRows, PinnedRows, PinRows, UnpinRows, WarmRows
from server.process import frames
from server.process.worker import main

COUNT, HOLD, HANG, BREAK, DIE, SPIN, FLOOD, FULL = range(8)
"""What a first prompt token means: count to the end; stop counting after one token; never return from a step; raise;
be killed; take step after step without an output; be much longer than a message may be; find the queue full."""

SMALL_FRAME = 4096

# Libraries start threads when they are imported; signals may come to any of them.
threading.Thread(target=threading.Event().wait, name="a library's", daemon=True).start()


class CountingEngine:
    """Gives every choice of every request the tokens 0, 1, 2, ... one in a step."""

    def __init__(self, folder, *, works_beside):
        self.works_beside = works_beside
        self._folder = folder
        self._requests = {}
        self._steps = self._tokens = self._aborts = 0

    @property
    def has_work(self):
        return any(not (request.prompt_ids[0] == HOLD and done) for request, done in self._requests.values())

    def add(self, request):
        if request.prompt_ids[0] == FULL:
            raise QueueFullError("1 request waits already")
        if request.prompt_ids[0] > FULL:
            raise RequestError("the prompt has ids outside the vocabulary", param="prompt_ids")
        self._requests[request.request_id] = (request, 0)

    def abort(self, request_id, choice=None):
        self._aborts += 1
        if choice is None:
            self._requests.pop(request_id, None)

    def step(self, meanwhile):
        if self.works_beside:
            meanwhile()
        outputs = []
        for request_id, (request, done) in list(self._requests.items()):
            kind = request.prompt_ids[0]
            if kind == HANG:
                (self._folder / "hanging").write_bytes(b"yes")
                threading.Event().wait()
            if kind == BREAK:
                raise RuntimeError("a wheel came off")
            if kind == DIE:
                os.kill(os.getpid(), signal.SIGKILL)
            if kind == SPIN or (kind == HOLD and done):
                continue
            self._steps += 1
            outputs.append(self._count(request, done))
            self._requests[request_id] = (request, done + 1)
            if outputs[-1].is_finished:
                del self._requests[request_id]
        return outputs

    def _count(self, request, done):
        self._tokens += request.params.n
        is_last = done + 1 == request.params.max_tokens
        token_ids = [done] * (SMALL_FRAME if request.prompt_ids[0] == FLOOD else 1)
        choice = {"token_ids": token_ids, "finish_reason": FinishReason.LENGTH if is_last else None}
        return RequestOutput(
            request_id=request.request_id,
            choices=[ChoiceOutput(choice=index, **choice) for index in range(request.params.n)],
            is_finished=is_last,
        )

    def stats(self):
        return EngineStats(
            requests_running=len(self._requests),
            generation_tokens=self._tokens,
            steps=self._steps,
            preemptions=self._aborts,
            batch_sizes=[self._steps] + [0] * len(BATCH_SIZES),
            batch_sizes_sum=self._steps,
            row_device_hits=self._tokens,
            memory={"device_hits": self._tokens, "device_rows": 1, "read_errors_by_cause": {"io": self._steps}},
        )

    def answer(self, question):
        match question:
            case PinRows():
                return PinnedRows(token_ids=question.token_ids)
            case UnpinRows():
                raise RequestError("nothing is pinned", param="token_ids")
            case WarmRows():
                raise QueueFullError("as much is being warmed already")
            case ListRecentRows():
                return PinnedRows(token_ids=[0] * question.most)
        raise RuntimeError("a wheel came off")

    def close(self):
        (self._folder / "closed").touch()


INFO = EngineInfo(
    max_model_len=64,
    vocab_size=FULL + 1,
    eos_token_id=None,
    bos_token_id=None,
    max_num_seqs=4,
    max_num_batched_tokens=64,
    kv_blocks=8,
    block_size=16,
    num_parameters=0,
    device="cpu",
    dtype="fp32",
    granted={},
)


def load(folder, config, on_progress):
    """Load as the model's name says: "once", so that the second time goes well, or "later", so that the first does."""
    trouble, _, when = config.model.partition(" ")
    is_first = not (folder / "loaded").exists()
    (folder / "loaded").touch()
    if when == ("later" if is_first else "once"):
        trouble = "well"
    on_progress("counting", 1, 2)
    match trouble:
        case "mistaken":
            raise TolboothError("the table is of another model; export it again")
        case "broken":
            raise RuntimeError("a wheel came off")
        case "slow":
            threading.Event().wait()
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "garbled":
            os.write(int(sys.argv[-1]), b"\xff\xff\xff\xff and so on")
            threading.Event().wait()
        case "terse":
            frames.MAX_FRAME_BYTES = SMALL_FRAME
    return CountingEngine(folder, works_beside=trouble == "beside"), INFO


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    sys.exit(main(sys.argv[2:], lambda config, on_progress: load(folder, config, on_progress)))
