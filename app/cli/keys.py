"""`mfw keys`: API keys in the database that the settings name, or in the one of `mfw dev`."""

import asyncio
import os
import pwd
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.metadata import version
from typing import Any, TypeVar
from uuid import UUID

from app.cli.exits import ExitCode
from app.cli.output import Refused, console, plain, table, write_json
from app.cli.state import database_file, private_directory, read_private, state_directory
from app.core.api_key import SECRET_BYTES, generate
from app.core.principal import AuthMethod, Principal, PrincipalKind, Role
from app.errors import FirewallError
from app.persistence import revision
from app.persistence.api_keys import ApiKeyStore, NewApiKey, StoredApiKey
from app.persistence.engine import create_engine
from app.service.keys import KeyService, Rotated, WantedKey
from app.settings import Environment, Settings

# What an agent's runtime needs: ask for decisions, nothing else.
DEFAULT_ROLES = frozenset({Role.AGENT})

T = TypeVar("T")


def run_create(wanted: WantedKey, *, reason: str, as_json: bool) -> None:
    """Make a key and show it, this once. Raises `FirewallError` and `Refused`."""

    async def create(service: KeyService) -> NewApiKey:
        return await service.create(wanted, principal=operator(), reason=reason)

    made = _with_service(create)
    if as_json:
        write_json({"key": made.key, **_row(made.stored)})
        return
    _show_key(made)
    console(stderr=True).print("this is the only time that it is shown; keep it where secrets are kept")


def run_rotate(key_id: UUID, *, grace: timedelta, reason: str, as_json: bool) -> None:
    """Make a key with the rights of another, which ends a while later. Raises `FirewallError` and `Refused`."""

    async def rotate(service: KeyService) -> Rotated:
        return await service.rotate(key_id, principal=operator(), reason=reason, grace=grace)

    rotated = _with_service(rotate)
    if as_json:
        write_json({"key": rotated.new.key, **_row(rotated.new.stored), "replaced": _row(rotated.old)})
        return
    _show_key(rotated.new)
    note = console(stderr=True)
    note.print(f"key {rotated.old.id}, which it replaces, works {_expiry(rotated.old)}")
    note.print("bring the new one to whoever uses the old one until then; this is the only time that it is shown")


def run_list(*, everything: bool, as_json: bool) -> None:
    """Show the keys that work, or all that ever were. Raises `FirewallError` and `Refused`."""

    async def load(store: ApiKeyStore) -> tuple[StoredApiKey, ...]:
        return await (store.list_all() if everything else store.list_active())

    found = _with_store(load)
    if as_json:
        write_json([_row(key) for key in found])
        return
    listing = table("id", "name", "principal", "may", "bounds", "made", "last used", "state")
    for key in found:
        state = f"revoked {_moment(key.revoked_at)}" if key.revoked_at else _expiry(key)
        bounds = ", ".join((*key.subjects, *key.networks)) or "none"
        used = _moment(key.last_used_at) if key.last_used_at else "never"
        cells = (key.id, key.name, key.principal_id, _rights(key), bounds, _moment(key.created_at), used, state)
        listing.add_row(*(plain(cell) for cell in cells))
    console().print(listing if found else "there are no keys; make one with `mfw keys create NAME`")


def run_revoke(key_id: UUID, *, reason: str, force: bool, as_json: bool) -> None:
    """Make a key worthless. Raises `FirewallError` and `Refused`."""

    async def revoke(service: KeyService) -> StoredApiKey:
        return await service.revoke(key_id, principal=operator(), reason=reason, force=force)

    key = _with_service(revoke)
    if as_json:
        write_json(_row(key))
    else:
        console().print(f"key {key.id} ({plain(key.name)}) is revoked; every replica refuses it within seconds")


def run_generate(*, as_json: bool) -> None:
    """Write a key that is in no database: for MFW_AUTH__API_KEYS__BOOTSTRAP."""
    key = generate(secrets.token_bytes(SECRET_BYTES))
    if as_json:
        write_json({"key": key})
        return
    console().print(key, soft_wrap=True)
    console(stderr=True).print(
        "nothing was stored: put it into a secret and name that in MFW_AUTH__API_KEYS__BOOTSTRAP_FILE"
    )


def operator() -> Principal:
    """Who sits at the keyboard, as far as the machine knows; nothing proves it but that they hold the database."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container: a number for a user
        name = f"uid {os.getuid()}"
    return Principal(name, PrincipalKind.USER, frozenset(), AuthMethod.NONE)


def _show_key(made: NewApiKey) -> None:
    # The key alone on standard output, so that KEY=$(mfw keys create ci) works.
    console().print(made.key, soft_wrap=True)
    stored = made.stored
    limited = (("as", stored.subjects), ("from", stored.networks))
    bounds = "".join(f", {what} {', '.join(values)}" for what, values in limited if values)
    console(stderr=True).print(
        plain(f"key {stored.id} for {stored.principal_id}, may {_rights(stored)}{bounds}, {_expiry(stored)}")
    )


def _with_service(act: Callable[[KeyService], Awaitable[T]]) -> T:
    async def run(store: ApiKeyStore) -> T:
        return await act(key_service(store))

    return _with_store(run)


def key_service(store: ApiKeyStore) -> KeyService:
    """What makes and revokes keys for whoever holds the database."""
    return KeyService(
        store,
        clock=partial(datetime.now, UTC),
        entropy=secrets.token_bytes,
        engine=f"mutation-firewall/{version('mutation-firewall')}",
        holds_database=True,
    )


def _with_store(act: Callable[[ApiKeyStore], Awaitable[T]]) -> T:
    async def run(dsn: str) -> T:
        async with key_store(dsn) as store:
            return await act(store)

    with named_database() as dsn:
        return asyncio.run(run(dsn))


@asynccontextmanager
async def key_store(dsn: str) -> AsyncIterator[ApiKeyStore]:
    """A store for a few calls. Raises `FirewallError`."""
    engine = create_engine(dsn, pool_size=1)
    try:
        await revision.check(engine)
        yield ApiKeyStore(engine)
    finally:
        await engine.dispose()


@contextmanager
def named_database() -> Iterator[str]:
    """The database that the settings name; else the development one, started for the moment unless it runs already."""
    environ = dict(os.environ)
    if not any(environ.get(f"MFW_DATABASE__URL{suffix}") for suffix in ("", "_FILE")):
        # Nothing but a development service can be meant, and only on this machine.
        environ["MFW_ENVIRONMENT"] = environ.get("MFW_ENVIRONMENT") or Environment.DEVELOPMENT.value
    settings = Settings.load(environ, rules_for={"database"})
    if (url := settings.database.command_url()) is not None:
        yield url
        return
    from app.persistence.embedded import EmbeddedPostgres

    state = state_directory()
    if not (state / "postgres").exists():
        raise Refused(
            ExitCode.BAD_SETTINGS,
            "there is no database",
            fix="set MFW_DATABASE__URL, or start a service with `mfw dev`",
        )
    server = EmbeddedPostgres(private_directory(state) / "postgres")
    try:
        dsn = server.start()
    except FirewallError:
        # Most likely `mfw dev` has it; then its URL lies where that wrote it.
        running = read_private(database_file(state))
        if running is None:
            raise
        yield running
        return
    try:
        yield dsn
    finally:
        server.stop()


def _row(key: StoredApiKey) -> dict[str, Any]:
    moments = {
        name: None if moment is None else moment.isoformat()
        for name, moment in (
            ("created_at", key.created_at),
            ("expires_at", key.expires_at),
            ("revoked_at", key.revoked_at),
            ("last_used_at", key.last_used_at),
        )
    }
    return {
        "id": str(key.id),
        "name": key.name,
        "principal_id": key.principal_id,
        "roles": sorted(role.value for role in key.roles),
        "scopes": sorted(scope.value for scope in key.scopes),
        "subjects": list(key.subjects),
        "networks": list(key.networks),
        **moments,
        "replaces": None if key.replaces is None else str(key.replaces),
    }


def _rights(key: StoredApiKey) -> str:
    return ", ".join([*sorted(key.roles), *sorted(key.scopes)])


def _expiry(key: StoredApiKey) -> str:
    return f"until {_moment(key.expires_at)}" if key.expires_at else "no expiry"


def _moment(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M}Z"
