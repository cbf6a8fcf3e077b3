"""The `Idempotency-Key` of a request: draft-ietf-httpapi-idempotency-key-header."""

import re
from collections.abc import Iterable
from typing import Final

from app.core.principal import Principal
from app.errors import FirewallError, Kind
from app.ledger.once import Claim, claim

# A UUID has 36 characters. Longer than this is no key but a document.
MAX_KEY_CHARS: Final = 255

# A string of RFC 9651 section 3.3.3, as the draft has it; or the bare key that most clients send, without what would
# begin another structured field.
_QUOTED: Final = re.compile(rb'"((?:[ !#-\[\]-~]|\\["\\])+)"')
_BARE: Final = re.compile(rb"[A-Za-z0-9._~:/+=-]+")

REPLAYED: Final = (b"idempotency-replayed", b"true")


def idempotency_key(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """Give the key of a request, None where it has none. Quoted or not it is the same key.

    Raises FirewallError(MALFORMED) for more than one, and for one that cannot be read.
    """
    found: bytes | None = None
    for name, value in headers:
        if name == b"idempotency-key":
            if found is not None:
                raise _unreadable("is given twice")
            found = value.strip(b" \t")
    if found is None:
        return None
    if _BARE.fullmatch(found):
        key = found
    elif (quoted := _QUOTED.fullmatch(found)) is not None:
        key = re.sub(rb'\\(["\\])', rb"\1", quoted[1])
    else:
        raise _unreadable("is no string of printable ASCII characters")
    if len(key) > MAX_KEY_CHARS:
        raise _unreadable(f"is longer than {MAX_KEY_CHARS} characters")
    return key.decode("ascii")


def claim_of(headers: Iterable[tuple[bytes, bytes]], principal: Principal, *, route: str, body: bytes) -> Claim | None:
    """Give what a request claims to be answered once, None for one without a key. Raises as `idempotency_key`."""
    key = idempotency_key(headers)
    return None if key is None else claim(principal, key, route=route, body=body)


def _unreadable(fault: str) -> FirewallError:
    return FirewallError(
        Kind.MALFORMED, f"the idempotency key {fault}", fix='send `Idempotency-Key: "..."` with a fresh UUID in it'
    )
