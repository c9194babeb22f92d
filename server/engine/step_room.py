"""What is left of a step while it is filled: lanes, tokens and rows. Knows numbers only."""

from dataclasses import dataclass

from server.engine.step import Chunk


@dataclass(slots=True)
class StepRoom:
    """What is left of a step while it is filled."""

    lanes: int
    tokens: int
    rows: int | None
    """Rows that sequences without a lease of their own can have together; None: any number."""
    num_decoding: int
    """Sequences yet to come that take a token each."""

    @property
    def spare_tokens(self) -> int:
        """Most tokens for the next sequence: it leaves one each to those behind it that have lanes and take no more."""
        return self.tokens - min(self.num_decoding, self.lanes - 1)

    @property
    def has_rows(self) -> bool:
        """Whether there is a row for a sequence without a lease."""
        return self.rows is None or self.rows > 0

    @property
    def has_token(self) -> bool:
        """Whether there is a token, and a row for it, for the next sequence."""
        return (self.rows is None or self.rows > 0) and (
            self.tokens > self.num_decoding or self.tokens > self.lanes - 1
        )

    def take(self, chunk: Chunk) -> None:
        """Put a chunk into the step."""
        self.lanes -= 1
        self.tokens -= chunk.length
        if chunk.lease is None:
            self.take_rows(chunk.length)

    def take_rows(self, count: int) -> None:
        """Note that so many rows more are somebody's."""
        if self.rows is not None:
            self.rows -= count
