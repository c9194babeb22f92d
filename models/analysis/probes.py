"""Multiple-choice questions made from a text: what is asked needs memory, or needs the context.

Four choices, each one whole word of one token, so chance is 25%. The three wrong ones are drawn from the words of the
text whose count there is nearest to the right one's, so that knowing which words are common does not help.

| probe     | stands for     | the question                                                                       |
|-----------|----------------|------------------------------------------------------------------------------------|
| `recall`  | recall         | the second word of a collocation, which the context has not named: "shook hands"   |
| `context` | reasoning      | a name inside a sentence that the context has named, and no wrong choice           |
| `copy`    | reasoning      | the next word of a list of random words that is given twice; all choices are in it |

`recall` can only be answered from what was learned of the word before; its wrong choices stand mostly behind the same
word as the right one. `copy` cannot be answered from that at all, and `context` hardly: what tells the choices apart
stands in the context. They are like the paper's recall and reasoning tasks in this respect and in no other.
"""

import math
import re
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

CHANCE = 0.25
MOST_QUESTIONS = 300
LEAST_QUESTIONS = 50
_WRONG = 3
_RECALL_CONTEXT = 24
_NAME_CONTEXT = 96
_LIST_WORDS = 16
_LEAST_PAIRS = 3
_LEAST_CONDITIONAL = 0.1
_COMMONEST = 100
"""Words that recall does not ask for: grammar says too much about them."""
_NAME_SHARE = 0.5
_PER_ANSWER = 30
"""Questions with one right answer, so that no word fills a probe."""
_WORD = re.compile(r" [^\W\d_]{3,}")
_ENDS_SENTENCE = re.compile(r"[.!?:;\n\"'\u201c\u201d\u2018\u2019]\s*$")


@dataclass(frozen=True)
class Question:
    """One question; `choices[answer]` is right."""

    context: tuple[int, ...]
    choices: tuple[int, ...]
    answer: int


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Questions of one sort."""

    name: str
    stands_for: str
    questions: Sequence[Question]


class _Place(NamedTuple):
    """A word of the text: a position in a document."""

    document: int
    position: int


class ProbeText:
    """A text from which probes are made; equal texts and seeds give equal probes."""

    def __init__(
        self, documents: Sequence[Sequence[int]], tokens: Sequence[bytes], end_id: int, *, seed: int = 0
    ) -> None:
        """documents: token ids. tokens: the bytes of every token of the vocabulary. end_id: put before each context."""
        self._documents = documents
        self._texts = [token.decode(errors="replace") for token in tokens]
        self._end_id = end_id
        self._random = np.random.default_rng(seed)
        self._is_word = [_WORD.fullmatch(text) is not None for text in self._texts]
        self._places = [
            _Place(number, position)
            for number, ids in enumerate(documents)
            for position in range(len(ids) - 1)
            if self._is_word[ids[position]] and not self._continues(ids[position + 1])
        ]
        self._counts = Counter(self._id_at(place) for place in self._places)
        inside = Counter(self._id_at(place) for place in self._places if self._is_inside(place))
        self._names = {
            token_id
            for token_id, count in self._counts.items()
            if self._texts[token_id].strip().istitle() and inside[token_id] >= _NAME_SHARE * count
        }
        self._by_count = sorted(self._counts, key=lambda token_id: (self._counts[token_id], token_id))

    def probes(self) -> list[Probe]:
        """Return the probes for which the text has at least `LEAST_QUESTIONS` questions."""
        found = [
            Probe(name="recall", stands_for="recall", questions=self._recall()),
            Probe(name="context", stands_for="reasoning", questions=self._context()),
            Probe(name="copy", stands_for="reasoning", questions=self._copy()),
        ]
        return [probe for probe in found if len(probe.questions) >= LEAST_QUESTIONS]

    def _recall(self) -> list[Question]:
        pairs: Counter[tuple[int, int]] = Counter()
        places: defaultdict[tuple[int, int], list[_Place]] = defaultdict(list)
        followers: defaultdict[int, set[int]] = defaultdict(set)
        before: defaultdict[int, Counter[int]] = defaultdict(Counter)
        for place, following in pairwise(self._places):
            if following == (place.document, place.position + 1):
                pair = (self._id_at(place), self._id_at(following))
                pairs[pair] += 1
                places[pair].append(following)
                followers[pair[0]].add(pair[1])
                before[pair[1]][pair[0]] += 1
        total = len(self._places)
        usually = {word: [token_id for token_id, _ in counts.most_common(2)] for word, counts in before.items()}
        common = set(self._by_count[-min(_COMMONEST, len(self._by_count) // 2) :])

        def strength(pair: tuple[int, int]) -> float:
            expected = self._counts[pair[0]] * self._counts[pair[1]] / total
            return pairs[pair] * math.log(pairs[pair] / expected)

        collocations = [
            pair
            for pair, count in pairs.items()
            if pair[1] not in common and count >= max(_LEAST_PAIRS, _LEAST_CONDITIONAL * self._counts[pair[0]])
        ]
        questions: list[Question] = []
        asked: Counter[int] = Counter()
        for first, second in sorted(collocations, key=lambda pair: (-strength(pair), pair)):
            for place in places[first, second]:
                if len(questions) == MOST_QUESTIONS or asked[second] == _PER_ANSWER:
                    break
                context = self._before(place, _RECALL_CONTEXT)
                if second in context:
                    continue
                excluded = followers[first] | set(context)
                usual = _first(usually[second], but=first)
                question = self._question(
                    context,
                    second,
                    lambda token_id: token_id not in excluded and _first(usually.get(token_id, [])) == usual,  # noqa: B023
                )
                if question is not None:
                    questions.append(question)
                    asked[second] += 1
        return questions

    def _context(self) -> list[Question]:
        questions: list[Question] = []
        asked: Counter[int] = Counter()
        names = [place for place in self._places if self._id_at(place) in self._names and self._is_inside(place)]
        for chosen in self._random.permutation(len(names)):
            place = names[chosen]
            answer = self._id_at(place)
            context = self._before(place, _NAME_CONTEXT)
            if len(questions) == MOST_QUESTIONS:
                break
            if answer not in context or asked[answer] == _PER_ANSWER:
                continue
            named = set(context)
            question = self._question(
                context,
                answer,
                lambda token_id: token_id in self._names and token_id not in named,  # noqa: B023
            )
            if question is not None:
                questions.append(question)
                asked[answer] += 1
        return questions

    def _copy(self) -> list[Question]:
        words = np.array(sorted(self._counts))
        if len(words) < _LIST_WORDS:
            return []
        questions = []
        for _ in range(MOST_QUESTIONS):
            listed = self._random.choice(words, _LIST_WORDS, replace=False).tolist()
            at = int(self._random.integers(_LIST_WORDS // 2, _LIST_WORDS))
            others = [word for index, word in enumerate(listed) if index not in (at, at - 1)]
            wrong = self._random.choice(others, _WRONG, replace=False).tolist()
            questions.append(self._shuffled((self._end_id, *listed, *listed[:at]), listed[at], wrong))
        return questions

    def _question(self, context: tuple[int, ...], answer: int, may_be_wrong: Callable[[int], bool]) -> Question | None:
        """Return a question whose wrong choices are as common as the right one; None where there are too few."""
        middle = bisect_left(
            self._by_count, (self._counts[answer], answer), key=lambda each: (self._counts[each], each)
        )
        wrong: list[int] = []
        for distance in range(1, len(self._by_count)):
            near = [index for index in (middle - distance, middle + distance) if 0 <= index < len(self._by_count)]
            wrong += [self._by_count[index] for index in near if may_be_wrong(self._by_count[index])]
            if len(wrong) >= _WRONG:
                return self._shuffled(context, answer, wrong[:_WRONG])
        return None

    def _shuffled(self, context: tuple[int, ...], answer: int, wrong: Sequence[int]) -> Question:
        place = int(self._random.integers(_WRONG + 1))
        return Question(context=context, choices=(*wrong[:place], answer, *wrong[place:]), answer=place)

    def _before(self, place: _Place, most: int) -> tuple[int, ...]:
        ids = self._documents[place.document]
        return (self._end_id, *ids[max(0, place.position - most) : place.position])

    def _is_inside(self, place: _Place) -> bool:
        """Whether a word is not the first of its sentence."""
        if place.position == 0:
            return False
        return not _ENDS_SENTENCE.search(self._texts[self._documents[place.document][place.position - 1]])

    def _id_at(self, place: _Place) -> int:
        return self._documents[place.document][place.position]

    def _continues(self, token_id: int) -> bool:
        """Whether a token goes on with the word before it."""
        text = self._texts[token_id]
        return bool(text) and text[0].isalnum()


def _first(ids: Sequence[int], *, but: int | None = None) -> int | None:
    """Return the first of some ids that is not `but`; None where there is none."""
    return next((token_id for token_id in ids if token_id != but), None)
