"""Secrets kept out of what is shown to people: values whose name says what they are.

A mask for terminals and reports, by name alone: it never changes what a policy reads, and a secret under an innocent
name is shown.
"""

import re
from typing import Any

MASK = "********"
_SECRET = re.compile(
    r"pass(?:wd|word|phrase)|secret|token|api[-_]?key|private[-_]?key|access[-_]?key|credential|authorization|cookie"
    r"|connection[-_]?string|\bdsn\b",
    re.IGNORECASE,
)
# The members of a Kubernetes Secret whose own members have any name.
_SECRET_DATA = frozenset({"data", "stringData"})


def is_secret(name: str) -> bool:
    """Tell whether a name says that its value is nobody's to see."""
    return _SECRET.search(name) is not None


def masked(value: Any) -> Any:
    """Copy a JSON value with every secret in it masked."""
    if isinstance(value, list):
        return [masked(item) for item in value]
    if not isinstance(value, dict):
        return value
    # `env: [{name: DB_PASSWORD, value: ...}]`: the name stands beside the value.
    beside = isinstance(value.get("name"), str) and is_secret(value["name"])
    whole = value.get("kind") == "Secret"
    return {
        name: _hidden(item)
        if is_secret(name) or (beside and name == "value") or (whole and name in _SECRET_DATA)
        else masked(item)
        for name, item in value.items()
    }


def _hidden(value: Any) -> Any:
    """Hide every leaf, and keep the shape."""
    if isinstance(value, list):
        return [_hidden(item) for item in value]
    if isinstance(value, dict):
        return {name: _hidden(item) for name, item in value.items()}
    return value if value is None or isinstance(value, bool) else MASK
