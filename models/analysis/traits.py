"""What can be said of a token by looking at it, at how often it occurs and at what it stands behind in a text.

No list of words is involved: traits are forms of spelling, Unicode's categories and scripts, counts, and the company
that tokens keep in the text that was given. Endings are those of English.
"""

import re
import unicodedata
from collections import defaultdict
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
_QUOTES = "\"'`\u201c\u201d\u2018\u2019\u00ab\u00bb"
_DASHES = "-\u2013\u2014"
_LEAST_STEM = 2
_SAME_TRAIT = 0.8
"""An ending that so many of its tokens have from the endings above is no trait of its own."""
_VERY_COMMON = 150
_LEAST_SEEN = 8
_COMPANIONS = 128
_OFTEN_SHARE, _OFTEN_LIFT = 1 / 20, 3
_ALWAYS_SHARE = 0.8
_LEAST_GROUP = 6
"""Tokens that must share an initial, an ending or a companion for that to be a trait."""


def spelling_traits(tokens: Sequence[bytes]) -> dict[str, Bools]:
    """Return the traits of tokens, given as the bytes that they stand for."""
    texts = [_decoded(token) for token in tokens]
    tests: dict[str, Callable[[str], Any]] = {
        "white space and line ends": lambda text: text.isspace(),
        "punctuation and symbols": _is_marks,
        "quotation marks": lambda text: _is_marks(text) and any(mark in text for mark in _QUOTES),
        "ends of sentences": lambda text: _is_marks(text) and any(mark in text for mark in ".!?"),
        "dashes": lambda text: _is_marks(text) and any(mark in text for mark in _DASHES),
        "numbers": lambda text: re.fullmatch(r"\s?\d+", text),
        "single letters": lambda text: re.fullmatch(r"\s?[^\W\d_]", text),
        "upper-case words and Roman numerals": lambda text: _is_word(text) and len(text.strip()) > 1 and text.isupper(),
        "capitalised words and names": lambda text: _is_word(text) and text.strip().istitle() and len(text.strip()) > 2,
        "capitalised beginnings of words": lambda text: _is_word(text) and text[0].isspace() and text.strip().istitle(),
        "pieces inside or at the end of words": lambda text: text.isalpha() and text.islower(),
        "one or two letters behind a mark or space": lambda text: re.fullmatch(r"[\W_][^\W\d_]{1,2}", text),
        "long words of eight letters and more": lambda text: _is_word(text) and len(text.strip()) >= 8,
        "contractions": lambda text: re.fullmatch(rf"[{_QUOTES}][^\W\d_]+", text),
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
    listed = np.any([traits[name] for name in _ENDINGS.values()], axis=0)
    for length in (2, 3):
        endings_of = [word[-length:].lower() if len(word) > length + 1 else "" for word in words]
        for name, has in _shared("words that end in -{}", endings_of).items():
            if listed[has].mean() < _SAME_TRAIT:
                traits[name] = has
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
    """Return what is known from a text: behind and before which of its commonest tokens a token stands often.

    documents: token ids. Often is three times as often as tokens in general do, and at least at every twentieth of its
    occurrences; nothing is said of tokens that the text has fewer than eight times.
    """
    texts = [_decoded(token) for token in tokens]
    ends_in_letter = _flags(texts, lambda text: text[-1].isalpha())
    goes_on = _flags(texts, lambda text: text[0].isalpha())
    num_tokens = len(tokens)
    arrays = [np.asarray(ids, dtype=np.int64) for ids in documents]
    firsts = np.concatenate([np.empty(0, dtype=np.int64), *(ids[:-1] for ids in arrays)])
    seconds = np.concatenate([np.empty(0, dtype=np.int64), *(ids[1:] for ids in arrays)])
    traits: dict[str, Bools] = {}
    for what, others, selves in (("behind", firsts, seconds), ("before", seconds, firsts)):
        seen_V = np.bincount(selves, minlength=num_tokens)
        for other in np.argsort(-np.bincount(others, minlength=num_tokens), kind="stable")[:_COMPANIONS]:
            together_V = np.bincount(selves[others == other], minlength=num_tokens)
            usual = together_V.sum() / max(1, len(selves))
            share_V = together_V / np.maximum(1, seen_V)
            has_V = (seen_V >= _LEAST_SEEN) & (share_V >= max(_OFTEN_SHARE, _OFTEN_LIFT * usual))
            if has_V.sum() >= _LEAST_GROUP:
                traits[f"often {what} {shown(tokens[other])}"] = has_V
    seen_V = np.bincount(firsts, minlength=num_tokens)
    followed_V = np.bincount(firsts[goes_on[seconds]], minlength=num_tokens)
    is_part_V = ends_in_letter & (seen_V >= _LEAST_SEEN) & (followed_V >= _ALWAYS_SHARE * seen_V)
    traits["beginnings of words that go on"] = is_part_V & _flags(texts, lambda text: text[0] == " ")
    traits["middles of words"] = is_part_V & goes_on
    return traits


def shown(token: bytes) -> str:
    r"""Return a token as a person reads it, in quotation marks; bytes that are no text as `\xf0`."""
    text = token.decode(errors="backslashreplace")
    return '"' + "".join(each if each.isprintable() else repr(each)[1:-1] for each in text) + '"'


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
