"""The agents' surface as the API document shows it; requests are read by `wire.py`, never by these."""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, RootModel

from app.core.tool_calls import Risk
from app.core.types import Effect
from app.surfaces.agents.wire import MAX_APPROVALS, MAX_CWD_CHARS
from app.surfaces.parties import MAX_ID_CHARS

_Text = Annotated[str, Field(min_length=1, max_length=MAX_ID_CHARS)]
_Object = dict[str, JsonValue]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="allow")


class Subject(_Strict):
    """Who would make the call."""

    type: _Text
    id: _Text
    properties: _Object = Field(default_factory=dict)


class Annotations(_Lenient):
    """What a tool says of itself (Model Context Protocol): it can raise the risk, never lower it."""

    readOnlyHint: bool = False  # noqa: N815 - the protocol's name
    destructiveHint: bool = False  # noqa: N815 - the protocol's name
    idempotentHint: bool = False  # noqa: N815 - the protocol's name
    openWorldHint: bool = False  # noqa: N815 - the protocol's name


class ToolCallIn(_Strict):
    """A tool call, whoever makes it."""

    name: _Text = Field(description="letters, digits, `_`, `-` and `.`")
    arguments: _Object = Field(default_factory=dict)
    server: _Text | None = Field(default=None, description="whose tool it is; the same letters")
    annotations: Annotations | None = None
    subject: Subject | None = Field(default=None, description="left out: whoever asks")
    cwd: Annotated[str, Field(min_length=1, max_length=MAX_CWD_CHARS)] | None = None
    context: _Object | None = None
    request_id: _Text | None = None


class FunctionCall(_Lenient):
    """What the model asked for."""

    type: Literal["function_call"] = "function_call"
    name: _Text
    namespace: str | None = Field(default=None, description="whose tool it is, where `tool_namespace` does not say it")
    call_id: _Text | None = None
    arguments: str = Field(description="JSON in a string, read as strictly as a body")


class McpApproval(_Lenient):
    """What the model asked of a hosted MCP server."""

    type: Literal["mcp_approval_request"]
    id: _Text | None = None
    server_label: _Text
    name: _Text
    arguments: str = Field(description="JSON in a string, read as strictly as a body")


class ApprovalItemIn(_Lenient):
    """`ToolApprovalItem` of the OpenAI Agents SDK."""

    type: Literal["tool_approval_item"]
    tool_name: _Text | None = None
    tool_namespace: _Text | None = None
    raw_item: FunctionCall | McpApproval


class ToolCallOut(_Strict):
    """What became of all that the call would do; the worst counts."""

    decision: Effect
    approved: bool = Field(description="true for an allow without obligations; for who knows two answers")
    reason: str
    tool: str
    risk: Risk
    decisions: list[dict[str, JsonValue]] = Field(description="one for each thing that the call would do")


class RequestedTool(_Lenient):
    """One of the calls that the model asked for."""

    id: _Text
    name: _Text
    args: _Object = Field(default_factory=dict)


class ApprovalRequestIn(_Lenient):
    """`tool_approval_request` of kagent."""

    type: Literal["tool_approval_request"]
    tools: Annotated[list[RequestedTool], Field(min_length=1, max_length=MAX_APPROVALS)]


class ApprovalOut(_Strict):
    """The answer for one call."""

    id: str
    approved: bool
    rejection_reason: str | None = None


class ApprovalResponseOut(_Strict):
    """`tool_approval_response` of kagent: all calls of a request are approved, or none."""

    type: Literal["tool_approval_response"]
    approvals: list[ApprovalOut]
    decision: Effect
    decisions: list[dict[str, JsonValue]] = Field(description="one for each thing that the calls would do")


class ToolCallAnswer(RootModel[ToolCallOut | ApprovalResponseOut]):
    """As it was asked: a request of kagent has its own form."""


class PreToolUseIn(_Lenient):
    """What Claude Code gives to a hook."""

    hook_event_name: Literal["PreToolUse"]
    tool_name: _Text
    tool_input: _Object = Field(default_factory=dict)
    cwd: str | None = None
    session_id: str | None = None
    permission_mode: str | None = None
    tool_use_id: str | None = None


class PreToolUse(_Strict):
    """What a hook says."""

    hookEventName: Literal["PreToolUse"]  # noqa: N815 - the protocol's name
    permissionDecision: Literal["allow", "deny", "ask"]  # noqa: N815 - the protocol's name
    permissionDecisionReason: str  # noqa: N815 - the protocol's name


class PreToolUseOut(_Strict):
    """A hold is a deny that says who has to agree; ask is an allow under the obligation `agents/confirm`."""

    hookSpecificOutput: PreToolUse  # noqa: N815 - the protocol's name


class CallParams(_Lenient):
    """Of `tools/call`."""

    name: _Text
    arguments: _Object = Field(default_factory=dict)


class RpcRequest(_Lenient):
    """A JSON-RPC request `tools/call`, as the client sent it."""

    jsonrpc: Literal["2.0"]
    id: str | int
    method: Literal["tools/call"]
    params: CallParams


class McpCheckIn(_Strict):
    """A call that a gateway is about to pass on."""

    request: RpcRequest
    server: _Text | None = None
    annotations: Annotations | None = None
    subject: Subject | None = None
    context: _Object | None = None


class RpcError(_Strict):
    """`-32099` is held, `-32098` is denied, `-32097` says that nothing was decided."""

    code: Literal[-32099, -32098, -32097]
    message: Literal["approval_required", "denied", "not_decided"]
    data: dict[str, JsonValue]


class McpCheckOut(_Strict):
    """A result for an allow, an error for everything else."""

    jsonrpc: Literal["2.0"]
    id: str | int | None
    result: dict[str, JsonValue] | None = None
    error: RpcError | None = None


EXAMPLE_CALL: Final[dict[str, Any]] = {
    "name": "cancel_order",
    "server": "shop",
    "arguments": {"order_id": 7},
    "annotations": {"destructiveHint": True},
    "subject": {"type": "agent", "id": "support-bot"},
}
EXAMPLE_HOOK: Final[dict[str, Any]] = {
    "hook_event_name": "PreToolUse",
    "tool_name": "Bash",
    "tool_input": {"command": "psql -c 'DELETE FROM t'"},
    "cwd": "/srv/app",
    "session_id": "abc123",
    "permission_mode": "default",
    "tool_use_id": "toolu_01ABC123",
}
EXAMPLE_CHECK: Final[dict[str, Any]] = {
    "server": "weather",
    "request": {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "get_weather", "arguments": {"location": "New York"}},
    },
}
