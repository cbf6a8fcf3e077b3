"""What a tool says of itself (Model Context Protocol, ToolAnnotations).

"Clients should never make tool use decisions based on ToolAnnotations received from untrusted servers": a tool that
calls itself harmless is believed nothing, one that calls itself destructive is.
"""

from collections.abc import Mapping
from typing import Any, Final

from app.core import members
from app.core.tool_calls.parts import Risk, riskier
from app.core.types import JsonObject
from app.errors import FirewallError, Kind

_FLAGS: Final = ("readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint")


def checked_hints(hints: Mapping[str, Any] | None, *, pointer: str) -> JsonObject:
    """Give the flags among a tool's annotations; a title, and what nobody knows, is left out.

    Raises: FirewallError(MALFORMED) for a flag that is no boolean: what it was meant to say is not known.
    """
    found: JsonObject = {}
    for name in _FLAGS:
        if hints is None or name not in hints:
            continue
        value = hints[name]
        if not isinstance(value, bool):
            raise FirewallError(
                Kind.MALFORMED,
                f"`{name}` is {members.type_name(value)}, where a boolean is expected",
                pointer=f"{pointer}/{name}",
            )
        found[name] = value
    return found


def raised(risk: Risk, hints: JsonObject) -> Risk:
    """Give a risk with what the hints add to it.

    INVARIANT: never less than `risk`. Without a word `destructiveHint` counts as true by the specification; it is left
    at `risk` here, which no hint lowers either, so that the tools which do say so stand out.
    """
    return riskier((risk, Risk.DESTROYS)) if hints.get("destructiveHint") is True else risk
