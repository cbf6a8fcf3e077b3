"""Tools that are known by their names: those of an agent's own program, and those of servers that look like them."""

import pytest

from app.core.normalise import normalise
from app.core.tool_calls import Risk, read_tool_call
from app.errors import FirewallError, Kind

AGENT = {"type": "agent", "id": "coder", "properties": {}}


def only(name, cwd="/srv/app", **arguments):
    (part,) = read_tool_call(name, arguments, cwd=cwd).parts
    normalise(part.mutation(AGENT))
    return part


def told(call):
    return [f"{part.action['properties']['risk']} {part.resource['type']} {part.resource['id']}" for part in call.parts]


def test_a_file_that_is_written_has_its_text():
    part = only("Write", file_path="src/../a.py", content="x")
    assert part.action == {"name": "write", "properties": {"program": "Write", "risk": "changes"}}
    assert part.resource == {"type": "file", "id": "/srv/app/a.py", "properties": {"path": "src/../a.py"}}
    assert part.change == {"after": {"texts": ["x"]}}


def test_a_file_that_is_edited_has_both():
    part = only("Edit", file_path="/a", old_string="x", new_string="y", replace_all=True)
    assert part.change == {
        "before": {"texts": ["x"], "everywhere": True},
        "after": {"texts": ["y"], "everywhere": True},
    }
    edits = [{"old_string": "a", "new_string": "b"}, {"old_string": "c", "new_string": "d"}]
    part = only("MultiEdit", file_path="/a", edits=edits)
    assert part.change == {"before": {"texts": ["a", "c"]}, "after": {"texts": ["b", "d"]}}


def test_cells_of_notebooks():
    part = only("NotebookEdit", notebook_path="/a.ipynb", new_source="x", cell_id="c")
    assert part.change == {"after": {"texts": ["x"], "mode": "replace", "cell": "c"}}
    part = only("NotebookEdit", notebook_path="/a.ipynb", edit_mode="delete")
    assert part.change["after"]["texts"] == []
    assert (part.action["name"], part.action["properties"]["risk"]) == ("edit", "destroys")


def test_what_is_read_changes_nothing():
    for part in (only("Read", file_path="/a"), only("Glob", pattern="*.py"), only("Grep", pattern="x", path="src")):
        assert part.action["name"] == "read"
        assert part.change["before"] == part.change["after"]
    assert only("LS").resource["id"] == "/srv/app"
    assert only("Glob", pattern="*.py").change["after"]["pattern"] == "*.py"


@pytest.mark.parametrize(
    ("name", "arguments", "pointer"),
    [
        ("Bash", {}, "command"),
        ("Bash", {"command": ["ls"]}, "command"),
        ("Read", {}, "file_path"),
        ("Write", {"file_path": 1, "content": ""}, "file_path"),
        ("Write", {"file_path": "/a"}, "content"),
        ("Write", {"file_path": "/a\u202e", "content": ""}, "file_path"),
        ("Write", {"file_path": "/a\n", "content": ""}, "file_path"),
        ("Edit", {"file_path": "/a", "old_string": "x"}, "new_string"),
        ("MultiEdit", {"file_path": "/a"}, "edits"),
        ("MultiEdit", {"file_path": "/a", "edits": []}, "edits"),
        ("MultiEdit", {"file_path": "/a", "edits": [1]}, "edits"),
        ("NotebookEdit", {"notebook_path": "/a", "new_source": None}, "new_source"),
    ],
)
def test_a_known_tool_of_another_shape_is_refused(name, arguments, pointer):
    with pytest.raises(FirewallError) as caught:
        read_tool_call(name, arguments)
    assert (caught.value.kind, caught.value.pointer) == (Kind.MALFORMED, f"/arguments/{pointer}")


def test_a_tool_of_a_server_never_gets_away_with_less_than_its_call():
    assert told(read_tool_call("Bash", {"command": "ls"}, server="evil")) == [
        "runs tool evil/Bash",
        "reads shell/Command ls",
    ]
    assert told(read_tool_call("Read", {"file_path": "/a"}, server="evil")) == ["runs tool evil/Read"]
    assert told(read_tool_call("run_command", {"cmd": "rm /x"}, server="ops")) == [
        "runs tool ops/run_command",
        "destroys file /x",
    ]
    assert told(read_tool_call("shell", {"command": ["bash", "-lc", "rm /x"]})) == [
        "runs tool shell",
        "destroys file /x",
    ]
    assert told(read_tool_call("shell", {"command": ["echo", "a;rm x"]})) == [
        "runs tool shell",
        "reads shell/Command echo",
    ]
    # What Claude Code watches in the background is a command, where it is no address.
    assert told(read_tool_call("Monitor", {"command": "rm /x; tail -f log", "description": "errors"})) == [
        "runs tool Monitor",
        "destroys file /x",
        "reads shell/Command tail",
    ]
    assert told(read_tool_call("Monitor", {"description": "events"})) == ["runs tool Monitor"]
    assert told(read_tool_call("Monitor", {"command": "start"}, server="grafana")) == ["runs tool grafana/Monitor"]
    assert read_tool_call("shell", {"command": 7}).risk is Risk.UNKNOWN
    assert told(read_tool_call("shell", {})) == ["runs tool shell"]


def test_sql_of_a_server_is_a_statement_beside_its_call():
    call = read_tool_call("query", {"sql": "DELETE FROM t"}, server="postgres-prod")
    assert told(call) == ["runs tool postgres-prod/query", "changes sql/Database postgres-prod"]
    assert call.parts[1].change == {"statement": {"dialect": "postgres", "text": "DELETE FROM t"}}
    said = read_tool_call("run_sql", {"query": "SELECT 1", "dialect": "mysql"}, server="db")
    assert said.parts[1].change["statement"]["dialect"] == "mysql"
    # In which dialect nobody knows, and what two of them read differently is no statement.
    assert len(read_tool_call("query", {"sql": "DELETE FROM t"}, server="db").parts) == 1
    assert len(read_tool_call("query", {"text": "x"}, server="postgres").parts) == 1


def test_hints_raise_each_part():
    call = read_tool_call("Bash", {"command": "ls"}, hints={"destructiveHint": True})
    assert call.risk is Risk.DESTROYS
    shell = read_tool_call("Bash", {"command": "$X"}, hints={"destructiveHint": True})
    assert shell.risk is Risk.UNKNOWN
