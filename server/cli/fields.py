"""Options made of a dataclass's fields: names, types, defaults and help texts are read from it, written once.

A command says which of its parameters stand for which class, and gets in each the fields that were given, as a dict:
what was not given keeps the class's default, or what a run began with.
"""

import ast
import dataclasses
import functools
import inspect
import operator
import textwrap
import typing
from collections.abc import Callable
from typing import Annotated, Any

import typer


def with_fields(**classes: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace each parameter named here, a dict to the command, by options for all fields of its class."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        options = {parameter: _options(owner, parameter.capitalize()) for parameter, owner in classes.items()}

        @functools.wraps(command)
        def call(**arguments: Any) -> None:
            for parameter, found in options.items():
                values = {option.name: arguments.pop(option.name) for option in found}
                arguments[parameter] = {name: value for name, value in values.items() if value is not None}
            command(**arguments)

        own = [p for name, p in inspect.signature(command).parameters.items() if name not in classes]
        parameters = [*own, *(option for found in options.values() for option in found)]
        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return call

    return decorate


def field_texts(owner: type) -> dict[str, str]:
    """Return the string that stands under each field of a class."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
    assert isinstance(definition, ast.ClassDef)
    texts = {}
    for field, text in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            texts[field.target.id] = str(ast.literal_eval(text.value))
    return texts


def _options(owner: type, panel: str) -> list[inspect.Parameter]:
    texts, hints = field_texts(owner), typing.get_type_hints(owner)
    parameters = []
    for field in dataclasses.fields(owner):
        name, text = field.name.replace("_", "-"), texts[field.name]
        flag = f"--{name}"
        if hints[field.name] is bool:
            flag += f"/--no-{name}"
        elif field.default not in {None, dataclasses.MISSING}:
            text += f" Default: {field.default}."
        option = typer.Option(flag, help=text, show_default=False, rich_help_panel=panel)
        kind = inspect.Parameter.KEYWORD_ONLY
        annotation = operator.getitem(Annotated, (hints[field.name] | None, option))
        parameters.append(inspect.Parameter(field.name, kind, default=None, annotation=annotation))
    return parameters
