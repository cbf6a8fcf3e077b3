"""The form of an API key's text.

A key is `mfw_`, 43 characters of base 62 that carry 32 random bytes, and 6 that are a CRC-32 of what stands before
them: a scanner that finds one in a leak knows without asking us that it is one. All 53 characters survive a double
click.
"""

import binascii
from hashlib import sha256
from typing import Final

PREFIX: Final = "mfw_"
SECRET_BYTES: Final = 32
# 62^43 > 2^256 and 62^6 > 2^32.
SECRET_CHARACTERS: Final = 43
CHECKSUM_CHARACTERS: Final = 6
KEY_CHARACTERS: Final = len(PREFIX) + SECRET_CHARACTERS + CHECKSUM_CHARACTERS

_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def generate(secret: bytes) -> str:
    """The text of the key that carries `secret`, 32 random bytes."""
    body = PREFIX + _base62(int.from_bytes(secret, "big"), SECRET_CHARACTERS)
    return body + _base62(binascii.crc32(body.encode("ascii")), CHECKSUM_CHARACTERS)


def is_well_formed(key: str) -> bool:
    """Whether the text has a key's form and its checksum fits. Does not check: that there is such a key."""
    if len(key) != KEY_CHARACTERS or not key.startswith(PREFIX) or not key.isascii():
        return False
    body, checksum = key[:-CHECKSUM_CHARACTERS], key[-CHECKSUM_CHARACTERS:]
    return body[len(PREFIX) :].isalnum() and checksum == _base62(
        binascii.crc32(body.encode("ascii")), CHECKSUM_CHARACTERS
    )


def hash_key(key: str) -> bytes:
    """What is stored of a key: its SHA-256, 32 bytes. 256 random bits need no slow hash."""
    return sha256(key.encode("utf-8", "surrogatepass")).digest()


def _base62(number: int, characters: int) -> str:
    digits = []
    for _ in range(characters):
        number, digit = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
