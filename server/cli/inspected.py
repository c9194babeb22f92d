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

_MEASURED_BYTES, _MEASURED_WINDOW = 1 << 16, 1 << 13
"""Of a longer text so many bytes are measured on: a few minutes for all measurements of a small model on one core."""
_READ_BYTES, _READ_WINDOW = 1 << 23, 1 << 16
"""Of a longer text so many bytes are read for collocations, and for the company that tokens keep."""


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

    def vocabulary(self, text: "SampledText | None") -> Vocabulary:
        """Return what clusters are named by; without a text, nothing is known of the company that tokens keep."""
        traits = spelling_traits(self.tokens)
        if self.counts is not None:
            traits |= count_traits(self.counts)
        if text is not None:
            traits |= company_traits(encode_batch(self.tokenizer, text.read), self.tokens)
        return Vocabulary(traits=traits, counts_V=self.counts)


@dataclass(frozen=True)
class SampledText:
    """A text of which no more is taken than is needed; where it is longer, in windows spread evenly over it."""

    files: list[Path]

    @cached_property
    def measured(self) -> list[str]:
        """Documents of at most 64 KiB in all, to measure models on; raises `CorpusError` where they say nothing."""
        documents = list(sample_text(self.files, max_bytes=_MEASURED_BYTES, window_bytes=_MEASURED_WINDOW))
        if not any(document.strip() for document in documents):
            raise CorpusError(
                f"{', '.join(map(str, self.files))} has no text to measure on; give one that says something"
            )
        return documents

    @cached_property
    def read(self) -> list[str]:
        """Documents of at most 8 MiB in all, to learn from; raises `CorpusError`."""
        return list(sample_text(self.files, max_bytes=_READ_BYTES, window_bytes=_READ_WINDOW))

    @property
    def num_bytes(self) -> int:
        """Bytes that are measured on."""
        return sum(len(document.encode()) for document in self.measured)

    @property
    def content(self) -> str:
        """The measured documents as one text, with lines between them that say where one ends."""
        return f"{END_OF_TEXT}\n".join(
            document if document.endswith("\n") else document + "\n" for document in self.measured
        )
