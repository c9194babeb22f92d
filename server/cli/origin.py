"""What a training run began with besides its model and recipe: its data, and the weights it started from.

Kept in the run's directory, so that going on needs no option said again, and never goes on with other data unnoticed.
"""

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from models.bundled import resolve_model
from models.errors import CheckpointError, ConfigError, CorpusError

ORIGIN_FILE = "origin.json"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Paths are absolute."""

    text: dict[str, int]
    """Text files to train on, with their bytes."""
    shards: dict[str, int]
    """Token shards to train on, files or folders, with their bytes."""
    tokenizer: str | None
    """The tokenizer's file; None where one is trained, or where there is none."""
    valid_text: list[str]
    """Text files to validate on."""
    init_from: str | None
    """The checkpoint that the weights came from; None for random ones."""
    cadence: dict[str, int] = dataclasses.field(default_factory=dict)
    """How often the run looks up from its work; the one thing that may change."""

    @classmethod
    def of(
        cls,
        *,
        text: Iterable[Path],
        shards: Iterable[Path],
        tokenizer: Path | None,
        valid_text: Iterable[Path],
        init_from: str | None,
    ) -> Self:
        """Look at what a command named; missing files raise `CorpusError`, a missing model `CheckpointError`."""
        return cls(
            text=_sizes(text),
            shards=_sizes(shards),
            tokenizer=None if tokenizer is None else str(tokenizer.absolute()),
            valid_text=[str(path.absolute()) for path in valid_text],
            init_from=None if init_from is None else str(resolve_model(init_from).absolute()),
        )

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read what the run at `directory` began with, or raise `CheckpointError`."""
        path = directory / ORIGIN_FILE
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return cls(**values)
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(f"no run to resume at {directory}: cannot read {path}: {error}") from error

    def save(self, directory: Path) -> None:
        """Write it into the run's directory, whole or not at all."""
        path = directory / ORIGIN_FILE
        partial = path.with_name(f"{path.name}.partial")
        try:
            directory.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n", encoding="utf-8")
            partial.replace(path)
        except OSError as error:
            raise CheckpointError(f"cannot write to {directory}: {error}") from error

    def check_same(self, given: "Origin", directory: Path) -> None:
        """Raise `ConfigError` unless what a command gave, as far as it gave any, is what the run began with."""
        for field in dataclasses.fields(self):
            if field.name == "cadence":
                continue
            mine, other = getattr(self, field.name), getattr(given, field.name)
            if other and other != mine:
                option = "--" + field.name.replace("_", "-")
                raise ConfigError(
                    f"the run at {directory} began with another {option}; leave it out, or start a new run"
                )

    def check_unchanged(self, files: dict[str, int]) -> None:
        """Raise `CorpusError` unless files have the sizes that they had when the run began."""
        for path, num_bytes in _sizes(map(Path, files)).items():
            if num_bytes != files[path]:
                raise CorpusError(f"{path} has changed since the run began ({files[path]} -> {num_bytes} bytes)")


def _sizes(paths: Iterable[Path]) -> dict[str, int]:
    try:
        return {str(path.absolute()): _num_bytes(path) for path in paths}
    except OSError as error:
        raise CorpusError(f"cannot read {error.filename}: {error.strerror}") from error


def _num_bytes(path: Path) -> int:
    files = path.glob("*.npy") if path.is_dir() else (path,)
    return sum(file.stat().st_size for file in files)
