"""Step 10, what surfaces that answer people have in common: why, in words that are safe wherever they are shown."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from app.core.types import Clause


def clause_in_words(clause: Clause) -> str:
    """Say which part of an expression decided, and what it saw."""
    values = ", ".join(f"`{path}` is {orjson.dumps(value).decode()}" for path, value in clause.values.items())
    return f"because `{clause.text}` is {clause.outcome.value}{f', where {values}' if values else ''}"


def approval_in_words(tree: Mapping[str, Any]) -> str:
    """Say an approval tree in words."""
    for name, joint in (("anyOf", " or "), ("allOf", " and ")):
        parts = tree.get(name)
        if isinstance(parts, Sequence) and not isinstance(parts, str):
            words = [approval_in_words(part) for part in parts]
            return words[0] if len(words) == 1 else f"({joint.join(words)})"
    return f"{tree.get('count', 1)} of group `{tree['group']}`" if "group" in tree else "whoever the policy names"


def shown(text: str, most: int) -> str:
    """A text as a terminal may show it: nothing in it moves the cursor, ends the line or hides what follows."""
    clean = text if text.isprintable() else "".join(map(_shown_character, text))
    return clean if len(clean) <= most else f"{clean[: most - 1]}…"


def _shown_character(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()
