"""Where a request goes, in one reading: a host and a path that a gateway and what is behind it cannot read differently.

Servers disagree on `..`, on `//`, on an encoded slash, on what is encoded twice, on what follows a `;`. Nothing of that
is put right here, since nobody knows whom it would suit: it is refused, and the path that is left is the path.
"""

import re
import unicodedata
from typing import Final, NamedTuple, NoReturn
from urllib.parse import unquote_to_bytes

from app.errors import FirewallError, Kind

# As long as servers take a request line.
TARGET_BYTES_MAX: Final = 8192
SEGMENTS_MAX: Final = 64
PARAMETERS_MAX: Final = 128

# RFC 9110 section 9.1: a token, case-sensitive; the registered ones are upper case, and so must these be.
_METHOD: Final = re.compile(r"[A-Z][A-Z-]{0,31}")
# RFC 3986 section 3.2.2, without user information and without what has to be decoded; `_` is in names inside clusters.
_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST: Final = re.compile(rf"({_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:.]{{2,45}}\])(?::[0-9]{{1,5}})?")
_HOST_CHARS_MAX: Final = 259
# RFC 3986 section 3.3: what may stand in a path as it is, but for `;`, behind which some servers read parameters.
_PATH: Final = re.compile(r"/[A-Za-z0-9._~!$&'()*+,=:@%/-]*")
_QUERY: Final = re.compile(r"[A-Za-z0-9._~!$&'()*+,=:@%/?;\[\]|^`{}-]*")
_BROKEN: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
# Encoded: separators, what decodes to another encoding, control characters. And what nobody has to encode (RFC 3986
# section 2.3), since a gateway that matches the path as it was sent would not see `/%61dmin` as what is behind it does.
_HIDDEN: Final = re.compile(
    r"%(?:2[Ff]|5[Cc]|3[BbFf]|23|25(?=[0-9A-Fa-f]{2})|[01][0-9A-Fa-f]|7[Ff]"
    r"|3[0-9]|4[1-9A-Fa-f]|5[0-9AaFf]|6[1-9A-Fa-f]|7[0-9Aa]|2[DdEe])"
)
_SEPARATORS: Final = frozenset("/\\;?#%")


class Target(NamedTuple):
    """A request target: `segments` are those of the path, decoded; `query` is as it was sent, None without a `?`."""

    path: str
    segments: tuple[str, ...]
    query: str | None


def method_of(text: str) -> str:
    """Check a method. Raises FirewallError(MALFORMED)."""
    if not _METHOD.fullmatch(text):
        _refuse("the method is not one in upper case letters")
    return text


def host_of(text: str) -> str:
    """Give the host of an authority in lower case, without its port. Raises FirewallError(MALFORMED)."""
    lower = text.lower()
    found = _HOST.fullmatch(lower) if len(lower) <= _HOST_CHARS_MAX else None
    if found is None:
        _refuse("the host is not a name or an address")
    return found[1]


def target_of(text: str) -> Target:
    """Read a target in origin form (RFC 9112 section 3.2.1).

    Raises FirewallError(MALFORMED) for what two servers could read as two paths.
    """
    if len(text) > TARGET_BYTES_MAX:
        _refuse(f"the path is longer than {TARGET_BYTES_MAX} bytes")
    sent, mark, query = text.partition("?")
    if not _PATH.fullmatch(sent):
        _refuse("the path has characters that servers read differently")
    if not _QUERY.fullmatch(query):
        _refuse("the query has characters that servers read differently")
    if _BROKEN.search(sent):
        _refuse("the path has a `%` without two hexadecimal digits")
    if _HIDDEN.search(sent):
        _refuse("the path has an encoded separator, control character, or character that nobody has to encode")
    if "//" in sent:
        _refuse("the path has an empty segment")
    segments = tuple(_segment(part) for part in sent[1:].split("/"))
    if len(segments) > SEGMENTS_MAX:
        _refuse(f"the path has more than {SEGMENTS_MAX} segments")
    return Target("/" + "/".join(segments), segments, query if mark else None)


def parameters_of(query: str) -> list[tuple[str, str]]:
    """Give names and values of a query, decoded. Raises FirewallError(MALFORMED)."""
    if not query:
        return []
    pairs = query.split("&")
    if len(pairs) > PARAMETERS_MAX:
        _refuse(f"the query has more than {PARAMETERS_MAX} parameters")
    found = []
    for pair in pairs:
        if ";" in pair:
            # Once a separator as `&` is (HTML 4.01 appendix B.2.2), and for some servers it still is.
            _refuse("the query has a `;`, which some servers take for `&`")
        name, _, value = pair.partition("=")
        found.append((_decoded(name), _decoded(value)))
    return found


def _segment(part: str) -> str:
    text = _text(unquote_to_bytes(part))
    if text in {".", ".."}:
        _refuse("the path has a segment `.` or `..`")
    # A compatibility character that a server makes a separator or a dot of.
    plain = unicodedata.normalize("NFKC", text)
    if plain != text and (not _SEPARATORS.isdisjoint(plain) or plain in {".", ".."}):
        _refuse("the path has a character that stands for a separator")
    return text


def _decoded(part: str) -> str:
    if _BROKEN.search(part):
        _refuse("the query has a `%` without two hexadecimal digits")
    return _text(unquote_to_bytes(part.replace("+", " ")))


def _text(content: bytes) -> str:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        _refuse("an encoded character is not UTF-8")
    if not text.isprintable():
        _refuse("an encoded character cannot be shown")
    return text


def _refuse(detail: str) -> NoReturn:
    raise FirewallError(
        Kind.MALFORMED, detail, fix="ask for the resource by its plain path, with nothing in it that has to be resolved"
    )
