"""From messages to token ids, by the template that the checkpoint brings along.

The template is the operator's, the messages are anybody's: what a message spells never becomes a special token. Before
the template sees them, their texts get a mark (a character that none of them has) at their beginning and behind every
character that a special token begins with, so that no special token is spelled in them, nor across their ends; after
it the marks are taken out again.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from models.errors import CheckpointError
from models.tokenizer import CHAT_TEMPLATE_FILE, TOKENIZER_CONFIG_FILE, encode
from server.engine.errors import RequestError
from server.http.special_tokens import split_special

_MAX_TEMPLATE_BYTES = 2**20
_MARKS = [chr(code) for code in range(0xFDD0, 0xFDF0)]
"""Characters that Unicode sets aside and that no text is exchanged in."""


class ChatTemplate:
    """A compiled template, and the variables that it may name."""

    def __init__(self, source: str, tokenizer: Tokenizer, *, variables: Mapping[str, str], max_chars: int) -> None:
        """Compile `source`; a broken one is a `CheckpointError`. max_chars: of a filled-in template."""
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = _now
        try:
            self._template: Template = environment.from_string(source)
        except TemplateError as error:
            raise CheckpointError(f"the checkpoint's chat template cannot be read: {error}") from error
        self._tokenizer = tokenizer
        self._variables = dict(variables)
        self._max_chars = max_chars
        self._first_characters = {
            token.content[0] for token in tokenizer.get_added_tokens_decoder().values() if token.special
        }

    @classmethod
    def load(cls, directory: Path, tokenizer: Tokenizer, *, max_chars: int) -> "ChatTemplate | None":
        """Return the template of a checkpoint, None where it has none; broken files are a `CheckpointError`."""
        settings = _tokenizer_config(directory)
        source: Any = settings.get("chat_template")
        if isinstance(source, list):  # several by name
            named = {each.get("name"): each.get("template") for each in source if isinstance(each, dict)}
            source = named.get("default")
        if (own_file := directory / CHAT_TEMPLATE_FILE).exists():
            source = _read(own_file)
        if source is None:
            return None
        if not isinstance(source, str):
            raise CheckpointError(f"chat_template in {directory / TOKENIZER_CONFIG_FILE} is no text")
        variables = {}
        for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
            value = settings.get(name)
            variables[name] = value.get("content", "") if isinstance(value, dict) else value or ""
        return cls(source, tokenizer, variables=variables, max_chars=max_chars)

    def encode(self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool) -> list[int]:
        """Return the ids of a conversation; `RequestError` where the template does not take it."""
        mark = next(
            (mark for mark in _MARKS if not any(mark in text for each in messages for text in each.values())), None
        )
        if mark is None:
            raise RequestError(
                "the messages have characters that no text may have (U+FDD0 to U+FDEF)", param="messages"
            )
        marked = [
            {name: text if name == "role" else self._marked(text, mark) for name, text in message.items()}
            for message in messages
        ]
        text = self._render(marked, add_generation_prompt=add_generation_prompt)
        ids: list[int] = []
        for piece in split_special(self._tokenizer, text):
            ids.extend([piece] if isinstance(piece, int) else encode(self._tokenizer, piece.replace(mark, "")))
        return ids

    def _marked(self, text: str, mark: str) -> str:
        for character in self._first_characters:
            text = text.replace(character, character + mark)
        # Behind the spaces, which templates take away.
        stripped = text.lstrip()
        return text[: len(text) - len(stripped)] + mark + stripped if stripped else text

    def _render(self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool) -> str:
        pieces, room = [], self._max_chars
        generated = self._template.generate(
            messages=messages, add_generation_prompt=add_generation_prompt, **self._variables
        )
        try:
            for piece in generated:
                room -= len(piece)
                if room < 0:
                    break
                pieces.append(piece)
        except Exception as error:  # a template can raise whatever the code in it runs into
            raise RequestError(
                f"the model's chat template does not take these messages: {error}", param="messages"
            ) from error
        if room < 0:
            raise RequestError(f"the messages make a text of more than {self._max_chars} characters", param="messages")
        return "".join(pieces)


def _tokenizer_config(directory: Path) -> dict[str, Any]:
    path = directory / TOKENIZER_CONFIG_FILE
    if not path.exists():
        return {}
    try:
        settings = json.loads(_read(path))
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path} is no JSON object")
    return settings


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_TEMPLATE_BYTES:
            raise CheckpointError(f"{path} is larger than {_MAX_TEMPLATE_BYTES} bytes")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error


def _to_json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)
