"""What can go wrong while a token is chosen.

| error         | meaning                                                          |
|---------------|------------------------------------------------------------------|
| `ScoresError` | a sequence's scores are not numbers that a token can be drawn by |
"""

from paging import TolboothError


class ScoresError(TolboothError, ArithmeticError):
    """The model's scores of one sequence are NaN or infinite; the other sequences of the batch are not touched."""
