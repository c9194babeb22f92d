from itertools import pairwise

import numpy as np
import pytest

from models.analysis import probes as probes_module
from models.analysis.probes import ProbeText

END = 0
NOUNS = ["king", "wood", "dog", "gate", "morning"]
FILLERS = ["old", "said", "and", "went", "into", "deep", "with", "his"]
WORDS = ["the", "good", *NOUNS, *FILLERS]
NAMES = ["Anna", "Karl", "Emma", "Otto", "Lisa", "Hugo", "Nora", "Paul"]
TOKENS = [b"<|end|>", b".", b"\n", b"ing", *[f" {word}".encode() for word in WORDS + NAMES]]
ID = {token.decode().strip(): index for index, token in enumerate(TOKENS)}


def documents(num_documents=30, *, seed=0):
    """Tales in which "good" is always followed by "morning", nouns stand behind "the", and a name comes back."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(num_documents):
        text = [word for noun in NOUNS for word in ("the", noun, ".")]
        name, other = random.choice(NAMES, 2, replace=False)
        for _ in range(6):
            filler = random.choice(FILLERS, 5).tolist()
            text += [*filler[:2], str(name), *filler[2:], str(other), "said", "."]
        text += ["old", "good", "morning", "and", "."]
        found.append([ID[word] for word in text])
    return found


@pytest.fixture(autouse=True)
def _few_questions(monkeypatch):
    monkeypatch.setattr(probes_module, "LEAST_QUESTIONS", 20)
    monkeypatch.setattr(probes_module, "_PER_ANSWER", 100)
    monkeypatch.setattr(probes_module, "_COMMONEST", 8)


@pytest.fixture
def probes():
    return {probe.name: probe.questions for probe in ProbeText(documents(), TOKENS, END).probes()}


def test_every_question_has_four_different_choices_one_of_them_right(probes):
    assert {"recall", "context", "copy"} == probes.keys()
    for questions in probes.values():
        assert all(4 == len(set(question.choices)) for question in questions)
        assert all(END == question.context[0] for question in questions)
        assert {0, 1, 2, 3} == {question.answer for question in questions}


def test_recall_asks_for_what_the_context_has_not_named(probes):
    for question in probes["recall"]:
        right = question.choices[question.answer]
        assert right not in question.context
    asked = {(question.context[-1], question.choices[question.answer]) for question in probes["recall"]}
    assert (ID["good"], ID["morning"]) in asked


def test_recalls_wrong_choices_never_follow_that_word_in_the_text(probes):
    pairs = {pair for ids in documents() for pair in pairwise(ids)}
    for question in probes["recall"]:
        wrong = set(question.choices) - {question.choices[question.answer]}
        assert not any((question.context[-1], choice) in pairs for choice in wrong)


def test_context_asks_for_a_name_that_it_alone_has_named(probes):
    names = {ID[name] for name in NAMES}
    for question in probes["context"]:
        right = question.choices[question.answer]
        assert set(question.choices) <= names
        assert [right] == [choice for choice in question.choices if choice in question.context]


def test_copy_gives_a_list_twice_and_asks_for_what_came_next(probes):
    for question in probes["copy"]:
        right = question.choices[question.answer]
        listed = question.context[1:17]
        assert question.context[17:] == listed[: len(question.context) - 17]
        assert listed[len(question.context) - 17] == right
        assert set(question.choices) <= set(listed)
        assert question.context[-1] not in question.choices


def test_words_of_several_tokens_are_not_asked_for():
    halves = [[ID["good"], ID["morning"], ID["ing"]] * 40 for _ in range(4)]
    assert not any(probe.name == "recall" for probe in ProbeText(halves, TOKENS, END).probes())


def test_equal_texts_give_equal_probes(probes):
    assert probes == {probe.name: probe.questions for probe in ProbeText(documents(), TOKENS, END).probes()}


def test_a_short_text_gives_no_probe_with_few_questions():
    found = ProbeText(documents(5), TOKENS, END).probes()
    assert "recall" not in {probe.name for probe in found}
    assert all(len(probe.questions) >= 20 for probe in found)


def test_a_text_without_words_gives_no_probes():
    assert [] == ProbeText([[1, 2, 1]], TOKENS, END).probes()
