"""What the checker knows of Kubernetes' functions: their signatures, and from these its declarations.

A signature is written as in Kubernetes' documentation: `Quantity.add(int) -> Quantity` is called as
`quantity.add(1)`, `ip.isCanonical(string) -> bool` by its whole name. The checker takes them as part of its
configuration, the only way in which its Python binding accepts types of one's own beside one another.
"""

import re
from collections import defaultdict
from typing import Any

_NAMES = {
    "Authorizer": "kubernetes.authorization.Authorizer",
    "CIDR": "net.CIDR",
    "Decision": "kubernetes.authorization.Decision",
    "Format": "kubernetes.NamedFormat",
    "GroupCheck": "kubernetes.authorization.GroupCheck",
    "IP": "net.IP",
    "PathCheck": "kubernetes.authorization.PathCheck",
    "Quantity": "kubernetes.Quantity",
    "ResourceCheck": "kubernetes.authorization.ResourceCheck",
    "Semver": "kubernetes.Semver",
    "URL": "kubernetes.URL",
    "optional": "optional_type",
}
_ORDERED = ("int", "uint", "double", "bool", "duration", "timestamp", "string", "bytes")
_SUMMABLE = ("int", "uint", "double", "duration")
_FORMATS = (
    "dns1123Label",
    "dns1123Subdomain",
    "dns1035Label",
    "qualifiedName",
    "dns1123LabelPrefix",
    "dns1123SubdomainPrefix",
    "dns1035LabelPrefix",
    "labelValue",
    "uri",
    "uuid",
    "byte",
    "date",
    "datetime",
)

SIGNATURES = (
    *(f"list({kind}).isSorted() -> bool" for kind in _ORDERED),
    *(f"list({kind}).sum() -> {kind}" for kind in _SUMMABLE),
    *(f"list({kind}).min() -> {kind}" for kind in _ORDERED),
    *(f"list({kind}).max() -> {kind}" for kind in _ORDERED),
    "dyn.includes(dyn) -> bool",
    "string.find(string) -> string",
    "string.findAll(string) -> list(string)",
    "string.findAll(string, int) -> list(string)",
    "url(string) -> URL",
    "isURL(string) -> bool",
    "URL.getScheme() -> string",
    "URL.getHost() -> string",
    "URL.getHostname() -> string",
    "URL.getPort() -> string",
    "URL.getEscapedPath() -> string",
    "URL.getQuery() -> map(string, list(string))",
    "quantity(string) -> Quantity",
    "isQuantity(string) -> bool",
    # Kubernetes documents the one and declares the other.
    "Quantity.sign() -> int",
    "sign(Quantity) -> int",
    "Quantity.isInteger() -> bool",
    "Quantity.asInteger() -> int",
    "Quantity.asApproximateFloat() -> double",
    "Quantity.add(Quantity) -> Quantity",
    "Quantity.add(int) -> Quantity",
    "Quantity.sub(Quantity) -> Quantity",
    "Quantity.sub(int) -> Quantity",
    "Quantity.isGreaterThan(Quantity) -> bool",
    "Quantity.isLessThan(Quantity) -> bool",
    "Quantity.compareTo(Quantity) -> int",
    "ip(string) -> IP",
    "isIP(string) -> bool",
    "ip.isCanonical(string) -> bool",
    "IP.family() -> int",
    "IP.isUnspecified() -> bool",
    "IP.isLoopback() -> bool",
    "IP.isLinkLocalMulticast() -> bool",
    "IP.isLinkLocalUnicast() -> bool",
    "IP.isGlobalUnicast() -> bool",
    "cidr(string) -> CIDR",
    "isCIDR(string) -> bool",
    "CIDR.containsIP(IP) -> bool",
    "CIDR.containsIP(string) -> bool",
    "CIDR.containsCIDR(CIDR) -> bool",
    "CIDR.containsCIDR(string) -> bool",
    "CIDR.ip() -> IP",
    "CIDR.masked() -> CIDR",
    "CIDR.prefixLength() -> int",
    "format.named(string) -> optional(Format)",
    *(f"format.{name}() -> Format" for name in _FORMATS),
    "Format.validate(string) -> optional(list(string))",
    "semver(string) -> Semver",
    "semver(string, bool) -> Semver",
    "isSemver(string) -> bool",
    "isSemver(string, bool) -> bool",
    "Semver.major() -> int",
    "Semver.minor() -> int",
    "Semver.patch() -> int",
    "Semver.isGreaterThan(Semver) -> bool",
    "Semver.isLessThan(Semver) -> bool",
    "Semver.compareTo(Semver) -> int",
    "jsonpatch.escapeKey(string) -> string",
    "Authorizer.path(string) -> PathCheck",
    "Authorizer.group(string) -> GroupCheck",
    "Authorizer.serviceAccount(string, string) -> Authorizer",
    "GroupCheck.resource(string) -> ResourceCheck",
    "ResourceCheck.subresource(string) -> ResourceCheck",
    "ResourceCheck.namespace(string) -> ResourceCheck",
    "ResourceCheck.name(string) -> ResourceCheck",
    "ResourceCheck.fieldSelector(string) -> ResourceCheck",
    "ResourceCheck.labelSelector(string) -> ResourceCheck",
    "PathCheck.check(string) -> Decision",
    "ResourceCheck.check(string) -> Decision",
    "Decision.allowed() -> bool",
    "Decision.reason() -> string",
    "Decision.errored() -> bool",
    "Decision.error() -> string",
    "string(IP) -> string",
    "string(CIDR) -> string",
)
# `string` of the language itself. The checker refuses to add to a function that it has, so it is declared anew.
_STRING = tuple(
    f"string({kind}) -> string"
    for kind in ("bool", "int", "uint", "double", "bytes", "string", "timestamp", "duration")
)
REDECLARED = ("string",)
# `indexOf` and `lastIndexOf` of an extension accept overloads, of another form.
MERGED = ("indexOf", "lastIndexOf")
# What an expression can read beside the inputs: `authorizer`, and the types by their names.
_VARIABLES = {
    "authorizer": "Authorizer",
    "authorizer.requestResource": "ResourceCheck",
    **{_NAMES[name]: f"type({name})" for name in ("CIDR", "Format", "IP", "Quantity", "Semver", "URL")},
}

_SIGNATURE = re.compile(r"(?:([A-Za-z][\w()]*)\.)?([a-z][\w.]*?)\((.*)\) -> (.+)", re.ASCII)


def declarations() -> dict[str, Any]:
    """Give the configuration of the checker: functions, and what an expression can read."""
    functions: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for position, signature in enumerate((*_STRING, *SIGNATURES)):
        name, overload = _overload(signature)
        functions[name].append({"id": f"kubernetes_{position}", **overload})
    return {
        "stdlib": {"exclude_functions": [{"name": name} for name in REDECLARED]},
        "functions": [{"name": name, "overloads": overloads} for name, overloads in functions.items()],
        "variables": [{"name": name, **_type(kind)} for name, kind in _VARIABLES.items()],
    }


def telling_names() -> tuple[frozenset[str], frozenset[str]]:
    """Give the names whose calls, and those whose mere presence, say that an expression needs the declarations."""
    called = {_overload(signature)[0].rpartition(".")[2] for signature in SIGNATURES} - set(REDECLARED)
    return frozenset({*called, *MERGED}), frozenset(name.partition(".")[0] for name in _VARIABLES)


def _overload(signature: str) -> tuple[str, dict[str, Any]]:
    match = _SIGNATURE.fullmatch(signature)
    if match is None:
        raise ValueError(f"`{signature}` is no signature")
    target, name, parameters, result = match.groups()
    overload: dict[str, Any] = {"args": [_type(kind) for kind in _listed(parameters)], "return": _type(result)}
    if target is not None and target[:1].islower() and target.partition("(")[0] not in _TARGETS:
        name = f"{target}.{name}"
    elif target is not None:
        overload["target"] = _type(target)
    return name, overload


_TARGETS = frozenset({"dyn", "list", "string"})


def _type(kind: str) -> dict[str, Any]:
    name, _, parameters = kind.removesuffix(")").partition("(") if kind.endswith(")") else (kind, "", "")
    named: dict[str, Any] = {"type_name": _NAMES.get(name, name)}
    return {**named, "params": [_type(each) for each in _listed(parameters)]} if parameters else named


def _listed(kinds: str) -> list[str]:
    # No parameter has two parameters of its own.
    return kinds.split(", ") if kinds else []
