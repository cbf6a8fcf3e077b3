"""The values of CEL that JSON does not have, and the two ways an evaluation can fail.

Null, bool, int, double, string, bytes and list are Python's `None`, `bool`, `int`, `float`, `str`, `bytes` and `list`.
A map whose keys are all strings is a `dict`, exactly as it came in; any other map is a `MixedMap`. Nothing here is ever
changed after it was made.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from app.core.cel.program import EvaluationError

INT_MIN = -(1 << 63)
INT_MAX = (1 << 63) - 1
UINT_MAX = (1 << 64) - 1


class CelError(EvaluationError):
    """An expression, or a part of one, that has no value; `||`, `&&`, `all` and `exists` can absorb it."""


class BudgetError(EvaluationError):
    """An evaluation that costs too much; nothing absorbs it."""


class UInt(int):
    """An unsigned integer of 64 bits. Equal to the int of the same value, as CEL wants it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"UInt({int(self)})"


@dataclass(frozen=True, slots=True)
class Timestamp:
    """An instant: nanoseconds since 1970-01-01T00:00:00Z, in the years 1 to 9999."""

    nanoseconds: int


@dataclass(frozen=True, slots=True)
class Duration:
    """A signed span of time in nanoseconds."""

    nanoseconds: int


@dataclass(frozen=True, slots=True)
class TypeValue:
    """A type as a value, by its name: `type(1) == int`."""

    name: str


@dataclass(frozen=True, slots=True)
class Optional:
    """What may be absent. There is one value without anything in it, `NONE`."""

    value: Any
    present: bool = True

    def __getitem__(self, field: str) -> "Optional":
        """Select a field of what is inside, for generated code selects with `value['field']`."""
        if not self.present:
            return self
        try:
            return Optional(self.value[field])
        except KeyError:
            return NONE


NONE = Optional(None, present=False)


@dataclass(frozen=True, slots=True)
class _BoolKey:
    """True and false as keys: for Python they are the numbers 1 and 0."""

    value: bool


_BOOL_KEYS = {True: _BoolKey(True), False: _BoolKey(False)}


class MixedMap:
    """A map with at least one key that is no string. Keys are bool, int, uint or string; 1 and 1u are one key."""

    __slots__ = ("_entries",)

    def __init__(self, entries: Iterable[tuple[Any, Any]]) -> None:
        self._entries = {_BOOL_KEYS[key] if isinstance(key, bool) else key: value for key, value in entries}

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, key: str) -> Any:
        return self._entries[key]

    def get(self, key: object, default: Any) -> Any:
        """Give the value of a key that is a bool, a number or a string."""
        return self._entries.get(_BOOL_KEYS[key] if isinstance(key, bool) else key, default)

    def keys(self) -> Iterator[Any]:
        """Give the keys as they were put in."""
        return (key.value if isinstance(key, _BoolKey) else key for key in self._entries)

    def items(self) -> Iterator[tuple[Any, Any]]:
        """Give keys and values."""
        return ((k.value if isinstance(k, _BoolKey) else k, v) for k, v in self._entries.items())


class Opaque:
    """A value that only functions read, such as a quantity: no fields, no order, equal as its `==` says."""

    __slots__ = ()
    type_name: ClassVar[str] = ""

    def text(self) -> str | None:
        """Give what `string(value)` is, for the types that have it."""
        return None

    def shown(self) -> str:
        """Give what a person who asks why is shown."""
        return self.text() or f"<{self.type_name}>"


_NAMES: dict[type, str] = {
    type(None): "null_type",
    bool: "bool",
    int: "int",
    UInt: "uint",
    float: "double",
    str: "string",
    bytes: "bytes",
    list: "list",
    dict: "map",
    MixedMap: "map",
    Timestamp: "google.protobuf.Timestamp",
    Duration: "google.protobuf.Duration",
    TypeValue: "type",
    Optional: "optional_type",
}
# The opaque types that an expression can name; those of the authorizer have no name there, as in Kubernetes.
OPAQUE_TYPES = (
    "kubernetes.NamedFormat",
    "kubernetes.Quantity",
    "kubernetes.Semver",
    "kubernetes.URL",
    "net.CIDR",
    "net.IP",
)
# The types that an expression can name.
TYPES = {name: TypeValue(name) for name in (*_NAMES.values(), *OPAQUE_TYPES)}


def type_name(value: object) -> str:
    """Give the name of the type of a value, as `type()` of CEL knows it."""
    if isinstance(value, Opaque):
        return value.type_name
    return _NAMES.get(type(value), "unknown")


def no_overload(function: str, *arguments: object) -> CelError:
    """Make the error of a function that does not know what to do with its arguments."""
    types = ", ".join(type_name(argument) for argument in arguments)
    return CelError(f"no matching overload for `{function}` applied to `({types})`")
