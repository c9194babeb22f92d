"""What log and metrics say of one request; handlers fill it in as they go."""

import time
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Scope

from server.http.errors import ApiError
from server.http.generation import Generation
from server.http.pace import Pace

_KEY = "tolbooth.record"


@dataclass(kw_only=True)
class Record:
    """One request; None where it did not get so far."""

    request_id: str
    began: float = field(default_factory=time.perf_counter)
    completion_id: str | None = None
    generation: Generation | None = None
    pace: Pace | None = None
    prompts: list[Any] | None = None
    """Only where prompts are logged."""
    error: ApiError | None = None
    """What the client was told, before its answer began or within it."""
    outcome: str | None = None
    """How a request ended that has a status of success and yet did not succeed."""


def record_of(scope: Scope) -> Record:
    """Return the record of the request that `scope` is about."""
    record = scope[_KEY]
    assert isinstance(record, Record)
    return record


def keep_record(scope: Scope, record: Record) -> None:
    """Attach a record for those who handle the request further in."""
    scope[_KEY] = record
