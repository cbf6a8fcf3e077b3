"""Semantic versions (semver.org, 2.0.0): three numbers, a pre-release that counts, and a build that does not."""

import re
from dataclasses import dataclass
from typing import Any, ClassVar

from app.core.cel.budget import Budget, spend, spend_characters
from app.core.cel.values import INT_MAX, UINT_MAX, CelError, Opaque, no_overload

_NUMBER = re.compile(r"0|[1-9][0-9]*", re.ASCII)
_IDENTIFIER = re.compile(r"[0-9A-Za-z-]+", re.ASCII)
_DIGITS = re.compile(r"[0-9]+", re.ASCII)
# As many digits as 64 bits have.
_NUMBER_MAX_CHARS = 20
_PARSING = 10


@dataclass(frozen=True, slots=True, eq=False)
class Version(Opaque):
    """A version; `before` is the pre-release, a number where an identifier is one."""

    major: int
    minor: int
    patch: int
    before: tuple[int | str, ...]
    type_name: ClassVar[str] = "kubernetes.Semver"

    def __eq__(self, other: object) -> bool:
        """Compare by precedence: the build does not count."""
        return isinstance(other, Version) and compare(self, other) == 0

    __hash__ = None  # type: ignore[assignment]  # nothing keeps versions in a set

    def shown(self) -> str:
        """Write what counts of the version."""
        before = "-" + ".".join(map(str, self.before)) if self.before else ""
        return f"{self.major}.{self.minor}.{self.patch}{before}"


def parse(text: str) -> Version:
    """Read a version.

    Raises:
        CelError: it is none.
    """
    parts = text.split(".", 2)
    if len(parts) != 3:
        raise CelError("a version is written as `1.2.3`")
    major, minor, rest = parts
    rest, plus, build = rest.partition("+")
    patch, dash, before = rest.partition("-")
    numbers = [_number(part) for part in (major, minor, patch)]
    if plus and not all(_IDENTIFIER.fullmatch(part) for part in build.split(".")):
        raise CelError("the build of a version has identifiers between its dots")
    identifiers = tuple(_identifier(part) for part in before.split(".")) if dash else ()
    return Version(numbers[0], numbers[1], numbers[2], identifiers)


def _number(text: str) -> int:
    if len(text) > _NUMBER_MAX_CHARS or _NUMBER.fullmatch(text) is None or int(text) > UINT_MAX:
        raise CelError("a version has numbers without leading zeros, of at most 64 bits")
    return int(text)


def _identifier(text: str) -> int | str:
    if _DIGITS.fullmatch(text):
        return _number(text)
    if _IDENTIFIER.fullmatch(text) is None:
        raise CelError("the pre-release of a version has identifiers between its dots")
    return text


def normalised(text: str) -> str:
    """Give the version that is meant by `v1`, `1.2` or `01.02.03`.

    Raises:
        CelError: a short one with a pre-release or a build.
    """
    parts = text.removeprefix("v").split(".", 2)
    for position, part in enumerate(parts):
        if len(part) > 1:
            stripped = part.lstrip("0")
            parts[position] = stripped if stripped[:1] in _FIRST else f"0{stripped}"
    if len(parts) < 3 and ("+" in parts[-1] or "-" in parts[-1]):
        raise CelError("a short version has no pre-release and no build")
    return ".".join((*parts, "0", "0")[:3])


_FIRST = frozenset("0123456789")


def compare(a: Version, b: Version) -> int:
    """Give -1, 0 or 1 as `a` comes before, with or after `b`."""
    x, y = (a.major, a.minor, a.patch), (b.major, b.minor, b.patch)
    if x != y:
        return 1 if x > y else -1
    if not a.before or not b.before:
        return bool(b.before) - bool(a.before)
    for one, other in zip(a.before, b.before, strict=False):
        # A number comes before every identifier that is none.
        left, right = (isinstance(one, str), one), (isinstance(other, str), other)
        if left != right:
            return 1 if left > right else -1
    return (len(a.before) > len(b.before)) - (len(a.before) < len(b.before))


# --- functions ------------------------------------------------------------------------------------------------------


def semver(text: Any, *rest: Any) -> Version:
    """`semver(text[, normalise])`."""
    *flags, budget = rest
    return _parsed("semver", text, flags, budget)


def is_semver(text: Any, *rest: Any) -> bool:
    """`isSemver(text[, normalise])`."""
    *flags, budget = rest
    if type(text) is not str or any(type(flag) is not bool for flag in flags):
        raise no_overload("isSemver", text, *flags)
    try:
        _parsed("isSemver", text, flags, budget)
    except CelError:
        return False
    return True


def _parsed(name: str, text: Any, flags: list[Any], budget: Budget) -> Version:
    if type(text) is not str or any(type(flag) is not bool for flag in flags):
        raise no_overload(name, text, *flags)
    spend(budget, _PARSING)
    spend_characters(budget, len(text) * 2)
    return parse(normalised(text) if flags and flags[0] else text)


def major(value: Any) -> int:
    """`version.major()`."""
    return _part("major", value, value.major if type(value) is Version else 0)


def minor(value: Any) -> int:
    """`version.minor()`."""
    return _part("minor", value, value.minor if type(value) is Version else 0)


def patch(value: Any) -> int:
    """`version.patch()`."""
    return _part("patch", value, value.patch if type(value) is Version else 0)


def _part(name: str, value: Any, number: int) -> int:
    if type(value) is not Version:
        raise no_overload(name, value)
    if number > INT_MAX:
        raise CelError("the number of the version is too large for an int")
    return number
