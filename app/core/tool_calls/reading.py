"""From a tool's name and its arguments to what the call would do."""

from collections.abc import Mapping
from typing import Any, Final

from app.core import members
from app.core.tool_calls.hints import checked_hints, raised
from app.core.tool_calls.names import checked
from app.core.tool_calls.parts import Part, Risk, ToolCall
from app.core.types import JsonObject

TOOL: Final = "tool"
CALL: Final = "call"


def read_tool_call(
    name: str,
    arguments: Any,
    *,
    hints: Mapping[str, Any] | None = None,
    server: str | None = None,
    cwd: str | None = None,
    context: Mapping[str, Any] | None = None,
) -> ToolCall:
    """Say what a tool call would do, as mutations without a subject.

    Of a tool about which nothing is known the one part is: action `call`, resource `tool` with the id `SERVER/NAME` (or
    `NAME` where no server is named; neither can have a slash in it), `change.after` the arguments as they are.
    `context` is what else is known of the call; `tool` and `cwd` in it are written here.

    Raises: FirewallError(MALFORMED) for a name with more than one reading, arguments that are no object, a hint that is
    no boolean.
    Does not check: the arguments against the tool's schema.
    """
    checked(name, pointer="/name")
    if server is not None:
        checked(server, pointer="/server", what="server")
    if not isinstance(arguments, dict):
        raise members.refuse_type(arguments, expected="an object", pointer="/arguments")
    told = checked_hints(hints, pointer="/annotations")
    about: JsonObject = {"name": name}
    if server is not None:
        about["server"] = server
    if told:
        about["hints"] = told
    around: JsonObject = {**(context or {}), "tool": about}
    if cwd is not None:
        around["cwd"] = cwd
    return ToolCall(name, server, (_call(name, arguments, server, told, around),))


def _call(name: str, arguments: JsonObject, server: str | None, told: JsonObject, around: JsonObject) -> Part:
    """The part that every call of a foreign tool has."""
    properties: JsonObject = {"name": name}
    if server is not None:
        properties["server"] = server
    return Part(
        action={"name": CALL, "properties": {"risk": raised(Risk.RUNS, told).value}},
        resource={"type": TOOL, "id": name if server is None else f"{server}/{name}", "properties": properties},
        change={"after": arguments},
        context=around,
    )
