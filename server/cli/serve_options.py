"""Options that are a field each of the server's or the engine's configuration, read off its types and texts."""

import functools
import inspect
import operator
import types
import typing
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Annotated, Any

import msgspec
import typer

from server.cli.fields import field_texts
from server.config import ServerConfig
from server.engine.config import EngineConfig
from server.settings import is_list, option_fields

_ARGUMENTS = frozenset({"model"})
"""Fields that are no option: MODEL has no flag."""
_OF_SERVING = frozenset({"enable_prefix_caching", "max_waiting", "keep_hot_set", "pack"})
"""Fields of the engine that mean nothing where nobody is served."""


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Replace the command's parameter `flags` by all options; the command gets those that were given, as a dict."""
    return _with_options(command, _options())


def with_engine_options(command: Callable[..., None]) -> Callable[..., None]:
    """As `with_settings`, by the engine's options alone, for a command that serves nobody."""
    engine = set(EngineConfig.__struct_fields__)
    return _with_options(command, _options(_ARGUMENTS | _OF_SERVING | (option_fields().keys() - engine)))


def _with_options(command: Callable[..., None], options: list[inspect.Parameter]) -> Callable[..., None]:
    @functools.wraps(command)
    def call(**arguments: Any) -> None:
        flags = {option.name: arguments.pop(option.name) for option in options}
        command(**arguments, flags={name: value for name, value in flags.items() if value is not None})

    own = [parameter for name, parameter in inspect.signature(command).parameters.items() if name != "flags"]
    parameters = [*own, *options]
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call


def _options(without: AbstractSet[str] = _ARGUMENTS) -> list[inspect.Parameter]:
    texts = field_texts(EngineConfig) | field_texts(ServerConfig)
    engine = set(EngineConfig.__struct_fields__)
    return [
        _option(field, texts.get(name, ""), "Engine" if name in engine else "Server")
        for name, field in option_fields().items()
        if name not in without
    ]


def _option(field: msgspec.structs.FieldInfo, text: str, panel: str) -> inspect.Parameter:
    flag = f"--{field.name.replace('_', '-')}"
    kind: Any = field.type
    if kind in {bool, bool | None}:
        flag += f"/--no-{flag.removeprefix('--')}"
    elif is_list(field):
        kind = types.GenericAlias(list, typing.get_args(kind)[:1])
        text += " Give it again for more."
    text = " ".join(text.split())
    if field.default not in {None, (), "", msgspec.NODEFAULT}:
        text = f"{text} Default: {_shown(field.default)}.".strip()
    option = typer.Option(flag, help=text, show_default=False, rich_help_panel=panel)
    nullable = kind if type(None) in typing.get_args(kind) else operator.or_(kind, None)
    annotation = operator.getitem(Annotated, (nullable, option))
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
