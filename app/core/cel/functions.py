"""The functions that an expression can call, by the name the checker knows them under, and what is known of each."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from app.core.cel import conversions, formatting, instants, lists, numbers, operators, patterns, texts
from app.core.cel.kubernetes import addresses, aggregates, authorizer, comparisons, formats, patches, quantities, urls
from app.core.cel.kubernetes import versions as semver
from app.core.cel.values import Duration, Optional, UInt


class Kind(StrEnum):
    """What is known of a value before it is there. Only what this package has worked out itself is believed.

    The checker's types are not: it calls `change[?'a'].orValue(1)` an int, whatever `change.a` is.
    """

    ANY = "any"
    NULL = "null"
    BOOL = "bool"
    INT = "int"
    UINT = "uint"
    DOUBLE = "double"
    STRING = "string"
    BYTES = "bytes"
    LIST = "list"
    MAP = "map"
    TIMESTAMP = "timestamp"
    DURATION = "duration"
    TYPE = "type"
    OPTIONAL = "optional"
    OPAQUE = "opaque"


@dataclass(frozen=True, slots=True)
class Function:
    """One function: with `budget`, its last argument is the budget; `element` is the kind of the elements of a list."""

    implementation: Callable[..., Any]
    result: Kind
    budget: bool = False
    element: Kind = Kind.ANY
    fails: bool = True


def _same(value: Any) -> Any:
    return value


_B, _I, _D, _S, _L, _ANY = Kind.BOOL, Kind.INT, Kind.DOUBLE, Kind.STRING, Kind.LIST, Kind.ANY
_O = Kind.OPAQUE

# `name/3` is the function of that name for three arguments, where it is another one.
FUNCTIONS: dict[str, Function] = {
    "_==_": Function(operators.equal, _B, budget=True),
    "_!=_": Function(operators.not_equal, _B, budget=True),
    "_<_": Function(operators.less, _B, budget=True),
    "_<=_": Function(operators.less_equal, _B, budget=True),
    "_>_": Function(operators.greater, _B, budget=True),
    "_>=_": Function(operators.greater_equal, _B, budget=True),
    "_+_": Function(operators.add, _ANY, budget=True),
    "_-_": Function(operators.subtract, _ANY),
    "_*_": Function(operators.multiply, _ANY),
    "_/_": Function(operators.divide, _ANY),
    "_%_": Function(operators.remainder, _ANY),
    "-_": Function(operators.negate, _ANY),
    "!_": Function(operators.invert, _B),
    "@in": Function(operators.contained, _B, budget=True),
    "_[_]": Function(operators.index, _ANY, budget=True),
    "_[?_]": Function(operators.optional_index, Kind.OPTIONAL, budget=True),
    "dyn": Function(_same, _ANY, fails=False),
    "type": Function(conversions.type_of, Kind.TYPE, fails=False),
    "int": Function(conversions.to_int, _I),
    "uint": Function(conversions.to_uint, Kind.UINT),
    "double": Function(conversions.to_double, _D),
    "bool": Function(conversions.to_bool, _B),
    "bytes": Function(conversions.to_bytes, Kind.BYTES, budget=True),
    "string": Function(conversions.to_string, _S, budget=True),
    "timestamp": Function(instants.timestamp, Kind.TIMESTAMP),
    "duration": Function(instants.duration, Kind.DURATION),
    "getFullYear": Function(instants.full_year, _I),
    "getMonth": Function(instants.month, _I),
    "getDate": Function(instants.date_, _I),
    "getDayOfMonth": Function(instants.day_of_month, _I),
    "getDayOfWeek": Function(instants.day_of_week, _I),
    "getDayOfYear": Function(instants.day_of_year, _I),
    "getHours": Function(instants.hours, _I),
    "getMinutes": Function(instants.minutes, _I),
    "getSeconds": Function(instants.seconds, _I),
    "getMilliseconds": Function(instants.milliseconds, _I),
    "size": Function(texts.size, _I),
    "contains": Function(texts.contains, _B, budget=True),
    "startsWith": Function(texts.starts_with, _B, budget=True),
    "endsWith": Function(texts.ends_with, _B, budget=True),
    "matches": Function(patterns.matches, _B, budget=True),
    "charAt": Function(texts.char_at, _S),
    "indexOf": Function(aggregates.index_of, _I, budget=True),
    "indexOf/3": Function(texts.index_of_from, _I, budget=True),
    "lastIndexOf": Function(aggregates.last_index_of, _I, budget=True),
    "lastIndexOf/3": Function(texts.last_index_of_until, _I, budget=True),
    "substring": Function(texts.substring, _S, budget=True),
    "substring/3": Function(texts.substring_until, _S, budget=True),
    "split": Function(texts.split, _L, budget=True, element=_S),
    "split/3": Function(texts.split_into, _L, budget=True, element=_S),
    "join": Function(texts.join, _S, budget=True),
    "join/2": Function(texts.join_with, _S, budget=True),
    "replace": Function(texts.replace, _S, budget=True),
    "replace/4": Function(texts.replace_first, _S, budget=True),
    "trim": Function(texts.trim, _S, budget=True),
    "lowerAscii": Function(texts.lower_ascii, _S, budget=True),
    "upperAscii": Function(texts.upper_ascii, _S, budget=True),
    "format": Function(formatting.format_, _S, budget=True),
    "strings.quote": Function(texts.quote, _S, budget=True),
    "reverse": Function(lists.reverse, _ANY, budget=True),
    "slice": Function(lists.slice_, _L, budget=True),
    "flatten": Function(lists.flatten, _L, budget=True),
    "sort": Function(lists.sort, _L, budget=True),
    "@sortByAssociatedKeys": Function(lists.sort_by_keys, _L, budget=True),
    "distinct": Function(lists.distinct, _L, budget=True),
    "lists.range": Function(lists.range_, _L, budget=True, element=_I),
    "first": Function(lists.first, Kind.OPTIONAL),
    "last": Function(lists.last, Kind.OPTIONAL),
    "sets.contains": Function(lists.sets_contains, _B, budget=True),
    "sets.equivalent": Function(lists.sets_equivalent, _B, budget=True),
    "sets.intersects": Function(lists.sets_intersects, _B, budget=True),
    "base64.encode": Function(conversions.base64_encode, _S, budget=True),
    "base64.decode": Function(conversions.base64_decode, Kind.BYTES, budget=True),
    "regex.extract": Function(patterns.extract, Kind.OPTIONAL, budget=True),
    "regex.extractAll": Function(patterns.extract_all, _L, budget=True, element=_S),
    "regex.replace": Function(patterns.replace_matches, _S, budget=True),
    "optional.of": Function(Optional, Kind.OPTIONAL, fails=False),
    "optional.ofNonZeroValue": Function(operators.of_non_zero_value, Kind.OPTIONAL, fails=False),
    "hasValue": Function(operators.has_value, _B),
    "value": Function(operators.optional_value, _ANY),
    "math.@max": Function(numbers.greatest, _ANY, budget=True),
    "math.@min": Function(numbers.least, _ANY, budget=True),
    "math.ceil": Function(numbers.ceil, _D),
    "math.floor": Function(numbers.floor, _D),
    "math.round": Function(numbers.round_, _D),
    "math.trunc": Function(numbers.trunc, _D),
    "math.abs": Function(numbers.absolute, _ANY),
    "math.sign": Function(numbers.sign, _ANY),
    "math.sqrt": Function(numbers.square_root, _D),
    "math.isNaN": Function(numbers.is_nan, _B),
    "math.isInf": Function(numbers.is_inf, _B),
    "math.isFinite": Function(numbers.is_finite, _B),
    "math.bitAnd": Function(numbers.bit_and, _ANY),
    "math.bitOr": Function(numbers.bit_or, _ANY),
    "math.bitXor": Function(numbers.bit_xor, _ANY),
    "math.bitNot": Function(numbers.bit_not, _ANY),
    "math.bitShiftLeft": Function(numbers.shift_left, _ANY),
    "math.bitShiftRight": Function(numbers.shift_right, _ANY),
    # Kubernetes' libraries; `kubernetes/signatures.py` has what the checker knows of them.
    "isSorted": Function(aggregates.is_sorted, _B, budget=True),
    "sum": Function(aggregates.sum_, _ANY, budget=True),
    "min": Function(aggregates.min_, _ANY, budget=True),
    "max": Function(aggregates.max_, _ANY, budget=True),
    "includes": Function(aggregates.includes, _B, budget=True),
    "find": Function(patterns.find, _S, budget=True),
    "findAll": Function(patterns.find_all, _L, budget=True, element=_S),
    "url": Function(urls.url, _O, budget=True),
    "isURL": Function(urls.is_url, _B, budget=True),
    "getScheme": Function(urls.get_scheme, _S),
    "getHost": Function(urls.get_host, _S),
    "getHostname": Function(urls.get_hostname, _S),
    "getPort": Function(urls.get_port, _S),
    "getEscapedPath": Function(urls.get_escaped_path, _S, budget=True),
    "getQuery": Function(urls.get_query, Kind.MAP, budget=True),
    "quantity": Function(quantities.quantity, _O, budget=True),
    "isQuantity": Function(quantities.is_quantity, _B, budget=True),
    "sign": Function(quantities.sign, _I),
    "isInteger": Function(quantities.is_integer, _B),
    "asInteger": Function(quantities.as_integer, _I),
    "asApproximateFloat": Function(quantities.as_approximate_float, _D),
    "add": Function(quantities.add, _O, budget=True),
    "sub": Function(quantities.sub, _O, budget=True),
    "isGreaterThan": Function(comparisons.is_greater_than, _B, budget=True),
    "isLessThan": Function(comparisons.is_less_than, _B, budget=True),
    "compareTo": Function(comparisons.compare_to, _I, budget=True),
    "ip": Function(addresses.ip, _O, budget=True),
    "isIP": Function(addresses.is_ip, _B, budget=True),
    "ip.isCanonical": Function(addresses.is_canonical, _B, budget=True),
    "family": Function(addresses.family, _I),
    "isUnspecified": Function(addresses.is_unspecified, _B),
    "isLoopback": Function(addresses.is_loopback, _B),
    "isLinkLocalMulticast": Function(addresses.is_link_local_multicast, _B),
    "isLinkLocalUnicast": Function(addresses.is_link_local_unicast, _B),
    "isGlobalUnicast": Function(addresses.is_global_unicast, _B),
    "cidr": Function(addresses.cidr, _O, budget=True),
    "isCIDR": Function(addresses.is_cidr, _B, budget=True),
    "containsIP": Function(addresses.contains_ip, _B, budget=True),
    "containsCIDR": Function(addresses.contains_cidr, _B, budget=True),
    "masked": Function(addresses.masked, _O),
    "prefixLength": Function(addresses.prefix_length, _I),
    "format.named": Function(formats.named, Kind.OPTIONAL),
    **{f"format.{name}": Function(formats.constant(known), _O, fails=False) for name, known in formats.FORMATS.items()},
    "validate": Function(formats.validate, Kind.OPTIONAL, budget=True),
    "semver": Function(semver.semver, _O, budget=True),
    "isSemver": Function(semver.is_semver, _B, budget=True),
    "major": Function(semver.major, _I),
    "minor": Function(semver.minor, _I),
    "patch": Function(semver.patch, _I),
    "jsonpatch.escapeKey": Function(patches.escape_key, _S, budget=True),
    "path": Function(authorizer.path, _O),
    "group": Function(authorizer.group, _O),
    "serviceAccount": Function(authorizer.service_account, _O),
    "resource": Function(authorizer.resource, _O),
    "subresource": Function(authorizer.subresource, _O),
    "namespace": Function(authorizer.namespace, _O),
    "name": Function(authorizer.name, _O),
    "fieldSelector": Function(authorizer.field_selector, _O),
    "labelSelector": Function(authorizer.label_selector, _O),
    "check": Function(authorizer.check, _O, budget=True),
    "allowed": Function(authorizer.allowed, _B),
    "reason": Function(authorizer.reason, _S),
    "errored": Function(authorizer.errored, _B),
    "error": Function(authorizer.error, _S),
}
# The functions whose argument at this place is a pattern: one that stands in the expression is compiled with it.
PATTERNS = {"matches": 1, "find": 1, "findAll": 1, "regex.extract": 1, "regex.extractAll": 1, "regex.replace": 1}
# The functions whose last argument, if there is more than one, is a time zone.
ZONED = frozenset(
    name
    for name, known in FUNCTIONS.items()
    if name.startswith("get") and known.implementation.__module__ == instants.__name__
)
# The functions that make a value of an opaque type: one of constants is made when the expression is loaded.
FOLDED = frozenset({"cidr", "ip", "quantity", "semver", "url", *(f"format.{name}" for name in formats.FORMATS)})
# `sum` of a list whose elements are known to be of a kind: that of an empty one is of it as well.
SUMS = {
    kind: Function(aggregates.sum_of(zero), kind, budget=True)
    for kind, zero in {Kind.INT: 0, Kind.UINT: UInt(0), Kind.DOUBLE: 0.0, Kind.DURATION: Duration(0)}.items()
}
