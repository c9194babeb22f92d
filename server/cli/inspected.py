"""What `tolbooth inspect` looks at: a model's cells, its tokens by name, and a text that is not too long.

Knows tokens as people write them. Knows nothing of what is found out about them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer
from tokenizers import Tokenizer

from models.analysis.cells import CellMemory
from models.analysis.findings import Vocabulary
from models.analysis.traits import company_traits, count_traits, shown, spelling_traits
from models.bundled import resolve_model
from models.config import ModelConfig
from models.errors import CorpusError
from models.text import sample_text
from models.tokenizer import END_OF_TEXT, TOKENIZER_FILE, encode_batch, load_tokenizer
from paging.frequencies import COUNTS_FILE, load_counts
from server.cli.token_names import token_id
from server.engine.text.vocabulary import vocabulary_of

TextOption = Annotated[list[Path], typer.Option(metavar="FILE", help="UTF-8 text; give it again for more files.")]
BesideOption = Annotated[
    list[str] | None, typer.Option(metavar="MODEL", help="A model to measure beside it; give it again for more.")
]
LayerOption = Annotated[int, typer.Option(min=0, help="The layer, from 0.")]
ClustersOption = Annotated[int, typer.Option(min=2, help="Clusters of a layer.")]
NUM_CLUSTERS = 32

_SAMPLE_BYTES = 1 << 18
"""Of a longer text so many bytes are taken: a few minutes for all measurements of a small model on one core."""
_WINDOW_BYTES = 1 << 14


@dataclass(frozen=True)
class Inspected:
    """A model's directory with its vocabulary; weights are opened when they are asked for."""

    directory: Path

    @classmethod
    def find(cls, name: str | None) -> "Inspected":
        """Return the model that a person names, or raise `CheckpointError`."""
        return cls(resolve_model(name))

    @cached_property
    def config(self) -> ModelConfig:
        """Its sizes."""
        return ModelConfig.load(self.directory)

    @cached_property
    def memory(self) -> CellMemory:
        """Its cells; `CheckpointError` where it has none."""
        return CellMemory(self.directory)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer; `CheckpointError` where it has none."""
        return load_tokenizer(self.directory / TOKENIZER_FILE)

    @cached_property
    def tokens(self) -> list[bytes]:
        """What every token stands for."""
        vocabulary = vocabulary_of(self.tokenizer)
        return [vocabulary.raw(token_id) for token_id in range(self.config.vocab_size)]

    @cached_property
    def counts(self) -> npt.NDArray[np.int64] | None:
        """How often each token occurred in training, where that was counted."""
        path = self.directory / COUNTS_FILE
        return load_counts(path, num_keys=self.config.vocab_size) if path.exists() else None

    def word(self, token_id: int) -> str:
        """Return a token as people read it."""
        return shown(self.tokens[token_id])

    def token_id(self, text: str) -> int:
        """Return the token that a person means: its text as it is, or its id as `#17`. Raises `ConfigError`."""
        return token_id(self.tokenizer, text, vocab_size=self.config.vocab_size)

    def vocabulary(self, documents: Sequence[str]) -> Vocabulary:
        """Return what clusters are named by; documents may be none."""
        traits = spelling_traits(self.tokens)
        if self.counts is not None:
            traits |= count_traits(self.counts)
        if documents:
            traits |= company_traits(encode_batch(self.tokenizer, documents), self.tokens)
        return Vocabulary(traits=traits, counts_V=self.counts)


@dataclass(frozen=True)
class SampledText:
    """A text, or windows spread evenly over one that is longer than 256 KiB."""

    files: list[Path]
    documents: list[str]

    @classmethod
    def read(cls, files: list[Path], *, max_bytes: int = _SAMPLE_BYTES) -> "SampledText":
        """Read as much of the files as is needed; raises `CorpusError`."""
        documents = list(sample_text(files, max_bytes=max_bytes, window_bytes=_WINDOW_BYTES))
        if not any(document.strip() for document in documents):
            raise CorpusError(f"{', '.join(map(str, files))} has no text to measure on; give one that says something")
        return cls(files, documents)

    @property
    def num_bytes(self) -> int:
        """Bytes of the documents."""
        return sum(len(document.encode()) for document in self.documents)

    @property
    def content(self) -> str:
        """The documents as one text, with lines between them that say where one ends."""
        return f"{END_OF_TEXT}\n".join(
            document if document.endswith("\n") else document + "\n" for document in self.documents
        )
