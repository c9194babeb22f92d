"""Byte-level BPE: training one, loading one, and text to token ids.

Knows `tokenizer.json` and how special tokens are kept apart from text that merely spells them. Knows no corpora.
Every text survives: the 256 bytes are all in the vocabulary, nothing is normalised, and no space is put in front.
"""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE

from models.errors import CheckpointError, ConfigError, CorpusError

TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
"""Settings that are not the tokenizer's own, such as the chat template; `server` reads it."""
CHAT_TEMPLATE_FILE = "chat_template.jinja"
"""The chat template, where it is a file of its own."""
END_OF_TEXT = "<|endoftext|>"

# The first is ours; the others end a text in the LLaMA-3 and LLaMA-2 vocabularies.
_END_OF_TEXT_NAMES = (END_OF_TEXT, "<|end_of_text|>", "</s>")
_MIN_VOCAB_SIZE = 257  # every byte, and the end of a text

# LLaMA-3's split: contractions, words with the mark before them, up to three digits, punctuation, line ends, spaces.
# No alternative looks behind, goes on from a line end into a next line that starts with a word or a mark, or takes in
# a space except as its first character: text cut there, as models/text.py does, gives the same tokens as the whole.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
    r"|[^\r\n\p{L}\p{N}]?\p{L}+"
    r"|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+"
)


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE of at most `vocab_size` entries; `<|endoftext|>` is id 0, then come the bytes.

    The same texts in the same order give the same tokenizer. Texts with too few pairs to merge give a smaller one:
    read the size from the result. Pass documents without their separators (`models.text` takes them out).
    """
    if vocab_size < _MIN_VOCAB_SIZE:
        raise ConfigError(f"vocab_size is {vocab_size}; a byte-level tokenizer needs at least {_MIN_VOCAB_SIZE}")
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.encode_special_tokens = True
    return tokenizer


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a `tokenizer.json`, or raise `CheckpointError`; truncation and padding stored in it are switched off."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"cannot read the tokenizer {path}: {error}") from error
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing narrower
        raise CheckpointError(f"{path} is not a tokenizer of the `tokenizers` library: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Write `tokenizer.json` so that `path` holds either the old file or the whole new one."""
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8") as file:
            file.write(tokenizer.to_str(pretty=True) + "\n")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise CheckpointError(f"cannot write the tokenizer {path}: {error}") from error


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the ids of `text` as plain text; use it for whatever a user or a corpus wrote.

    A text that spells `<|endoftext|>` gives the ids of those 13 characters, never the special token. Nothing is
    added at either end. A lone surrogate, which no UTF-8 file can hold, raises `CorpusError`.
    """
    return encode_batch(tokenizer, [text])[0]


def encode_batch(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Return `encode` of every text, computed on all cores."""
    # Set only where needed: setting it waits until no other thread encodes.
    if not tokenizer.encode_special_tokens:
        tokenizer.encode_special_tokens = True
    for text in texts:
        _check_unicode(text)
    return [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]


def encode_with_special_tokens(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the ids of `text` with every special token that it spells read as that token.

    Only for text that the program itself put together, such as a filled-in chat template: escape or `encode`
    what users wrote.
    """
    special_ids = {
        token.content: token_id for token_id, token in tokenizer.get_added_tokens_decoder().items() if token.special
    }
    if not special_ids:
        return encode(tokenizer, text)
    # The longest first, so that a token which begins another does not hide it.
    names = sorted(special_ids, key=len, reverse=True)
    parts = re.split(f"({'|'.join(map(re.escape, names))})", text)
    ids: list[int] = []
    # re.split alternates: text, special token, text, ...
    for index, part in enumerate(parts):
        ids.extend([special_ids[part]] if index % 2 else encode(tokenizer, part))
    return ids


def end_of_text_id(tokenizer: Tokenizer) -> int:
    """Return the id that ends a document, or raise `CheckpointError`."""
    for name in _END_OF_TEXT_NAMES:
        token_id = tokenizer.token_to_id(name)
        if token_id is not None:
            return token_id
    raise CheckpointError(f"the tokenizer has no end of text; it needs one of {', '.join(_END_OF_TEXT_NAMES)}")


def vocab_size(tokenizer: Tokenizer) -> int:
    """Return V, one more than the greatest id (ids of added tokens may leave gaps)."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1


def _check_unicode(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise CorpusError(
            f"the text is not Unicode: a lone surrogate U+{ord(text[error.start]):04X} at character {error.start}"
        ) from error
