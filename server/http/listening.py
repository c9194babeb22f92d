"""The socket that a server listens at, bound before anything else is begun."""

import contextlib
import socket
import ssl
import stat
from pathlib import Path

from paging import TolboothError
from server.config import ServerConfig

_BACKLOG = 2048


class ListenError(TolboothError):
    """The server cannot listen where it was told to."""


def open_socket(config: ServerConfig) -> socket.socket:
    """Return a listening socket, or raise `ListenError`."""
    if config.uds is not None:
        return _open_unix(Path(config.uds))
    where = f"{config.host}:{config.port}"
    try:
        found = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ListenError(f"cannot listen at {where}: {error.strerror or error}") from error
    # Of a name with several addresses the one that most clients try: `localhost` is 127.0.0.1.
    family, _, _, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ListenError(f"cannot listen at {where}: {error.strerror}; name another --port or --host") from error
    return listener


def base_url(config: ServerConfig, listener: socket.socket) -> str:
    """Return what clients are told, for people."""
    if config.uds is not None:
        return f"unix:{config.uds}"
    scheme = "http" if config.ssl_certfile is None else "https"
    host = f"[{config.host}]" if ":" in config.host else config.host
    return f"{scheme}://{host}:{listener.getsockname()[1]}{config.root_path}"


def close_socket(config: ServerConfig, listener: socket.socket) -> None:
    """Close the socket and remove its file, if it has one."""
    listener.close()
    if config.uds is not None:
        Path(config.uds).unlink(missing_ok=True)


def check_certificate(config: ServerConfig) -> None:
    """Raise `ListenError` for a certificate or key that cannot be used."""
    if config.ssl_certfile is None:
        return
    try:
        # A key with a passphrase would ask for it at the terminal.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(config.ssl_certfile, config.ssl_keyfile, password=_refuse_passphrase)
    except (OSError, ValueError) as error:
        files = config.ssl_certfile if config.ssl_keyfile is None else f"{config.ssl_certfile} and {config.ssl_keyfile}"
        raise ListenError(f"cannot use the certificate in {files}: {error}") from error


def _refuse_passphrase() -> str:
    raise ValueError("its key has a passphrase; give one without")


def _open_unix(path: Path) -> socket.socket:
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(path))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ListenError(f"cannot listen at {path}: {error.strerror or error}") from error
    return listener


def _remove_stale(path: Path) -> None:
    """Remove a socket that nobody listens at any more: a server that was killed leaves its own."""
    with contextlib.suppress(OSError):
        if not stat.S_ISSOCK(path.stat().st_mode):
            return
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
