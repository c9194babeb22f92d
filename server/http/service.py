"""What every route works with."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from server.config import ServerConfig
from server.engine.config import pack_directories
from server.engine.memory_options import MemoryOptions
from server.engine.messages import Request as EngineRequest
from server.engine.params import SamplingParams
from server.engine.text import bad_word_ids
from server.http.body import read_body
from server.http.errors import ApiError, invalid
from server.http.form import encode_json
from server.http.lifecycle import Lifecycle
from server.http.metrics.sources import ServerMetrics
from server.http.prompts import TokenPrompt
from server.http.requests import GenerationRequest, parse_body
from server.http.served_model import ServedModel
from server.http.served_packs import ServedPacks
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

    @cached_property
    def packs(self) -> ServedPacks:
        """The memory packs that clients may choose."""
        return ServedPacks(self.engine, pack_directories(self.config.engine.pack))

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
        if asked not in self.model.names and self.pack_of(asked) not in self.packs.names:
            raise ApiError(
                404,
                f"the model {asked[:200]!r} is not served here; {', '.join(self.model.names)} is",
                param="model",
                code="model_not_found",
            )
        return asked

    def pack_of(self, asked: str | None) -> str | None:
        """Return the pack in a name as `MODEL:PACK`; None for a model without one, and for one that is not served."""
        if asked is None or asked in self.model.names:
            return None
        found = (name for name in self.model.names if asked.startswith(f"{name}:"))
        name = max(found, key=len, default=None)
        return None if name is None else asked.removeprefix(f"{name}:")

    async def choose_model(self, asked: str | None) -> str:
        """Return what `model_name` returns, once the engine has what it stands for."""
        name = self.model_name(asked)
        await self.packs.ready(self.pack_of(name))
        return name

    def memory_options(self, request: GenerationRequest) -> MemoryOptions | None:
        """Return what a request changes of the memory's part, or raise the `ApiError` where that is not allowed."""
        if request.memory is None:
            return None
        if not self.config.enable_memory_options:
            raise invalid(
                "memory is off on this server; its operator turns it on with --enable-memory-options", param="memory"
            )
        return MemoryOptions(alpha=request.memory.alpha, drop_layers=request.memory.drop_layers or ())

    def engine_requests(
        self,
        request: GenerationRequest,
        completion_id: str,
        prompts: Sequence[tuple[TokenPrompt, SamplingParams]],
    ) -> list[EngineRequest]:
        """Return what the engine is to do: a request for each prompt, all but the ids with the same wishes."""
        pack, memory = self.pack_of(request.model), self.memory_options(request)
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
                pack=pack,
                memory=memory,
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
