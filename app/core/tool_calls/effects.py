"""One thing that a call would do, before it becomes a part of a call."""

import posixpath
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from app.core.tool_calls.parts import Part, Risk, riskier
from app.core.tool_calls.words import Word
from app.core.types import JsonObject

FILE: Final = "file"
COMMAND: Final = "shell/Command"

# An id is compared, indexed and shown: it is no place for a document.
MAX_ID_CHARS: Final = 512
_SCHEME: Final = re.compile(r"[A-Za-z]:[\\/]|~[A-Za-z_]")


class Effect(NamedTuple):
    """An action on a resource with a change and a risk."""

    action: str
    risk: Risk
    of: str
    id: str
    change: JsonObject
    properties: Mapping[str, Any] = {}
    action_properties: Mapping[str, Any] = {}

    def part(self, context: JsonObject) -> Part:
        """The part of a call that this is."""
        return Part(
            action={"name": self.action, "properties": {**self.action_properties, "risk": self.risk.value}},
            resource={"type": self.of, "id": shortened(self.id), "properties": dict(self.properties)},
            change=self.change,
            context=context,
        )


def shortened(text: str) -> str:
    """A text as an id: never empty, and with an end that says that there is more."""
    if len(text) > MAX_ID_CHARS:
        return f"{text[: MAX_ID_CHARS - 1]}…"
    return text or "-"


def nothing_differs(said: JsonObject) -> JsonObject:
    """The change of what only reads: before and after are the same."""
    return {"before": said, "after": said}


def path_of(written: str, cwd: str | None) -> str:
    """Where a path leads, as far as its text says: absolute where the folder is known, without `.` and `..`.

    Does not check: symbolic links, and whether the file system tells upper and lower case apart.
    """
    if _SCHEME.match(written):
        return written
    if written.startswith("/"):
        return posixpath.normpath("/" + written.lstrip("/"))
    if written == "~" or written.startswith("~/"):
        led = posixpath.normpath(written)
        # Above a home nobody knows what there is; `~` must not be lost from the name.
        return led if led == "~" or led.startswith("~/") else written
    if cwd is None:
        return posixpath.normpath(written) if written else written
    return posixpath.normpath(posixpath.join(path_of(cwd, None), written))


def is_around(folder: str, home: str) -> bool:
    """Whether a folder is the one that an agent works in, or holds it: what programs find there they find anyway."""
    return folder == home or home.startswith(folder.rstrip("/") + "/")


def is_within(folder: str, home: str) -> bool:
    """Whether a folder is the one that an agent works in, or lies in it."""
    return folder == home or folder.startswith(home.rstrip("/") + "/")


def leads_straight(written: str) -> bool:
    """Whether a path leads where its words say: behind a link, `..` is another folder."""
    names = [name for name in written.split("/") if name not in ("", ".")]
    return ".." not in names[next((at for at, name in enumerate(names) if name != ".."), len(names)) :]


def at_least(risk: Risk, least: Risk) -> Risk:
    """A risk that cannot be lower than another; what destroys says more than that nothing is known."""
    return risk if risk is Risk.DESTROYS else riskier((risk, least))


def on_file(
    action: str,
    word: Word,
    *,
    cwd: str | None,
    risk: Risk,
    program: str,
    change: "JsonObject | None" = None,
    **said: bool,
) -> Effect:
    """What is done to a file, or to those that a pattern stands for."""
    properties: JsonObject = {}
    if not word.static:
        properties["dynamic"] = True
        risk = Risk.UNKNOWN
    if word.pattern:
        properties["pattern"] = True
    path = path_of(word.text, cwd) if word.static else word.text
    if path != word.text:
        properties["path"] = word.text
    if change is None:
        change = {"before": {"path": path}} if action == "delete" else {"after": {"path": path}}
    told = {name: value for name, value in said.items() if value}
    return Effect(action, risk, FILE, path, change, properties, {"program": program, **told})


def command_effect(
    program: str,
    words: tuple[Word, ...],
    risk: Risk,
    *,
    said: Mapping[str, Any] | None = None,
    **more: Any,
) -> Effect:
    """A program that is run: its words, and what is known of how it is run."""
    after: JsonObject = {"program": program, "arguments": [word.text for word in words], **(said or {}), **more}
    if any(not word.static for word in words):
        after["dynamic"] = True
    if any(word.pattern for word in words):
        after["pattern"] = True
    return Effect("run", risk, COMMAND, program, {"after": after})
