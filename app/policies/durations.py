"""Durations as policies write them: hours, minutes and seconds, for example `168h`."""

import re
from typing import Final

from app.policies.shape import DURATION_PATTERN

YEAR_SECONDS: Final = 366 * 24 * 3600

_DURATION = re.compile(f"{DURATION_PATTERN}\\Z")


def check_duration(text: str, *, maximum: int = YEAR_SECONDS, limits: str = "a second and a year") -> None:
    """Refuse what is no duration of a second to `maximum` seconds, which `limits` says in words.

    Raises:
        ValueError: what is wrong, then "; ", then the fix.
    """
    if _DURATION.match(text) is None:
        raise ValueError(f"`{text[:40]}` is not a duration; write hours, minutes and seconds, for example `168h`")
    if not 1 <= seconds(text) <= maximum:
        raise ValueError(f"`{text}` is not between {limits}; write for example `168h`")


def seconds(text: str) -> int:
    """Give the seconds of a duration that `check_duration` let through.

    Raises:
        ValueError: it is none.
    """
    match = _DURATION.match(text)
    if match is None:
        raise ValueError(f"`{text[:40]}` is not a duration")
    hours, minutes, rest = (int(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + rest
