"""`tolbooth serve`."""

import asyncio
import logging
import os
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from models.bundled import DEFAULT_MODEL
from server.beginning import collector_paused, seconds_since_start
from server.cli.output import print_facts
from server.cli.serve_options import with_settings
from server.cli.startup_lines import StartupLines
from server.hub import find_model
from server.settings import resolve_settings
from server.units import num_bytes_text

if TYPE_CHECKING:
    from server.config import ServerConfig
    from server.engine.messages import EngineInfo, EngineStats
    from server.http.served_model import ServedModel
    from server.http.serving import Serving

_STOPPED_EARLY = 1


@with_settings
def serve(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            help="A checkpoint directory, a bundled model, or a model of the Hugging Face hub.",
            show_default=DEFAULT_MODEL,
        ),
    ] = None,
    *,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Options in YAML, by the names of the flags.", show_default=False),
    ] = None,
    flags: dict[str, Any],
) -> None:
    """Serve a model over HTTP, with the API of OpenAI.

    Every option is also a variable of the environment: --max-num-seqs is TOLBOOTH_MAX_NUM_SEQS. A flag goes before the
    environment, that before the file.

    Example: tolbooth serve --port 8000
    """
    if model is not None:
        flags["model"] = model
    settings = resolve_settings(flags=flags, environment=os.environ, file=config, default_model=DEFAULT_MODEL)
    if not _serve(settings):
        raise typer.Exit(_STOPPED_EARLY)


def _serve(config: "ServerConfig") -> bool:
    """Serve until a signal ends it; return whether every request could end."""
    import uvloop  # noqa: PLC0415 beside the next

    from server.http.listening import check_certificate, close_socket, open_socket  # noqa: PLC0415 loads much

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    directory = find_model(config.engine.model)
    check_certificate(config)
    listener = open_socket(config)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_run(config, directory, listener))
    finally:
        close_socket(config, listener)


async def _run(config: "ServerConfig", directory: Path, listener: socket.socket) -> bool:
    """Start the engine's process, then what it is served with: each takes a second, beside the other less."""
    import msgspec  # noqa: PLC0415 beside the next

    from server.http.listening import base_url  # noqa: PLC0415 loads much
    from server.process.client import EngineClient  # noqa: PLC0415 loads much

    url, lines = base_url(config, listener), StartupLines()

    def on_ready(info: "EngineInfo") -> None:
        lines.end()
        spent = ", ".join(f"{phase} {seconds:.2f}" for phase, seconds in info.startup_seconds.items())
        _print(
            {
                **info.granted,
                "loaded": f"{seconds_since_start():.2f} s after the start ({spent})",
                "serving": f"{url}/v1",
            }
        )

    def on_drain(num_open: int) -> None:
        _say_draining(num_open)
        if engine.stats is not None:
            _print(_summary(engine.stats))

    engine = EngineClient(
        msgspec.structs.replace(config.engine, model=str(directory)),
        on_progress=lines.update,
        on_first_output=lambda seconds: _print({"first token": f"{seconds:.2f} s after the first request"}),
    )
    try:
        await engine.start()
        model, serving_type = await asyncio.to_thread(_load_http, config, directory)
        serving = serving_type(config, model, engine, listener, on_ready=on_ready, on_drain=on_drain)
        _print({"model": f"{', '.join(model.names)} ({directory})", "listening": f"{url}, loading"})
        return await serving.run()
    finally:
        await engine.stop(0)


def _load_http(config: "ServerConfig", directory: Path) -> "tuple[ServedModel, type[Serving]]":
    """Return the model as clients know it, and what serves it."""
    with collector_paused():
        from server.http.served_model import ServedModel  # noqa: PLC0415 loads tokenizers
        from server.http.serving import Serving  # noqa: PLC0415 loads FastAPI

        model = ServedModel.load(
            directory,
            names=config.served_model_name or (_model_name(config.engine.model),),
            max_model_len=config.engine.max_model_len,
            max_prompt_bytes=config.max_body_bytes,
            created=int(time.time()),
        )
    return model, Serving


def _model_name(named: str) -> str:
    """Return the name by which clients call a model where the operator gave none."""
    return Path(named).resolve().name if Path(named).is_dir() else named


def _say_draining(num_open: int) -> None:
    what = f"{num_open} open requests may end" if num_open else "no request is open"
    sys.stderr.write(f"shutting down: {what}; a second signal stops at once\n")
    sys.stderr.flush()


def _summary(stats: "EngineStats") -> dict[str, str]:
    """Say what a server did so far, and with how much memory."""
    facts = {
        "served": f"{stats.prompt_tokens:,} prompt tokens, {stats.generation_tokens:,} generated",
        "memory": f"{num_bytes_text(stats.resident_bytes)} in the engine's process",
    }
    if stats.memory:
        requests = stats.row_device_hits + stats.row_host_hits + stats.row_major_faults
        rate = f"{1 - stats.row_major_faults / requests:.2%}" if requests else "none"
        num_read = stats.memory.get("bytes_read")
        assert isinstance(num_read, int | float), "the pager counts bytes"
        facts["rows"] = f"{requests:,} asked for, hit rate {rate}, {num_bytes_text(num_read)} read"
    return facts


def _print(facts: dict[str, str]) -> None:
    print_facts(facts)
    sys.stdout.flush()
