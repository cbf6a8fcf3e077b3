"""What a condition needs in order not to be false: of a value at a path, that it is one of some constants.

The index of a policy set (`app.core.index`) leaves out a policy whose needs are not met, without asking it.

INVARIANT: a need says no more than the condition does. Where the value at the path is there and is none of the
constants, the condition is *false*; it does not fail.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

# Fields from an input on: ("change", "after", "kind").
Path: TypeAlias = tuple[str, ...]
# A constant as a key of a dictionary: 1, 1.0 and 1u are one key; true is another, although it is Python's number 1.
Key: TypeAlias = str | int | float | tuple[str, bool]

_TRUE: Key = ("bool", True)
_FALSE: Key = ("bool", False)


@dataclass(frozen=True, slots=True)
class Need:
    """What a value must be: one of `constants`, anything if that is None.

    `missing` tells what follows where the last field of the path is missing from its map: True, the need is not met
    then either; False, the condition fails or can be true.
    """

    constants: frozenset[Key] | None
    missing: bool


Needs: TypeAlias = Mapping[Path, Need]


@dataclass(frozen=True, slots=True)
class Lifted:
    """What is known of a condition without evaluating it; `sure`: it gives a truth for any input and never fails."""

    needs: Needs
    sure: bool = False


NOTHING_LIFTED = Lifted({})


def key_of(value: Any) -> Key | None:
    """Give a JSON value, or a constant of CEL, as a key; None for what no key stands for."""
    match value:
        case str():
            return value
        case bool():
            return _TRUE if value else _FALSE
        case int():
            return int(value)
        case float() if math.isfinite(value):
            return value
        case _:
            return None


def both(a: Needs, b: Needs) -> Needs:
    """Give what is needed where `a` and `b` are needed."""
    found = dict(a)
    for path, need in b.items():
        other = found.get(path)
        found[path] = need if other is None else _narrowed(need, other)
    return found


def _narrowed(a: Need, b: Need) -> Need:
    if a.constants is None or b.constants is None:
        constants = b.constants if a.constants is None else a.constants
    else:
        constants = a.constants & b.constants
    return Need(constants, a.missing or b.missing)


def either(a: Needs, b: Needs) -> Needs:
    """Give what is needed where one of `a` and `b` is enough."""
    found: dict[Path, Need] = {}
    for path in a.keys() & b.keys():
        x, y = a[path], b[path]
        constants = None if x.constants is None or y.constants is None else x.constants | y.constants
        missing = x.missing and y.missing
        if constants is not None or missing:
            found[path] = Need(constants, missing)
    return found
