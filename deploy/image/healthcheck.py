"""Ask a server in this container whether it serves; exit 0 if it does.

Knows where it listens from the variables that told the server: TOLBOOTH_PORT, TOLBOOTH_UDS and TOLBOOTH_SSL_CERTFILE.
With flags or a configuration file in their place, the container needs a check of its own.
"""

import http.client
import os
import socket
import ssl
import sys
from collections.abc import Mapping

_SECONDS = 4.0


def is_healthy(environment: Mapping[str, str]) -> bool:
    """Whether /health answers with 200."""
    connection = _connection(environment)
    try:
        connection.connect()
        connection.request("GET", "/health")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class _UnixConnection(http.client.HTTPConnection):
    """Over a Unix socket; the host's name is its path."""

    def connect(self) -> None:
        """Connect."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_SECONDS)
        self.sock.connect(self.host)


def _connection(environment: Mapping[str, str]) -> http.client.HTTPConnection:
    port = int(environment.get("TOLBOOTH_PORT", "8000"))
    if path := environment.get("TOLBOOTH_UDS"):
        return _UnixConnection(path)
    if not environment.get("TOLBOOTH_SSL_CERTFILE"):
        return http.client.HTTPConnection("127.0.0.1", port, timeout=_SECONDS)
    # Its certificate bears the name that clients know, not this one.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return http.client.HTTPSConnection("127.0.0.1", port, timeout=_SECONDS, context=context)


if __name__ == "__main__":
    sys.exit(0 if is_healthy(os.environ) else 1)
