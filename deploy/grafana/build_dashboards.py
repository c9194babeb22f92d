"""Write the dashboards that Grafana reads, from what `tol_cache.py` and `serving.py` say of them.

    .venv/bin/python -m deploy.grafana.build_dashboards

The written files are kept in the repository; a test fails when they are not what this writes.
"""

import json
from pathlib import Path

from deploy.grafana import serving, tol_cache

FOLDER = Path(__file__).parent / "dashboards"


def written() -> dict[str, str]:
    """Return the text of each file by its name."""
    found = {"tol-cache.json": tol_cache.build(), "serving.json": serving.build()}
    return {name: json.dumps(dashboard, indent=1) + "\n" for name, dashboard in found.items()}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for file_name, text in written().items():
        (FOLDER / file_name).write_text(text, encoding="utf-8")
