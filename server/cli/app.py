"""The command `tolbooth`: its subcommands, and what a person sees when something goes wrong.

| ending                        | exit code | on stderr               |
|-------------------------------|-----------|-------------------------|
| done                          | 0         |                         |
| output's reader went away     | 1         |                         |
| a mistake, an unusable file   | 2         | one line, `error: ...`  |
| interrupted                   | 130       |                         |
"""

import importlib.metadata
import io
import os
import sys
from collections.abc import Iterator, MutableMapping, Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
import typer.main
from typer.core import TyperGroup

from paging import TolboothError

_BROKEN_PIPE = 1
_MISTAKE = 2
_INTERRUPTED = 130

_COMMANDS = {
    "presets": "server.cli.presets:presets",
    "init": "server.cli.checkpoints:init",
    "import": "server.cli.checkpoints:import_",
    "train": "server.cli.train:train",
    "eval": "server.cli.evaluate:evaluate",
    "export-tol": "server.cli.tables:export_tol",
    "verify-tol": "server.cli.tables:verify_tol",
    "compress-tol": "server.cli.compress:compress_tol",
    "compress-report": "server.cli.compress:compress_report",
    "generate": "server.cli.generate:generate",
    "size": "server.cli.size:size",
    "serve": "server.cli.serve:serve",
    "inspect": "server.cli.inspect:inspect_app",
    "pack": "server.cli.pack:pack",
    "bench": "server.cli.bench:bench",
}
"""Each command's function, or the application of its subcommands."""


class _Commands(MutableMapping[str, Any]):
    """Commands by name; a command's module is loaded when it is asked for, so that none waits for another's."""

    def __init__(self) -> None:
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            self._loaded[name] = _load(name)
        return self._loaded[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        del self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_COMMANDS)

    def __len__(self) -> int:
        return len(_COMMANDS)


def _load(name: str) -> Any:
    module, _, attribute = _COMMANDS[name].partition(":")
    found = getattr(import_module(module), attribute)
    command: Any
    if isinstance(found, typer.Typer):
        command = typer.main.get_group(found)
    else:
        alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        alone.command(name)(found)
        command = typer.main.get_command(alone)
    command.name = name
    return command


class _Group(TyperGroup):
    """The command line's commands, as typer asks for them."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = _Commands()

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 as typer has it
        """Return the commands' names."""
        return list(_COMMANDS)


app = typer.Typer(cls=_Group, add_completion=False, pretty_exceptions_enable=False, invoke_without_command=True)


def _print_version(value: bool) -> None:  # noqa: FBT001 typer calls it with the option's value
    if value:
        typer.echo(f"tolbooth {importlib.metadata.version('tolbooth')}")
        raise typer.Exit


@app.callback()
def tolbooth(
    context: typer.Context,
    *,
    version: Annotated[  # noqa: ARG001 acted upon by its callback
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train and run transformers whose feed-forward memory is a table on disk.

    Example: tolbooth generate --prompt "Once upon a time"
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, `sys.argv`'s where no arguments are given; return the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a character still gets the rest
    try:
        code = typer.main.get_command(app).main(args=arguments, prog_name="tolbooth", standalone_mode=False)
        sys.stdout.flush()
    except TolboothError as error:
        return _mistake(str(error))
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        advice = f"; see `{context.command_path} --help`" if context else ""
        return _mistake(error.format_message().rstrip(".") + advice)
    except BrokenPipeError:
        # Python flushes stdout once more at exit; let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except (KeyboardInterrupt, typer.Abort):
        return _INTERRUPTED
    except OSError as error:
        return _mistake(str(error))
    return code if isinstance(code, int) else 0


def _mistake(message: str) -> int:
    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    return _MISTAKE
