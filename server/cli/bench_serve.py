"""`tolbooth bench serve`: a load on any server of OpenAI's completions."""

import asyncio
import dataclasses
import time
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from models.errors import ConfigError
from server.cli.options import JsonOption
from server.cli.output import print_facts, print_json, print_table
from server.loadgen.hit_rates import HitRates, hit_rates, read_totals
from server.loadgen.load import Load, send
from server.loadgen.prompts import Prompt, text_prompts, trace_prompts
from server.loadgen.summary import Distribution, Goal, Summary, summarise
from server.progress import Progress
from server.units import num_bytes_text

_MODELS_TIMEOUT = 10.0


def bench_serve(
    url: Annotated[str, typer.Argument(help="An OpenAI-compatible server; any, not only Tolbooth.")] = (
        "http://127.0.0.1:8000"
    ),
    *,
    model: Annotated[
        str | None, typer.Option(help="The model's name.", show_default="the first that the server lists")
    ] = None,
    text: Annotated[Path | None, typer.Option(metavar="FILE", help="Cut prompts out of this UTF-8 text.")] = None,
    trace: Annotated[
        Path | None, typer.Option(metavar="IDS.npy", help="Cut prompts out of these token ids; sent as ids.")
    ] = None,
    requests: Annotated[int, typer.Option(min=1, max=1_000_000, help="Requests to send.")] = 200,
    concurrency: Annotated[
        int | None, typer.Option(min=1, max=65_536, help="Requests at once.", show_default="16 without --rate")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(min=0, help="Requests a second, arriving at random, instead of --concurrency.")
    ] = None,
    prompt_tokens: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Tokens of a prompt; of a text about so many.")
    ] = 128,
    max_tokens: Annotated[int, typer.Option(min=1, max=1_000_000, help="Tokens to generate.")] = 64,
    temperature: Annotated[float, typer.Option(min=0, help="Of sampling.")] = 0.0,
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos", help="Always generate --max-tokens (Tolbooth, vLLM, SGLang).")
    ] = False,
    goal: Annotated[
        str | None, typer.Option(metavar="GOAL", help="Count the requests that keep this, such as ttft=0.5,tpot=0.05.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of prompts and arrivals.")] = 0,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds without a byte until a request fails.")] = 600.0,
    api_key: Annotated[str | None, typer.Option(help="Sent as a bearer token.", envvar="OPENAI_API_KEY")] = None,
    json: JsonOption = False,
) -> None:
    """Load a server with streamed completions and tell what its clients see.

    Example: tolbooth bench serve http://127.0.0.1:8000 --text book.txt --concurrency 32
    """
    if rate is not None and (concurrency is not None or rate == 0):
        raise ConfigError("give either --concurrency or a --rate above 0")
    if (text is None) == (trace is None):
        raise ConfigError("what to send is not clear; give either --text or --trace")
    root = url.rstrip("/").removesuffix("/v1") + "/"
    if not root.startswith(("http://", "https://")):
        raise ConfigError(f"{url[:200]!r} is no address of a server; give one such as http://127.0.0.1:8000")
    its_goal = None if goal is None else parse_goal(goal)
    prompts: list[Prompt]
    if text is not None:
        prompts = text_prompts(text, count=requests, num_tokens=prompt_tokens, seed=seed)
    else:
        assert trace is not None, "checked above"
        prompts = trace_prompts(trace, count=requests, num_tokens=prompt_tokens, seed=seed)
    body: dict[str, Any] = {
        "model": model or _first_model(root, api_key),
        "max_tokens": max_tokens,
        "temperature": temperature,
    }
    if ignore_eos:
        body["ignore_eos"] = True
    load = Load(
        url=root,
        body=body,
        prompts=prompts,
        concurrency=(concurrency or 16) if rate is None else None,
        rate=rate,
        seed=seed,
        timeout=timeout,
        api_key=api_key,
    )
    summary, rates = _measure(load, its_goal)
    if json:
        print_json(
            {
                "url": root,
                **body,
                "concurrency": load.concurrency,
                "rate": rate,
                **summary.to_json(),
                "rows": None if rates is None else dataclasses.asdict(rates),
            }
        )
    else:
        _print(summary, rates)
    if summary.failed == summary.requests:
        raise ConfigError(f"every request failed; the commonest reason: {next(iter(summary.errors))}")


def parse_goal(text: str) -> Goal:
    """Return the goal that `ttft=0.5,tpot=0.05,e2e=10` names, in seconds, or raise `ConfigError`."""
    names = [field.name for field in dataclasses.fields(Goal)]
    values: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        try:
            values[name] = float(value)
        except ValueError:
            values[name] = 0.0
        if name not in names or not values[name] > 0:
            raise ConfigError(
                f"--goal has {part.strip()[:80]!r}; give seconds for {', '.join(names)}, such as ttft=0.5"
            )
    return Goal(**values)


def _measure(load: Load, goal: Goal | None) -> tuple[Summary, HitRates | None]:
    async def run() -> tuple[Summary, HitRates | None]:
        before = await read_totals(load.url, api_key=load.api_key)
        with Progress() as progress:
            started = time.perf_counter()
            records = await send(load, progress.phase("sending requests"))
            seconds = time.perf_counter() - started
        after = await read_totals(load.url, api_key=load.api_key)
        rates = None if before is None or after is None else hit_rates(before, after)
        return summarise(records, seconds, goal), rates

    return asyncio.run(run())


def _first_model(root: str, api_key: str | None) -> str:
    headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
    try:
        answer = httpx.get(f"{root}v1/models", headers=headers, timeout=_MODELS_TIMEOUT, trust_env=False)
        answer.raise_for_status()
        name: str = answer.json()["data"][0]["id"]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"cannot ask {root} which model it serves: {error or type(error).__name__}") from error
    return name


def _print(summary: Summary, rates: HitRates | None) -> None:
    facts = {
        "requests": f"{summary.requests:,}, {summary.failed:,} failed, in {summary.seconds:.2f} s",
        "tokens": f"{summary.prompt_tokens:,} of prompts, {summary.completion_tokens:,} generated",
        "rate": f"{summary.requests_per_second:.2f} requests/s, {summary.tokens_per_second:.1f} generated tokens/s",
    }
    if summary.goodput is not None:
        facts["goodput"] = f"{summary.goodput:.2f} requests/s within the goal"
    if rates is not None:
        facts["rows"] = (
            f"{rates.row_requests:,} asked for: device {rates.device:.2%}, host {rates.host:.2%}, storage "
            f"{rates.storage:.2%} ({num_bytes_text(rates.bytes_read)} read)"
        )
    print_facts(facts)
    names = {"ttft": "first token", "itl": "between pieces", "tpot": "per further token", "e2e": "whole answer"}
    found = {text: getattr(summary, name) for name, text in names.items()}
    rows = [[text, *_milliseconds(times)] for text, times in found.items() if times is not None]
    if rows:
        typer.echo()
        print_table(["ms", "mean", "p50", "p90", "p99"], rows)
    for reason, count in list(summary.errors.items())[:5]:
        typer.echo(f"{count:,} x {reason}", err=True)


def _milliseconds(times: Distribution) -> list[str]:
    return [f"{1e3 * value:.1f}" for value in dataclasses.astuple(times)]
