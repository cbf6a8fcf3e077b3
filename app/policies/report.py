"""Findings for a terminal, for GitHub's annotations and for code scanning (SARIF 2.1.0, OASIS)."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from app.core.types import JsonObject
from app.policies.diagnostics import INVALID, Diagnostic, Severity
from app.policies.lint import MEANINGS

# A line of a file is shown as far as the eye follows it, with the place in the middle.
_LINE_MAX_CHARS = 160
_INFORMATION = "https://mutationfirewall.io/"
_SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
# What the caret underlines: a word, with its dots, or one character.
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def text_lines(found: Diagnostic, *, directory: Path, source: str | None) -> Iterable[tuple[str, str]]:
    """Give one finding as a compiler prints it, line by line, as pairs of a role and a text.

    The roles are `error` or `warning` for the headline, `source`, `caret` and `fix`. `source` is the text of the file.
    """
    place = shown_path(found, directory=directory) + (f":{found.line}:{found.column}" if found.line else "")
    member = f"{found.path}: " if found.path else ""
    yield found.severity.value, f"{place}: {found.severity}: {member}{found.message} [{found.code}]"
    lines = source.split("\n") if source is not None and found.line else []
    gutter = len(str(found.line)) + 1
    if 0 < found.line <= len(lines):
        shown, column = _window(lines[found.line - 1].rstrip("\r"), found.column)
        word = _WORD.match(shown, column - 1)
        width = len(word.group()) if word else 1
        # Tabs stay tabs below themselves, so that the caret stands where the finding is.
        indent = "".join("\t" if c == "\t" else " " for c in shown[: column - 1])
        yield "source", f" {found.line:>{gutter}} | {shown}"
        yield "caret", f" {'':>{gutter}} | {indent}^{'~' * (width - 1)}"
    if found.fix:
        yield "fix", f" {'':>{gutter}} = {found.fix}"


def _window(line: str, column: int) -> tuple[str, int]:
    """Cut a long line down around a column."""
    if len(line) <= _LINE_MAX_CHARS:
        return line, column
    start = max(0, min(column - 1 - _LINE_MAX_CHARS // 2, len(line) - _LINE_MAX_CHARS))
    return line[start : start + _LINE_MAX_CHARS], column - start


def shown_path(found: Diagnostic, *, directory: Path) -> str:
    """Give the file as it is found from here."""
    return str(directory / found.file) if found.file else str(directory)


def github(found: Diagnostic, *, directory: Path) -> str:
    """Write one finding as a workflow command of GitHub Actions."""
    place = {"file": shown_path(found, directory=directory)}
    if found.line:
        place |= {"line": str(found.line), "col": str(found.column)}
    place["title"] = found.code
    properties = ",".join(f"{name}={_escaped(value, more=':,')}" for name, value in place.items())
    member = f"{found.path}: " if found.path else ""
    fix = f"; {found.fix}" if found.fix else ""
    return f"::{found.severity} {properties}::{_escaped(member + found.message + fix)}"


def _escaped(text: str, *, more: str = "") -> str:
    return "".join(f"%{ord(c):02X}" if c in "%\r\n" + more else c for c in text)


def sarif(diagnostics: Sequence[Diagnostic], *, directory: Path, version: str) -> JsonObject:
    """Give all findings as one SARIF 2.1.0 log; places count code points from 1."""
    codes = list(dict.fromkeys([INVALID, *MEANINGS, *(found.code for found in diagnostics)]))
    meanings: Mapping[str, str] = {INVALID: "the policy set is refused", **MEANINGS}
    rules: list[JsonObject] = [
        {
            "id": code,
            "shortDescription": {"text": meanings.get(code, code)},
            "defaultConfiguration": {"level": "error" if code == INVALID else "warning"},
        }
        for code in codes
    ]
    return {
        "$schema": _SARIF_SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "mutation-firewall",
                        "version": version,
                        "informationUri": _INFORMATION,
                        "rules": rules,
                    }
                },
                "columnKind": "unicodeCodePoints",
                "results": [
                    {
                        "ruleId": found.code,
                        "ruleIndex": codes.index(found.code),
                        "level": "error" if found.severity is Severity.ERROR else "warning",
                        "message": {"text": _sentence(found)},
                        "locations": [{"physicalLocation": _location(found, directory=directory)}],
                    }
                    for found in diagnostics
                ],
            }
        ],
    }


def _sentence(found: Diagnostic) -> str:
    member = f"{found.path}: " if found.path else ""
    return f"{member}{found.message}" + (f"; {found.fix}" if found.fix else "")


def _location(found: Diagnostic, *, directory: Path) -> dict[str, Any]:
    path = Path(shown_path(found, directory=directory))
    uri = path.as_uri() if path.is_absolute() else quote(path.as_posix())
    region = {"region": {"startLine": found.line, "startColumn": found.column}} if found.line else {}
    return {"artifactLocation": {"uri": uri}, **region}
