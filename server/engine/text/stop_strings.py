"""Looking for strings in a text that comes in pieces: what was found, and what may yet become a find.

Knuth, Morris and Pratt's automaton for each string: the time per character does not depend on what came before.
"""

from collections.abc import Sequence


class StopStrings:
    """Where in a text, read character by character, one of some strings ends for the first time."""

    def __init__(self, strings: Sequence[str]) -> None:
        """Look for `strings`, each of at least one character."""
        # The longest first: of several that end at the same character it is the one that is found.
        self._automata = [_Automaton(string) for string in sorted(set(strings), key=len, reverse=True)]

    @property
    def undecided(self) -> int:
        """Characters at the end of the text so far that may be the beginning of one of the strings."""
        return max((automaton.matched for automaton in self._automata), default=0)

    def find(self, text: str, *, counts: bool) -> tuple[int, str] | None:
        """Read on; return how many characters of `text` it took until a string was complete, and which one.

        counts: whether a string may end here; if not, those that do are passed over.
        """
        if not self._automata:
            return None
        for position, character in enumerate(text, start=1):
            # Every automaton reads every character, before anything is found.
            found = [automaton.string for automaton in self._automata if automaton.read(character)]
            if found and counts:
                return position, found[0]
        return None


class _Automaton:
    """How much of one string the text so far ends with."""

    def __init__(self, string: str) -> None:
        self.string = string
        self._fallbacks = _fallbacks(string)
        self.matched = 0

    def read(self, character: str) -> bool:
        """Read on; return whether the text ends with the string now."""
        matched = self.matched
        while matched and self.string[matched] != character:
            matched = self._fallbacks[matched]
        if self.string[matched] == character:
            matched += 1
        is_complete = matched == len(self.string)
        self.matched = self._fallbacks[matched] if is_complete else matched
        return is_complete


def _fallbacks(string: str) -> list[int]:
    """Return for each length the longest shorter beginning of `string` that its beginning of that length ends with."""
    fallbacks = [0, 0]
    matched = 0
    for character in string[1:]:
        while matched and string[matched] != character:
            matched = fallbacks[matched]
        if string[matched] == character:
            matched += 1
        fallbacks.append(matched)
    return fallbacks
