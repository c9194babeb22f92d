"""The model as clients know it: its names, its tokenizer, its template, its sizes. Read from files, without torch."""

from dataclasses import dataclass, field
from pathlib import Path

from tokenizers import Tokenizer

from models.config import ModelConfig
from models.errors import CheckpointError
from models.tokenizer import TOKENIZER_FILE, load_tokenizer
from server.engine.text import TokenText, token_text
from server.http.chat_template import ChatTemplate


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """What does not change while the server runs."""

    directory: Path
    """The checkpoint."""
    names: tuple[str, ...]
    """The name in answers, then its aliases."""
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    vocab_size: int
    max_model_len: int
    """Most tokens of a sequence; the engine may have said fewer since."""
    created: int
    """Seconds since 1970 at which it was first served."""
    _texts: dict[int, TokenText] = field(default_factory=dict, repr=False)

    @classmethod
    def load(
        cls, directory: Path, *, names: tuple[str, ...], max_model_len: int | None, max_prompt_bytes: int, created: int
    ) -> "ServedModel":
        """Read a checkpoint's small files; raises `CheckpointError` or `ConfigError` for what is not right in them."""
        config = ModelConfig.load(directory)
        path = directory / TOKENIZER_FILE
        if not path.exists():
            raise CheckpointError(f"{directory} has no {TOKENIZER_FILE}; put one there to serve the model")
        tokenizer = load_tokenizer(path)
        return cls(
            directory=directory,
            names=names,
            tokenizer=tokenizer,
            chat_template=ChatTemplate.load(directory, tokenizer, max_chars=2 * max_prompt_bytes),
            vocab_size=config.vocab_size,
            max_model_len=max_model_len or config.max_position_embeddings,
            created=created,
        )

    def token_text(self, token_id: int) -> TokenText:
        """Return a token as log probabilities show it."""
        known = self._texts.get(token_id)
        if known is None:
            known = self._texts[token_id] = token_text(self.tokenizer, token_id)
        return known
