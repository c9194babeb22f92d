import numpy as np
import pytest

from models.analysis.naming import LEAST_SHARE, UNNAMED, name_cluster
from models.analysis.traits import company_traits, count_traits, shown, spelling_traits

TOKENS = [
    *[b".", b",", b" -", b'!"', b" (", b"\n\n", b" \t"],
    *[b"1", b" 19", b"1066", b"x", b" Y", b"XIV", b" NASA"],
    *[b" Paris", b" London", b"Anna", b" walking", b" seeing", b"ing", b" walked", b" houses", b" grass"],
    *[b" quickly", b" nation", b"\xf0\x9f", "ж".encode(), " брат".encode(), b" beautiful", b"'s", b""],
]


def tokens_with(name):
    return [token for token, has in zip(TOKENS, spelling_traits(TOKENS)[name], strict=True) if has]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("white space and line ends", [b"\n\n", b" \t"]),
        ("punctuation and symbols", [b".", b",", b" -", b'!"', b" ("]),
        ("quotation marks", [b'!"']),
        ("ends of sentences", [b".", b'!"']),
        ("dashes", [b" -"]),
        ("numbers", [b"1", b" 19", b"1066"]),
        ("single letters", [b"x", b" Y", "ж".encode()]),
        ("upper-case words and Roman numerals", [b"XIV", b" NASA"]),
        ("capitalised words and names", [b" Paris", b" London", b"Anna"]),
        ("words in -ing", [b" walking", b" seeing"]),
        ("words in -ed (past forms)", [b" walked"]),
        ("words in -s (plurals, third persons)", [b" Paris", b" houses"]),
        ("words in -ly (adverbs)", [b" quickly"]),
        ("bytes that are no text alone", [b"\xf0\x9f", b""]),
        ("contractions", [b"'s"]),
        ("long words of eight letters and more", [b" beautiful"]),
    ],
)
def test_spelling(name, expected):
    assert expected == tokens_with(name)


def test_scripts_initials_and_endings_are_traits_where_enough_tokens_share_them():
    tokens = [
        word.encode() for word in [" дом", " кот", " лес", " сад", " мир", " снег", " bright", " might", " night"]
    ]
    tokens += [word.encode() for word in [" light", " fight", " right", " sun"]]
    traits = spelling_traits(tokens)
    assert [True] * 6 + [False] * 7 == traits["letters of the script CYRILLIC"].tolist()
    assert 6 == traits["words that end in -ght"].sum()
    assert not any(name.startswith("words that begin with r") for name in traits)


def test_counts_tell_common_tokens_from_rare_ones():
    counts = np.arange(100)
    traits = count_traits(counts)
    assert list(range(90, 100)) == np.flatnonzero(traits["very common tokens"]).tolist()
    assert list(range(10)) == np.flatnonzero(traits["rare tokens (the rarest tenth)"]).tolist()


WORDS = [b" the", b" to", b".", *[f" noun{index}".encode() for index in range(6)]]
WORDS += [f" do{index}".encode() for index in range(6)] + [b" st", b"ing"]


def company(*sentences):
    """The traits of `WORDS`, after each sentence was read ten times."""
    return company_traits([list(sentence) for sentence in sentences for _ in range(10)], WORDS)


def test_company_is_what_a_token_stands_behind_more_often_than_others():
    traits = company(*[(0, noun, 2, 2) for noun in range(3, 9)], *[(1, verb, 2, 2) for verb in range(9, 15)])
    assert list(range(3, 9)) == np.flatnonzero(traits['often behind " the"']).tolist()
    assert list(range(9, 15)) == np.flatnonzero(traits['often behind " to"']).tolist()
    assert 'often before "."' not in traits  # every second token is: that is not unusual


def test_the_company_of_few_tokens_is_no_trait():
    traits = company(*[(2, 0, noun, 2) for noun in range(3, 8)])
    assert not any(name.startswith("often behind") for name in traits)


def test_beginnings_of_words_are_known_by_what_follows_them():
    traits = company((0, 15, 16, 2), (1, 9, 2))
    assert [15] == np.flatnonzero(traits["beginnings of words that go on"]).tolist()


def test_an_empty_text_tells_nothing():
    assert not any(has.any() for has in company_traits([[]], WORDS).values())


def flags(size, *indices):
    return np.isin(np.arange(size), indices)


def test_a_cluster_is_named_for_what_its_members_share_and_others_do_not():
    members = flags(100, *range(10))
    traits = {"everything": np.ones(100, dtype=bool), "mostly": flags(100, *range(8)), "some": flags(100, *range(4))}
    name = name_cluster(members, traits)
    assert ("mostly", 0.8, 0.08) == (name.name, name.confidence, name.base_rate)
    assert () == name.also


def test_the_rarer_of_two_equally_common_traits_names():
    members = flags(100, *range(10))
    traits = {"wide": flags(100, *range(40)), "narrow": flags(100, *range(12))}
    name = name_cluster(members, traits)
    assert ("narrow", ("wide",)) == (name.name, name.also)


@pytest.mark.parametrize("covered", [0, 4])
def test_a_cluster_of_which_no_trait_covers_enough_is_unnamed(covered):
    name = name_cluster(flags(100, *range(10)), {"some": flags(100, *range(covered))})
    assert covered / 10 < LEAST_SHARE
    assert (UNNAMED, False, covered / 10) == (name.name, name.is_named, name.confidence)


def test_a_trait_of_nearly_everything_names_nothing():
    assert not name_cluster(flags(100, *range(10)), {"common": flags(100, *range(95))}).is_named


def test_a_cluster_of_two_is_unnamed():
    assert not name_cluster(flags(100, 1, 2), {"rare": flags(100, 1, 2)}).is_named


@pytest.mark.parametrize(("token", "text"), [(b" a\n", '" a\\n"'), (b"\xf0", '"\\xf0"'), ("é".encode(), '"é"')])
def test_tokens_are_shown_in_quotation_marks(token, text):
    assert text == shown(token)
