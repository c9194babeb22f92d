"""Token ids where there is no text: drawn from how often each was used, or all alike."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from paging.frequencies import COUNTS_FILE, load_counts


def made_up_ids(directory: Path, *, vocab_size: int, count: int, seed: int) -> tuple[npt.NDArray[np.int64], str]:
    """Return `count` ids and how they were made: from a model's frequency list where it has one, else all alike.

    Raises `FrequencyError` for a list that is not of this vocabulary.
    """
    generator = np.random.default_rng(seed)
    path = directory / COUNTS_FILE
    counts_V = load_counts(path, num_keys=vocab_size) if path.exists() else None
    if counts_V is None or not counts_V.any():
        return generator.integers(0, vocab_size, count), f"random, every id as likely as any other, seed {seed}"
    ids = generator.choice(vocab_size, count, p=counts_V / counts_V.sum())
    return ids, f"random, as likely as {COUNTS_FILE} says, seed {seed}"
