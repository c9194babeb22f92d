"""Which decoding steps are captured while an engine starts, and what is said of that.

Knows what was asked for and where rows lie. How steps are captured is `server/engine/decode_graphs.py`'s.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from models.errors import ConfigError
from models.rows import Rows
from server.engine.decode_graphs import DecodeGraphs, decode_graphs
from server.engine.loaded import Loaded
from server.engine.row_memory import PagedMemory, RowMemory


class CapturedSteps(NamedTuple):
    """Captured steps, and words for them."""

    graphs: DecodeGraphs | None
    """None where no step is to be captured."""
    granted: str | None
    """For a person: what was asked and what was granted. None on a CPU where nothing was asked: it has none."""


def captured_steps(
    start: Loaded,
    on_progress: Callable[[int, int], None] | None = None,
    *,
    make: Callable[..., DecodeGraphs | None] = decode_graphs,
) -> CapturedSteps:
    """Capture the commonest decoding steps of what was loaded; `make` is called as `decode_graphs` is.

    No row is asked for: the lanes of a step that is captured rest. Packs must be loaded by now. Raises `ConfigError`
    where the GPU refuses to capture.
    """
    graphs = make(start.model, start.cache, start.config.max_num_seqs)
    if start.config.enforce_eager:
        why = " on a CPU in any case" if graphs is None else ""
        return CapturedSteps(None, f"none{why}; asked for: enforce_eager")
    if graphs is None:
        return CapturedSteps(None, None)
    rows = _no_rows(start.memory)
    if rows is not None and rows.placed is None:
        return CapturedSteps(None, "none, each step's rows lie in a place of their own; asked for: nothing")
    if start.layer_shares.of(None) is not None:
        # Requests that ask for all of their rows are run so all the same.
        return CapturedSteps(graphs, "none at the start, requests get a part of their rows; asked for: nothing")
    try:
        graphs.capture_ahead(rows, max_model_len=start.max_model_len, on_progress=on_progress)
    except RuntimeError as error:
        raise ConfigError(f"decoding steps cannot be captured here; start with enforce_eager: {error}") from error
    others = "no others for want of memory" if graphs.is_full else "others when they are needed"
    return CapturedSteps(graphs, f"{graphs.num_captured} sizes at the start, {others}; asked for: nothing")


def _no_rows(memory: RowMemory) -> Rows | None:
    """Return the rows of a step without tokens, from which it can be seen where those of others lie."""
    if isinstance(memory, PagedMemory):
        return memory.rows(())
    return memory.rows([memory.lease(np.empty(0, dtype=np.int64))])
