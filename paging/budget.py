"""How much memory a tier may use, as the operator says it: bytes, rows, or a fraction of the table."""

from dataclasses import dataclass

from paging.errors import BudgetError


@dataclass(frozen=True, kw_only=True)
class Budget:
    """A tier's budget, in exactly one of three units; validated once, never changed."""

    num_bytes: int | None = None
    """Bytes that the tier's slots may take, alignment included."""
    num_rows: int | None = None
    """Slots."""
    fraction: float | None = None
    """Slots as a share of the table's rows, above 0 and at most 1."""

    def __post_init__(self) -> None:
        given = [name for name in ("num_bytes", "num_rows", "fraction") if getattr(self, name) is not None]
        if len(given) != 1:
            raise BudgetError(f"a budget is given in bytes, in rows or as a fraction; this one has {given or 'none'}")
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise BudgetError(f"the budget is the fraction {self.fraction}; it must be above 0 and at most 1")
        for name in ("num_bytes", "num_rows"):
            if (value := getattr(self, name)) is not None and value < 0:
                raise BudgetError(f"the budget has {name} {value}; it must be at least 0")

    def slots(self, *, slot_bytes: int, num_rows: int, staging_bytes: int = 0) -> int:
        """Return the slots that the budget buys; never more than the `num_rows` rows there are to hold.

        staging_bytes: memory that reading needs for itself, which a budget in bytes includes.
        """
        if self.num_bytes is not None:
            return min(max(0, self.num_bytes - staging_bytes) // slot_bytes, num_rows)
        if self.num_rows is not None:
            return min(self.num_rows, num_rows)
        assert self.fraction is not None, "one of the three is given"
        return min(round(self.fraction * num_rows), num_rows)

    def device_slots(self, *, slot_bytes: int, num_rows: int, max_num_seqs: int, staging_bytes: int = 0) -> int:
        """Return the device tier's slots; raises `BudgetError` with the number needed where they cannot be enough.

        Every sequence that runs must hold one row while one more lands; with less, a full batch would never run.
        A table with fewer rows than that needs only a slot for each.
        """
        slots = self.slots(slot_bytes=slot_bytes, num_rows=num_rows, staging_bytes=staging_bytes)
        needed = min(max_num_seqs + 1, num_rows)
        if slots < needed:
            raise BudgetError(
                f"the device budget holds {slots} rows; {max_num_seqs} sequences at once need {needed}, "
                f"which is {needed * slot_bytes + staging_bytes} bytes: raise the budget or lower max_num_seqs"
            )
        return slots
