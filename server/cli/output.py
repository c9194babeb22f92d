"""What commands print on stdout: JSON for programs, tables and facts for people.

Progress is `server/cli/progress.py`'s.
"""

import json
import sys
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

_WIDE = 160


def print_json(value: object) -> None:
    """Print a value as JSON and nothing else."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under headers; the first column is text, the others are numbers."""
    table = Table(box=None, pad_edge=False)
    for index, header in enumerate(headers):
        table.add_column(header, justify="right" if index else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    _console().print(table)


def print_facts(facts: Mapping[str, str]) -> None:
    """Print names and values, one pair a line."""
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        sys.stdout.write(f"{name:<{width}}  {value}\n")


def num_bytes_text(num_bytes: float) -> str:
    """Return bytes in the unit that suits them, decimal: `12.61 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} B" if unit == "B" else f"{num_bytes:.2f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.2f} TB"


def duration_text(seconds: float) -> str:
    """Return a duration as a person says it: `12 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _console() -> Console:
    console = Console()
    # Into a pipe or a file a table goes as wide as it is, not cut at 80 columns.
    return console if console.is_terminal else Console(width=_WIDE)
