"""Months in UTC: what partitions of the ledger are made of."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from app.errors import FirewallError, Kind

_WRITTEN: Final = re.compile(r"(\d{4})[-_](\d{2})", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Month:
    """One month of a year, in UTC."""

    year: int
    month: int

    @classmethod
    def of(cls, moment: datetime) -> "Month":
        """The month that a moment lies in."""
        there = moment.astimezone(UTC)
        return cls(there.year, there.month)

    @classmethod
    def parse(cls, text: str) -> "Month":
        """The month that `2026-01` or `2026_01` names. Raises FirewallError (MALFORMED)."""
        found = _WRITTEN.fullmatch(text)
        if found is None or not 1 <= int(found[2]) <= 12 or not 1 <= int(found[1]) <= 9998:
            raise FirewallError(Kind.MALFORMED, f"`{text[:40]}` is not a month", fix="write it as `2026-01`")
        return cls(int(found[1]), int(found[2]))

    @property
    def starts(self) -> datetime:
        """Its first moment."""
        return datetime(self.year, self.month, 1, tzinfo=UTC)

    @property
    def ends(self) -> datetime:
        """The first moment after it."""
        return self.after(1).starts

    @property
    def suffix(self) -> str:
        """How the name of a partition ends, such as `2026_01`."""
        return f"{self.year:04d}_{self.month:02d}"

    def after(self, count: int) -> "Month":
        """The month so many months later."""
        years, month = divmod(self.year * 12 + self.month - 1 + count, 12)
        return Month(years, month + 1)

    def __str__(self) -> str:
        """As people write it: `2026-01`."""
        return f"{self.year:04d}-{self.month:02d}"
