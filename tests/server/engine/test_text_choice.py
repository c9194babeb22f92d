"""Text comes out whole, the same whatever the pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.engine.params import SamplingParams
from server.engine.text import ChoiceText
from tests.server.engine.text_samples import byte_fallback, byte_level, chunks, run, text_of, token_ids

CUTS = st.lists(st.integers(0, 40), max_size=6)


def ids_of(text):
    return byte_level().encode(text, add_special_tokens=False).ids


def one_by_one(ids):
    return [[token_id] for token_id in ids]


def id_of(token):
    return byte_level().token_to_id(token)


@given(token_ids(byte_level()), CUTS, st.booleans())
def test_deltas_together_are_the_text_of_all_tokens(ids, cuts, skip):
    params = SamplingParams(skip_special_tokens=skip)
    expected = byte_level().decode(ids, skip_special_tokens=skip)
    assert expected == text_of(run(byte_level(), chunks(ids, cuts), params=params))


@given(st.text(max_size=12), CUTS)
def test_any_text_survives(text, cuts):
    assert text == text_of(run(byte_level(), chunks(ids_of(text), cuts)))


@given(st.text(max_size=12))
def test_no_character_comes_in_parts(text):
    deltas = run(byte_level(), one_by_one(ids_of(text)))
    assert "\ufffd" not in text_of(deltas).replace("\ufffd" * text.count("\ufffd"), "")
    assert text == text_of(deltas)


@given(st.text(alphabet="ab é日", max_size=8), CUTS)
def test_a_vocabulary_with_byte_tokens_gives_the_text_back(text, cuts):
    ids = byte_fallback().encode(text, add_special_tokens=False).ids
    assert byte_fallback().decode(ids) == text_of(run(byte_fallback(), chunks(ids, cuts)))


@given(st.text(alphabet="ab é", max_size=8), st.text(alphabet="ab é", min_size=1, max_size=8))
def test_an_output_goes_on_from_its_prompt(text, prompt):
    tokenizer = byte_fallback()
    prompt_ids = tokenizer.encode(prompt, add_special_tokens=False).ids
    ids = tokenizer.encode("a" + text, add_special_tokens=False).ids
    expected = tokenizer.decode(prompt_ids + ids)[len(tokenizer.decode(prompt_ids)) :]
    assert expected == text_of(run(tokenizer, one_by_one(ids), prompt_ids=prompt_ids))


def test_a_prompt_of_marks_alone_is_no_text_to_go_on_from():
    tokenizer = byte_fallback()
    ids = tokenizer.encode("ab", add_special_tokens=False).ids
    assert "ab" == text_of(run(tokenizer, [ids], prompt_ids=[tokenizer.token_to_id("<s>")]))


def test_an_incomplete_character_waits_for_its_end():
    first, *rest = ids_of("🦜")
    choice = ChoiceText(byte_level(), [], SamplingParams())
    assert "" == choice.push([first], is_last=False).text
    assert "🦜" == choice.push(rest, is_last=False).text


def test_an_incomplete_character_at_the_end_is_a_replacement_character():
    (first, *_) = ids_of("🦜")
    assert "\ufffd" == text_of(run(byte_level(), [[first]]))
    assert "\ufffd" == text_of(run(byte_level(), [[first], []]))


def test_bytes_that_never_become_a_character_are_not_kept_back():
    continuation = byte_level().token_to_id("Ģ")  # 0x80
    choice = ChoiceText(byte_level(), [], SamplingParams())
    assert ["\ufffd"] * 5 == [choice.push([continuation], is_last=False).text for _ in range(5)]


def test_special_tokens_are_left_out_between_the_parts_of_a_character():
    first, *rest = ids_of("🦜")
    assert "🦜" == text_of(run(byte_level(), [[first, id_of("<|start|>"), *rest]]))


def test_special_tokens_are_text_where_they_are_not_left_out():
    params = SamplingParams(skip_special_tokens=False)
    assert "a<|start|>b" == text_of(run(byte_level(), [[id_of("a"), id_of("<|start|>"), id_of("b")]], params=params))


def test_added_tokens_that_are_not_special_are_text():
    assert "<tool>" == text_of(run(byte_level(), [[id_of("<tool>")]]))


@pytest.mark.parametrize(("included", "expected"), [(False, "a"), (True, "ab")])
def test_a_stop_token_is_text_only_where_asked(included, expected):
    params = SamplingParams(include_stop_str_in_output=included)
    (delta,) = run(byte_level(), [[id_of("a"), id_of("b")]], params=params, ends_in_stop_token=True)
    assert (expected, 2) == (delta.text, delta.num_tokens)


def test_nothing_comes_after_the_end():
    choice = ChoiceText(byte_level(), [], SamplingParams())
    choice.push(ids_of("a"), is_last=True)
    assert ("", 0, None, ()) == choice.push(ids_of("b"), is_last=True)


@given(token_ids(byte_level()), CUTS)
def test_offsets_are_the_characters_before_each_token(ids, cuts):
    deltas = run(byte_level(), chunks(ids, cuts))
    plain = ChoiceText(byte_level(), [], SamplingParams())
    expected, length = [], 0
    for token_id in ids:
        expected.append(length)
        length += len(plain.push([token_id], is_last=False).text)
    assert expected == [offset for delta in deltas for offset in delta.text_offsets]


def test_offsets_count_text_that_is_held_back():
    choice = ChoiceText(byte_level(), [], SamplingParams(stop=["ab!"]))
    delta = choice.push([id_of("a"), id_of("b"), id_of("c")], is_last=False)
    assert (0, 1, 2) == delta.text_offsets
