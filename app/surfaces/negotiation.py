"""Which form of an answer a caller takes (RFC 9110 section 12.5.1)."""

import re
from collections.abc import Iterator, Sequence
from typing import Final

from app.errors import FirewallError, Kind

JSON: Final = "application/json"

# A longer list is not read to its end.
_RANGES_MAX: Final = 64
_WEIGHT: Final = re.compile(r";\s*q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)\s*$", re.IGNORECASE)


def chosen(accept: Sequence[str], offered: Sequence[str]) -> str:
    """Of the forms that there are the one that the caller would rather have; of equals the one offered first.

    `accept` are the values of its `Accept` headers: none takes everything. Raises FirewallError (NOT_ACCEPTABLE).
    """
    ranges = list(_ranges(accept))
    if not ranges:
        return offered[0]
    weighed = [(_weight(form, ranges), -place, form) for place, form in enumerate(offered)]
    weight, _, form = max(weighed)
    if not weight:
        raise FirewallError(
            Kind.NOT_ACCEPTABLE,
            "no form of this answer is one that `Accept` takes",
            fix=f"there is {' and '.join(f'`{one}`' for one in offered)}",
        )
    return form


def _ranges(accept: Sequence[str]) -> Iterator[tuple[str, float]]:
    """Media ranges with their weights. Parameters of a range are passed over: no form here has any."""
    for part in ",".join(accept).split(",")[:_RANGES_MAX]:
        media = part.partition(";")[0].strip().lower()
        if media:
            found = _WEIGHT.search(part)
            yield media, float(found[1]) if found else 1.0


def _weight(form: str, ranges: Sequence[tuple[str, float]]) -> float:
    """What a form is worth by the most specific range that it is in."""
    kind = form.partition("/")[0]
    for wanted in (form, f"{kind}/*", "*/*"):
        found = [weight for media, weight in ranges if media == wanted]
        if found:
            return max(found)
    return 0.0
