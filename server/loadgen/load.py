"""Sends requests: so many at once, or so many a second."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np

from server.loadgen.client import Record, complete
from server.loadgen.prompts import Prompt


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is sent, and how."""

    url: str
    """Where the server's `/v1` is."""
    body: Mapping[str, Any]
    """Of every request, beside the prompt."""
    prompts: Sequence[Prompt]
    """One request each."""
    concurrency: int | None = None
    """Requests at once, each next one as soon as one has ended (closed loop); None: any number, by `rate`."""
    rate: float | None = None
    """Requests a second on average, arriving at random (Poisson), whether or not the server keeps up (open loop)."""
    seed: int = 0
    """Of the arrivals."""
    timeout: float = 600.0
    """Seconds without a byte after which a request is given up."""
    api_key: str | None = None

    def __post_init__(self) -> None:
        if (self.concurrency is None) == (self.rate is None):
            raise ValueError("a load has either a concurrency or a rate")


async def send(load: Load, on_progress: Callable[[int, int], None] = lambda _done, _total: None) -> list[Record]:
    """Send every request and return their records, in order; cancelling ends what is under way."""
    headers = {} if load.api_key is None else {"authorization": f"Bearer {load.api_key}"}
    body = {**load.body, "stream": True, "stream_options": {"include_usage": True}}
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=load.concurrency or 256)
    done = 0

    async def one(number: int, due: float) -> Record:
        nonlocal done
        record = await complete(http, body, load.prompts[number], due=due)
        done += 1
        on_progress(done, len(load.prompts))
        return record

    # A proxy of the environment is not for a load; the server is named by its address.
    async with httpx.AsyncClient(
        base_url=load.url, headers=headers, limits=limits, timeout=load.timeout, trust_env=False
    ) as http:
        if load.rate is not None:
            return await _open_loop(one, arrivals(len(load.prompts), load.rate, load.seed))
        assert load.concurrency is not None, "a load has either a concurrency or a rate"
        return await _closed_loop(one, len(load.prompts), load.concurrency)


def arrivals(count: int, rate: float, seed: int) -> list[float]:
    """Return when each of `count` requests is due, in seconds from the start: a Poisson process."""
    gaps = np.random.default_rng(seed).exponential(1 / rate, count)
    due: list[float] = (np.cumsum(gaps) - gaps[0]).tolist()
    return due


async def _closed_loop(one: Callable[[int, float], Any], count: int, concurrency: int) -> list[Record]:
    records: dict[int, Record] = {}
    numbers = iter(range(count))

    async def client() -> None:
        for number in numbers:
            records[number] = await one(number, time.perf_counter())

    async with asyncio.TaskGroup() as group:
        for _ in range(min(concurrency, count)):
            group.create_task(client())
    return [records[number] for number in range(count)]


async def _open_loop(one: Callable[[int, float], Any], due: Sequence[float]) -> list[Record]:
    started = time.perf_counter()

    async def client(number: int, seconds: float) -> Record:
        await asyncio.sleep(started + seconds - time.perf_counter())
        # Timed from when it was due: a client that comes late to it does not make the server look fast.
        record: Record = await one(number, started + seconds)
        return record

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(client(number, seconds)) for number, seconds in enumerate(due)]
    return [task.result() for task in tasks]
