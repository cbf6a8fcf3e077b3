"""What jobs found is known soon, and stays known while nothing can be read."""

import asyncio
from datetime import UTC, datetime

from app.core.integrity import IntegrityCheck
from app.errors import FirewallError, Kind
from app.observability.metrics import Metrics
from app.persistence.operation_runs import Latest
from app.persistence.upkeep import Upkeep

MOMENT = datetime(2026, 6, 1, tzinfo=UTC)


def shown(upkeep):
    metrics = Metrics(version="test")
    metrics.watch_upkeep(upkeep.issues, integrity_at=lambda: upkeep.integrity_at, backup_at=lambda: upkeep.backup_at)
    value = metrics.registry.get_sample_value
    return {
        "gaps": value("mfw_integrity_issues", {"check": "gaps"}),
        "keys": value("mfw_integrity_issues", {"check": "keys"}),
        "integrity": value("mfw_integrity_last_success_timestamp_seconds"),
        "backup": value("mfw_backup_last_success_timestamp_seconds"),
    }


async def test_what_is_found_is_shown():
    found = [Latest(None, None, {}), Latest(MOMENT, MOMENT, {"gaps": 2})]

    async def load():
        return found[-1]

    upkeep = Upkeep(load)
    assert shown(upkeep) == {"gaps": 0, "keys": 0, "integrity": 0, "backup": 0}
    await upkeep.refresh()
    seconds = MOMENT.timestamp()
    assert shown(upkeep) == {"gaps": 2, "keys": 0, "integrity": seconds, "backup": seconds}
    found.pop()
    await upkeep.refresh()
    assert shown(upkeep) == {"gaps": 0, "keys": 0, "integrity": 0, "backup": 0}


async def test_what_is_known_stays_while_nothing_can_be_read(caplog):
    answers = [
        Latest(MOMENT, None, {"keys": 1}),
        FirewallError(Kind.UNAVAILABLE, "away"),
        FirewallError(Kind.UNAVAILABLE, "away"),
    ]

    async def load():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    upkeep = Upkeep(load)
    for _ in range(3):
        await upkeep.refresh()
    assert upkeep.issues(IntegrityCheck.KEYS) == 1
    # Said once.
    assert len(caplog.records) == 1


async def test_it_looks_again_and_again_until_it_is_stopped():
    looked = asyncio.Event()
    count = 0

    async def load():
        nonlocal count
        count += 1
        if count == 3:
            looked.set()
        return Latest(None, None, {})

    upkeep = Upkeep(load, poll_seconds=0.001)
    await upkeep.start()
    await asyncio.wait_for(looked.wait(), 60)
    await upkeep.stop()
    await upkeep.stop()
    assert count >= 3


def test_every_check_has_its_series_from_the_start():
    metrics = Metrics(version="test")
    for check in IntegrityCheck:
        assert metrics.registry.get_sample_value("mfw_integrity_issues", {"check": check.value}) == 0
