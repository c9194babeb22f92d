"""`GET /v1/memory/tokens/{id}`: which memory cells a token reads, and which tokens read nearly the same.

Computed from the checkpoint's own files in a thread of this process, without torch and without the engine: one question
at a time, in bounded memory (about 300 MB at 1B geometry while one is answered) and bounded time. Answers are kept.
"""

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import numpy as np
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from models.analysis.cells import CellMemory
from models.analysis.highest import highest
from models.analysis.neighbours import nearest_tokens
from models.analysis.survey import count_outliers
from models.errors import CheckpointError
from server.http.errors import ApiError, invalid, unavailable
from server.http.limits import check_ids
from server.http.memory_token_messages import CellRead, NearToken, TokenMemory
from server.http.openapi import describe
from server.http.service import Service, json_response

_SECONDS = 30.0
"""For one answer, the wait for those before it included."""
_DEFAULT_TOP, _MOST_TOP = 8, 32
_MOST_KEPT = 1024
"""Answers kept, of about 2 kB each."""

_Question = tuple[int, int, int]
"""Token id, layer, how many of each."""


class _GaveUpError(Exception):
    """Nobody waits for the answer any more, or it took too long."""


class TokenMemories:
    """Answers about one checkpoint's tokens; its files are opened by the first question."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._memory: CellMemory | None = None
        self._kept: OrderedDict[_Question, TokenMemory] = OrderedDict()
        self._lock = asyncio.Lock()

    async def answer(self, token_id: int, layer: int, top: int) -> TokenMemory:
        """Return what a token reads in a layer; `ApiError` for a model without cells, and where it takes too long."""
        question = (token_id, layer, top)
        gave_up = threading.Event()
        deadline = time.monotonic() + _SECONDS
        try:
            async with asyncio.timeout(_SECONDS), self._lock:
                if (kept := self._kept.get(question)) is not None:
                    self._kept.move_to_end(question)
                    return kept
                found = await asyncio.to_thread(self._compute, question, partial(_check, gave_up, deadline))
        except (TimeoutError, _GaveUpError) as error:
            message = f"what token {token_id} reads was not found within {_SECONDS:g} seconds; ask again later"
            raise unavailable(message, retry_after=_SECONDS, code="memory_busy") from error
        finally:
            gave_up.set()  # the thread ends at its next chunk
        self._kept[question] = found
        if len(self._kept) > _MOST_KEPT:
            self._kept.popitem(last=False)
        return found

    def _compute(self, question: _Question, check: Callable[[int, int], None]) -> TokenMemory:
        token_id, layer, top = question
        memory = self._open()
        num_layers = memory.config.num_hidden_layers
        if not 0 <= layer < num_layers:
            raise invalid(
                f"layer: there is no layer {layer}; the model has layers 0 to {num_layers - 1}", param="layer"
            )
        cells = memory.cells(layer)
        c_1K = cells.coefficients(memory.embeddings(np.array([token_id])))
        strongest = highest(c_1K[0], top, by_magnitude=True)
        near = nearest_tokens(memory, cells, token_id, top, on_progress=check)
        text = self._service.model.token_text
        return TokenMemory(
            token_id=token_id,
            token=text(token_id).text,
            layer=layer,
            num_layers=num_layers,
            num_cells=cells.num_cells,
            outliers=int(count_outliers(c_1K)[0]),
            cells=[
                CellRead(cell=cell, coefficient=float(value))
                for cell, value in zip(strongest.ids_Rn.tolist(), strongest.values_Rn, strict=True)
            ],
            nearest=[
                NearToken(token_id=each, token=text(each).text, cosine=float(cosine), row_cosine=float(part))
                for each, cosine, part in zip(near.ids_n.tolist(), near.cell_cosine_n, near.part_cosine_n, strict=True)
            ],
        )

    def _open(self) -> CellMemory:
        if self._memory is None:
            try:
                self._memory = CellMemory(self._service.model.directory)
            except CheckpointError as error:
                raise ApiError(404, _why_not(error, self._service), code="no_memory_cells") from error
        return self._memory


def memory_tokens_router(service: Service) -> APIRouter:
    """Return the route."""
    router = APIRouter()
    memories = TokenMemories(service)
    summary = "Tell which memory cells a token reads in a layer, and which tokens read nearly the same."

    @router.get("/v1/memory/tokens/{token_id}", **describe(summary, None, TokenMemory))
    async def token(request: Request, token_id: str) -> Response:
        number = _number("token_id", token_id)
        check_ids("token_id", [number], service.model.vocab_size)
        asked = request.query_params
        if unknown := sorted(set(asked) - {"layer", "top"}):
            raise invalid(f"{unknown[0]:.100} is no parameter of this route; layer and top are", param=unknown[0])
        layer = _number("layer", asked.get("layer", "0"))
        top = _number("top", asked.get("top", str(_DEFAULT_TOP)))
        if not 1 <= top <= _MOST_TOP:
            raise invalid(f"top: {top} is not between 1 and {_MOST_TOP}", param="top")
        return json_response(await memories.answer(number, layer, top))

    return router


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise invalid(f"{name}: {text[:100]!r} is not a number from 0 up", param=name)
    return int(text)


def _check(gave_up: threading.Event, deadline: float, _done: int, _total: int) -> None:
    if gave_up.is_set() or time.monotonic() > deadline:
        raise _GaveUpError


def _why_not(error: CheckpointError, service: Service) -> str:
    """Return why there are no cells, without the server's paths, which are nobody else's business."""
    return str(error).replace(str(service.model.directory), f"the model {service.model.names[0]}")
