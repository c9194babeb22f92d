"""What crosses the socket between the API process and the engine's process, beside `server/engine/messages.py`.

The first message to the engine is its `EngineConfig`; then any of `ToEngine`. From it come `Progress` while it loads,
one `EngineInfo`, then the others of `FromEngine` in any order; a `Fatal` is the last.
"""

from collections.abc import Sequence

import msgspec

from server.engine.messages import Abort, EngineInfo, EngineStats, Fatal, Progress, Request, RequestOutput


class StatsQuery(msgspec.Struct, frozen=True, tag="stats_query"):
    """Asks for `EngineStats` at the end of the step under way."""


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused", omit_defaults=True):
    """A request that the engine does not take; nothing more is said of it."""

    request_id: str
    message: str
    param: str | None = None
    """The field at fault, as `RequestError.param`."""
    is_overload: bool = False
    """As many requests wait as the engine takes; otherwise the request cannot be served as it is."""


class StepOutputs(msgspec.Struct, frozen=True, kw_only=True, tag="outputs"):
    """What all requests gained in one step."""

    outputs: Sequence[RequestOutput]


ToEngine = Request | Abort | StatsQuery
FromEngine = Progress | EngineInfo | StepOutputs | EngineStats | Refused | Fatal
