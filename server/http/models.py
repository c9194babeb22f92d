"""`GET /v1/models` and `/v1/models/{id}`: the names under which the model is served, alone and with its packs."""

from fastapi import APIRouter
from msgspec import UNSET
from starlette.responses import Response

from server.http.openapi import describe
from server.http.responses import ModelCard, ModelList
from server.http.service import Service, json_response


def models_router(service: Service) -> APIRouter:
    """Return the routes."""
    router = APIRouter()

    def card(name: str) -> ModelCard:
        model, pack = service.model, service.pack_of(name)
        return ModelCard(
            id=name,
            created=model.created,
            root=model.names[0],
            parent=UNSET if pack is None else model.names[0],
            max_model_len=service.max_model_len,
        )

    @router.get("/v1/models", **describe("List the served names.", None, ModelList))
    async def models() -> Response:
        packs = [f"{service.model.names[0]}:{name}" for name in service.packs.names]
        return json_response(ModelList(data=[card(name) for name in (*service.model.names, *packs)]))

    # Names of the hub have a slash.
    @router.get("/v1/models/{model_id:path}", **describe("Describe one served name.", None, ModelCard))
    async def model(model_id: str) -> Response:
        return json_response(card(service.model_name(model_id)))

    return router
