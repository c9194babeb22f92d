"""What `tolbooth inspect` looks at: a model's cells, its tokens by name, and a text that is not too long.

Knows tokens as people write them. Knows nothing of what is found out about them.
"""

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
NUM_CLUSTERS = 48

_MEASURED_BYTES = 1 << 16
"""Of a longer text so many bytes are measured on: a few minutes for all measurements of a small model on one core."""
_LEARNED_BYTES = 1 << 23
"""Of a longer text so many bytes are read for collocations, and for the company that tokens keep."""
_WINDOWS = 8
"""Places of a longer text that a sample is taken from."""


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

    def vocabulary(self, text: "InspectedText | None") -> Vocabulary:
        """Return what clusters are named by; without a text, nothing is known of the company that tokens keep."""
        traits = spelling_traits(self.tokens)
        if self.counts is not None:
            traits |= count_traits(self.counts)
        if text is not None:
            traits |= company_traits(encode_batch(self.tokenizer, text.learned.documents), self.tokens)
        return Vocabulary(traits=traits, counts_V=self.counts)


@dataclass(frozen=True)
class SampledText:
    """A text, or windows spread evenly over one that is longer."""

    documents: list[str]

    @classmethod
    def read(cls, files: list[Path], *, max_bytes: int) -> "SampledText":
        """Read as much of the files as is needed; raises `CorpusError` where they cannot be read or say nothing."""
        documents = list(sample_text(files, max_bytes=max_bytes, window_bytes=max(1, max_bytes // _WINDOWS)))
        if not any(document.strip() for document in documents):
            raise CorpusError(f"no text in {', '.join(map(str, files))}; give a file that says something")
        return cls(documents)

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


@dataclass(frozen=True)
class InspectedText:
    """A text to measure models on and to learn of words from: of a long one, no more is taken than is needed."""

    files: list[Path]

    @cached_property
    def measured(self) -> SampledText:
        """At most 64 KiB, to measure models on; raises `CorpusError`."""
        return SampledText.read(self.files, max_bytes=_MEASURED_BYTES)

    @cached_property
    def learned(self) -> SampledText:
        """At most 8 MiB, to learn of words from; raises `CorpusError`."""
        return SampledText.read(self.files, max_bytes=_LEARNED_BYTES)
