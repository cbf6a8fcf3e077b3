"""`mfw keys`: API keys in the database that the settings name, or in the one of `mfw dev`."""

import asyncio
import os
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from app.cli.exits import ExitCode
from app.cli.output import Refused, console, plain, table, write_json
from app.cli.state import database_file, private_directory, read_private, state_directory
from app.core.principal import Role
from app.errors import FirewallError
from app.persistence import revision
from app.persistence.api_keys import ApiKeyStore, StoredApiKey
from app.persistence.engine import create_engine
from app.settings import Environment, Settings

# What an agent's runtime needs: ask for decisions, nothing else.
DEFAULT_ROLES = frozenset({Role.AGENT})


def run_create(name: str, *, principal: str | None, roles: Collection[Role], days: int | None, as_json: bool) -> None:
    """Make a key and show it, this once. Raises `FirewallError` and `Refused`."""
    expires_at = datetime.now(UTC) + timedelta(days=days) if days is not None else None

    async def create(store: ApiKeyStore) -> Any:
        return await store.create(
            name, principal_id=principal or name, roles=frozenset(roles) or DEFAULT_ROLES, expires_at=expires_at
        )

    made = _with_store(create)
    if as_json:
        write_json({"key": made.key, **_row(made.stored)})
        return
    # The key alone on standard output, so that KEY=$(mfw keys create ci) works.
    console().print(made.key, soft_wrap=True)
    note = console(stderr=True)
    stored = made.stored
    note.print(f"key {stored.id} for {plain(stored.principal_id)}, roles {_roles(stored)}, {_expiry(stored)}")
    note.print("this is the only time that it is shown; keep it where secrets are kept")


def run_list(*, everything: bool, as_json: bool) -> None:
    """Show the keys that work, or all that ever were. Raises `FirewallError` and `Refused`."""

    async def load(store: ApiKeyStore) -> Any:
        return await (store.list_all() if everything else store.list_active())

    found: tuple[StoredApiKey, ...] = _with_store(load)
    if as_json:
        write_json([_row(key) for key in found])
        return
    listing = table("id", "name", "principal", "roles", "made", "state")
    for key in found:
        state = f"revoked {key.revoked_at:%Y-%m-%d %H:%M}Z" if key.revoked_at else _expiry(key)
        cells = (key.id, key.name, key.principal_id, _roles(key), f"{key.created_at:%Y-%m-%d %H:%M}Z", state)
        listing.add_row(*(plain(cell) for cell in cells))
    console().print(listing if found else "there are no keys; make one with `mfw keys create NAME`")


def run_revoke(key_id: UUID, *, as_json: bool) -> None:
    """Make a key worthless. Raises `FirewallError` and `Refused`."""

    async def revoke(store: ApiKeyStore) -> Any:
        return await store.revoke(key_id)

    key: StoredApiKey = _with_store(revoke)
    if as_json:
        write_json(_row(key))
    else:
        console().print(f"key {key.id} ({plain(key.name)}) is revoked; every replica refuses it within seconds")


def _with_store(act: Any) -> Any:
    async def run(dsn: str) -> Any:
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
    if settings.database.url is not None:
        yield settings.database.url.get_secret_value()
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
    return {
        "id": str(key.id),
        "name": key.name,
        "principal_id": key.principal_id,
        "roles": sorted(role.value for role in key.roles),
        "created_at": key.created_at.isoformat(),
        "expires_at": key.expires_at.isoformat() if key.expires_at else None,
        "revoked_at": key.revoked_at.isoformat() if key.revoked_at else None,
    }


def _roles(key: StoredApiKey) -> str:
    return ", ".join(sorted(role.value for role in key.roles))


def _expiry(key: StoredApiKey) -> str:
    return f"until {key.expires_at:%Y-%m-%d %H:%M}Z" if key.expires_at else "no expiry"
