"""The canary is denied, and only who has the key says so in words that count."""

from typing import Any

import pytest

from app.core.admission.canary import ANNOTATION, NAME, Canary, flown
from app.core.types import Mutation

KEY = "k" * 32
NONCE = "0123456789abcdef" * 2


def mutation(document: Any, *, kind: str = "core/ConfigMap", name: str = f"default/{NAME}") -> Mutation:
    return Mutation(
        subject={"type": "service", "id": "a", "properties": {}},
        action={"name": "create", "properties": {}},
        resource={"type": kind, "id": name, "properties": {}},
        change={} if document is None else {"after": document},
        context={},
    )


def test_its_denial_has_the_code_of_its_number() -> None:
    canary = Canary(KEY)
    said = canary.denial(mutation(flown("default", NONCE)))
    assert said is not None
    assert canary.proof(NONCE) in said
    assert Canary("another" * 5).proof(NONCE) not in said
    assert canary.proof("f" * 32) not in said


@pytest.mark.parametrize(
    "document",
    [
        None,
        {},
        {"metadata": None},
        {"metadata": {"annotations": None}},
        {"metadata": {"annotations": {ANNOTATION: 7}}},
        {"metadata": {"annotations": {ANNOTATION: "x" * 32}}},
        {"metadata": {"annotations": {ANNOTATION: NONCE + "00"}}},
    ],
)
def test_without_a_number_it_is_denied_all_the_same(document: Any) -> None:
    said = Canary(KEY).denial(mutation(document))
    assert said is not None
    assert "proof" not in said


@pytest.mark.parametrize(
    ("kind", "name"),
    [("core/Secret", f"default/{NAME}"), ("core/ConfigMap", f"{NAME}/other"), ("core/ConfigMap", f"default/{NAME}-2")],
)
def test_nothing_else_is(kind: str, name: str) -> None:
    assert Canary(KEY).denial(mutation(flown("default", NONCE), kind=kind, name=name)) is None
