"""Who may ask: API keys, compared so that time says nothing about them."""

import hashlib
import hmac
from collections.abc import Iterable
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from models.errors import ConfigError
from server.config import ServerConfig
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
    """Lets requests with a key through; all of them where there are no API keys."""

    def __init__(self, app: ASGIApp, *, api_keys: Keys, admin_keys: Keys, protect_metrics: bool) -> None:
        self.app = app
        self.api_keys = api_keys
        self.admin_keys = admin_keys
        self.protect_metrics = protect_metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raise the `ApiError` for a request without a key that opens its route."""
        if scope["type"] == "http" and not self._is_open(route_path(scope)):
            self._check(scope)
        await self.app(scope, receive, send)

    def _is_open(self, path: str) -> bool:
        if path in WATCHING:
            return path != METRICS or not self.protect_metrics
        return not self.api_keys

    def _check(self, scope: Scope) -> None:
        scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not key:
            raise ApiError(
                401,
                "this server needs an API key; send the header `Authorization: Bearer KEY`",
                code="missing_api_key",
                headers=_CHALLENGE,
            )
        for_admins = route_path(scope) == METRICS and bool(self.admin_keys)
        is_admin, is_known = self.admin_keys.has(key), self.api_keys.has(key)
        if not (is_admin or (is_known and not for_admins)):
            raise ApiError(401, "the API key is not one of this server's", code="invalid_api_key", headers=_CHALLENGE)


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
