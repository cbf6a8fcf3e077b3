"""Time-ordered identifiers: RFC 9562 section 5.7, from a time and entropy that the caller brings."""

from datetime import datetime
from uuid import UUID

_VERSION_AND_VARIANT = (0x7 << 76) | (0b10 << 62)
_RANDOM_A = 0xFFF << 64
_RANDOM_B = (1 << 62) - 1


def uuid7(now: datetime, *, entropy: bytes) -> UUID:
    """The UUIDv7 of `now` (whole milliseconds) and of the 74 low bits of `entropy` (10 bytes or more)."""
    random = int.from_bytes(entropy, "big")
    milliseconds = int(now.timestamp() * 1000)
    return UUID(int=(milliseconds << 80) | _VERSION_AND_VARIANT | ((random << 2) & _RANDOM_A) | (random & _RANDOM_B))
