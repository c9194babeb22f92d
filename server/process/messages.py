"""What crosses the socket between the API process and the engine's process, beside `server/engine/messages.py`.

The first message to the engine is its `EngineConfig`; then any of `ToEngine`. From it come `Progress` while it loads,
one `EngineInfo`, then the others of `FromEngine` in any order; a `Fatal` is the last.
"""

from collections.abc import Sequence

import msgspec

from server.engine.messages import Abort, EngineInfo, EngineStats, Fatal, Progress, Request, RequestOutput
from server.engine.questions import Answer


class StatsQuery(msgspec.Struct, frozen=True, tag="stats_query"):
    """Asks for `EngineStats` at the end of the step under way."""


class Ask(msgspec.Struct, frozen=True, kw_only=True, tag="ask"):
    """Asks a question, to be answered after the step under way."""

    ask_id: int
    question: msgspec.Raw
    """A `Question`; what is none is `Unanswered`, and disturbs nothing else."""


class Answered(msgspec.Struct, frozen=True, kw_only=True, tag="answered"):
    """The answer to a question."""

    ask_id: int
    answer: Answer


class Unanswered(msgspec.Struct, frozen=True, kw_only=True, tag="unanswered", omit_defaults=True):
    """A question that has no answer."""

    ask_id: int
    message: str
    param: str | None = None
    """The field at fault, as `RequestError.param`."""
    is_overload: bool = False
    """It may have one later."""
    is_fault: bool = False
    """The engine is at fault, not who asked."""


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


ToEngine = Request | Abort | StatsQuery | Ask
FromEngine = Progress | EngineInfo | StepOutputs | EngineStats | Refused | Answered | Unanswered | Fatal
