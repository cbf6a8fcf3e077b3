"""The uses of budgets: counted under a lock, and added by the transaction that records the decision.

INVARIANT: between `lock` and the end of the transaction nobody else counts or adds uses of these keys, so no two
decisions ever see the same last place.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from app.core.budgets import Count, Tally
from app.core.types import BudgetUse, Effect, Mode, Verdict
from app.errors import FirewallError, Kind

# How far the clock of a replica may be from the database's before it may not judge what a window is. Rows are kept for
# this long beyond their window, so that a replica whose clock is behind still finds all that its window has.
SKEW_MAX: Final = timedelta(minutes=1)
# Rows that no window looks back at, taken away by each decision that adds some: more than it adds, and never a burden.
SWEEP_ROWS: Final = 100

_RETRY_AFTER: Final = 1.0

# The keys come sorted, so two transactions never wait for one another in a circle. Two keys that share 64 bits wait for
# one another without need, and nothing worse. In a statement of its own: what is counted must be seen after the wait.
_LOCK: Final = sa.text("SELECT pg_advisory_xact_lock(key) FROM unnest(:keys) AS key").bindparams(
    sa.bindparam("keys", type_=ARRAY(sa.BigInteger))
)
# Without an upper bound: what a replica with a faster clock added counts as well (docs/adr/0012-budgets.md).
_COUNT: Final = sa.text("""
    SELECT asked.number, found.used, found.distinct_values, found.seen, clock_timestamp() AS at
    FROM unnest(:keys, :values, :since) WITH ORDINALITY AS asked (key, value, since, number)
    CROSS JOIN LATERAL (
        SELECT count(*) AS used, count(DISTINCT uses.value) AS distinct_values,
               coalesce(bool_or(uses.value = asked.value), false) AS seen
        FROM budget_uses AS uses
        WHERE uses.key = asked.key AND uses.decided_at > asked.since
    ) AS found
    ORDER BY asked.number
""").bindparams(
    sa.bindparam("keys", type_=ARRAY(sa.LargeBinary)),
    sa.bindparam("values", type_=ARRAY(sa.LargeBinary)),
    sa.bindparam("since", type_=ARRAY(sa.DateTime(timezone=True))),
)
# One round trip while others wait for the keys. A value needs only its last use; and what no window looks back at goes.
# Both skip what somebody else is taking away, so that nobody ever waits for a row.
_ADD: Final = sa.text("""
    WITH used AS (
        SELECT * FROM unnest(:keys, :values, :policies, :budgets, :expiries, :decisions)
            AS used (key, value, policy, budget, expires_at, decision_id)
    ), replaced AS (
        DELETE FROM budget_uses WHERE ctid = ANY (ARRAY(
            SELECT uses.ctid FROM used JOIN budget_uses AS uses USING (key, value)
            WHERE uses.decided_at <= :now FOR UPDATE OF uses SKIP LOCKED
        ))
    ), swept AS (
        DELETE FROM budget_uses WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM budget_uses WHERE expires_at < clock_timestamp() LIMIT :rows FOR UPDATE SKIP LOCKED
        ))
    )
    INSERT INTO budget_uses (key, decided_at, decision_id, policy, budget, value, expires_at)
    SELECT key, :now, decision_id, policy, budget, value, expires_at FROM used
""").bindparams(
    sa.bindparam("keys", type_=ARRAY(sa.LargeBinary)),
    sa.bindparam("values", type_=ARRAY(sa.LargeBinary)),
    sa.bindparam("policies", type_=ARRAY(sa.Text)),
    sa.bindparam("budgets", type_=ARRAY(sa.Text)),
    sa.bindparam("expiries", type_=ARRAY(sa.DateTime(timezone=True))),
    sa.bindparam("now", type_=sa.DateTime(timezone=True)),
    sa.bindparam("decisions", type_=ARRAY(sa.Uuid)),
)


async def lock(connection: AsyncConnection, uses: Iterable[BudgetUse]) -> None:
    """Wait for everybody who counts one of these keys; they wait for the end of this transaction then.

    Before anything that takes the ledger's head. Raises what the database raises.
    """
    keys = sorted({int.from_bytes(use.key[:8], "big", signed=True) for use in uses})
    await connection.execute(_LOCK, {"keys": keys})


async def count(
    connection: AsyncConnection, uses: Iterable[BudgetUse], *, now: datetime, skew_max: timedelta = SKEW_MAX
) -> Tally:
    """Count what of each budget is used within the window that ends at `now`.

    Raises FirewallError (UNAVAILABLE) where `now` and the database's clock are more than `skew_max` apart, and what the
    database raises. Does not check: that `lock` was called with these uses.
    """
    # Many mutations of one batch may ask for the same.
    asked = tuple({(use.key, use.value): use for use in uses}.values())
    rows = (
        await connection.execute(
            _COUNT,
            {
                "keys": [use.key for use in asked],
                "values": [use.value for use in asked],
                "since": [now - timedelta(seconds=use.window_seconds) for use in asked],
            },
        )
    ).all()
    apart = max((abs(row.at - now) for row in rows), default=timedelta())
    if apart > skew_max:
        raise FirewallError(
            Kind.UNAVAILABLE,
            f"the clocks of this replica and of the database are {apart.total_seconds():.0f} s apart",
            retry_after=_RETRY_AFTER,
            fix="set both by NTP; until then budgets cannot be counted here",
        )
    tally = Tally()
    for use, row in zip(asked, rows, strict=True):
        tally.put(use, Count(row.used if use.value is None else row.distinct_values, row.seen))
    return tally


def taken(verdict: Verdict) -> tuple[BudgetUse, ...]:
    """Give the uses that a decision takes: all of an allow, and none of anything else.

    A budget in shadow that has no room would have said no, and what is not allowed uses nothing: taking it would show
    another truth than the one it will have in force.
    """
    if verdict.effect is not Effect.ALLOW:
        return ()
    return tuple(use for use in verdict.budgets if use.has_room or use.mode is Mode.ENFORCE)


async def add(
    connection: AsyncConnection,
    took: Iterable[tuple[UUID, BudgetUse]],
    *,
    now: datetime,
    skew_max: timedelta = SKEW_MAX,
) -> None:
    """Add the uses of decisions, each with its decision's id, and take away some that no window looks back at any more.

    Raises what the database raises. Does not check: that `lock` was called with these uses.
    """
    # A value needs its last use alone, also within one batch.
    rows = {(use.key, use.value if use.value is not None else decision): (decision, use) for decision, use in took}
    uses = [use for _, use in rows.values()]
    await connection.execute(
        _ADD,
        {
            "keys": [use.key for use in uses],
            "values": [use.value for use in uses],
            "policies": [use.policy for use in uses],
            "budgets": [use.budget for use in uses],
            "expiries": [now + timedelta(seconds=use.window_seconds) + skew_max for use in uses],
            "now": now,
            "decisions": [decision for decision, _ in rows.values()],
            "rows": SWEEP_ROWS,
        },
    )
