"""Freeze windows: when, by a schedule of cron in a time zone, nothing is to be changed, and until when.

A schedule speaks of the wall clock. A start that the clock skips in spring is at the first instant after the gap; one
that it shows twice in autumn is the first of the two. From there on the duration is time that passes, whatever the
clock shows at its end.
"""

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from cronsim import CronSim, CronSimError

from app.core.zones import iana_zone

SCHEDULE_MAX_CHARS = 256
_FIELDS = 5
_MINUTE = timedelta(minutes=1)
# From where it is tried whether a schedule has any start; cronsim looks for fifty years.
_TRIAL = datetime(2000, 1, 1, tzinfo=UTC)


class _Spell(NamedTuple):
    """From `since` up to `until` the answer is the same: `end` is that of the open window, None where none is."""

    since: datetime
    until: datetime
    end: datetime | None


class Window:
    """All windows of one schedule. Made by `window`; usable from any thread.

    The spell of the last answer is remembered, for the next question is nearly always about the same one. It says
    nothing that is not computed from the schedule alone, so answers do not depend on what was asked before; two threads
    at the same moment compute it twice.
    """

    __slots__ = ("_spell", "_zone", "duration", "schedule", "time_zone")

    def __init__(self, schedule: str, *, time_zone: str, duration: timedelta) -> None:
        zone = iana_zone(time_zone)
        if zone is None:
            raise ValueError(f"there is no time zone `{time_zone[:64]}`; use a name such as `Europe/Berlin` or `UTC`")
        self.schedule = schedule
        self.time_zone = time_zone
        self.duration = duration
        self._zone = zone
        self._spell: _Spell | None = None

    def __repr__(self) -> str:
        return f"Window({self.schedule!r}, time_zone={self.time_zone!r}, duration={self.duration!r})"

    def end(self, now: datetime) -> datetime | None:
        """Give the end of the window that is open, that of the last one to open if there are more; None if none is."""
        spell = self._spell
        if spell is None or not spell.since <= now < spell.until:
            spell = self._spell = self._spell_at(now)
        return spell.end

    def endless(self, now: datetime) -> bool:
        """Tell whether every window is still open when the next one opens, as far as the next hundred show."""
        last = now
        for number, start in enumerate(self.starts(now)):
            if start - last > self.duration and number:
                return False
            if number == 100:
                return True
            last = start
        return False

    def starts(self, after: datetime) -> Iterator[datetime]:
        """Give the starts after an instant, in their order, as long as there is one within fifty years."""
        local = after.astimezone(self._zone).replace(tzinfo=None)
        with suppress(OverflowError):  # the end of the year 9999
            for wall in CronSim(self.schedule, local):
                start = self._instant(wall)
                if start > after:
                    yield start

    def _spell_at(self, now: datetime) -> _Spell:
        following = next(self.starts(now), datetime.max.replace(tzinfo=UTC))
        last = self._last(now)
        if last is None:
            return _Spell(now, following, None)
        end = last + self.duration
        return _Spell(last, min(following, end), end)

    def _last(self, now: datetime) -> datetime | None:
        """Find the last start that is not longer ago than a window lasts.

        Ever further back, so that a schedule of every minute is not gone through from the start of a long window.
        """
        back = _MINUTE
        while True:
            back = min(back, self.duration)
            found = None
            for start in self.starts(now - back):
                if start > now:
                    break
                found = start
            if found is not None or back == self.duration:
                return found
            back *= 4

    def _instant(self, wall: datetime) -> datetime:
        """Give the instant at which the wall clock first shows a time, or would have."""
        while True:
            instant = wall.replace(tzinfo=self._zone).astimezone(UTC)
            if instant.astimezone(self._zone).replace(tzinfo=None) == wall:
                return instant
            wall += _MINUTE


def window(schedule: str, *, time_zone: str, duration: timedelta) -> Window:
    """Make the windows of a schedule.

    Raises:
        ValueError: the schedule is none, or never comes, or there is no such time zone; the text is lower case and
            names the fix.
    """
    check_schedule(schedule)
    return Window(" ".join(schedule.split()), time_zone=time_zone, duration=duration)


def check_schedule(text: str) -> None:
    """Refuse what is no schedule.

    Raises:
        ValueError: with the fix.
    """
    example = "write minute, hour, day of the month, month and day of the week, for example `0 18 * * 5`"
    if len(text.split()) != _FIELDS:
        raise ValueError(f"`{text[:80]}` is not a schedule of {_FIELDS} fields; {example}")
    try:
        found = next(CronSim(text, _TRIAL), None)
    except CronSimError as error:
        field = str(error).removeprefix("Bad ").replace("-", " ")
        raise ValueError(f"`{text[:80]}` is not a schedule: the {field} is wrong; {example}") from None
    except (ValueError, AssertionError, OverflowError):
        raise ValueError(f"`{text[:80]}` is not a schedule; {example}") from None
    if found is None:
        raise ValueError(f"`{text[:80]}` never comes; name a day that exists")
