"""A training run's tokens: text tokenized into the run's directory, or shards that lie elsewhere.

| entry            | holds                                                            |
|------------------|------------------------------------------------------------------|
| `tokenizer.json` | the tokenizer, trained for the run or copied                     |
| `tokens/`        | token shards of the text; there when all are, and then never again |
"""

from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer

from models.corpus import tokenize_corpus
from models.errors import ConfigError
from models.text import sample_text, total_bytes
from models.tokenizer import TOKENIZER_FILE, load_tokenizer, save_tokenizer, train_tokenizer
from server.cli.origin import Origin
from server.progress import Progress

TOKENS_DIRECTORY = "tokens"

# Merges hardly change with more, and the trainer's time and memory grow with its text.
_TOKENIZER_BYTES = 64 * 2**20


def prepare_tokenizer(
    directory: Path, origin: Origin, *, vocab_size: int | None, progress: Progress
) -> Tokenizer | None:
    """Return the run's tokenizer, made and kept in `directory` where it is not there yet.

    It is the one that was named, else that of the checkpoint to start from, else one of `vocab_size` ids trained on
    the text. None where there are shards and no tokenizer was named.
    """
    kept = directory / TOKENIZER_FILE
    if kept.exists():
        return load_tokenizer(kept)
    inherited = None if origin.init_from is None else Path(origin.init_from) / TOKENIZER_FILE
    if origin.tokenizer is not None:
        tokenizer = load_tokenizer(Path(origin.tokenizer))
    elif inherited is not None and inherited.exists():
        tokenizer = load_tokenizer(inherited)
    elif not origin.text:
        return None
    elif vocab_size is None:
        raise ConfigError("there is no tokenizer; give --tokenizer FILE, or --vocab-size N to train one")
    else:
        tokenizer = _train(list(map(Path, origin.text)), vocab_size, progress)
    save_tokenizer(tokenizer, kept)
    return tokenizer


def prepare_shards(directory: Path, origin: Origin, tokenizer: Tokenizer | None, progress: Progress) -> list[Path]:
    """Return the run's token shards, made in `directory` where they are of text and not there yet."""
    if origin.shards:
        origin.check_unchanged(origin.shards)
        return list(map(Path, origin.shards))
    tokens = directory / TOKENS_DIRECTORY
    if not tokens.exists():
        origin.check_unchanged(origin.text)
        assert tokenizer is not None, "text always has a tokenizer"
        tokenize_corpus(
            list(map(Path, origin.text)), tokenizer, tokens, on_progress=progress.phase("tokenizing the text")
        )
    return [tokens]


def check_sources(origin: Origin) -> None:
    """Raise `ConfigError` unless there is either text or shards to train on."""
    if bool(origin.text) == bool(origin.shards):
        raise ConfigError("give what to train on: either --text FILE or --shards PATH")


def _train(files: list[Path], vocab_size: int, progress: Progress) -> Tokenizer:
    total = min(total_bytes(files), _TOKENIZER_BYTES)
    show = progress.phase("reading text for the tokenizer")
    done = 0

    def texts() -> Iterator[str]:
        nonlocal done
        for text in sample_text(files, max_bytes=_TOKENIZER_BYTES):
            yield text
            done += len(text.encode())
            show(min(done, total), total)

    return train_tokenizer(texts(), vocab_size=vocab_size)
