"""What of Kubernetes' library for JSON patches a validation can use."""

from typing import Any

from app.core.cel.budget import Budget, spend_characters
from app.core.cel.values import no_overload


def escape_key(key: Any, budget: Budget) -> str:
    """`jsonpatch.escapeKey(key)`: a key as part of a JSON pointer (RFC 6901, section 3)."""
    if type(key) is not str:
        raise no_overload("jsonpatch.escapeKey", key)
    spend_characters(budget, len(key))
    escaped = key.replace("~", "~0").replace("/", "~1")
    spend_characters(budget, len(escaped))
    return escaped
