"""Tool calls of agents: what each would do, in the words that policies read. Pure."""

from app.core.tool_calls.names import skeleton
from app.core.tool_calls.parts import Part, Risk, ToolCall, riskier
from app.core.tool_calls.reading import read_tool_call

__all__ = ["Part", "Risk", "ToolCall", "read_tool_call", "riskier", "skeleton"]
