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
from collections.abc import Sequence
from typing import Annotated

import typer
import typer.main

from paging import TolboothError
from server.cli.bench import bench
from server.cli.checkpoints import import_, init
from server.cli.compress import compress_report, compress_tol
from server.cli.evaluate import evaluate
from server.cli.generate import generate
from server.cli.inspect import inspect_app
from server.cli.pack import pack
from server.cli.presets import presets
from server.cli.serve import serve
from server.cli.size import size
from server.cli.tables import export_tol, verify_tol
from server.cli.train import train

_BROKEN_PIPE = 1
_MISTAKE = 2
_INTERRUPTED = 130

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, invoke_without_command=True)
app.command("presets")(presets)
app.command("init")(init)
app.command("import")(import_)
app.command("train")(train)
app.command("eval")(evaluate)
app.command("export-tol")(export_tol)
app.command("verify-tol")(verify_tol)
app.command("compress-tol")(compress_tol)
app.command("compress-report")(compress_report)
app.command("generate")(generate)
app.command("size")(size)
app.command("serve")(serve)
app.add_typer(inspect_app, name="inspect")
app.add_typer(pack, name="pack")
app.add_typer(bench, name="bench")


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
