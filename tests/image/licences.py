"""Which licences may be in what is shipped."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

ALLOWED: Final = frozenset(
    {
        "0BSD",
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "CNRI-Python",
        "ISC",
        "MIT",
        "MIT-0",
        "MPL-2.0",
        "PSF-2.0",
        "Python-2.0",
        "Unlicense",
        "Zlib",
    }
)


def said(component: Mapping[str, Any]) -> str:
    """The licences of a component of a bill of materials, as one line."""
    found = component.get("licenses", ())
    return " AND ".join(
        one["expression"] if "expression" in one else one["license"].get("id") or one["license"]["name"]
        for one in found
    )


def allowed(text: str) -> bool:
    """Whether all that must hold is allowed: of `A OR B` one will do."""
    inside = text.replace("(", " ").replace(")", " ")
    return all(
        # An exception allows more than its licence; what are not words of an expression is no choice.
        any(choice.partition(" WITH ")[0].strip() in ALLOWED for choice in part.split(" OR "))
        for part in inside.split(" AND ")
    )


def refused(components: Sequence[Mapping[str, Any]]) -> list[str]:
    """Those whose licence is none of these, or none at all."""
    return [f"{one['name']}: {said(one)}" for one in components if not allowed(said(one))]
