"""Approval items of the OpenAI Agents SDK: which tool of which server they are about, and when that is in doubt."""

import json

import pytest

from app.errors import FirewallError
from app.surfaces.agents.wire import tool_call_of

CALL = {"type": "function_call", "call_id": "c1", "name": "refund", "arguments": '{"order": 7}'}
HOSTED = {
    "type": "mcp_approval_request",
    "id": "mcpr_1",
    "name": "refund",
    "server_label": "shop",
    "arguments": '{"order": 7}',
}


def read(raw, **item):
    return tool_call_of(json.dumps({"type": "tool_approval_item", "raw_item": raw, **item}).encode())


@pytest.mark.parametrize(
    ("raw", "item", "resource"),
    [
        (CALL, {}, "refund"),
        (CALL, {"tool_namespace": None}, "refund"),
        (CALL, {"tool_namespace": "shop"}, "shop/refund"),
        # As the SDK does where the item itself has no namespace.
        ({**CALL, "namespace": "shop"}, {"tool_namespace": None}, "shop/refund"),
        ({**CALL, "namespace": "shop"}, {"tool_namespace": "shop"}, "shop/refund"),
        (HOSTED, {"tool_name": "refund"}, "shop/refund"),
    ],
)
def test_a_tool_is_the_one_that_the_sdk_would_call(raw, item, resource):
    asked = read(raw, **item)
    (part,) = asked.call.parts
    assert (part.resource["type"], part.resource["id"], part.change) == ("tool", resource, {"after": {"order": 7}})
    assert asked.request_id == (raw.get("call_id") or raw["id"])


@pytest.mark.parametrize(
    ("raw", "item", "pointer"),
    [
        ({**CALL, "namespace": "shop"}, {"tool_namespace": "other"}, "/tool_namespace"),
        ({**CALL, "namespace": 7}, {}, "/raw_item/namespace"),
        ({key: value for key, value in CALL.items() if key != "arguments"}, {}, "/raw_item/arguments"),
        ({**HOSTED, "arguments": {"order": 7}}, {}, "/raw_item/arguments"),
        ({**HOSTED, "server_label": None}, {}, "/raw_item/server_label"),
        (HOSTED, {"tool_namespace": "other"}, "/tool_namespace"),
        ({**CALL, "type": "shell_call"}, {}, "/raw_item/type"),
    ],
)
def test_an_item_that_is_about_two_tools_or_none_is_no_call(raw, item, pointer):
    with pytest.raises(FirewallError) as caught:
        read(raw, **item)
    assert caught.value.pointer == pointer
