"""Step 4 for tool calls: five wire formats, one reading.

Whoever sends them is an enforcement point, or the agent itself. What the agent writes is the name and the arguments of
its call; everything else (server, annotations, subject) has a place of its own, where an agent's arguments cannot be
taken for it.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from app.core import strict_json
from app.core.members import refuse_type, refuse_unknown, type_name
from app.core.tool_calls import ToolCall, read_tool_call
from app.core.tool_calls.reading import MAX_PARTS
from app.core.types import Json, JsonObject
from app.errors import FirewallError
from app.surfaces.parties import MAX_ID_CHARS, entity, refuse, text

# Long enough for any path; it is shown and compared.
MAX_CWD_CHARS: Final = 4096

APPROVAL_ITEM: Final = "tool_approval_item"
APPROVAL_REQUEST: Final = "tool_approval_request"
# What of an approval item can be: a tool of the agent's own program, or one of an MCP server that OpenAI calls.
FUNCTION_CALL: Final = "function_call"
MCP_APPROVAL: Final = "mcp_approval_request"
# Tools of one request for approval.
MAX_APPROVALS: Final = 32
JSONRPC: Final = "2.0"
TOOLS_CALL: Final = "tools/call"
PRE_TOOL_USE: Final = "PreToolUse"

_CALL: Final = ("name", "arguments", "server", "annotations", "subject", "cwd", "context", "request_id")
_CHECK: Final = ("request", "server", "annotations", "subject", "context")
_ITEM_ARGUMENTS: Final = 'send `arguments` as the model wrote it, a string such as `{"order_id": 7}`'
_ITEM_AS_IT_IS: Final = "send the item as it is"


class Asked(NamedTuple):
    """A tool call, and who would make it; None where whoever asks is meant.

    `approvals` are the ids under which each call of a request is answered, which all stand or fall together.
    """

    call: ToolCall
    subject: "JsonObject | None" = None
    properties: Mapping[str, Any] = {}
    request_id: str | None = None
    approvals: tuple[str, ...] = ()


Reads = Callable[[bytes], Asked]


def tool_call_of(body: bytes) -> Asked:
    """Read `{name, arguments, ...}`, an approval item of the OpenAI Agents SDK, or a request for approval of kagent.

    Raises FirewallError(MALFORMED).
    """
    tree = _object_of(body)
    if tree.get("type") == APPROVAL_REQUEST:
        return _approval_request(tree)
    if tree.get("type") == APPROVAL_ITEM:
        return _approval_item(tree)
    refuse_unknown(tree, known=_CALL, pointer="")
    call = read_tool_call(
        text(tree, "name", MAX_ID_CHARS),
        tree.get("arguments", {}),
        hints=_optional_object(tree, "annotations"),
        server=_optional_text(tree, "server"),
        cwd=_optional_text(tree, "cwd", MAX_CWD_CHARS),
        context=_optional_object(tree, "context"),
    )
    return Asked(call, _subject(tree), request_id=_optional_text(tree, "request_id"))


def _approval_item(tree: JsonObject) -> Asked:
    """`agents.items.ToolApprovalItem` of openai-agents; members that nobody knows are passed over.

    The arguments are JSON in a string, as the model wrote it. It is read as strictly as a body: what the SDK would read
    in another way (a key twice, NaN) is no call that can be judged.
    """
    raw = tree.get("raw_item")
    if not isinstance(raw, dict):
        refuse("`raw_item` is not an object", "/raw_item", fix="send the item that the model asked for")
    kind = raw.get("type", FUNCTION_CALL)
    if kind not in {FUNCTION_CALL, MCP_APPROVAL}:
        refuse(
            "the item is no function call, and no request to approve a call of an MCP server",
            "/raw_item/type",
            fix="send what else needs approval as `name` and `arguments`",
        )
    name = text(raw, "name", MAX_ID_CHARS, parent="raw_item")
    if tree.get("tool_name") is not None and tree["tool_name"] != name:
        refuse("`tool_name` and `raw_item.name` are two names", "/tool_name", fix=_ITEM_AS_IT_IS)
    written = raw.get("arguments")
    if not isinstance(written, str):
        raise refuse_type(written, expected="a string of JSON", pointer="/raw_item/arguments")
    arguments = _arguments_in(written) if written else {}
    server, mark = _namespace(tree, raw), "call_id"
    if kind == MCP_APPROVAL:
        label, mark = text(raw, "server_label", MAX_ID_CHARS, parent="raw_item"), "id"
        if server is not None and server != label:
            refuse("the namespace and `raw_item.server_label` are two servers", "/tool_namespace", fix=_ITEM_AS_IT_IS)
        server = label
    call = read_tool_call(name, arguments, server=server, context={"surface": "openai-agents"})
    return Asked(call, _subject(tree), request_id=_optional_text(raw, mark, parent="raw_item"))


def _namespace(tree: JsonObject, raw: JsonObject) -> str | None:
    """The namespace of a tool, which the SDK takes from the call where the item itself has none."""
    found: set[str] = set()
    for holder, member, pointer in ((tree, "tool_namespace", ""), (raw, "namespace", "/raw_item")):
        value = holder.get(member)
        if value is not None and not isinstance(value, str):
            raise refuse_type(value, expected="a string", pointer=f"{pointer}/{member}")
        if value:
            found.add(value)
    if len(found) > 1:
        refuse("`tool_namespace` and `raw_item.namespace` are two names", "/tool_namespace", fix=_ITEM_AS_IT_IS)
    return found.pop() if found else None


def _approval_request(tree: JsonObject) -> Asked:
    """`tool_approval_request` of kagent: several calls, of which each has an answer of its own under its id.

    What a model wants at once it may want for one end, so all of them are allowed or none. Members that nobody knows
    are passed over; an id that stands twice would be one answer for two calls.
    """
    tools = tree.get("tools")
    if not isinstance(tools, list) or not tools:
        refuse("`tools` is not a list with anything in it", "/tools", fix="send the request as it is")
    if len(tools) > MAX_APPROVALS:
        refuse(f"{len(tools)} tools, and {MAX_APPROVALS} are the most", "/tools", fix="ask about fewer at once")
    calls: dict[str, ToolCall] = {}
    for at, tool in enumerate(tools):
        place = f"tools/{at}"
        if not isinstance(tool, dict):
            raise refuse_type(tool, expected="an object", pointer=f"/{place}")
        identifier = text(tool, "id", MAX_ID_CHARS, parent=place)
        if identifier in calls:
            refuse("the id stands twice", f"/{place}/id", fix="give each call an id of its own")
        name = text(tool, "name", MAX_ID_CHARS, parent=place)
        arguments = tool.get("args", {})
        if not isinstance(arguments, dict):
            raise refuse_type(arguments, expected="an object", pointer=f"/{place}/args")
        calls[identifier] = read_tool_call(name, arguments, context={"surface": "kagent"})
    parts = tuple(part for call in calls.values() for part in call.parts)
    if len(parts) > MAX_PARTS:
        refuse(f"the calls would do {len(parts)} things, and {MAX_PARTS} are the most", "/tools", fix="ask about fewer")
    names = ", ".join(dict.fromkeys(call.name for call in calls.values()))
    return Asked(ToolCall(names, None, parts), _subject(tree), approvals=tuple(calls))


def _arguments_in(written: str) -> JsonObject:
    try:
        tree = strict_json.parse(written.encode()).tree
    except (FirewallError, UnicodeEncodeError) as error:
        detail = error.detail if isinstance(error, FirewallError) else "a lone surrogate"
        refuse(f"`arguments` cannot be read: {detail}", "/raw_item/arguments", fix=_ITEM_ARGUMENTS)
    if not isinstance(tree, dict):
        refuse(f"`arguments` is {type_name(tree)}", "/raw_item/arguments", fix=_ITEM_ARGUMENTS)
    return tree


def mcp_call_of(body: bytes) -> Asked:
    """Read `{request, server, annotations, subject, context}`, where `request` is a JSON-RPC request `tools/call`.

    Raises FirewallError(MALFORMED).
    """
    tree = _object_of(body)
    refuse_unknown(tree, known=_CHECK, pointer="")
    request = tree.get("request")
    if not isinstance(request, dict):
        refuse("`request` is not an object", "/request", fix="send the JSON-RPC request that the client sent")
    if request.get("jsonrpc") != JSONRPC or request.get("method") != TOOLS_CALL:
        refuse(
            "`request` is no JSON-RPC 2.0 request of `tools/call`",
            "/request/method",
            fix="only tool calls are decided here: pass everything else on",
        )
    if not _is_id(request.get("id")):
        refuse("`request.id` is neither a string nor a whole number", "/request/id", fix="send the request as it is")
    params = request.get("params")
    if not isinstance(params, dict):
        refuse("`request.params` is not an object", "/request/params", fix="send the request as it is")
    call = read_tool_call(
        text(params, "name", MAX_ID_CHARS, parent="request/params"),
        params.get("arguments", {}),
        hints=_optional_object(tree, "annotations"),
        server=_optional_text(tree, "server"),
        context=_optional_object(tree, "context"),
    )
    return Asked(call, _subject(tree))


def rpc_id_of(body: bytes) -> str | int | None:
    """The id of the JSON-RPC request in a body; None where there is none, as JSON-RPC 2.0 section 5 has it."""
    try:
        found = strict_json.parse(body).tree["request"]["id"]
    except (FirewallError, KeyError, TypeError):
        return None
    return found if _is_id(found) else None


def _is_id(value: Any) -> bool:
    return (isinstance(value, str) and len(value) <= MAX_ID_CHARS) or (
        isinstance(value, int) and not isinstance(value, bool)
    )


def hook_call_of(body: bytes) -> Asked:
    """Read what Claude Code gives to a hook `PreToolUse`; members that nobody knows are passed over.

    Raises FirewallError(MALFORMED).
    """
    tree = _object_of(body)
    event = tree.get("hook_event_name")
    if event != PRE_TOOL_USE:
        refuse(
            f"`hook_event_name` is not `{PRE_TOOL_USE}`",
            "/hook_event_name",
            fix=f"set the hook up for `{PRE_TOOL_USE}`: nothing else can be stopped",
        )
    full = text(tree, "tool_name", MAX_ID_CHARS)
    server, name = _mcp_name(full)
    mode = _optional_text(tree, "permission_mode")
    context: JsonObject = {"surface": "claude-code"}
    if mode is not None:
        context["permission_mode"] = mode
    call = read_tool_call(
        name,
        tree.get("tool_input", {}),
        server=server,
        cwd=_optional_text(tree, "cwd", MAX_CWD_CHARS),
        context=context,
    )
    properties = {
        member: value
        for member, source in (("session", "session_id"), ("agent", "agent_type"))
        if (value := _optional_text(tree, source)) is not None
    }
    return Asked(call, None, properties, _optional_text(tree, "tool_use_id"))


def _mcp_name(full: str) -> tuple[str | None, str]:
    """Take `mcp__SERVER__TOOL` apart; where it could be taken apart in two ways it stays whole, the tool of nobody."""
    prefix, *rest = full.split("__")
    if prefix == "mcp" and len(rest) == 2 and all(rest):
        return rest[0], rest[1]
    return None, full


def _object_of(body: bytes) -> JsonObject:
    tree: Json = strict_json.parse(body).tree
    if not isinstance(tree, dict):
        refuse("the body is not an object", "", fix="send one tool call")
    return tree


def _subject(tree: JsonObject) -> "JsonObject | None":
    return entity(tree["subject"], "subject") if "subject" in tree else None


def _optional_text(tree: JsonObject, name: str, limit: int = MAX_ID_CHARS, *, parent: str | None = None) -> str | None:
    return None if tree.get(name) is None else text(tree, name, limit, parent=parent)


def _optional_object(tree: JsonObject, name: str) -> "JsonObject | None":
    value = tree.get(name)
    if value is not None and not isinstance(value, dict):
        raise refuse_type(value, expected="an object", pointer=f"/{name}")
    return value
