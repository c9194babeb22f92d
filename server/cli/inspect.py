"""`tolbooth inspect`: the memory read as tokens, cells and values. Its commands, put together."""

import typer

from server.cli.inspect_memory import cell, clusters, token
from server.cli.inspect_report import report
from server.cli.inspect_worth import alpha, layers

inspect_app = typer.Typer(
    help="Look into a model's memory: which cells a token reads, and what they store.", no_args_is_help=True
)
for command in (report, token, cell, clusters, layers, alpha):
    inspect_app.command(command.__name__)(command)
