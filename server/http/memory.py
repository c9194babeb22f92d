"""`/v1/memory` and below: how the row memory stands, and the few things that an operator may do to it.

Who may change it is `server/http/control.py`'s; what becomes of a wish, `server/engine/row_wishes.py`'s.
"""

from base64 import b64encode

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from server.engine.messages import EngineInfo
from server.engine.questions import DescribeRowWishes, ListPinnedRows, MapRows, PinRows, UnpinRows, WarmRows
from server.http.errors import ApiError, invalid
from server.http.limits import check_ids
from server.http.memory_curve import curve_of_recent_ids
from server.http.memory_messages import (
    MOST_IDS,
    HitRateCurve,
    MemoryMap,
    MemoryState,
    PinList,
    PinRequest,
    PinState,
    Warmed,
    WarmRequest,
)
from server.http.memory_state import is_paged, memory_state, pin_state, whole
from server.http.openapi import describe
from server.http.paths import MEMORY
from server.http.prompts import encode_prompts
from server.http.service import Service, json_response
from server.http.shared import Shared
from server.process.client import EngineState
from server.process.errors import EngineUnavailableError

_SECONDS = 5.0
"""For the engine to answer; a step that is under way ends first."""
_MOST_CELLS = 4096
_MAP_SECONDS = 1.0
_CURVE_SECONDS = 10.0


def memory_router(service: Service) -> APIRouter:  # noqa: C901 one function for each route, and short ones
    """Return the routes."""
    router = APIRouter()
    engine = service.engine

    async def draw_map() -> MemoryMap:
        info = _paged_info(service)
        drawn = await engine.ask(MapRows(most_cells=_MOST_CELLS), _SECONDS)
        return MemoryMap(
            vocab_size=info.vocab_size,
            cells=len(drawn.device),
            ids_per_cell=drawn.ids_per_cell,
            device=b64encode(drawn.device).decode(),
            host=b64encode(drawn.host).decode(),
            heat=b64encode(drawn.heat).decode(),
        )

    async def draw_curve() -> HitRateCurve:
        info = _paged_info(service)
        present_rows = 0 if engine.stats is None else whole(engine.stats.memory, "device_slots")
        return await curve_of_recent_ids(
            engine, vocab_size=info.vocab_size, present_rows=present_rows, timeout=_SECONDS
        )

    shared_map = Shared(draw_map, fresh_seconds=_MAP_SECONDS)
    shared_curve = Shared(draw_curve, fresh_seconds=_CURVE_SECONDS)

    @router.get(MEMORY, **describe("Tell how the row memory stands.", None, MemoryState))
    async def memory() -> Response:
        info = _ready_info(service)
        wishes = None
        if is_paged(info):
            wishes = await engine.ask(DescribeRowWishes(), _SECONDS)
        stats = await engine.refresh_stats(_SECONDS)
        if stats is None:
            raise EngineUnavailableError("the engine has not told its figures yet", retry_after=1.0)
        return json_response(memory_state(service.model.names[0], info, stats, engine.stats_before, wishes))

    @router.get(f"{MEMORY}/map", **describe("Tell where the vocabulary's rows are.", None, MemoryMap))
    async def memory_map() -> Response:
        return json_response(await shared_map.get())

    @router.get(f"{MEMORY}/curve", **describe("Tell what other cache sizes would do.", None, HitRateCurve))
    async def memory_curve() -> Response:
        return json_response(await shared_curve.get())

    @router.get(f"{MEMORY}/pins", **describe("List the pinned rows.", None, PinList))
    async def pins() -> Response:
        _paged_info(service)
        pinned = await engine.ask(ListPinnedRows(), _SECONDS)
        return json_response(PinList(token_ids=list(pinned.token_ids)))

    @router.post(f"{MEMORY}/pins", **describe("Hold rows on the device until further notice.", PinRequest, PinState))
    async def pin(request: Request) -> Response:
        asked = await service.read(request, PinRequest)
        _paged_info(service)
        if asked.all is not None:
            raise invalid("all is only for ending pins", param="all")
        token_ids = await _token_ids(service, asked)
        return json_response(pin_state(await engine.ask(PinRows(token_ids=token_ids), _SECONDS)))

    @router.delete(f"{MEMORY}/pins", **describe("Hold rows no longer.", PinRequest, PinState))
    async def unpin(request: Request) -> Response:
        asked = await service.read(request, PinRequest)
        _paged_info(service)
        token_ids = None
        if not asked.all:
            token_ids = await _token_ids(service, asked)
        elif asked.text is not None or asked.token_ids is not None:
            raise invalid("all pins are to end; leave out text and token_ids", param="all")
        return json_response(pin_state(await engine.ask(UnpinRows(token_ids=token_ids), _SECONDS)))

    @router.post(f"{MEMORY}/warm", **describe("Bring the rows of a text to the device.", WarmRequest, Warmed))
    async def warm(request: Request) -> Response:
        asked = await service.read(request, WarmRequest)
        _paged_info(service)
        warmed = await engine.ask(WarmRows(token_ids=await _token_ids(service, asked)), _SECONDS)
        return json_response(Warmed(rows=warmed.num_rows, resident=warmed.num_resident))

    return router


def _ready_info(service: Service) -> EngineInfo:
    """Return what the engine is, or raise the error for one that is not ready."""
    info = service.engine.info
    if service.engine.state is not EngineState.READY or info is None:
        raise EngineUnavailableError(f"the engine is {service.engine.state}", retry_after=1.0)
    return info


def _paged_info(service: Service) -> EngineInfo:
    """Return what the engine is, or raise the error for one whose rows are not paged."""
    info = _ready_info(service)
    if not is_paged(info):
        what = info.granted.get("memory", "not paged")
        raise ApiError(
            409,
            f"the memory of this model is not paged ({what}): there are no rows to bring, pin or look at",
            code="memory_not_paged",
        )
    return info


async def _token_ids(service: Service, asked: WarmRequest | PinRequest) -> list[int]:
    """Return the different token ids of a body, in their order; the error for none, for both kinds or for too many."""
    if (asked.text is None) == (asked.token_ids is None):
        raise invalid("give either text or token_ids", param="token_ids")
    if asked.token_ids is not None:
        check_ids("token_ids", asked.token_ids, service.model.vocab_size)
        return list(dict.fromkeys(asked.token_ids))
    assert asked.text is not None
    (prompt,) = await encode_prompts([asked.text], service.model.tokenizer, add_special_tokens=False)
    token_ids = list(dict.fromkeys(prompt.ids))
    if not token_ids:
        raise invalid("text has no tokens", param="text")
    if len(token_ids) > MOST_IDS:
        raise invalid(f"text has {len(token_ids)} different tokens; {MOST_IDS} at most at a time", param="text")
    return token_ids
