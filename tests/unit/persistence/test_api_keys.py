"""What a stored key says of itself, and what makes no key."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from app.core.api_key import generate, hash_key
from app.core.principal import AccessScope, Role
from app.errors import FirewallError, Kind
from app.persistence.api_keys import PATTERNS_MAX, NewApiKey, StoredApiKey, check_rights

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def stored(**changes: Any) -> StoredApiKey:
    known: dict[str, Any] = {
        "id": UUID(int=1),
        "name": "ci",
        "principal_id": "ci",
        "roles": frozenset(),
        "hash": bytes(32),
        "created_at": NOW,
        "expires_at": None,
        "revoked_at": None,
    }
    return StoredApiKey(**(known | changes))


def test_a_new_key_does_not_show_its_text():
    key = generate(bytes(32))
    stored = StoredApiKey(
        id=UUID(int=1),
        name="ci",
        principal_id="ci",
        roles=frozenset(),
        hash=hash_key(key),
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        expires_at=None,
        revoked_at=None,
    )
    assert key not in repr(NewApiKey(key=key, stored=stored))


def test_what_a_key_permits_is_what_its_roles_and_its_scopes_permit():
    key = stored(roles=frozenset({Role.AGENT}), scopes=frozenset({AccessScope.OPS}))
    assert key.permits == {AccessScope.DECIDE, AccessScope.OPS}
    assert not key.is_admin


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"roles": frozenset({Role.ADMIN})}, True),
        ({"scopes": frozenset(AccessScope)}, True),
        ({"scopes": frozenset({AccessScope.KEYS_ADMIN})}, False),
        ({"roles": frozenset({Role.ADMIN}), "subjects": ("agent:a",)}, False),
    ],
)
def test_who_is_an_administrator(changes, expected):
    assert stored(**changes).is_admin is expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"expires_at": NOW + timedelta(seconds=1)}, True),
        ({"expires_at": NOW}, False),
        ({"revoked_at": NOW - timedelta(days=1)}, False),
    ],
)
def test_which_keys_work(changes, expected):
    assert stored(**changes).is_active(NOW) is expected


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"roles": [], "scopes": []}, "/roles"),
        ({"subjects": ["agent"]}, "/subjects"),
        ({"subjects": ["agent:"]}, "/subjects"),
        ({"subjects": ["agent:a\0"]}, "/subjects"),
        ({"subjects": ["agent:a"] * (PATTERNS_MAX + 1)}, "/subjects"),
        ({"networks": ["10.0.0.1/8"]}, "/networks"),
        ({"networks": ["everywhere"]}, "/networks"),
    ],
)
def test_what_makes_no_key(changes, pointer):
    rights: dict[str, Any] = {
        "principal_id": "ci",
        "roles": [Role.AGENT],
        "scopes": [],
        "subjects": [],
        "networks": [],
        "expires_at": None,
    }
    check_rights("ci", **rights)
    with pytest.raises(FirewallError) as caught:
        check_rights("ci", **(rights | changes))
    assert (caught.value.kind, caught.value.pointer) == (Kind.MALFORMED, pointer)
