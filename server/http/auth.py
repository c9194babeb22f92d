"""Who may ask: API keys, compared so that time says nothing about them."""

import hashlib
import hmac
from collections.abc import Iterable
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from models.errors import ConfigError
from server.config import ServerConfig
from server.http.control import check_keyless_change, is_change
from server.http.errors import ApiError
from server.http.paths import METRICS, WATCHING, route_path

_MAX_KEY_FILE_BYTES = 2**20
_CHALLENGE = {"WWW-Authenticate": "Bearer"}


class Keys:
    """Some keys, kept as digests."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def has(self, key: str) -> bool:
        """Whether `key` is one of them; takes as long whichever it is, and if it is none."""
        digest = _digest(key)
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return any(matches)


class AuthMiddleware:
    """Lets requests with a key through; where there are no API keys all of them, but for changes to the server."""

    def __init__(self, app: ASGIApp, *, api_keys: Keys, admin_keys: Keys, config: ServerConfig) -> None:
        self.app = app
        self.api_keys = api_keys
        self.admin_keys = admin_keys
        self.config = config

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raise the `ApiError` for a request without a key that opens its route."""
        if scope["type"] == "http":
            for_admins = is_change(scope)
            if not self._is_open(route_path(scope)) or (for_admins and self.admin_keys):
                self._check(scope, for_admins=for_admins)
            if for_admins and not self.admin_keys:
                check_keyless_change(scope, self.config, has_api_keys=bool(self.api_keys))
        await self.app(scope, receive, send)

    def _is_open(self, path: str) -> bool:
        if path in WATCHING:
            return path != METRICS or not self.config.protect_metrics
        return not self.api_keys

    def _check(self, scope: Scope, *, for_admins: bool) -> None:
        scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not key:
            raise ApiError(
                401,
                f"this needs an {'admin' if for_admins else 'API'} key; send the header `Authorization: Bearer KEY`",
                code="missing_api_key",
                headers=_CHALLENGE,
            )
        is_admin, is_known = self.admin_keys.has(key), self.api_keys.has(key)
        if is_admin:
            return
        if not is_known or (route_path(scope) == METRICS and self.admin_keys):
            raise ApiError(401, "the API key is not one of this server's", code="invalid_api_key", headers=_CHALLENGE)
        if for_admins and self.admin_keys:
            raise ApiError(403, "this needs an admin key, and the key sent is none", code="admin_key_needed")


def load_keys(config: ServerConfig) -> tuple[Keys, Keys]:
    """Return the API keys and the admin keys of a configuration; `ConfigError` for a file that gives none."""
    keys = list(config.api_key)
    if config.api_key_file is not None:
        keys += _read_keys(Path(config.api_key_file))
    admin_keys = Keys(config.admin_key)
    if config.protect_metrics and not keys and not admin_keys:
        raise ConfigError("protect_metrics needs a key to protect them with; give api_key or admin_key")
    return Keys(keys), admin_keys


def _read_keys(path: Path) -> list[str]:
    try:
        if path.stat().st_size > _MAX_KEY_FILE_BYTES:
            raise ConfigError(f"the file of API keys {path} is larger than {_MAX_KEY_FILE_BYTES} bytes")
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the API keys in {path}: {error}") from error
    keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not keys:
        raise ConfigError(f"the file of API keys {path} has none; one a line is expected")
    return keys


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
