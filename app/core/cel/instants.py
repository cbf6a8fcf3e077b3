"""Timestamps and durations: their texts, and their parts in a time zone.

A timestamp is written as in RFC 3339 with up to nine digits of a second; a duration as in Go, `1h30m`, `-0.5s`. The
parts follow the language definition, section "Date/time"; zones are those of the IANA database, or `+01:30`.
"""

import re
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from typing import Any

from app.core.cel.operators import TIMESTAMP_MAX, TIMESTAMP_MIN
from app.core.cel.values import CelError, Duration, Timestamp, no_overload
from app.core.zones import iana_zone

_SECOND = 1_000_000_000
_UTC_NAMES = frozenset({"", "UTC"})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNIX_DAY = date(1970, 1, 1).toordinal()
# fmt: off
_TIMESTAMP = re.compile(
    r"(?P<year>\d{4})-(?P<month>\d\d)-(?P<day>\d\d)[Tt](?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)(?:\.(?P<fraction>\d{1,9})\d*)?"
    r"(?:[Zz]|(?P<sign>[+-])(?P<zone_hour>\d\d):(?P<zone_minute>\d\d))", re.ASCII,
)
# fmt: on
_DURATION = re.compile(r"([+-]?)((?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:h|m|s|ms|us|ns))+|0)", re.ASCII)
_DURATION_PART = re.compile(r"([0-9]*)(?:\.([0-9]*))?(h|ms|m|s|us|ns)", re.ASCII)
_UNITS = {"h": 3600 * _SECOND, "m": 60 * _SECOND, "s": _SECOND, "ms": 1_000_000, "us": 1_000, "ns": 1}
# What `google.protobuf.Duration` can hold: about ten thousand years.
_DURATION_MAX = 315_576_000_000 * _SECOND
_DURATION_MAX_CHARS = 200
_OFFSET = re.compile(r"([+-]?)(\d{1,2}):(\d\d)", re.ASCII)


def timestamp_of(moment: datetime) -> Timestamp:
    """Give the timestamp of an aware datetime."""
    since = moment - _EPOCH
    return Timestamp((since.days * 86_400 + since.seconds) * _SECOND + since.microseconds * 1_000)


def timestamp(value: Any) -> Timestamp:
    """`timestamp(value)`: of a text, of seconds since 1970, or of a timestamp."""
    kind = type(value)
    if kind is Timestamp:
        return value  # type: ignore[no-any-return]  # its exact type was just looked at
    if kind is int:
        return _in_range(value * _SECOND)
    if kind is str:
        return _parsed(value)
    raise no_overload("timestamp", value)


def _parsed(text: str) -> Timestamp:
    match = _TIMESTAMP.fullmatch(text)
    if match is None:
        raise CelError("a timestamp is written as `2006-01-02T15:04:05Z`")
    part = match.groupdict()
    hour, minute, second = int(part["hour"]), int(part["minute"]), int(part["second"])
    zone_hour, zone_minute = int(part["zone_hour"] or 0), int(part["zone_minute"] or 0)
    if hour > 23 or minute > 59 or second > 59 or zone_hour > 23 or zone_minute > 59:
        raise CelError("a timestamp with a time of day that does not exist")
    try:
        days = date(int(part["year"]), int(part["month"]), int(part["day"])).toordinal() - _UNIX_DAY
    except ValueError:
        raise CelError("a timestamp with a day that does not exist") from None
    offset = (zone_hour * 60 + zone_minute) * 60 * (-1 if part["sign"] == "-" else 1)
    seconds = days * 86_400 + hour * 3_600 + minute * 60 + second - offset
    return _in_range(seconds * _SECOND + int((part["fraction"] or "").ljust(9, "0")))


def _in_range(nanoseconds: int) -> Timestamp:
    if TIMESTAMP_MIN <= nanoseconds <= TIMESTAMP_MAX:
        return Timestamp(nanoseconds)
    raise CelError("timestamp out of range")


def timestamp_text(value: Timestamp) -> str:
    """Write a timestamp as in RFC 3339, with three, six or nine digits of a second where there are any."""
    seconds, fraction = divmod(value.nanoseconds, _SECOND)
    days, of_day = divmod(seconds, 86_400)
    day = date.fromordinal(days + _UNIX_DAY).isoformat()
    return f"{day}T{of_day // 3600:02}:{of_day // 60 % 60:02}:{of_day % 60:02}{_fraction(fraction)}Z"


def _fraction(nanoseconds: int) -> str:
    if nanoseconds == 0:
        return ""
    digits = f"{nanoseconds:09}"
    while digits.endswith("000"):
        digits = digits[:-3]
    return f".{digits}"


def duration(value: Any) -> Duration:
    """`duration(value)`: of a text or of a duration."""
    kind = type(value)
    if kind is Duration:
        return value  # type: ignore[no-any-return]  # its exact type was just looked at
    if kind is not str:
        raise no_overload("duration", value)
    match = _DURATION.fullmatch(value) if len(value) <= _DURATION_MAX_CHARS else None
    if match is None:
        raise CelError("a duration is written as `1h30m` or `-0.5s`")
    total = 0
    for whole, fraction, unit in _DURATION_PART.findall(match.group(2)):
        total += int(whole or 0) * _UNITS[unit] + int(fraction or 0) * _UNITS[unit] // 10 ** len(fraction)
    if total > _DURATION_MAX:
        raise CelError("duration out of range")
    return Duration(-total if match.group(1) == "-" else total)


def duration_text(value: Duration) -> str:
    """Write a duration in seconds."""
    seconds, fraction = divmod(abs(value.nanoseconds), _SECOND)
    return f"{'-' if value.nanoseconds < 0 else ''}{seconds}{_fraction(fraction)}s"


@lru_cache(maxsize=256)
def zone(name: str) -> tzinfo:
    """Give a time zone by its name in the IANA database, or by its offset, `+01:30`.

    Raises:
        CelError: there is no such zone.
    """
    if name in _UTC_NAMES:
        return UTC
    offset = _OFFSET.fullmatch(name)
    if offset is not None:
        sign, hours, minutes = offset.groups()
        if int(hours) <= 23 and int(minutes) <= 59:
            span = timedelta(hours=int(hours), minutes=int(minutes))
            return timezone(-span if sign == "-" else span)
    elif (found := iana_zone(name)) is not None:
        return found
    raise CelError(f"unknown time zone `{name[:64]}`")


def _local(name: str, value: Any, zones: tuple[Any, ...]) -> datetime:
    """Give the wall clock of a timestamp, to the second below it; the zone is a name, or was found by it already."""
    where: Any = zones[0] if zones else UTC
    if type(value) is not Timestamp:
        raise no_overload(name, value, *("" if isinstance(given, tzinfo) else given for given in zones))
    if type(where) is str:
        where = zone(where)
    elif not isinstance(where, tzinfo):
        raise no_overload(name, value, *zones)
    try:
        return datetime.fromtimestamp(value.nanoseconds // _SECOND, where)
    except (OverflowError, ValueError):
        raise CelError("the time zone takes the timestamp out of the years 1 to 9999") from None


def full_year(value: Any, *zone: Any) -> int:
    """`timestamp.getFullYear([zone])`."""
    return _local("getFullYear", value, zone).year


def month(value: Any, *zone: Any) -> int:
    """`timestamp.getMonth([zone])`: January is 0."""
    return _local("getMonth", value, zone).month - 1


def date_(value: Any, *zone: Any) -> int:
    """`timestamp.getDate([zone])`: the first of the month is 1."""
    return _local("getDate", value, zone).day


def day_of_month(value: Any, *zone: Any) -> int:
    """`timestamp.getDayOfMonth([zone])`: the first of the month is 0."""
    return _local("getDayOfMonth", value, zone).day - 1


def day_of_week(value: Any, *zone: Any) -> int:
    """`timestamp.getDayOfWeek([zone])`: Sunday is 0."""
    return _local("getDayOfWeek", value, zone).isoweekday() % 7


def day_of_year(value: Any, *zone: Any) -> int:
    """`timestamp.getDayOfYear([zone])`: the first of January is 0."""
    return _local("getDayOfYear", value, zone).timetuple().tm_yday - 1


def hours(value: Any, *zone: Any) -> int:
    """`timestamp.getHours([zone])`, and `duration.getHours()`: all of them."""
    if type(value) is Duration and not zone:
        return _cut(value.nanoseconds, 3600 * _SECOND)
    return _local("getHours", value, zone).hour


def minutes(value: Any, *zone: Any) -> int:
    """`timestamp.getMinutes([zone])`, and `duration.getMinutes()`: all of them."""
    if type(value) is Duration and not zone:
        return _cut(value.nanoseconds, 60 * _SECOND)
    return _local("getMinutes", value, zone).minute


def seconds(value: Any, *zone: Any) -> int:
    """`timestamp.getSeconds([zone])`, and `duration.getSeconds()`: all of them."""
    if type(value) is Duration and not zone:
        return _cut(value.nanoseconds, _SECOND)
    return _local("getSeconds", value, zone).second


def milliseconds(value: Any, *zone: Any) -> int:
    """`timestamp.getMilliseconds([zone])` and `duration.getMilliseconds()`: those of the second."""
    if type(value) is Duration and not zone:
        of_second = abs(value.nanoseconds) % _SECOND // 1_000_000
        return -of_second if value.nanoseconds < 0 else of_second
    _local("getMilliseconds", value, zone)
    return int(value.nanoseconds % _SECOND // 1_000_000)


def _cut(value: int, unit: int) -> int:
    return abs(value) // unit * (-1 if value < 0 else 1)
