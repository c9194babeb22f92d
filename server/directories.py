"""Where a user's files go when they name no place: the XDG base directories."""

import os
from pathlib import Path

from models.errors import ConfigError


def cache_directory() -> Path:
    """Return the folder for what can be made again, such as the demo's table; `$XDG_CACHE_HOME/tolbooth`."""
    return _base("XDG_CACHE_HOME", ".cache") / "tolbooth"


def data_directory() -> Path:
    """Return the folder for what cannot, such as training runs; `$XDG_DATA_HOME/tolbooth`."""
    return _base("XDG_DATA_HOME", ".local/share") / "tolbooth"


def _base(variable: str, default: str) -> Path:
    # Relative paths in these variables are to be ignored, says the specification.
    named = Path(os.environ.get(variable, ""))
    if named.is_absolute():
        return named
    try:
        return Path.home() / default
    except RuntimeError as error:
        raise ConfigError(f"there is no home directory to put files in; set {variable} to a folder") from error
