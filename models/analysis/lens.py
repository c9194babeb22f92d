"""What a cell's value says in the vocabulary's words: the logit lens."""

from typing import NamedTuple

from models.analysis.cells import CellMemory, Cells
from models.analysis.highest import Highest, Ranking
from models.analysis.stored_matrices import Ids


class Promoted(NamedTuple):
    """Tokens that cells push up and down where their coefficient is above 0; below 0 the two change places."""

    up: Ranking
    """[M, n], the highest scores."""
    down: Ranking
    """[M, n], the lowest scores, with their signs changed."""


def promoted_tokens(memory: CellMemory, cells: Cells, cells_M: Ids, n: int) -> Promoted:
    """Return what the values of some cells promote through the final norm and the head."""
    up, down = Highest(len(cells_M), n), Highest(len(cells_M), n)
    for ids_C, scores_MC in memory.scores(cells.values_dK[:, cells_M].T):
        up.add(scores_MC, ids_C)
        down.add(-scores_MC, ids_C)
    return Promoted(up.ranking(), down.ranking())
