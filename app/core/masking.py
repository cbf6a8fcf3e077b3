"""Secrets kept out of what is shown: values whose name, or whose place in a document, says what they are.

A mask by name alone, for reasons, terminals and reports. It never changes what a policy reads, and a secret under an
innocent name is shown.
"""

import re
from functools import lru_cache
from typing import Any

MASK = "***"
_SECRET = re.compile(
    r"pass(?:wd|word|phrase)|secret|token|api[-_ ]?key|private[-_ ]?key|access[-_ ]?key|credential|authorization|cookie"
    r"|connection[-_ ]?string|\bdsn\b",
    re.IGNORECASE,
)
# The members of a Kubernetes Secret whose own members have any name.
SECRET_DATA = frozenset({"data", "stringData"})
# `env: [{name: DB_PASSWORD, value: ...}]` and `{"op": "add", "path": "/spec/password", "value": ...}`: the name stands
# beside the value.
_BESIDE = ("name", "key", "path")
_VALUE = "value"
# A longer name comes from data, and is not kept.
_CACHED_MAX_CHARS = 100


def is_secret(name: str) -> bool:
    """Tell whether a name says that its value is nobody's to see."""
    return _is_secret(name) if len(name) <= _CACHED_MAX_CHARS else _SECRET.search(name) is not None


@lru_cache(maxsize=2048)  # the names of a policy set, and of the documents it sees
def _is_secret(name: str) -> bool:
    return _SECRET.search(name) is not None


def hides(container: Any, member: Any) -> bool:
    """Tell whether a member of a map is nobody's to see, by its own name or by what stands beside it."""
    if not isinstance(member, str) or not isinstance(container, dict):
        return False
    return is_secret(member) or hides_by_neighbour(container, member)


def hides_by_neighbour(container: dict[str, Any], member: str) -> bool:
    """Tell whether a member is nobody's to see by what stands beside it, whatever its own name."""
    if member == _VALUE:
        return any(isinstance(name := container.get(beside), str) and is_secret(name) for beside in _BESIDE)
    return member in SECRET_DATA and container.get("kind") == "Secret"


def about_secrets(inputs: dict[str, Any]) -> bool:
    """Tell whether a change is one of a Kubernetes Secret, so that `data` anywhere in it is nobody's to see."""
    change = inputs.get("change")
    objects = (change.get("before"), change.get("after")) if isinstance(change, dict) else ()
    resource = inputs.get("resource")
    kind = resource.get("type") if isinstance(resource, dict) else None
    return (isinstance(kind, str) and kind.rpartition("/")[2] in {"Secret", "secrets"}) or any(
        isinstance(one, dict) and one.get("kind") == "Secret" for one in objects
    )


def masked(value: Any, *, data: bool = False) -> Any:
    """Copy a JSON value with every secret in it masked; with `data`, also what maps have as `data` and `stringData`."""
    if isinstance(value, list):
        return [masked(item, data=data) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: _hidden(item) if hides(value, name) or (data and name in SECRET_DATA) else masked(item, data=data)
        for name, item in value.items()
    }


def _hidden(value: Any) -> Any:
    """Hide every leaf, and keep the shape."""
    if isinstance(value, list):
        return [_hidden(item) for item in value]
    if isinstance(value, dict):
        return {name: _hidden(item) for name, item in value.items()}
    return value if value is None or isinstance(value, bool) else MASK
