"""As much of PromQL as dashboards and rules use: which series an expression selects, by which labels it groups them.

Aggregations are written `sum by (labels) (...)`, labels first. What it does not know is an error, so that nothing is
overlooked.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<string>"(?:[^"\\]|\\.)*")
      | (?P<range>\[[0-9]+[smhd]\])
      | (?P<number>[0-9.]+(?:e-?[0-9]+)?)
      | (?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)
      | (?P<sign>=~|!~|!=|==|<=|>=|[-+*/%<>=(){},])
    """,
    re.VERBOSE,
)
_AGGREGATORS = frozenset({"sum", "max", "min", "avg", "count"})
_FUNCTIONS = frozenset({"rate", "increase", "histogram_quantile", "avg_over_time", "min_over_time"})
_SET_OPERATORS = frozenset({"and", "or", "unless"})


class Matcher(NamedTuple):
    """One condition on a label."""

    label: str
    operator: str
    value: str

    def admits(self, value: str) -> bool:
        """Whether a label's value meets it."""
        if self.operator in {"=", "!="}:
            return (value == self.value) == (self.operator == "=")
        return bool(re.fullmatch(self.value, value)) == (self.operator == "=~")


class Selector(NamedTuple):
    """A metric, what is asked of its labels, and the labels that aggregations around it keep."""

    metric: str
    matchers: tuple[Matcher, ...]
    kept: frozenset[str]

    @property
    def text(self) -> str:
        """As it is written."""
        return f"{self.metric}{{{','.join(f'{label}{operator}{value!r}' for label, operator, value in self.matchers)}}}"


def selectors(text: str) -> list[Selector]:
    """Return the selectors of an expression; `ValueError` for what this does not know."""
    return _Reader(_tokens(text)).read()


def _tokens(text: str) -> list[str]:
    found, at = [], 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"no PromQL that this knows: {text[at : at + 20]!r}")
        at = match.end()
        if match.lastgroup != "space":
            found.append(match.group())
    return found


class _Reader:
    """Reads tokens from left to right."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._at = 0
        self._open: list[frozenset[str]] = []
        """For each open parenthesis, the labels that are kept of what is in it."""
        self._found: list[Selector] = []

    def read(self) -> list[Selector]:
        """Read all of it."""
        while self._at < len(self._tokens):
            word = self._take()
            if re.match(r"[a-zA-Z_:]", word):
                self._read_name(word)
            elif word == "(":
                self._open.append(frozenset())
            elif word == ")":
                self._close()
            elif word in {"{", "}"}:
                raise ValueError(f"{word} without a metric")
        if self._open:
            raise ValueError("a parenthesis is not closed")
        return self._found

    def _read_name(self, name: str) -> None:
        if name in _AGGREGATORS:
            kept: frozenset[str] = frozenset()
            if self._next() == "by":
                self._take()
                kept = frozenset(self._labels())
            self._expect("(")
            self._open.append(kept)
        elif name in _FUNCTIONS:
            self._expect("(")
            self._open.append(frozenset())
        elif name not in _SET_OPERATORS:
            if self._next() == "(":
                raise ValueError(f"{name} is no function that this knows")
            matchers = tuple(self._matchers()) if self._next() == "{" else ()
            self._found.append(Selector(name, matchers, frozenset().union(*self._open)))

    def _close(self) -> None:
        if not self._open:
            raise ValueError("a parenthesis was never opened")
        self._open.pop()

    def _matchers(self) -> Iterator[Matcher]:
        self._expect("{")
        while self._next() != "}":
            label, operator, value = self._take(), self._take(), self._take()
            yield Matcher(label, operator, value[1:-1])
            if self._next() == ",":
                self._take()
        self._expect("}")

    def _labels(self) -> Iterator[str]:
        self._expect("(")
        while (word := self._take()) != ")":
            if word != ",":
                yield word

    def _next(self) -> str | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _take(self) -> str:
        if self._at == len(self._tokens):
            raise ValueError("the expression ends too soon")
        self._at += 1
        return self._tokens[self._at - 1]

    def _expect(self, wanted: str) -> None:
        if (word := self._take()) != wanted:
            raise ValueError(f"{wanted} is expected, not {word}")
