"""The one harness of every benchmark: arms measured in turns (`server/measuring/comparison.py`), and a report of them.

Knows nothing of what is measured.
"""

import functools
import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from server.measuring import comparison
from server.measuring.comparison import Arm, Comparison
from server.measuring.intervals import median_interval

__all__ = ["Arm", "Comparison", "compare", "drop_page_cache", "hardware", "median_interval", "write_report"]


@functools.wraps(comparison.compare)
def compare(title: str, *arguments: Any, **options: Any) -> Comparison:
    """Measure arms in turns, with progress on standard error."""

    def tell(done: int, total: int, arm: str) -> None:
        print(f"\r{title}: {done} of {total}, {arm:<40}", end="", file=sys.stderr)

    result = comparison.compare(title, *arguments, **options, on_arm=tell)
    print(file=sys.stderr)
    return result


def write_report(
    comparisons: Sequence[Comparison],
    stem: Path,
    *,
    title: str,
    remarks: str = "",
    more: Mapping[str, Any] | None = None,
) -> None:
    """Write `stem.json` and `stem.md`: hardware, date and command, then every comparison."""
    facts = {
        "date": datetime.now(tz=UTC).date().isoformat(),
        "command": shlex.join(["python", *sys.argv]),
        **hardware(),
    }
    content = {
        "title": title,
        "facts": facts,
        "comparisons": [comparison.to_dict() for comparison in comparisons],
        **(more or {}),
    }
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    lines = [f"# {title}", ""]
    lines += [f"- {key}: {value}" for key, value in facts.items()]
    lines += ["", *([remarks, ""] if remarks else [])]
    lines += [comparison.to_markdown() for comparison in comparisons]
    stem.with_suffix(".md").write_text("\n".join(lines), encoding="utf-8")


def hardware() -> dict[str, str]:
    """Return what the measures were taken on."""
    facts = {
        "processor": f"{_cpu_model()}, {os.cpu_count()} cores",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load before": f"{os.getloadavg()[0]:.2f}",
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        facts["torch"] = torch.__version__
        facts["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return facts


def drop_page_cache() -> None:
    """Empty the kernel's page cache, so that reads come from the disk; needs root, raises `PermissionError` without."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n", encoding="ascii")


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
