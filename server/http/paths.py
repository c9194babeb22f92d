"""Which route a request is for, and which are there for watching the server rather than using it."""

from starlette.types import ASGIApp, Receive, Scope, Send

METRICS = "/metrics"
STATUS_PAGE = "/"
MEMORY = "/v1/memory"
PACKS = f"{MEMORY}/packs"
WATCHING = frozenset({"/health", "/version", METRICS, STATUS_PAGE})
"""Open without a key (metrics can be closed), and answered while the server drains. The page itself says nothing."""
UNLOGGED = WATCHING | {MEMORY, f"{MEMORY}/map", f"{MEMORY}/curve"}
"""Asked for again and again by whoever watches."""


def route_path(scope: Scope) -> str:
    """Return the path below the one under which a proxy shows the server."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path.removeprefix(root) if root and path.startswith(f"{root}/") else path


class RootPath:
    """Says under which path a proxy shows the server, whether or not the proxy takes it off requests."""

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self.app = app
        self.root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] == "http" and self.root_path:
            path: str = scope["path"]
            if not path.startswith(f"{self.root_path}/"):
                path = self.root_path + path
            scope = {**scope, "root_path": self.root_path, "path": path}
        await self.app(scope, receive, send)
