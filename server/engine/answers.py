"""Answers the questions of `server/engine/questions.py`, between two steps: which part of the engine each is for."""

from typing import assert_never

from server.engine.errors import RequestError
from server.engine.pack_answers import PackAnswers
from server.engine.questions import Answer, PackQuestion, Question, RowQuestion
from server.engine.row_answers import RowAnswers
from server.engine.row_memory import PagedMemory, RowMemory


class Answers:
    """Answers questions about an engine, and goes on with what they began."""

    def __init__(self, *, memory: RowMemory, vocab_size: int, packs: PackAnswers) -> None:
        self._packs = packs
        self._rows = RowAnswers(memory.pager, vocab_size=vocab_size) if isinstance(memory, PagedMemory) else None

    @property
    def is_bringing(self) -> bool:
        """Whether rows that a question asked for are on their way."""
        return self._rows is not None and self._rows.wishes.is_bringing

    def advance(self) -> None:
        """Go on with what questions began; never waits."""
        if self._rows is not None:
            self._rows.wishes.advance()

    def answer(self, question: Question) -> Answer:
        """Return the answer; raises `RequestError` or `QueueFullError` for what cannot be done."""
        if isinstance(question, RowQuestion):
            if self._rows is None:
                raise RequestError("the memory of this model is not paged: there are no rows to bring, pin or look at")
            return self._rows.answer(question)
        if isinstance(question, PackQuestion):
            return self._packs.answer(question)
        assert_never(question)
