"""API keys, as they are administered: what is asked, and what comes back."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, urlencode

from app.client.answers import Members
from app.client.operations import Call, Operation, Repeat, read_json, written

KEYS: Final = "/v1/keys"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is listed, without its text. Moments are as they came; None is what did not happen, or never will."""

    id: str
    name: str
    principal_id: str
    roles: tuple[str, ...]
    scopes: tuple[str, ...]
    subjects: tuple[str, ...]
    networks: tuple[str, ...]
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    last_used_at: str | None
    replaces: str | None


@dataclass(frozen=True, slots=True)
class NewApiKey:
    """A key that was just made: `text` is shown this once, and in no representation. `replaced` is what it succeeds."""

    text: str = field(repr=False)
    made: ApiKey
    replaced: ApiKey | None = None


@dataclass(frozen=True, slots=True)
class KeyPage:
    """Some of them, the oldest first; `next` is `after` of the next page, None on the last one."""

    items: tuple[ApiKey, ...]
    next: str | None


def create(
    name: str,
    *,
    reason: str,
    roles: Collection[str],
    scopes: Collection[str],
    subjects: Collection[str],
    networks: Collection[str],
    principal_id: str | None,
    expires_in_days: int | None,
) -> Operation[NewApiKey]:
    """Make a key."""
    wanted: dict[str, Any] = {
        "name": name,
        "reason": reason,
        "principal_id": principal_id,
        "roles": list(roles),
        "scopes": list(scopes),
        "subjects": list(subjects),
        "networks": list(networks),
        "expires_in_days": expires_in_days,
    }
    sent = {member: value for member, value in wanted.items() if value not in (None, [])}
    return Operation(Call("POST", KEYS, written(sent), repeat=Repeat.NEVER), read_json(_new_key))


def page(*, limit: int, after: str | None, everything: bool) -> Operation[KeyPage]:
    """A page of keys."""
    query = {"limit": limit, **({"after": after} if after else {}), **({"all": "true"} if everything else {})}
    return Operation(Call("GET", f"{KEYS}?{urlencode(query)}"), read_json(_page))


def one(key_id: str) -> Operation[ApiKey]:
    """One key, whatever became of it."""
    return Operation(Call("GET", _path(key_id)), read_json(_key))


def rotate(key_id: str, *, reason: str, grace_hours: int | None) -> Operation[NewApiKey]:
    """Make the successor of a key."""
    sent = {"reason": reason, **({} if grace_hours is None else {"grace_hours": grace_hours})}
    return Operation(Call("POST", f"{_path(key_id)}/rotate", written(sent), repeat=Repeat.NEVER), read_json(_new_key))


def revoke(key_id: str, *, reason: str, force: bool) -> Operation[ApiKey]:
    """Make a key worthless; once more changes nothing."""
    query = {"reason": reason, **({"force": "true"} if force else {})}
    return Operation(Call("DELETE", f"{_path(key_id)}?{urlencode(query)}"), read_json(_key))


def _path(key_id: str) -> str:
    return f"{KEYS}/{quote(key_id, safe='')}"


def _key(value: Any) -> ApiKey:
    members = Members(value)
    return ApiKey(
        id=members.text("id"),
        name=members.text("name"),
        principal_id=members.text("principal_id"),
        roles=members.texts("roles"),
        scopes=members.texts("scopes"),
        subjects=members.texts("subjects"),
        networks=members.texts("networks"),
        created_at=members.text("created_at"),
        expires_at=members.text_or_none("expires_at"),
        revoked_at=members.text_or_none("revoked_at"),
        last_used_at=members.text_or_none("last_used_at"),
        replaces=members.text_or_none("replaces"),
    )


def _new_key(value: Any) -> NewApiKey:
    members = Members(value)
    replaced = _key(members.mapping("replaced")) if members.has("replaced") else None
    return NewApiKey(members.text("key"), _key(value), replaced)


def _page(value: Any) -> KeyPage:
    members = Members(value)
    return KeyPage(members.items("items", _key), members.text_or_none("next"))
