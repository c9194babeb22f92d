"""Who holds which block of keys and values, and which blocks can serve a sequence that begins with the same tokens.

Knows block numbers, holders and digests of prefixes. Knows nothing of tokens' rows, of tensors or of scheduling.

A block is in one of three states:

| state  | holders | content                                                               |
|--------|---------|-----------------------------------------------------------------------|
| held   | 1 or more | a sequence's, perhaps several sequences' with the same prefix         |
| cached | 0       | a prefix's: found by `match` until the block is wanted for something else |
| blank  | 0       | nothing of use                                                        |
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass

import numpy as np
import numpy.typing as npt

_DIGEST_BYTES = 16


@dataclass(frozen=True, kw_only=True)
class PrefixKey:
    """What must be equal, beside the tokens, for keys and values to be equal."""

    model: str
    """The backbone's fingerprint."""
    overlay: str = ""
    """The memory pack over the base table."""
    alpha: tuple[float, ...] = ()
    """How much of each layer's row is added; empty where that is all of it."""
    left_out_layers: tuple[int, ...] = ()
    salt: str = ""
    """Requests with different salts share nothing."""

    def digest(self) -> bytes:
        """Return the digest that a prefix of no tokens has."""
        return _digest(repr(astuple(self)).encode())


def extend_digests(digests: list[bytes], root: bytes, ids: Sequence[int], block_size: int) -> None:
    """Add to a sequence's digests those of its further full blocks, each of all tokens up to its end."""
    for start in range(len(digests) * block_size, len(ids) - block_size + 1, block_size):
        tokens = np.asarray(ids[start : start + block_size], dtype="<i8")
        digests.append(_digest((digests[-1] if digests else root) + tokens.tobytes()))


class BlockPool:
    """All blocks of a `KVCache`."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._num_holders = [0] * num_blocks
        self._is_held = np.zeros(num_blocks, dtype=np.bool_)
        self._released_at = np.zeros(num_blocks, dtype=np.int64)
        """When a cached block was released last, by a clock that counts releases; 0 of blank blocks."""
        self._clock = 0
        self._num_held = 0
        self._num_cached = 0
        self._room_behind: dict[int, int] = {}
        """Blocks that the sequence which ends in a block is likely to grow by; others begin elsewhere if they can."""
        self._digest_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}

    @property
    def num_free(self) -> int:
        """Blocks that can be allocated: blank and cached ones."""
        return self.num_blocks - self._num_held

    @property
    def num_held(self) -> int:
        """Blocks that sequences hold."""
        return self._num_held

    def match(self, digests: Iterable[bytes]) -> list[int]:
        """Return the blocks of the longest prefix that is there; hold them before anything is allocated."""
        blocks: list[int] = []
        for digest in digests:
            block = self._block_of.get(digest)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def num_unheld(self, blocks: Iterable[int]) -> int:
        """Return how many of these blocks nobody holds: holding them takes so many from `num_free`."""
        return sum(not self._num_holders[block] for block in blocks)

    def hold(self, blocks: Iterable[int]) -> None:
        """Hold blocks that `match` found."""
        for block in blocks:
            if not self._num_holders[block]:
                self._is_held[block] = True
                self._num_held += 1
                self._num_cached -= block in self._digest_of
            self._num_holders[block] += 1

    def allocate(self, count: int, *, after: int | None = None, room: int = 0) -> list[int]:
        """Return so many blocks, at most `num_free`, held; behind the block `after`, side by side where possible.

        room: blocks that are likely to be asked for behind these. What is read in one piece is read without a copy, so
        a run is worth more than to forget in the exact order of age: the run is taken whose content is oldest.
        """
        assert count <= self.num_free, "callers ask for what is free"
        blocks: list[int] = []
        # What was chosen as one run is taken as one, however young what is in its middle.
        left_of_run = 0 if after is None else self._room_behind.pop(after, 0)
        while len(blocks) < count:
            block = self.num_blocks if after is None else after + 1
            if block >= self.num_blocks or self._is_held[block] or not (left_of_run > 0 or self._is_spare(block)):
                left_of_run = count - len(blocks) + room
                block = self._oldest_run(left_of_run)
            left_of_run -= 1
            self._forget(block)
            self.hold([block])
            blocks.append(block)
            after = block
        if room and after is not None:
            self._room_behind[after] = room
        return blocks

    def publish(self, block: int, digest: bytes) -> None:
        """Let a held, full block be found; where another one has this content already, that one stays the one found."""
        if digest not in self._block_of:
            self._block_of[digest] = block
            self._digest_of[block] = digest

    def release(self, blocks: Iterable[int]) -> None:
        """End one hold of each block; of those that stay cached the last ones given count as used last."""
        for block in blocks:
            self._num_holders[block] -= 1
            if not self._num_holders[block]:
                self._is_held[block] = False
                self._num_held -= 1
                self._room_behind.pop(block, None)
                if block in self._digest_of:
                    self._clock += 1
                    self._num_cached += 1
                    self._released_at[block] = self._clock

    def check_integrity(self) -> None:
        """Raise `AssertionError` where a block is in no state or in two."""
        assert [holders > 0 for holders in self._num_holders] == self._is_held.tolist(), "holders are miscounted"
        assert self._num_held == int(self._is_held.sum()), "held blocks are miscounted"
        assert self._num_cached == sum(not self._is_held[block] for block in self._digest_of), "cached are miscounted"
        for block in np.flatnonzero(~self._is_held).tolist():
            is_cached = bool(self._released_at[block])
            assert is_cached == (block in self._digest_of), f"block {block} is cached as nothing, or blank and found"
        assert {block: digest for digest, block in self._block_of.items()} == self._digest_of, "digests disagree"

    def _is_spare(self, block: int) -> bool:
        """Whether a block that nobody holds is blank, or cached and not of the half that was used last."""
        return bool(self._released_at[block] <= self._clock - self._num_cached // 2)

    def _forget(self, block: int) -> None:
        self._released_at[block] = 0
        if (digest := self._digest_of.pop(block, None)) is not None:
            del self._block_of[digest]
            self._num_cached -= 1

    def _oldest_run(self, length: int) -> int:
        """Return where a run of so many free blocks begins whose content is the oldest; blanks are older than any.

        Where there is no such run, the longest one is taken; room that others are likely to need only then.
        """
        is_taken = self._is_held.copy()
        for block, room in self._room_behind.items():
            is_taken[block + 1 : block + 1 + room] = True
        if _longest_run(is_taken) < length:
            is_taken = self._is_held
        length = min(length, _longest_run(is_taken))
        ages, taken = (np.concatenate([[0], np.cumsum(each)]) for each in (self._released_at, is_taken))
        sums = np.where(taken[length:] == taken[:-length], ages[length:] - ages[:-length], np.iinfo(np.int64).max)
        first = int(sums.argmin())
        if sums[first]:
            # A sequence's last block is mostly blank: the run that begins with it costs no more than the one behind
            # it, and would leave the places of both sequences in pieces.
            while first + 1 < len(sums) and sums[first + 1] == sums[first]:
                first += 1
        return first


def _longest_run(is_taken: npt.NDArray[np.bool_]) -> int:
    """Return the length of the longest run of what is not taken."""
    edges = np.flatnonzero(np.diff(is_taken, prepend=True, append=True))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def _digest(content: bytes) -> bytes:
    # Not a checksum: whoever found two prefixes with one digest could read another's cached context.
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()
