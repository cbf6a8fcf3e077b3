"""`kill -9` while requests under an `Idempotency-Key` are answered: the same key gets one answer, with one entry."""

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import httpx
import pytest

from app.core.principal import Role
from tests.integration.service.conftest import STARTER, UNHURRIED, apart, make_key

ROOT = Path(__file__).resolve().parents[3]
MORTAL = Path(__file__).with_name("mortal.py")
GOOD = json.loads((ROOT / "examples" / "allow-k8s-deployment-scaled.json").read_bytes())
ONE, BATCH = "/v1/decisions", "/v1/decisions:batch"
BODIES = {ONE: GOOD, BATCH: {"mutations": [GOOD, GOOD, GOOD], "mode": "atomic"}}

TIMES = int(os.environ.get("MFW_TEST_CRASHES", "12"))
CALLERS = 6
LIVED_SECONDS = (
    0.25  # after the first answer; each part of it once, and random within, so that death comes at any instruction
)


class Mortal:
    """Services on one database, one after the other; `answers` are those that reached a client, by route and key."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.key = make_key(dsn, Role.AGENT)
        self.answers: dict[tuple[str, str], bytes] = {}
        self.pid = 0
        self._parent = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.service.mortal"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith("MFW_")},
                "MFW_ENVIRONMENT": "test",
                "MFW_DATABASE__URL": dsn,
                "MFW_DATABASE__POOL_SIZE": "4",
                "MFW_POLICIES__DIRECTORY": str(STARTER),
                "MFW_METRICS__ENABLED": "false",
                "MFW_LIMITS__PER_MINUTE": "1000000",
                "MFW_LIMITS__BURST": "100000",
                "MFW_LIMITS__BATCH_PER_MINUTE": "1000000",
                "MFW_LIMITS__BATCH_BURST": "100000",
                "MFW_LOGGING__LEVEL": "error",
                **UNHURRIED,
            },
        )

    def start(self, instant: str = "") -> str:
        """Its URL; it listens already, and answers in a moment."""
        assert self._parent.stdin is not None
        self._parent.stdin.write(f"start {instant}\n".encode())
        self._parent.stdin.flush()
        pid, port = self._said().split()
        self.pid = int(pid)
        return f"http://127.0.0.1:{port}"

    def kill(self) -> None:
        """Now, whatever it does; nothing where it killed itself."""
        # Its parent has not heard of its death before it says so: the number is not another's.
        os.kill(self.pid, signal.SIGKILL)
        self.dead()

    def dead(self) -> None:
        """Wait until it is."""
        assert self._said() == "dead"

    def _said(self) -> str:
        assert self._parent.stdout is not None
        return self._parent.stdout.readline().decode().strip()

    def end(self) -> None:
        self._parent.kill()
        self._parent.communicate()

    async def ask(self, client: httpx.AsyncClient, route: str, key: str) -> None:
        """Send it, and hold the answer against the one that came before."""
        answer = await client.post(route, json=BODIES[route], headers={"Idempotency-Key": key})
        assert answer.status_code == 200, answer.text
        assert self.answers.setdefault((route, key), answer.content) == answer.content

    def client(self, url: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {self.key}"}, timeout=130)

    def verify(self, keys: set[tuple[str, str]]) -> None:
        """As many entries as were asked for, without a gap, each where its answer says."""
        assert self.answers.keys() == keys

        async def read() -> dict[str, int]:
            connection = await asyncpg.connect(self.dsn)
            try:
                rows = await connection.fetch("SELECT idx, id FROM ledger_entries WHERE kind = 'decision' ORDER BY idx")
                return {str(row["id"]): row["idx"] for row in rows}
            finally:
                await connection.close()

        written = apart(read())
        told = {}
        for (route, _), answer in self.answers.items():
            tree = json.loads(answer)
            told.update({one["id"]: one["ledger_index"] for one in (tree["results"] if route == BATCH else [tree])})
        assert told == written


@pytest.fixture
def mortal(database_dsn) -> Iterator[Mortal]:
    made = Mortal(database_dsn)
    yield made
    made.end()


@pytest.mark.parametrize("route", [ONE, BATCH])
@pytest.mark.parametrize("instant", ["stored", "committed"])
async def test_between_the_commit_and_the_answer(mortal, instant, route):
    async with mortal.client(mortal.start(instant)) as client:
        with pytest.raises(httpx.TransportError):
            await mortal.ask(client, route, "k")
    mortal.dead()
    # Before its COMMIT nothing is there, after it all of it is.
    kept = instant == "committed"
    async with mortal.client(mortal.start()) as client:
        answer = await client.post(route, json=BODIES[route], headers={"Idempotency-Key": "k"})
        assert answer.status_code == 200
        assert ("idempotency-replayed" in answer.headers) == kept
        mortal.answers[route, "k"] = answer.content
        await mortal.ask(client, route, "k")
    mortal.kill()
    mortal.verify({(route, "k")})


@pytest.mark.slow
@pytest.mark.timeout(900 + 10 * TIMES)
async def test_at_any_instant(mortal):
    asked: set[tuple[str, str]] = set()
    in_doubt: set[tuple[str, str]] = set()
    for life in range(TIMES):
        url = mortal.start()
        before = len(mortal.answers)

        async def caller(number: int, life: int = life, url: str = url) -> None:
            route = BATCH if number % 3 == 2 else ONE
            async with mortal.client(url) as client:
                with contextlib.suppress(httpx.TransportError):
                    # What the one before left open comes first, as a client does it.
                    for old in [one for one in sorted(in_doubt) if hash(one) % CALLERS == number]:
                        await mortal.ask(client, *old)
                        in_doubt.discard(old)
                    for count in range(1_000):
                        one = (route, f"{life}-{number}-{count}")
                        asked.add(one)
                        in_doubt.add(one)
                        await mortal.ask(client, *one)
                        in_doubt.discard(one)

        callers = [asyncio.create_task(caller(number)) for number in range(CALLERS)]
        while len(mortal.answers) == before and not all(one.done() for one in callers):
            await asyncio.sleep(0.002)
        await asyncio.sleep(LIVED_SECONDS * (life + random.random()) / TIMES)
        mortal.kill()
        await asyncio.gather(*callers)
    async with mortal.client(mortal.start()) as client:
        for one in sorted(asked):
            if one in in_doubt or random.random() < 0.2:
                await mortal.ask(client, *one)
    mortal.kill()
    assert len(asked) > TIMES
    mortal.verify(asked)
