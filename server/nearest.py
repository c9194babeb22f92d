"""Which known name somebody probably meant."""

import difflib
from collections.abc import Collection


def nearest(name: str, names: Collection[str]) -> str:
    """Return `; did you mean ...?`, or nothing where no name is near."""
    near = difflib.get_close_matches(name[:100], names, n=1)
    return f"; did you mean {near[0]}?" if near else ""
