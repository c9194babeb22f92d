"""`/v1/memory/packs`: packs loaded, listed and unloaded while the server runs. For whoever has the admin key."""

import asyncio
import math

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from server.engine.questions import PackState
from server.http.errors import invalid
from server.http.memory_messages import PackCard, PackCards, PackRequest, UnloadedPack
from server.http.openapi import describe
from server.http.paths import PACKS
from server.http.served_packs import pack_directory
from server.http.service import Service, json_response

_UNLOAD_SECONDS = 30.0
_MOST_UNLOAD_SECONDS = 600.0


def packs_router(service: Service) -> APIRouter:
    """Return the routes."""
    router = APIRouter()

    def card(state: PackState) -> PackCard:
        return PackCard(
            id=f"{service.model.names[0]}:{state.name}",
            name=state.name,
            version=state.version,
            table_id=state.table_id,
            description=state.description,
            rows=state.num_rows,
            bytes=state.num_bytes,
            requests=state.num_requests,
            is_leaving=state.is_leaving,
        )

    @router.get(PACKS, **describe("List the memory packs.", None, PackCards))
    async def packs() -> Response:
        states = await service.packs.states()
        return json_response(PackCards(data=[card(state) for state in states.packs]))

    @router.post(PACKS, **describe("Load a memory pack.", PackRequest, PackCard))
    async def load(request: Request) -> Response:
        asked = await service.read(request, PackRequest)
        directory = await asyncio.to_thread(pack_directory, service.config.packs_dir, asked.path)
        return json_response(card(await service.packs.load(asked.name, directory)))

    @router.delete(f"{PACKS}/{{name}}", **describe("Unload a memory pack.", None, UnloadedPack))
    async def unload(request: Request, name: str) -> Response:
        seconds = _seconds(request.query_params.get("timeout"))
        return json_response(UnloadedPack(name=name, ended_requests=await service.packs.unload(name, seconds)))

    return router


def _seconds(text: str | None) -> float:
    """Return for how long requests may go on, as the query says."""
    if text is None:
        return _UNLOAD_SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= _MOST_UNLOAD_SECONDS:
        raise invalid(f"timeout must be from 0 to {_MOST_UNLOAD_SECONDS:g} seconds", param="timeout")
    return seconds
