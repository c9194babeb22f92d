"""Where the server's options come from: flag before environment before file before default.

Knows the names that each source may use and says which source is at fault. Knows nothing of what options mean
(`server/config.py`), nor of command lines.
"""

import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from models.errors import ConfigError
from server.config import ServerConfig
from server.engine.config import EngineConfig
from server.nearest import nearest

PREFIX = "TOLBOOTH_"
CONFIG_VARIABLE = f"{PREFIX}CONFIG"
"""Names the configuration file where no flag does."""

_MAX_FILE_BYTES = 2**20


def option_fields() -> dict[str, msgspec.structs.FieldInfo]:
    """Return every option's field by its name: the engine's, then the server's own."""
    engine = msgspec.structs.fields(EngineConfig)
    own = (field for field in msgspec.structs.fields(ServerConfig) if field.name != "engine")
    return {field.name: field for field in (*engine, *own)}


def is_list(field: msgspec.structs.FieldInfo) -> bool:
    """Whether an option can be given several times."""
    return typing.get_origin(field.type) is tuple


def resolve_settings(
    *, flags: Mapping[str, Any], environment: Mapping[str, str], file: Path | None, default_model: str
) -> ServerConfig:
    """Put one configuration together; `flags` are the options that were given, None where they were not.

    Raises `ConfigError` that names the source for unknown names and unsuitable values.
    """
    if file is None and environment.get(CONFIG_VARIABLE):
        file = Path(environment[CONFIG_VARIABLE])
    values: dict[str, Any] = {"model": default_model, "keep_hot_set": True}
    if file is not None:
        values |= _from_file(file)
    values |= _from_environment(environment)
    fields = option_fields()
    for name, value in flags.items():
        if value is not None:
            values[name] = _converted(value, fields[name], where=f"--{name.replace('_', '-')}")
    engine_names = set(EngineConfig.__struct_fields__)
    engine = EngineConfig(**{name: value for name, value in values.items() if name in engine_names})
    return ServerConfig(engine=engine, **{name: value for name, value in values.items() if name not in engine_names})


def _from_file(file: Path) -> dict[str, Any]:
    try:
        with file.open(encoding="utf-8") as stream:
            text = stream.read(_MAX_FILE_BYTES + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration {file}: {error}") from error
    if len(text) > _MAX_FILE_BYTES:
        raise ConfigError(f"the configuration {file} is longer than {_MAX_FILE_BYTES} characters")
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"the configuration {file} is not YAML: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"the configuration {file} is no mapping of names to values")
    fields = option_fields()
    found = {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in fields:
            raise ConfigError(f"{file} has an unknown key {str(key)!r:.80}{nearest(name, fields)}")
        if value is not None:
            found[name] = _converted(value, fields[name], where=f"{key} in {file}")
    return found


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    fields = {PREFIX + name.upper(): field for name, field in option_fields().items()}
    found = {}
    for variable, text in environment.items():
        if not variable.startswith(PREFIX) or variable == CONFIG_VARIABLE:
            continue
        if variable not in fields:
            raise ConfigError(f"{variable} is no setting of Tolbooth{nearest(variable, fields)}")
        field = fields[variable]
        value: str | list[str] = text
        if is_list(field):
            value = [part.strip() for part in text.split(",")]
        found[field.name] = _converted(value, field, where=variable)
    return found


def _converted(value: Any, field: msgspec.structs.FieldInfo, *, where: str) -> Any:
    if is_list(field) and not isinstance(value, list):
        value = [value]
    try:
        # A text stands for a number or a switch wherever one is wanted: environments and flags have nothing else.
        of_text = isinstance(value[0] if isinstance(value, list) and value else value, str)
        return msgspec.convert(value, field.type, strict=not of_text)
    except msgspec.ValidationError as error:
        secret = "key" in field.name
        shown = "" if secret else f" is {value!r:.80};"
        raise ConfigError(f"{where}{shown or ':'} {str(error)[:200]}") from error
