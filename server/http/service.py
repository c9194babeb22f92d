"""What every route works with."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from server.config import ServerConfig
from server.engine.messages import Request as EngineRequest
from server.engine.params import SamplingParams
from server.engine.text import bad_word_ids
from server.http.body import read_body
from server.http.errors import ApiError
from server.http.form import encode_json
from server.http.lifecycle import Lifecycle
from server.http.metrics.sources import ServerMetrics
from server.http.prompts import TokenPrompt
from server.http.requests import GenerationRequest, parse_body
from server.http.served_model import ServedModel
from server.process.client import EngineClient

_Body = TypeVar("_Body", bound=msgspec.Struct)


@dataclass(frozen=True, kw_only=True)
class Service:
    """A server's parts."""

    config: ServerConfig
    model: ServedModel
    engine: EngineClient
    lifecycle: Lifecycle
    metrics: ServerMetrics = field(default_factory=ServerMetrics)

    @property
    def max_model_len(self) -> int:
        """Most tokens of a sequence, as the engine says once it is ready."""
        info = self.engine.info
        return self.model.max_model_len if info is None else info.max_model_len

    async def read(self, request: Request, kind: type[_Body]) -> _Body:
        """Return what a request's body says, or raise `ApiError`."""
        return parse_body(await read_body(request, max_bytes=self.config.max_body_bytes), kind)

    def model_name(self, asked: str | None) -> str:
        """Return the name by which the client calls the model, or raise the `ApiError` for one that is not served."""
        if asked is None:
            return self.model.names[0]
        if asked not in self.model.names:
            raise ApiError(
                404,
                f"the model {asked[:200]!r} is not served here; {', '.join(self.model.names)} is",
                param="model",
                code="model_not_found",
            )
        return asked

    def engine_requests(
        self,
        request: GenerationRequest,
        completion_id: str,
        prompts: Sequence[tuple[TokenPrompt, SamplingParams]],
    ) -> list[EngineRequest]:
        """Return what the engine is to do: a request for each prompt, all but the ids with the same wishes."""
        words = bad_word_ids(self.model.tokenizer, prompts[0][1].bad_words)
        return [
            EngineRequest(
                request_id=f"{completion_id}-{index}",
                prompt_ids=prompt.ids,
                params=params,
                bad_word_ids=words,
                priority=request.priority or 0,
                cache_salt=request.cache_salt,
                return_tiers=bool(request.return_memory_stats and request.stream),
            )
            for index, (prompt, params) in enumerate(prompts)
        ]


def new_id(prefix: str) -> str:
    """Return an id for an answer."""
    return f"{prefix}-{uuid.uuid4().hex}"


def now() -> int:
    """Return the seconds since 1970."""
    return int(time.time())


def json_response(body: msgspec.Struct, status: int = 200) -> Response:
    """Return an answer of one piece."""
    return Response(encode_json(body), status_code=status, media_type="application/json")
