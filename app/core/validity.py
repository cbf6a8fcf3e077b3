"""From when until when something holds: the one place that decides what has begun, what is over, what soon will be."""

import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

_INSTANT = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII)


class Phase(StrEnum):
    """Where an instant lies."""

    PENDING = "pending"
    CURRENT = "current"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Validity:
    """`start` is the first instant, `end` the first one behind the last; None is always. Both aware and in UTC."""

    start: datetime | None = None
    end: datetime | None = None

    def phase(self, now: datetime) -> Phase:
        """Tell whether it holds at an instant, and if not, whether no longer or not yet."""
        if self.end is not None and now >= self.end:
            return Phase.EXPIRED
        if self.start is not None and now < self.start:
            return Phase.PENDING
        return Phase.CURRENT

    def ends_within(self, span: timedelta, now: datetime) -> bool:
        """Tell whether it is not over yet, and will be by then."""
        return self.end is not None and self.phase(now) is not Phase.EXPIRED and self.end - now <= span

    def longer_than(self, span: timedelta, now: datetime) -> bool:
        """Tell whether it holds longer than a span; without a start it is counted from `now`."""
        return self.end is None or self.end - (self.start or now) > span


ALWAYS = Validity()


def parse_instant(text: str) -> datetime:
    """Read an instant of RFC 3339 with its offset, to the microsecond.

    Raises:
        ValueError: it is none; the text is lower case and names the fix.
    """
    if _INSTANT.fullmatch(text) is not None:
        # A day that does not exist, or an offset that leads out of the years 1 to 9999.
        with suppress(ValueError, OverflowError):
            return datetime.fromisoformat(text.upper()).astimezone(UTC)
    raise ValueError(f"`{text[:40]}` is not an instant with an offset; write it as `2026-03-13T12:00:00Z`")
