"""The ways of storing one layer that `--auto` chooses from, and those that a report compares."""

from fractions import Fraction

from paging import Encoding, LayerEncoding

_RANKS = {
    Encoding.INT8: (Fraction(1, 2),),
    Encoding.INT4: (Fraction(1, 4), Fraction(1, 2), Fraction(3, 4)),
}
"""Of int8 and int4 coefficients, as shares of `hidden_size`."""
_COARSE_GROUP = 128


def candidates(hidden_size: int, source: LayerEncoding) -> list[LayerEncoding]:
    """Return every way worth measuring for layers of this size, `source` (as they are) first; all can be had."""
    found = [
        source,
        LayerEncoding.plain(Encoding.INT8),
        LayerEncoding.plain(Encoding.INT4),
        LayerEncoding(Encoding.INT4, _COARSE_GROUP),
    ]
    for encoding, shares in _RANKS.items():
        plain = LayerEncoding.plain(encoding)
        multiple = plain.group_size or 1
        ranks = sorted({int(share * hidden_size) // multiple * multiple for share in shares} - {0})
        found += [LayerEncoding(encoding, plain.group_size, rank) for rank in ranks]
    return [kind for kind in found if kind.flaw(hidden_size) is None]
