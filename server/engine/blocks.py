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
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass

import numpy as np

_DIGEST_BYTES = 16
_FORGET_AT_ONCE = 64
"""Cached blocks given up together: the oldest were one sequence's and lie side by side, so a run of blanks results."""


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
        self.num_blank = num_blocks
        self._num_holders = [0] * num_blocks
        self._is_blank = np.ones(num_blocks, dtype=np.bool_)
        self._cached: OrderedDict[int, None] = OrderedDict()  # blocks that nobody holds, the longest unused first
        self._digest_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}

    @property
    def num_free(self) -> int:
        """Blocks that can be allocated: blank and cached ones."""
        return self.num_blank + len(self._cached)

    @property
    def num_held(self) -> int:
        """Blocks that sequences hold."""
        return self.num_blocks - self.num_free

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
            self._num_holders[block] += 1
            self._cached.pop(block, None)

    def allocate(self, count: int, *, after: int | None = None) -> list[int]:
        """Return so many blocks, at most `num_free`, held; behind the block `after`, side by side where possible."""
        assert count <= self.num_free, "callers ask for what is free"
        if self.num_blank < count:
            self._forget(max(count - self.num_blank, min(_FORGET_AT_ONCE, len(self._cached))))
        blocks: list[int] = []
        while len(blocks) < count:
            block = self.num_blocks if after is None else after + 1
            if block >= self.num_blocks or not self._is_blank[block]:
                block = self._roomiest(count - len(blocks))
            self._is_blank[block] = False
            self._num_holders[block] = 1
            self.num_blank -= 1
            blocks.append(block)
            after = block
        return blocks

    def publish(self, block: int, digest: bytes) -> None:
        """Let a held, full block be found; where another one has this content already, that one stays the one found."""
        if digest not in self._block_of:
            self._block_of[digest] = block
            self._digest_of[block] = digest

    def release(self, blocks: Iterable[int]) -> None:
        """End one hold of each block; of those that stay cached the last ones given are the last to be forgotten."""
        for block in blocks:
            self._num_holders[block] -= 1
            if not self._num_holders[block]:
                if block in self._digest_of:
                    self._cached[block] = None
                else:
                    self._is_blank[block] = True
                    self.num_blank += 1

    def check_integrity(self) -> None:
        """Raise `AssertionError` where a block is in no state or in two."""
        for block in range(self.num_blocks):
            states = (self._num_holders[block] > 0, block in self._cached, bool(self._is_blank[block]))
            assert sum(states) == 1, f"block {block} is held, cached, blank: {states}"
            assert block not in self._cached or block in self._digest_of, f"block {block} is cached as nothing"
        assert self.num_blank == int(self._is_blank.sum()), "blank blocks are miscounted"
        assert {block: digest for digest, block in self._block_of.items()} == self._digest_of, "digests disagree"

    def _forget(self, count: int) -> None:
        for _ in range(count):
            block, _ = self._cached.popitem(last=False)
            del self._block_of[self._digest_of.pop(block)]
            self._is_blank[block] = True
            self.num_blank += 1

    def _roomiest(self, count: int) -> int:
        """Return where to begin in the longest run of blanks: in its middle, so that both neighbours have room."""
        edges = np.flatnonzero(np.diff(self._is_blank, prepend=False, append=False))
        starts, lengths = edges[::2], edges[1::2] - edges[::2]
        longest = int(lengths.argmax())
        spare = max(0, int(lengths[longest]) - count)
        return int(starts[longest]) + spare // 2


def _digest(content: bytes) -> bytes:
    # Not a checksum: whoever found two prefixes with one digest could read another's cached context.
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()
