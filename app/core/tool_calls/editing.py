"""The tools of agents' own programs that read and edit files: the texts before and after, by path."""

from collections.abc import Iterator, Mapping
from typing import Final

from app.core.tool_calls.effects import FILE, Effect, nothing_differs, path_of
from app.core.tool_calls.parts import Risk
from app.core.types import JsonObject
from app.errors import FirewallError, Kind

# Where each has the path; a tool that may be called without one means the folder that it runs in.
FILE_TOOLS: Final[Mapping[str, str]] = {
    "Read": "file_path",
    "NotebookRead": "notebook_path",
    "Glob": "path",
    "Grep": "path",
    "LS": "path",
    "Write": "file_path",
    "Edit": "file_path",
    "MultiEdit": "file_path",
    "NotebookEdit": "notebook_path",
}
_READS: Final = frozenset({"Read", "NotebookRead", "Glob", "Grep", "LS"})
_FOLDERS: Final = frozenset({"Glob", "Grep", "LS"})


def file_effects(name: str, arguments: JsonObject, *, cwd: str | None) -> Iterator[Effect]:
    """Give the one effect of a file tool.

    `change.before.texts` and `change.after.texts` are the pieces that are replaced and what replaces them; of a file
    that is written whole only the second is known. Raises FirewallError(MALFORMED).
    """
    member = FILE_TOOLS[name]
    written = arguments.get(member) or ("." if name in _FOLDERS else None)
    if not isinstance(written, str):
        raise _refusal(member, "is not a string")
    if not all(character.isprintable() for character in written):
        raise _refusal(member, "has a character that cannot be shown")
    path = path_of(written, cwd)
    properties = {} if path == written else {"path": written}
    if name in _READS:
        searched = {
            key: value for key, value in arguments.items() if key in {"pattern", "glob"} and isinstance(value, str)
        }
        yield Effect(
            "read", Risk.READS, FILE, path, nothing_differs({"path": path, **searched}), properties, {"program": name}
        )
        return
    action, change = _edited(name, arguments)
    risk = Risk.DESTROYS if action == "delete" else Risk.CHANGES
    yield Effect("edit" if action == "delete" else action, risk, FILE, path, change, properties, {"program": name})


def _edited(name: str, arguments: JsonObject) -> tuple[str, JsonObject]:
    if name == "Write":
        return "write", {"after": {"texts": [_text(arguments, "content")]}}
    if name == "NotebookEdit":
        mode = arguments.get("edit_mode", "replace")
        texts = [] if mode == "delete" else [_text(arguments, "new_source")]
        after: JsonObject = {"texts": texts, "mode": mode, "cell": arguments.get("cell_id")}
        return "delete" if mode == "delete" else "edit", {"after": after}
    edits = [arguments] if name == "Edit" else arguments.get("edits")
    if not isinstance(edits, list) or not edits:
        raise _refusal("edits", "is not a list with anything in it")
    before: list[str] = []
    after_texts: list[str] = []
    every = False
    for edit in edits:
        if not isinstance(edit, dict):
            raise _refusal("edits", "has something that is not an object")
        before.append(_text(edit, "old_string"))
        after_texts.append(_text(edit, "new_string"))
        every = every or edit.get("replace_all") is True
    more: JsonObject = {"everywhere": True} if every else {}
    return "edit", {"before": {"texts": before, **more}, "after": {"texts": after_texts, **more}}


def _text(holder: JsonObject, name: str) -> str:
    value = holder.get(name)
    if not isinstance(value, str):
        raise _refusal(name, "is not a string")
    return value


def _refusal(member: str, fault: str) -> FirewallError:
    return FirewallError(
        Kind.MALFORMED, f"`{member}` {fault}", pointer=f"/arguments/{member}", fix="send the call as it is"
    )
