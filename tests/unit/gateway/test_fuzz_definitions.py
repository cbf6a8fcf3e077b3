"""Hostile lists of tools of an upstream: two that can be taken for one another are never both kept."""

from hypothesis import HealthCheck, given, settings

from app.core import strict_json
from app.core.tool_calls.names import skeleton
from app.errors import FirewallError
from app.gateway.definitions import sorted_out
from app.gateway.names import Exposed, is_name
from tests.corpus.hostile import hostile

QUICK = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
TOOLS = {
    "tools": [
        {"name": "read_file", "description": "reads", "inputSchema": {"type": "object"}},
        {"name": "read-fiIe", "title": "x", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": True}},
        {"name": "write", "inputSchema": {"properties": {"a": {"type": "string"}}}, "outputSchema": {}, "_meta": {}},
    ]
}


@QUICK
@given(hostile([TOOLS]))
def test_a_list_of_tools(body):
    try:
        tree = strict_json.parse(body).tree
    except FirewallError:
        return
    listed = tree.get("tools") if isinstance(tree, dict) else None
    kept, doubted = sorted_out("files", listed if isinstance(listed, list) else [])
    assert len({skeleton(name) for name in kept}) == len(kept)
    assert not kept.keys() & {name for name, _ in doubted}
    exposed = Exposed(["files", "other"])
    for name, definition in kept.items():
        assert is_name(name)
        assert definition.listed["name"] == name
        assert exposed.inward(exposed.outward("files", name)) == ("files", name)
