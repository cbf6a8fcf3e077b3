"""Names of tools and of the servers that they come from.

A policy, and the person who approves, tell tools apart by their names. So a name has one spelling: ASCII letters,
digits, `_`, `-` and `.`, as the Model Context Protocol (2025-11-25, "Tool Names") has it. No other letter can be taken
for one of these, none is invisible, and none turns the direction of the text. What is left are ASCII letters that look
alike: `skeleton` tells whoever lists tools of several servers which names a person could confuse.
"""

import re
from typing import Final

from app.errors import FirewallError, Kind

MAX_NAME_CHARS: Final = 128

_NAME: Final = re.compile(rf"[A-Za-z0-9_.\-]{{1,{MAX_NAME_CHARS}}}")
# After lower case: what of ASCII is read for one another in a usual typeface, and what parts words.
_ALIKE: Final = str.maketrans({"0": "o", "1": "l", "i": "l", "5": "s", "2": "z", "_": "-", ".": "-"})


def checked(name: str, *, pointer: str, what: str = "tool") -> str:
    """Give back a name that has one reading. Raises FirewallError(MALFORMED)."""
    if _NAME.fullmatch(name) is None:
        shown = name[:80].encode("unicode_escape").decode()
        raise FirewallError(
            Kind.MALFORMED,
            f"`{shown}` is no name of a {what}" if name else f"the name of the {what} is empty",
            pointer=pointer,
            fix=f"use 1 to {MAX_NAME_CHARS} of the letters A-Z and a-z, digits, `_`, `-` and `.`",
        )
    return name


def skeleton(name: str) -> str:
    """Give what is the same of two names that a person could take for one another: `Read_File` and `read-fiIe`."""
    return name.lower().translate(_ALIKE).replace("rn", "m").replace("vv", "w")
