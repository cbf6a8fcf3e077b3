"""The named formats of Kubernetes: `format.dns1123Label().validate(text)` says what is wrong with a text, if anything.

Each finds as many things wrong as in Kubernetes, in the same order; the words are our own.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from app.core.cel.budget import Budget, spend, spend_characters
from app.core.cel.kubernetes.urls import check
from app.core.cel.values import NONE, CelError, Opaque, Optional, no_overload

_LOWER = frozenset("abcdefghijklmnopqrstuvwxyz")
_LOWER_OR_DIGIT = _LOWER | frozenset("0123456789")
_ALPHANUMERIC = _LOWER_OR_DIGIT | frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
# RFC 1035, section 2.3.4, and RFC 1123, section 2.1.
_LABEL_MAX_BYTES = 63
_SUBDOMAIN_MAX_BYTES = 253
_UUID = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/]*+(={0,2})", re.ASCII)
_DATE = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})", re.ASCII)
_TIME = re.compile(r"([0-9]{2}):([0-9]{2}):([0-9]{2})(?:.[0-9]+)?(?:z|[+-][0-9]{2}:[0-9]{2})", re.ASCII)
_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_VALIDATION = 20
_WEIGHT = 8


@dataclass(frozen=True, slots=True)
class NamedFormat(Opaque):
    """A format; `problems` gives what is wrong with a text."""

    name: str
    problems: Callable[[str], list[str]] = field(compare=False, repr=False)
    type_name: ClassVar[str] = "kubernetes.NamedFormat"


def _word(text: str, inside: frozenset[str], ends: frozenset[str], first: frozenset[str]) -> bool:
    return bool(text) and text[0] in first and text[-1] in ends and inside.issuperset(text)


def _is_label(text: str) -> bool:
    return _word(text, _LOWER_OR_DIGIT | {"-"}, _LOWER_OR_DIGIT, _LOWER_OR_DIGIT)


def _is_subdomain(text: str) -> bool:
    return all(map(_is_label, text.split(".")))


def _is_name(text: str) -> bool:
    return _word(text, _ALPHANUMERIC | frozenset("-_."), _ALPHANUMERIC, _ALPHANUMERIC)


def _too_long(text: str, most: int) -> list[str]:
    return [f"must have at most {most} bytes"] if len(text.encode()) > most else []


def dns1123_label(text: str) -> list[str]:
    """A label of a host name (RFC 1123): what a namespace is called."""
    found = _too_long(text, _LABEL_MAX_BYTES)
    if not _is_label(text):
        if _is_subdomain(text):
            found.append("must not have dots")
        else:
            found.append("must have lower case letters, digits and dashes, with a letter or digit at both ends")
    return found


def dns1123_subdomain(text: str) -> list[str]:
    """Labels with dots between them (RFC 1123): what most objects are called."""
    found = _too_long(text, _SUBDOMAIN_MAX_BYTES)
    if not _is_subdomain(text):
        found.append(
            "must have lower case letters, digits, dashes and dots, with a letter or digit at both ends of each part"
        )
    return found


def dns1035_label(text: str) -> list[str]:
    """A label that starts with a letter (RFC 1035): what a service is called."""
    found = _too_long(text, _LABEL_MAX_BYTES)
    if not _word(text, _LOWER_OR_DIGIT | {"-"}, _LOWER_OR_DIGIT, _LOWER):
        found.append("must have lower case letters, digits and dashes, start with a letter and not end with a dash")
    return found


def qualified_name(text: str) -> list[str]:
    """A name with or without a prefix, such as the key of a label: `example.com/name`."""
    parts = text.split("/")
    if len(parts) > 2:
        return ["must be a name, or a prefix and a name with one slash between them"]
    found: list[str] = []
    name = parts[-1]
    if len(parts) == 2:
        if not parts[0]:
            found.append("prefix: must not be empty")
        found += [f"prefix: {problem}" for problem in (dns1123_subdomain(parts[0]) if parts[0] else [])]
    if not name:
        found.append("name: must not be empty")
    else:
        found += [f"name: {problem}" for problem in _too_long(name, _LABEL_MAX_BYTES)]
    if not _is_name(name):
        found.append("name: must have letters, digits, `-`, `_` and `.`, with a letter or digit at both ends")
    return found


def label_value(text: str) -> list[str]:
    """What a label can be set to; it may be empty."""
    found = _too_long(text, _LABEL_MAX_BYTES)
    if text and not _is_name(text):
        found.append("must be empty, or have letters, digits, `-`, `_` and `.`, with a letter or digit at both ends")
    return found


def _prefix(problems: Callable[[str], list[str]]) -> Callable[[str], list[str]]:
    """What is put before a generated name may end with a dash."""

    def check_prefix(text: str) -> list[str]:
        return problems(text[:-2] + "a" if len(text) > 1 and text.endswith("-") else text)

    return check_prefix


def uri(text: str) -> list[str]:
    """An absolute URI or an absolute path, as `isURL` sees it."""
    try:
        check(text)
    except CelError as error:
        return [str(error)]
    return []


def _is_date(text: str) -> bool:
    match = _DATE.fullmatch(text)
    if match is None:
        return False
    year, month, day = map(int, match.groups())
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return 1 <= month <= 12 and 1 <= day <= _DAYS[month - 1] + (month == 2 and leap)


def _is_datetime(text: str) -> bool:
    # As there: any character before the digits of a fraction, and whatever follows a second `t` does not count.
    parts = text.lower().split("t")
    match = _TIME.fullmatch(parts[1]) if len(parts) > 1 and _is_date(parts[0]) else None
    return match is not None and match.group(1) <= "23" and match.group(2) <= "59" and match.group(3) <= "59"


def _is_base64(text: str) -> bool:
    return bool(text) and len(text) % 4 == 0 and _BASE64.fullmatch(text) is not None


def _whether(fits: Callable[[str], bool], problem: str) -> Callable[[str], list[str]]:
    return lambda text: [] if fits(text) else [problem]


FORMATS = {
    name: NamedFormat(name, problems)
    for name, problems in {
        "dns1123Label": dns1123_label,
        "dns1123Subdomain": dns1123_subdomain,
        "dns1035Label": dns1035_label,
        "qualifiedName": qualified_name,
        "dns1123LabelPrefix": _prefix(dns1123_label),
        "dns1123SubdomainPrefix": _prefix(dns1123_subdomain),
        "dns1035LabelPrefix": _prefix(dns1035_label),
        "labelValue": label_value,
        "uri": uri,
        "uuid": _whether(lambda text: _UUID.fullmatch(text) is not None, "must be a UUID"),
        "byte": _whether(_is_base64, "must be base64"),
        "date": _whether(_is_date, "must be a date such as `2006-01-02`"),
        "datetime": _whether(_is_datetime, "must be a date and a time such as `2006-01-02T15:04:05Z`"),
    }.items()
}


# --- functions ------------------------------------------------------------------------------------------------------


def named(name: Any) -> Optional:
    """`format.named(name)`: an optional format."""
    if type(name) is not str:
        raise no_overload("format.named", name)
    found = FORMATS.get(name)
    return NONE if found is None else Optional(found)


def constant(known: NamedFormat) -> Callable[[], NamedFormat]:
    """Make the function `format.NAME()` of a format."""
    return lambda: known


def validate(known: Any, text: Any, budget: Budget) -> Optional:
    """`format.validate(text)`: nothing if the text fits, else a list of what is wrong."""
    if type(known) is not NamedFormat or type(text) is not str:
        raise no_overload("validate", known, text)
    spend(budget, _VALIDATION)
    spend_characters(budget, len(text) * _WEIGHT)
    problems = known.problems(text)
    return Optional(problems) if problems else NONE
