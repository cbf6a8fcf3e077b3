"""JSON pointers (RFC 6901): how one member of a document is named."""

from typing import Any

from app.core.types import Json

# A pointer is repeated in problems and logs: the caller gets the nearest ancestor when a key would make it longer.
MAX_REPORTED_LENGTH = 1024
# What no document may hold: an answer that repeated it would be refused by its own reader.
_UNREADABLE = frozenset(("\0", *map(chr, range(0xD800, 0xE000))))


class PointerError(ValueError):
    """What a pointer says is not there, or is no pointer; the text is fit for a caller."""


def escape(token: str) -> str:
    """Write one reference token as it stands between two slashes (RFC 6901 section 3: `~` first, then `/`)."""
    if "~" in token or "/" in token:
        return token.replace("~", "~0").replace("/", "~1")
    return token


def build(tokens: list[str | int]) -> str:
    """Join reference tokens into a pointer fit to be shown: readable, at most `MAX_REPORTED_LENGTH` long.

    Tokens that do not fit, or that hold NUL or a lone surrogate, end the pointer at their parent.
    """
    parts: list[str] = []
    length = 0
    for token in tokens:
        part = "/" + (escape(token) if isinstance(token, str) else str(token))
        length += len(part)
        if length > MAX_REPORTED_LENGTH or not _UNREADABLE.isdisjoint(part):
            break
        parts.append(part)
    return "".join(parts)


def split(pointer: str) -> list[str]:
    """Take a pointer apart into its unescaped reference tokens; "" is the whole document and has none.

    Raises: PointerError for text that is not a pointer (no leading slash, a `~` not followed by 0 or 1).
    """
    if not pointer:
        return []
    if pointer[0] != "/":
        raise PointerError("a json pointer starts with `/`, or is empty for the whole document")
    tokens = pointer[1:].split("/")
    if "~" not in pointer:
        return tokens
    for token in tokens:
        if token.replace("~0", "").replace("~1", "").count("~"):
            raise PointerError("`~` in a json pointer is written `~0`, and `/` inside a key `~1`")
    return [token.replace("~1", "/").replace("~0", "~") for token in tokens]


def index(token: str, *, length: int) -> int:
    """Read a reference token as the index of an existing element of an array of `length`.

    Raises: PointerError for anything but ASCII digits without a leading zero (RFC 6901 section 4) below `length`.
    """
    # The digits are compared by length first, so that a token of a million digits never becomes a number.
    if not (token.isascii() and token.isdigit()) or (len(token) > 1 and token[0] == "0"):
        raise PointerError(f"`{token[:40]}` is not an array index")
    if len(token) > len(str(length)) or int(token) >= length:
        raise PointerError(f"index {token[:40]} is beyond the end of an array of {length}")
    return int(token)


def step(node: Json, token: str) -> Any:
    """Go one reference token down.

    Raises: PointerError when there is no such member or element.
    """
    if isinstance(node, dict):
        if token in node:
            return node[token]
        raise PointerError(f"no member `{token[:80]}`")
    if isinstance(node, list):
        return node[index(token, length=len(node))]
    raise PointerError(f"`{token[:80]}` is asked of a value that is neither an object nor an array")
