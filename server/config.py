"""What `tolbooth serve` is asked to be: the engine's options, and those of the HTTP part around it.

The command line, the environment and a configuration file take names, types, defaults and help texts from here. Knows
nothing of where a value came from (`server/settings.py`).
"""

from enum import StrEnum

import msgspec

from models.errors import ConfigError
from server.engine.config import EngineConfig

_COUNTS = (
    "max_body_bytes",
    "max_header_bytes",
    "max_prompts",
    "max_n",
    "max_sequences",
    "max_stop_strings",
    "max_stop_length",
    "max_logit_bias",
)


class LogFormat(StrEnum):
    """How a request's line in the log is written."""

    TEXT = "text"
    JSON = "json"


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One server's options; values out of range are a `ConfigError`."""

    engine: EngineConfig
    host: str = "127.0.0.1"
    """The address to listen at."""
    port: int = 8000
    """The port to listen at; 0 takes a free one."""
    uds: str | None = None
    """Listen at this Unix socket instead of host and port."""
    root_path: str = ""
    """The path under which a proxy shows this server, such as /llm."""
    served_model_name: tuple[str, ...] = ()
    """The model's name in requests and answers; further ones are aliases. None: the name that MODEL has."""
    api_key: tuple[str, ...] = ()
    """A key that clients must send; none: anyone is served."""
    api_key_file: str | None = None
    """A file of further API keys, one a line."""
    admin_key: tuple[str, ...] = ()
    """A key that opens everything; protected metrics, and changes to the memory, then take no other."""
    protect_metrics: bool = False
    """Whether /metrics needs a key too."""
    enable_memory_options: bool = False
    """Whether requests may say how much of the memory they get, layer by layer."""
    packs_dir: str | None = None
    """The folder that memory packs are loaded from at run time; none: there is no loading at run time."""
    status_page: bool = True
    """Whether a page at / shows how the server does; what it shows needs the keys that clients need."""
    cors_origins: tuple[str, ...] = ()
    """An origin whose web pages may call this server; * for all."""
    ssl_certfile: str | None = None
    """A certificate in PEM: serve https."""
    ssl_keyfile: str | None = None
    """The certificate's private key, where it is a file of its own."""
    load_timeout: float = 3600.0
    """Seconds that the engine may take to load."""
    shutdown_timeout: float = 30.0
    """Seconds that requests under way have to end after the first SIGTERM."""
    request_timeout: float = 600.0
    """Seconds that one request may take, waiting included."""
    log_format: LogFormat = LogFormat.TEXT
    """How requests are logged, one line each."""
    log_prompts: bool = False
    """Whether the log has the prompts too."""
    max_body_bytes: int = 8 * 2**20
    """Bytes of a request's body at most."""
    max_header_bytes: int = 32 * 2**10
    """Bytes of a request's line and headers at most."""
    max_prompts: int = 128
    """Prompts in one request at most."""
    max_n: int = 128
    """Choices for one prompt at most."""
    max_sequences: int = 256
    """Prompts times choices of one request at most."""
    max_stop_strings: int = 16
    """Stop strings of one request at most; as many bad words."""
    max_stop_length: int = 256
    """Characters of a stop string or bad word at most."""
    max_logit_bias: int = 1024
    """Entries of logit_bias at most."""
    max_logprobs: int = 20
    """Likeliest tokens listed for one position at most."""

    def __post_init__(self) -> None:
        for name in _COUNTS:
            self._check(name, getattr(self, name) >= 1, "at least 1")
        self._check("port", 0 <= self.port <= 65535, "from 0 to 65535")
        self._check("max_logprobs", self.max_logprobs >= 0, "at least 0")
        for name in ("load_timeout", "request_timeout"):
            self._check(name, 0 < getattr(self, name) < float("inf"), "finite and above 0")
        self._check("shutdown_timeout", 0 <= self.shutdown_timeout < float("inf"), "finite and at least 0")
        rooted = self.root_path.startswith("/") and not self.root_path.endswith("/")
        self._check("root_path", not self.root_path or rooted, "a path such as /llm")
        for name in ("served_model_name", "api_key", "admin_key", "cors_origins"):
            if not all(getattr(self, name)):
                raise ConfigError(f"{name} is empty; give it a value or leave it out")
        for name in ("api_key", "admin_key"):
            if not all(key.isascii() and key.isprintable() and " " not in key for key in getattr(self, name)):
                raise ConfigError(f"{name} has characters that no header carries; use printable ASCII without spaces")
        if self.ssl_keyfile is not None and self.ssl_certfile is None:
            raise ConfigError("ssl_keyfile is given without ssl_certfile; give both")

    def _check(self, name: str, holds: bool, rule: str) -> None:  # noqa: FBT001 a condition is what it is about
        if not holds:
            raise ConfigError(f"{name} is {getattr(self, name)!r}; it must be {rule}")
