"""A pack's card, `pack.json`: what it is called, what it is for, how it was made.

Knows names and text, and imports without torch.
"""

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import PackError

PACK_FILE = "pack.json"

_FORMAT = "tolbooth-pack"
_FORMAT_VERSION = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MAX_CARD_BYTES = 2**20
_MAX_HISTORY = 100
_MAX_TEXT = 1000


@dataclass(frozen=True, kw_only=True)
class PackCard:
    """What `pack.json` says."""

    name: str
    """What its maker calls it; a server may serve it under another name."""
    version: int
    """From 1; one more with every change."""
    backbone: str
    """The fingerprint of the model's backbone."""
    base: str
    """The fingerprint of the table that the rows lie over."""
    table_id: str
    """Of the pack's own rows."""
    description: str
    history: tuple[str, ...]
    """How it was made, a line for each step; of very many the last ones."""

    def __post_init__(self) -> None:
        check_pack_name(self.name)
        if self.version < 1:
            raise PackError(f"a pack's version is {self.version}; it counts from 1")

    def to_json(self) -> str:
        """Return the text of `pack.json`."""
        values = {"format": _FORMAT, "format_version": _FORMAT_VERSION, **dataclasses.asdict(self)}
        values["description"] = self.description[:_MAX_TEXT]
        values["history"] = [line[:_MAX_TEXT] for line in self.history[-_MAX_HISTORY:]]
        return json.dumps(values, indent=2) + "\n"


def check_pack_name(name: str) -> None:
    """Raise `PackError` for what cannot be a pack's name."""
    if not _NAME.fullmatch(name):
        raise PackError(
            f"{name!r:.80} is no name for a pack; use letters, digits, dots, dashes and underscores, 64 at most"
        )


def read_card(directory: Path) -> PackCard:
    """Read a pack's `pack.json`, or raise `PackError`."""
    path = directory / PACK_FILE
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_MAX_CARD_BYTES + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise PackError(f"no pack at {directory}: cannot read {path}: {error}") from error
    if len(text) > _MAX_CARD_BYTES:
        raise PackError(f"{path} is longer than {_MAX_CARD_BYTES} characters; it is no pack's")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PackError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict) or values.pop("format", None) != _FORMAT:
        raise PackError(f"{path} does not describe a pack")
    if (version := values.pop("format_version", None)) != _FORMAT_VERSION:
        raise PackError(f"{path} is of version {version!r:.20} of the format; this release reads {_FORMAT_VERSION}")
    return _card(values, path)


def _card(values: dict[str, Any], path: Path) -> PackCard:
    fields = {field.name for field in dataclasses.fields(PackCard)}
    if values.keys() != fields:
        wrong = ", ".join(sorted(values.keys() ^ fields))
        raise PackError(f"{path} has other keys than a pack's: {wrong:.200}")
    history = values.pop("history")
    version = values.pop("version")
    texts_are_texts = all(isinstance(value, str) for value in values.values())
    if not (texts_are_texts and isinstance(history, list) and all(isinstance(line, str) for line in history)):
        raise PackError(f"{path} has values of wrong types")
    if not isinstance(version, int) or isinstance(version, bool):
        raise PackError(f"{path} has values of wrong types")
    return PackCard(**values, version=version, history=tuple(history))
