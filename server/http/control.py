"""Who may change how the server works, beside using it.

| keys that the server has | who may                                                                       |
|--------------------------|-------------------------------------------------------------------------------|
| an admin key             | whoever sends it                                                              |
| API keys alone           | nobody                                                                        |
| none                     | programs on the same machine, where the server listens to a loopback address  |

In the last case a web page that a person on that machine looks at could send requests too. Browsers say of such a
request which page it is from, and by which name they found the server: both must be the server itself.
"""

import ipaddress

from starlette.datastructures import Headers
from starlette.types import Scope

from server.config import ServerConfig
from server.http.errors import ApiError
from server.http.paths import MEMORY, PACKS, route_path

_CONTROLLED = (MEMORY,)
"""Paths, those below them included, where everything but looking is a change."""
_FOR_ADMINS = (PACKS,)
"""Paths where looking is for those who may change."""
_LOOKING = frozenset({"GET", "HEAD", "OPTIONS"})
_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip", "via")
"""Headers by which proxies say that somebody else asks."""


def is_change(scope: Scope) -> bool:
    """Whether a request would change how the server works, or is for those alone who may."""
    path = route_path(scope)
    paths = _FOR_ADMINS if scope["method"] in _LOOKING else _CONTROLLED
    return any(path == each or path.startswith(f"{each}/") for each in paths)


def check_keyless_change(scope: Scope, config: ServerConfig, *, has_api_keys: bool) -> None:
    """Raise the `ApiError` for a change that nobody may make, or not from there, on a server without an admin key."""
    if has_api_keys:
        raise _refusal("this server has API keys and no admin key")
    if config.uds is not None or not _is_loopback(config.host):
        raise _refusal("this server has no admin key and listens to other machines")
    headers = Headers(scope=scope)
    if any(name in headers for name in _FORWARDED):
        raise _refusal("this server has no admin key, and the request came through a proxy")
    host = headers.get("host", "")
    scheme = "http" if config.ssl_certfile is None else "https"
    if not _is_loopback(_hostname(host)) or headers.get("origin", f"{scheme}://{host}") != f"{scheme}://{host}":
        raise _refusal("this server has no admin key, and the request came from a web page of another place")


def _refusal(why: str) -> ApiError:
    return ApiError(
        403,
        f"{why}: nothing can be changed; start it with --admin-key and send that key",
        code="admin_key_needed",
    )


def _hostname(host: str) -> str:
    """Return a Host header's name or address, without the port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _is_loopback(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
