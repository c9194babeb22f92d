"""Stop strings end a text at their first end, and nothing that may become one is handed out."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from server.engine.params import SamplingParams
from server.engine.text import ChoiceText
from tests.server.engine.text_samples import byte_level, chunks, run, text_of

PARTS = st.lists(st.sampled_from(["a", "b", "é", "éé", "ééé", " toll", " a"]), max_size=12)
STOPS = st.lists(st.text(alphabet="abé lt", min_size=1, max_size=4), max_size=3)
CUTS = st.lists(st.integers(0, 20), max_size=6)


def ids_of(*parts):
    """Tokens of each part by itself; those of a character alone are often parts of it."""
    tokenizer = byte_level()
    return [token_id for part in parts for token_id in tokenizer.encode(part, add_special_tokens=False).ids]


def params_with(*stop, **others):
    return SamplingParams(max_tokens=None, stop=stop, **others)


def searched(ids, stops, min_tokens, *, included):
    """Text, tokens and stop string by looking again at everything after each token."""
    choice = ChoiceText(byte_level(), [], SamplingParams())
    text = ""
    for num_tokens, token_id in enumerate(ids, start=1):
        before, text = text, text + choice.push([token_id], is_last=num_tokens == len(ids)).text
        if num_tokens <= min_tokens:
            continue
        for end in range(len(before) + 1, len(text) + 1):
            if found := [stop for stop in stops if text[:end].endswith(stop)]:
                stop = max(found, key=len)
                return text[: end if included else end - len(stop)], num_tokens, stop
    return text, len(ids), None


@given(PARTS, STOPS, CUTS, st.integers(0, 8), st.booleans())
@example(["a", "a", "b"], ["ab"], [], 0, False)
@example(["a", "a", "a"], ["aa"], [], 2, True)
def test_a_text_ends_as_if_it_were_searched_whole_after_each_token(parts, stops, cuts, min_tokens, included):
    ids = ids_of(*parts)
    params = params_with(*stops, min_tokens=min_tokens, include_stop_str_in_output=included)
    deltas = run(byte_level(), chunks(ids, cuts), params=params)
    actual = (text_of(deltas), sum(delta.num_tokens for delta in deltas), deltas[-1].stop_string)
    assert searched(ids, stops, min_tokens, included=included) == actual


@given(PARTS, STOPS)
def test_what_was_handed_out_is_never_part_of_a_stop_string(parts, stops):
    choice = ChoiceText(byte_level(), [], params_with(*stops))
    final, _, _ = searched(ids_of(*parts), stops, 0, included=False)
    shown = ""
    for token_id in ids_of(*parts):
        delta = choice.push([token_id], is_last=False)
        shown += delta.text
        assert final.startswith(shown)
        if delta.stop_string is not None:
            break


def test_text_that_may_begin_a_stop_string_is_held_back_until_it_is_decided():
    choice = ChoiceText(byte_level(), [], params_with("abc"))
    pushed = [choice.push(ids_of(part), is_last=False).text for part in ("xa", "b", "a", "d")]
    assert ["x", "", "ab", "ad"] == pushed


def test_text_held_back_comes_out_when_the_output_ends():
    assert "xab" == text_of(run(byte_level(), [ids_of(*"xab")], params=params_with("abc")))


def test_a_stop_string_spans_pushes():
    deltas = run(byte_level(), [ids_of(*"xa"), ids_of("b"), ids_of(*"cz")], params=params_with("abc"))
    assert ("x", "abc", 1) == (text_of(deltas), deltas[-1].stop_string, deltas[-1].num_tokens)


@pytest.mark.parametrize(("included", "expected"), [(False, "x"), (True, "xab")])
def test_the_stop_string_is_text_only_where_asked(included, expected):
    params = params_with("ab", include_stop_str_in_output=included)
    assert expected == text_of(run(byte_level(), [ids_of(*"xabz")], params=params))


def test_the_stop_string_that_ends_first_wins():
    deltas = run(byte_level(), [ids_of(*"xabcd")], params=params_with("abcd", "bc"))
    assert ("xa", "bc") == (text_of(deltas), deltas[-1].stop_string)


def test_of_stop_strings_that_end_together_the_longest_wins():
    deltas = run(byte_level(), [ids_of(*"xabc")], params=params_with("c", "abc", "bc"))
    assert ("x", "abc") == (text_of(deltas), deltas[-1].stop_string)


def test_a_stop_string_within_the_first_tokens_is_passed_over():
    params = params_with("ab", min_tokens=3)
    deltas = run(byte_level(), [ids_of(*"abxabz")], params=params)
    assert ("abx", 5) == (text_of(deltas), deltas[-1].num_tokens)


def test_a_stop_string_may_begin_within_the_first_tokens():
    deltas = run(byte_level(), [ids_of(*"xabz")], params=params_with("ab", min_tokens=2))
    assert "x" == text_of(deltas)


def test_a_replacement_character_at_the_end_can_complete_a_stop_string():
    (first, *_) = ids_of("🦜")
    deltas = run(byte_level(), [[*ids_of("a"), first]], params=params_with("a\ufffd"))
    assert ("", "a\ufffd") == (text_of(deltas), deltas[-1].stop_string)


def test_no_more_is_held_back_than_may_begin_a_stop_string():
    choice = ChoiceText(byte_level(), [], params_with("ab" * 20 + "!"))
    held = []
    for token_id in ids_of(*"ab" * 500):
        choice.push([token_id], is_last=False)
        held.append(len(choice._held))
    assert 40 == max(held)
