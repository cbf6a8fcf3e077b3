"""URLs as Go's `net/url` reads what an HTTP request asks for: an absolute URI, or an absolute path.

`url` of Kubernetes reads twice: strictly, with a fragment as part of the path, to see whether it is a URL; then
leniently, without it. Hosts follow the rules that Go has had since its releases of 2025: an address in brackets is one
of IPv6, and no other host has a colon. Go works on bytes, so this does; a text that comes out of it is UTF-8 again.
"""

import ipaddress
import re
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, ClassVar

from app.core.cel.budget import Budget, spend, spend_characters
from app.core.cel.values import CelError, Opaque, no_overload

_SCHEME = re.compile(rb"([A-Za-z][A-Za-z0-9+.-]*):(.*)", re.DOTALL)
_PORT = re.compile(rb"(?::[0-9]*)?")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})?")
_ALPHANUMERIC = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_UNRESERVED = _ALPHANUMERIC + b"-_.~"
_BEYOND_ASCII = bytes(range(0x80, 0x100))
# What stands for itself in each part.
_IN_USER = frozenset(_UNRESERVED + b":!$&'()*+,;=%@")
_IN_HOST = frozenset(_UNRESERVED + b"!$&'()*+,;=:[]<>\"%" + _BEYOND_ASCII)
_KEPT_IN_PATH = frozenset(_UNRESERVED + b"$&+,/:;=@")
_VALID_IN_PATH = _KEPT_IN_PATH | frozenset(b"!'()*[]%")
_KEPT_IN_USER = frozenset(_UNRESERVED + b"$&+,;=")
_KEPT_IN_FRAGMENT = frozenset(_UNRESERVED + b"$&+,/:;=?@!()*")
_KEPT_IN_HOST = _IN_HOST - frozenset(b"%" + _BEYOND_ASCII)
# In steps: reading one URL; and how much more than copying it a character costs.
_PARSING = 20
_WEIGHT = 8


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a URL has; paths and queries as they were written, hosts without escapes."""

    scheme: bytes = b""
    opaque: bytes = b""
    user: tuple[bytes, ...] = ()
    host: bytes = b""
    path: bytes = b""
    query: bytes = b""
    asks: bool = False
    fragment: bytes = b""


@dataclass(frozen=True, slots=True, eq=False)
class Url(Opaque):
    """A URL."""

    parts: _Parts
    type_name: ClassVar[str] = "kubernetes.URL"

    def __eq__(self, other: object) -> bool:
        """Compare what is written for both."""
        return isinstance(other, Url) and self.written() == other.written()

    __hash__ = None  # type: ignore[assignment]  # nothing keeps URLs in a set

    def written(self) -> bytes:
        """Write the URL in its normal form."""
        part = self.parts
        out = part.scheme + b":" if part.scheme else b""
        if part.opaque:
            out += part.opaque
        else:
            path = escaped_path(part.path)
            if (part.scheme or part.host or part.user) and (part.host or path or part.user):
                out += b"//"
                out += b":".join(_escaped(each, _KEPT_IN_USER) for each in part.user) + (b"@" if part.user else b"")
                out += _escaped(part.host, _KEPT_IN_HOST)
            out += path
        if part.asks or part.query:
            out += b"?" + part.query
        return out + (b"#" + _escaped(part.fragment, _KEPT_IN_FRAGMENT) if part.fragment else b"")


def parse(text: str) -> Url:
    """Read a URL.

    Raises:
        CelError: it is none.
    """
    data = text.encode()
    _read(data, strict=True)
    rest, _, fragment = data.partition(b"#")
    parts = _read(rest, strict=False)
    return Url(
        _Parts(
            parts.scheme,
            parts.opaque,
            parts.user,
            parts.host,
            parts.path,
            parts.query,
            parts.asks,
            _unescaped(fragment, "the fragment"),
        )
    )


def check(text: str) -> None:
    """Check that a text is a URL.

    Raises:
        CelError: it is none.
    """
    _read(text.encode(), strict=True)


def _read(data: bytes, *, strict: bool) -> _Parts:
    if _CONTROL.search(data):
        raise CelError("a URL has no control characters")
    if not data:
        raise CelError("the URL is empty")
    if data == b"*":
        return _Parts(path=data)
    if data.startswith(b":"):
        raise CelError("the URL has a colon and no scheme before it")
    match = _SCHEME.fullmatch(data)
    scheme, rest = (match.group(1).lower(), match.group(2)) if match else (b"", data)
    asks = rest.endswith(b"?") and rest.count(b"?") == 1
    rest, _, query = rest.partition(b"?")
    if not rest.startswith(b"/"):
        if scheme:
            return _Parts(scheme, rest, query=query, asks=asks)
        # INVARIANT: what was read strictly first does not come here the second time.
        raise CelError("a URL starts with a scheme or with `/`")
    user: tuple[bytes, ...] = ()
    host = b""
    if rest.startswith(b"//") and (scheme or (not strict and not rest.startswith(b"///"))):
        authority, slash, behind = rest[2:].partition(b"/")
        rest = slash + behind
        user, host = _authority(authority)
    _unescaped(rest, "the path")
    return _Parts(scheme, b"", user, host, rest, query, asks)


def _authority(data: bytes) -> tuple[tuple[bytes, ...], bytes]:
    before, at, host = data.rpartition(b"@")
    if not at:
        return (), _host(host)
    host = _host(host)
    if not _IN_USER.issuperset(before):
        raise CelError("the user of the URL has a character that must be escaped")
    return tuple(_unescaped(part, "the user") for part in before.split(b":", 1)), host


def _host(data: bytes) -> bytes:
    if b"[" in data or b"]" in data:
        return _bracketed(data)
    name, colon, port = data.partition(b":")
    if colon and _PORT.fullmatch(colon + port) is None:
        raise CelError("the port of the URL is no number")
    return _host_name(name) + colon + port


def _host_name(data: bytes) -> bytes:
    if not _IN_HOST.issuperset(data):
        raise CelError("the host of the URL has a character that no host has")
    name = _unescaped(data, "the host")
    for match in _ESCAPE.finditer(data):
        # Only what is not ASCII is escaped in a host (RFC 3986, section 3.2.2), and `%25` before a zone.
        if match.group(1)[0] < ord("8") and match.group(1) != b"25":
            raise CelError("the host of the URL escapes a character of ASCII")
    return name


def _bracketed(data: bytes) -> bytes:
    inner, bracket, port = data[1:].rpartition(b"]")
    if not data.startswith(b"[") or not bracket or _PORT.fullmatch(port) is None:
        raise CelError("the host of the URL has brackets in the wrong place")
    address, percent, zone = inner.partition(b"%25")
    if percent and not zone:
        raise CelError("the zone in the host of the URL is empty")
    try:
        if b"%" in address:
            raise ValueError  # noqa: TRY301 - Python would read a zone
        ipaddress.IPv6Address(address.decode("ascii"))
    except ValueError:
        raise CelError("what the host of the URL has in brackets is no IPv6 address") from None
    zone = _unescaped(zone, "the zone")
    if not _IN_HOST.issuperset(zone.replace(b" ", b"")):
        raise CelError("the zone in the host of the URL has a character that no host has")
    return b"[" + address + (b"%" + zone if percent else b"") + b"]" + port


def _unescaped(data: bytes, what: str, *, form: bool = False) -> bytes:
    """Undo `%2F`, and in a form `+` for a blank."""
    if form:
        data = data.replace(b"+", b" ")
    if b"%" not in data:
        return data
    pieces: list[bytes] = []
    at = 0
    for match in _ESCAPE.finditer(data):
        if match.group(1) is None:
            raise CelError(f"{what} of the URL has a `%` without two digits")
        pieces += (data[at : match.start()], bytes((int(match.group(1), 16),)))
        at = match.end()
    return b"".join((*pieces, data[at:]))


def _escaped(data: bytes, kept: frozenset[int]) -> bytes:
    if kept.issuperset(data):
        return data
    return b"".join(bytes((byte,)) if byte in kept else b"%%%02X" % byte for byte in data)


def escaped_path(path: bytes) -> bytes:
    """Give a path as it was written where that is a valid escaping, else with what must be escaped."""
    if path == b"*" or _VALID_IN_PATH.issuperset(path):
        return path
    return _escaped(_unescaped(path, "the path"), _KEPT_IN_PATH)


# --- functions ------------------------------------------------------------------------------------------------------


def url(text: Any, budget: Budget) -> Url:
    """`url(text)`."""
    if type(text) is not str:
        raise no_overload("url", text)
    _pay(len(text), budget)
    return parse(text)


def is_url(text: Any, budget: Budget) -> bool:
    """`isURL(text)`."""
    if type(text) is not str:
        raise no_overload("isURL", text)
    _pay(len(text), budget)
    try:
        check(text)
    except CelError:
        return False
    return True


def _pay(size: int, budget: Budget) -> None:
    spend(budget, _PARSING)
    spend_characters(budget, size * _WEIGHT)


def get_scheme(value: Any) -> str:
    """`url.getScheme()`: in lower case, empty without one."""
    return _text(_known("getScheme", value).scheme)


def get_host(value: Any) -> str:
    """`url.getHost()`: with the port, and brackets around IPv6."""
    return _text(_known("getHost", value).host)


def get_hostname(value: Any) -> str:
    """`url.getHostname()`: without port and brackets."""
    host, _ = _split(_known("getHostname", value).host)
    return _text(host[1:-1] if host.startswith(b"[") and host.endswith(b"]") else host)


def get_port(value: Any) -> str:
    """`url.getPort()`: empty without one."""
    return _text(_split(_known("getPort", value).host)[1])


def get_escaped_path(value: Any, budget: Budget) -> str:
    """`url.getEscapedPath()`."""
    path = _known("getEscapedPath", value).path
    spend_characters(budget, len(path) * _WEIGHT)
    return _text(escaped_path(path))


def get_query(value: Any, budget: Budget) -> dict[str, list[str]]:
    """`url.getQuery()`: all values of each key; what is malformed is left out."""
    query = _known("getQuery", value).query
    spend_characters(budget, len(query) * _WEIGHT)
    found: defaultdict[str, list[str]] = defaultdict(list)
    for setting in query.split(b"&"):
        if not setting or b";" in setting:
            continue
        spend(budget, 1)
        name, _, content = setting.partition(b"=")
        try:
            key = _text(_unescaped(name, "the query", form=True))
            found[key].append(_text(_unescaped(content, "the query", form=True)))
        except CelError:
            continue
    return {key: values for key, values in found.items() if values}


def _known(name: str, value: Any) -> _Parts:
    if type(value) is Url:
        return value.parts
    raise no_overload(name, value)


def _split(host: bytes) -> tuple[bytes, bytes]:
    name, colon, port = host.rpartition(b":")
    return (name, port) if colon and _PORT.fullmatch(colon + port) else (host, b"")


def _text(data: bytes) -> str:
    # An escape can make bytes that are no text.
    return data.decode("utf-8", "replace")
