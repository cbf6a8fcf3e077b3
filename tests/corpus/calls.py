"""The cases of the corpus that a tool call becomes, as that call: what an agent would have written."""

from typing import Any

from tests.corpus.cases import Case


def call_of(case: Case) -> dict[str, Any] | None:
    """A generic tool call (`/agents/v1/tool-call`) of which the case is a part; None for what no call becomes."""
    context = case.mutation.get("context", {})
    if "tool" not in context:
        return None
    tool = context["tool"]
    body = {"name": tool["name"], "arguments": _arguments(case), "subject": case.mutation["subject"]}
    more = {"cwd": context.get("cwd"), "server": tool.get("server"), "annotations": tool.get("hints")}
    return body | {name: value for name, value in more.items() if value is not None}


def _arguments(case: Case) -> dict[str, Any]:
    resource, context = case.mutation["resource"], case.mutation["context"]
    if "command" in context:
        return {"command": context["command"], **context["tool"].get("options", {})}
    before, after = (case.mutation["change"].get(side) for side in ("before", "after"))
    if resource["type"] == "tool":
        return dict(after)
    path = resource.get("properties", {}).get("path", resource["id"])
    match context["tool"]["name"]:
        case "Read":
            return {"file_path": path}
        case "Grep":
            return dict(after) | {"path": path}
        case "Write":
            return {"file_path": path, "content": after["texts"][0]}
        case "Edit":
            return {"file_path": path, "old_string": before["texts"][0], "new_string": after["texts"][0]}
        case "NotebookEdit":
            return {"notebook_path": path, "edit_mode": after["mode"], "cell_id": after["cell"], "new_source": ""}
    raise AssertionError(f"no call is known for {case.name}")
