"""Which route a request is for, and which are there for watching the server rather than using it."""

from starlette.types import Scope

METRICS = "/metrics"
WATCHING = frozenset({"/health", "/version", METRICS})
"""Open without a key (metrics can be closed), and answered while the server drains."""


def route_path(scope: Scope) -> str:
    """Return the path below the one under which a proxy shows the server."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path.removeprefix(root) if root and path.startswith(f"{root}/") else path
