"""Names as clients see them: as they are, or `UPSTREAM__NAME` where there are several, and no two that look alike."""

import re
from collections.abc import Iterable
from typing import Final

# The Model Context Protocol, "Tool Names" (2025-11-25): nothing in it looks like a letter of another script.
_NAME: Final = re.compile(r"[A-Za-z0-9_.\-/]{1,128}")
# Without `_`, so that the first two of them end it.
_UPSTREAM: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
_SEPARATOR: Final = "__"
# What is taken for one another in a usual typeface, after lower case.
_ALIKE: Final = str.maketrans({"0": "o", "1": "l", "i": "l", "5": "s", "2": "z", "_": "-", ".": "-", "/": "-"})


def is_name(text: str) -> bool:
    """Whether a tool may be called so."""
    return _NAME.fullmatch(text) is not None


def is_upstream(text: str) -> bool:
    """Whether an upstream may be called so."""
    return _UPSTREAM.fullmatch(text) is not None


def alike(text: str) -> str:
    """What is the same of two names that a person, or a model, could take for one another."""
    return text.lower().translate(_ALIKE).replace("rn", "m").replace("vv", "w")


class Exposed:
    """How the names of some upstreams are told to clients, and back."""

    def __init__(self, upstreams: Iterable[str]) -> None:
        self._upstreams = tuple(upstreams)
        self._prefixed = len(self._upstreams) > 1

    def outward(self, upstream: str, name: str) -> str:
        """The name that clients know."""
        return f"{upstream}{_SEPARATOR}{name}" if self._prefixed else name

    def inward(self, name: str) -> tuple[str, str] | None:
        """The upstream of a name and the name there; None where no upstream has it."""
        if not self._prefixed:
            return self._upstreams[0], name
        upstream, separator, rest = name.partition(_SEPARATOR)
        return (upstream, rest) if separator and upstream in self._upstreams else None
