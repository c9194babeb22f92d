"""One line in the log for each request, and the id by which client and log speak of it.

The line has what was served, never what was said, unless the operator asked for that.
"""

import json
import re
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.config import LogFormat
from server.http.paths import UNLOGGED, route_path
from server.http.record import Record, keep_record

_ID_HEADER = "x-request-id"
_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_PLAIN = re.compile(r"[A-Za-z0-9._:/@%+,-]+")
_MAX_PATH = 200


class AccessLog:
    """Gives requests ids and writes their lines when they end."""

    def __init__(self, app: ASGIApp, *, write: Callable[[str], None], form: LogFormat) -> None:
        self.app = app
        self.write = write
        self.form = form

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and write its line when it has ended; probes, scrapes and looks have none."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get(_ID_HEADER, "")
        record = Record(request_id=given if _ID.fullmatch(given) else uuid.uuid4().hex)
        keep_record(scope, record)
        status: int | None = None

        async def tag(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[_ID_HEADER] = record.request_id
            await send(message)

        try:
            await self.app(scope, receive, tag)
        finally:
            if route_path(scope) not in UNLOGGED:
                self.write(line_of(_facts(scope, record, status), self.form) + "\n")


def write_to_stderr(line: str) -> None:
    """Write a line of the log."""
    sys.stderr.write(line)
    sys.stderr.flush()


def line_of(facts: Mapping[str, Any], form: LogFormat) -> str:
    """Return facts as one line: JSON, or `name=value` with values quoted where they are not plain."""
    if form is LogFormat.JSON:
        return json.dumps(facts, ensure_ascii=True)
    return " ".join(f"{name}={_plain(value)}" for name, value in facts.items())


def _plain(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def _facts(scope: Scope, record: Record, status: int | None) -> dict[str, Any]:
    seconds = time.perf_counter() - record.began
    facts: dict[str, Any] = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "request_id": record.request_id,
        "method": scope["method"],
        "path": scope["path"][:_MAX_PATH],
        "status": status,
        "seconds": round(seconds, 4),
    }
    generation = record.generation
    if generation is not None:
        facts["id"] = record.completion_id
        facts["prompt_tokens"] = generation.num_prompt_tokens
        facts["cached_tokens"] = generation.num_cached_tokens
        facts["completion_tokens"] = generation.num_completion_tokens
        if record.pace is not None and record.pace.first_token_seconds is not None:
            facts["first_token_seconds"] = round(record.pace.first_token_seconds, 4)
        if (memory := generation.memory) is not None:
            facts["rows"] = memory.rows
            facts["minor_faults"] = memory.host_hits
            facts["major_faults"] = memory.major_faults
            facts["stall_seconds"] = round(memory.stall_seconds, 4)
    if record.outcome is not None:
        facts["outcome"] = record.outcome
    if record.prompts is not None:
        facts["prompts"] = record.prompts
    return facts
