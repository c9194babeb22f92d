"""`GET /v1/models` and `/v1/models/{id}`: the names under which the model is served."""

from fastapi import APIRouter
from starlette.responses import Response

from server.http.openapi import describe
from server.http.responses import ModelCard, ModelList
from server.http.service import Service, json_response


def models_router(service: Service) -> APIRouter:
    """Return the routes."""
    router = APIRouter()

    def card(name: str) -> ModelCard:
        model = service.model
        return ModelCard(id=name, created=model.created, root=model.names[0], max_model_len=service.max_model_len)

    @router.get("/v1/models", **describe("List the served names.", None, ModelList))
    async def models() -> Response:
        return json_response(ModelList(data=[card(name) for name in service.model.names]))

    # Names of the hub have a slash.
    @router.get("/v1/models/{model_id:path}", **describe("Describe one served name.", None, ModelCard))
    async def model(model_id: str) -> Response:
        return json_response(card(service.model_name(model_id)))

    return router
