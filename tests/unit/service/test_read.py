"""Who asked for a decision may read it; in doubt nobody did."""

import pytest

from app.core.principal import AuthMethod, Principal, PrincipalKind, Role, subject_patterns
from app.service.read import _is_own

AGENT = {"type": "agent", "id": "deploy-1"}


def principal(*, name="mine", kind=PrincipalKind.AGENT, method=AuthMethod.API_KEY, subjects=None):
    binding = None if subjects is None else subject_patterns(subjects)
    return Principal(name, kind, frozenset({Role.AGENT}), method, binding=binding)


def record(subject=AGENT, *, who=None):
    asked = {"id": "mine", "kind": "agent", "method": "api_key", "roles": ["agent"]}
    return {"principal": asked if who is None else who, "input": {"subject": subject}}


def test_who_asked_reads_it():
    assert _is_own(record(), principal())
    assert _is_own(record(), principal(subjects=["agent:deploy-*"]))


@pytest.mark.parametrize(
    "other",
    [
        principal(name="other"),
        principal(kind=PrincipalKind.SERVICE),
        principal(method=AuthMethod.JWT),
        principal(subjects=["agent:build-*"]),
        principal(subjects=[]),
    ],
)
def test_nobody_else_does(other):
    assert not _is_own(record(), other)


@pytest.mark.parametrize(
    "kept",
    [
        None,
        {},
        record(who="masked"),
        record(who={}),
        record(subject="masked"),
        record(subject={"type": "agent"}),
        record(subject={"type": "agent", "id": {"hash": "x"}}),
        {**record(), "input": "masked"},
        {**record(), "input": None},
    ],
)
def test_doubt_is_no(kept):
    assert not _is_own(kept, principal(subjects=["*:*"]))
