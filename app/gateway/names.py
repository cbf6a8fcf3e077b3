"""Names as clients see them: as they are, or `UPSTREAM__NAME` where there are several, and no two that look alike."""

import re
from collections.abc import Iterable
from typing import Final

from app.core.tool_calls.names import checked
from app.errors import FirewallError

# Without `_`, so that the first two of them end it.
_UPSTREAM: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
_SEPARATOR: Final = "__"


def is_name(text: str) -> bool:
    """Whether a tool may be called so; the firewall would not be asked about another name."""
    try:
        checked(text, pointer="/name")
    except FirewallError:
        return False
    return True


def is_upstream(text: str) -> bool:
    """Whether an upstream may be called so."""
    return _UPSTREAM.fullmatch(text) is not None


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
