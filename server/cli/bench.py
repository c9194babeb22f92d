"""`tolbooth bench`: its subcommands."""

import typer

from server.cli.bench_engine import bench_engine
from server.cli.bench_export import bench_export
from server.cli.bench_paging import bench_paging
from server.cli.bench_serve import bench_serve

bench = typer.Typer(no_args_is_help=True, help="Measure a server, a model or a table of yours.")
bench.command("serve")(bench_serve)
bench.command("engine")(bench_engine)
bench.command("paging")(bench_paging)
bench.command("export")(bench_export)
