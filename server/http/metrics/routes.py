"""How many requests were answered with which status, by route.

Knows routes by their templates, so that no path that somebody makes up becomes a series of its own.
"""

from collections.abc import Sequence

from starlette.routing import Route
from starlette.types import Scope

from server.http.paths import route_path

OTHER = "other"
NO_ANSWER = "none"
"""In place of a status where the client had gone before there was one."""
STATUSES = ("200", "400", "401", "403", "404", "405", "409", "413", "429", "500", "503", NO_ANSWER, OTHER)


class RouteMetrics:
    """Counts requests since the server's start."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, ...], int] = {}
        """By route and status."""
        self._routes: list[Route] = []

    def declare(self, routes: Sequence[Route]) -> None:
        """Name the routes that there are; once, before any request."""
        self._routes = [*routes]
        templates = [*sorted({route.path_format for route in routes}), OTHER]
        self.counts = {(template, status): 0 for template in templates for status in STATUSES}

    def template_of(self, scope: Scope) -> str:
        """Return the template of the route that a request's path belongs to, whatever its method."""
        path = route_path(scope)
        return next((route.path_format for route in self._routes if route.path_regex.match(path)), OTHER)

    def note(self, route: str, status: int | None) -> None:
        """Count a request; None: there was no answer."""
        name = NO_ANSWER if status is None else str(status)
        self.counts[route, name if name in STATUSES else OTHER] += 1
