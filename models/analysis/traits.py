"""What can be said of a token by looking at it, at how often it occurs and at what it stands behind in a text.

No list of words is involved: traits are forms of spelling, Unicode's categories and scripts, counts, and the company that
tokens keep in the text that was given. Endings are those of English.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Traits = Mapping[str, Bools]
"""By what a trait is called: whether each token of the vocabulary has it, [V]."""

_ENDINGS = {
    "-ing": "words in -ing",
    "-ed": "words in -ed (past forms)",
    "-ly": "words in -ly (adverbs)",
    "-s": "words in -s (plurals, third persons)",
    "-er": "words in -er",
    "-est": "words in -est (superlatives)",
    "-ion|-ness|-ment|-ity|-ance|-ence|-ship|-dom": "nouns in -ion, -ness, -ment, ...",
    "-able|-ible|-ful|-less|-ous|-ive|-ish|-al": "adjectives in -able, -ful, -less, -ous, ...",
}
_LEAST_STEM = 2
_VERY_COMMON = 150
_LEAST_SEEN = 3
"""Occurrences in the text below which nothing is said of what a token stands behind."""
_LEAST_GROUP = 6
"""Tokens that must share an initial, an ending or a predecessor for that to be a trait."""


def spelling_traits(tokens: Sequence[bytes]) -> dict[str, Bools]:
    """Return the traits of tokens, given as the bytes that they stand for."""
    texts = [_decoded(token) for token in tokens]
    tests: dict[str, Callable[[str], Any]] = {
        "white space and line ends": lambda text: text.isspace(),
        "punctuation and symbols": _is_marks,
        "quotation marks": lambda text: _is_marks(text) and any(mark in text for mark in "\"'`“”‘’«»"),
        "ends of sentences": lambda text: _is_marks(text) and any(mark in text for mark in ".!?"),
        "dashes": lambda text: _is_marks(text) and any(mark in text for mark in "-–—"),
        "numbers": lambda text: re.fullmatch(r"\s?\d+", text),
        "single letters": lambda text: re.fullmatch(r"\s?[^\W\d_]", text),
        "upper-case words and Roman numerals": lambda text: _is_word(text) and len(text.strip()) > 1 and text.isupper(),
        "capitalised words and names": lambda text: _is_word(text) and text.strip().istitle() and len(text.strip()) > 2,
        "capitalised beginnings of words": lambda text: _is_word(text) and text[0].isspace() and text.strip().istitle(),
        "pieces inside or at the end of words": lambda text: text.isalpha() and text.islower(),
        "short words of up to three letters": lambda text: _is_word(text) and text[0] == " " and len(text) <= 4,
        "long words of eight letters and more": lambda text: _is_word(text) and len(text.strip()) >= 8,
        "contractions": lambda text: re.fullmatch(r"['’][^\W\d_]+", text),
    }
    traits = {"bytes that are no text alone": np.array([not text for text in texts], dtype=np.bool_)}
    traits |= {name: _flags(texts, test) for name, test in tests.items()}
    for endings, name in _ENDINGS.items():
        pattern = re.compile(rf"\s?[^\W\d_]{{{_LEAST_STEM},}}(?:{endings.replace('-', '')})", re.IGNORECASE)
        traits[name] = _flags(texts, pattern.fullmatch)
    traits["words in -s (plurals, third persons)"] &= ~_flags(texts, lambda text: text.endswith("ss"))
    words = [text.strip() if _is_word(text) else "" for text in texts]
    traits |= _shared("letters of the script {}", [_script(word) for word in words])
    traits |= _shared("words that begin with {}", [word[:1].lower() if len(word) > 2 else "" for word in words])
    for length in (2, 3):
        endings_of = [word[-length:].lower() if len(word) > length + 1 else "" for word in words]
        traits |= _shared("words that end in -{}", endings_of)
    return traits


def count_traits(counts_V: npt.NDArray[np.int64]) -> dict[str, Bools]:
    """Return what is known from how often tokens occurred in training."""
    order = np.argsort(-counts_V, kind="stable")
    num_tokens = len(counts_V)
    common, rare = np.zeros(num_tokens, dtype=np.bool_), np.zeros(num_tokens, dtype=np.bool_)
    common[order[: min(_VERY_COMMON, num_tokens // 10)]] = True
    rare[order[num_tokens - num_tokens // 10 :]] = True
    return {"very common tokens": common, "rare tokens (the rarest tenth)": rare}


def company_traits(documents: Iterable[Sequence[int]], tokens: Sequence[bytes]) -> dict[str, Bools]:
    """Return what is known from a text: behind which token a token is seen more often than behind any other.

    documents: token ids. Only tokens that the text has three times are spoken of.
    """
    before: defaultdict[int, Counter[int]] = defaultdict(Counter)
    for ids in documents:
        for previous, current in zip(ids, ids[1:], strict=False):
            before[current][previous] += 1
    most_seen = [""] * len(tokens)
    for token_id, counts in before.items():
        previous, count = counts.most_common(1)[0]
        if count >= _LEAST_SEEN:
            most_seen[token_id] = shown(tokens[previous])
    return _shared("seen mostly behind {}", most_seen)


def shown(token: bytes) -> str:
    """Return a token as a person reads it, in quotation marks; bytes that are no text as `\\xf0`."""
    text = token.decode(errors="backslashreplace")
    return '"' + text.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t") + '"'


def _shared(name: str, values: Sequence[str]) -> dict[str, Bools]:
    """Return a trait for every value that enough tokens share; empty values are no trait."""
    members: defaultdict[str, list[int]] = defaultdict(list)
    for index, value in enumerate(values):
        if value:
            members[value].append(index)
    traits = {}
    for value, indices in members.items():
        if len(indices) >= _LEAST_GROUP:
            traits[name.format(value)] = np.isin(np.arange(len(values)), indices)
    return traits


def _flags(texts: Sequence[str], test: Callable[[str], Any]) -> Bools:
    return np.array([bool(text) and bool(test(text)) for text in texts], dtype=np.bool_)


def _decoded(token: bytes) -> str:
    """Return a token's text, empty where its bytes alone are none."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return ""


def _is_marks(text: str) -> bool:
    stripped = text.strip()
    return bool(stripped) and all(unicodedata.category(character)[0] in "PS" for character in stripped)


def _is_word(text: str) -> bool:
    return text.removeprefix(" ").isalpha()


def _script(word: str) -> str:
    """Return the script of a word's first letter, empty for Latin: `CYRILLIC`."""
    if not word or word.isascii():
        return ""
    script = unicodedata.name(word[0], "").partition(" ")[0]
    return "" if script == "LATIN" else script
