"""Whether the stored data is what it should be: the whole of it or a sample, without getting into anybody's way.

    (1) schema      the revision, then constraints, triggers, indexes, partitions
    (2) beside      what lies beside the log agrees with it
    (3) published   the tree above its leaves, its root, every checkpoint
    (4) log         entry by entry, in slices, each a short transaction of its own that can only read
    (5) repair      if wanted, and only what can be made again or has had its time

`python -m app.ops.integrity` for a job, `mfw integrity check` for a person.
"""

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg

from app.core.integrity import IntegrityCheck
from app.errors import FirewallError, Kind
from app.ops.entries import SLICE, Seen, check_slice
from app.ops.findings import Finding, Findings
from app.ops.published import check_published
from app.ops.references import QUESTIONS, SAME_IDS, ask
from app.ops.repair import repair
from app.ops.structure import check_structure
from app.persistence import revision
from app.persistence.engine import DATABASE_ERRORS, connect, create_engine, explained
from app.persistence.operation_runs import Operation, OperationRuns, Outcome, Run
from app.settings import Settings, SettingsError

# Seconds. A question beside the log reads a table; a slice takes a tenth of a second.
STATEMENT_TIMEOUT: Final = 300.0
# Of the time: the rest is left to others.
PACE: Final = 0.5
# Seconds between two notes of how far it is.
_SAVED_EVERY: Final = 5.0
_SETTINGS: Final = {
    "application_name": "mutation-firewall integrity",
    "default_transaction_read_only": "on",
    "lock_timeout": "5s",
}
EXIT_CLEAN: Final = 0
EXIT_FINDINGS: Final = 1
EXIT_USAGE: Final = 2
EXIT_FAILED: Final = 3

# Told after each slice: how many entries were looked at, and how many there are to look at.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to do. `sample` is a percentage of the log's slices, 100 for all; `pace` the share of the time to use.

    `resume` goes on where an interrupted run stopped. `record` says whether the run leaves a row, for the metrics.
    """

    sample: float = 100.0
    resume: bool = False
    repair: bool = False
    record: bool = True
    pace: float = PACE
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What was looked at and what was found. `resumed_at` is the index of the first entry of this part of a run."""

    started_at: datetime
    seconds: float
    entries: int
    looked_at: int
    resumed_at: int | None
    seed: int | None
    findings: tuple[Finding, ...] = field(default=())

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return not self.findings


async def run(
    dsn: str,
    wanted: Wanted,
    *,
    progress: Progress | None = None,
    clock: Callable[[], datetime] | None = None,
) -> Report:
    """Look at the data of a database.

    Raises FirewallError (UNAVAILABLE, TIMEOUT); the run can then be resumed. Findings are no error.
    """
    if not 0 < wanted.sample <= 100 or not 0 < wanted.pace <= 1:
        raise FirewallError(
            Kind.MALFORMED,
            "a sample is a percentage above 0, and a pace a share of the time above 0",
            fix="for example `--sample 5 --pace 0.5`",
        )
    engine = create_engine(dsn, pool_size=1)
    try:
        try:
            async with engine.connect() as connection:
                found = await revision.standing(connection)
        except DATABASE_ERRORS as error:
            raise explained(error) from error
        try:
            revision.judge(found)
        except FirewallError as error:
            # Questions for another schema would be about nothing.
            findings = Findings()
            findings.add(IntegrityCheck.SCHEMA, error.detail)
            now = (clock or _now)()
            return Report(now, 0.0, 0, 0, None, None, findings.all())
        runs = OperationRuns(engine) if wanted.record else None
        return await _Check(dsn, wanted, runs=runs, progress=progress or _silent, clock=clock or _now).run()
    finally:
        await engine.dispose()


class _Check:
    """One run, on a connection of its own that cannot write."""

    def __init__(
        self,
        dsn: str,
        wanted: Wanted,
        *,
        runs: OperationRuns | None,
        progress: Progress,
        clock: Callable[[], datetime],
    ) -> None:
        self._dsn = dsn
        self._wanted = wanted
        self._runs = runs
        self._progress = progress
        self._clock = clock
        self._findings = Findings()
        self._seen = Seen()
        self._run: Run | None = None
        self._saved = time.monotonic()

    async def run(self) -> Report:
        started_at, began = self._clock(), time.monotonic()
        position = 0
        seed = self._wanted.seed if self._wanted.seed is not None else random.SystemRandom().randrange(2**32)
        sample = self._wanted.sample
        interrupted = None
        if self._runs is not None:
            if self._wanted.resume:
                interrupted = await self._runs.unfinished(Operation.INTEGRITY)
            if interrupted is None:
                self._run = await self._runs.begin(Operation.INTEGRITY, details={"sample": sample, "seed": seed})
            else:
                self._run = interrupted
                position = interrupted.position
                sample = float(interrupted.details.get("sample", sample))
                seed = int(interrupted.details.get("seed", seed))
                self._findings = Findings(interrupted.issues, interrupted.details.get("examples"))
                self._seen.keys |= set(interrupted.details.get("keys", ()))
        try:
            size, looked_at = await self._look(position, sample=sample, seed=seed)
            if self._wanted.repair:
                await repair(self._dsn, self._findings, search=self._seen.search)
        except DATABASE_ERRORS as error:
            raise explained(error) from error
        report = Report(
            started_at=started_at,
            seconds=time.monotonic() - began,
            entries=size,
            looked_at=looked_at,
            resumed_at=position if interrupted is not None else None,
            seed=seed if sample < 100 else None,
            findings=self._findings.all(),
        )
        if self._runs is not None and self._run is not None:
            await self._runs.finish(
                self._run.id,
                Outcome.OK if report.clean else Outcome.FINDINGS,
                issues=self._findings.counts,
                details={
                    "sample": sample,
                    "seed": seed,
                    "entries": size,
                    "looked_at": looked_at,
                    "examples": self._findings.examples,
                },
            )
        return report

    async def _look(self, position: int, *, sample: float, seed: int) -> tuple[int, int]:
        """Steps (1) to (4); gives the size of the ledger and how many entries were looked at."""
        connection = await connect(self._dsn, statement_timeout=STATEMENT_TIMEOUT, settings=_SETTINGS)
        try:
            if position == 0:
                await self._beside(connection)
            size: int = await connection.fetchval("SELECT next_index FROM ledger_head") or 0
            starts = _slices(size, sample=sample, seed=seed)
            looked_at = sum(min(SLICE, size - start) for start in starts if start < position)
            total = sum(min(SLICE, size - start) for start in starts)
            for start in starts:
                if start < position:
                    continue
                began = time.monotonic()
                end = min(start + SLICE, size)
                async with connection.transaction(isolation="repeatable_read", readonly=True):
                    await check_slice(connection, start, end, findings=self._findings, seen=self._seen)
                looked_at += end - start
                self._progress(looked_at, total)
                # What comes into the last slice meanwhile is not to be passed over.
                await self._save(end if end % SLICE == 0 else start, sample=sample, seed=seed)
                await asyncio.sleep((time.monotonic() - began) * (1 / self._wanted.pace - 1))
            if sample >= 100:
                await self._check_keys(connection)
            return size, looked_at
        finally:
            # What broke it may still hold it.
            connection.terminate()

    async def _beside(self, connection: "asyncpg.Connection[Any]") -> None:
        """Steps (1) to (3); one snapshot for what is compared with one another."""
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            await check_structure(connection, self._findings)
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            for question in QUESTIONS:
                await ask(connection, question, self._findings)
            if self._findings.has(IntegrityCheck.INDEXES):
                await ask(connection, SAME_IDS, self._findings)
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            await check_published(connection, self._findings)

    async def _check_keys(self, connection: "asyncpg.Connection[Any]") -> None:
        """After the whole log was read: a key whose making it does not have was put into the table past the service."""
        # Made a moment ago, it may have an entry that was not there when its slice was read.
        rows = await connection.fetch("SELECT id, name FROM api_keys WHERE created_at < $1", self._since())
        for row in rows:
            if str(row["id"]) not in self._seen.keys:
                self._findings.add(IntegrityCheck.KEYS, f"key {row['id']}, `{row['name']}`, has no entry in the ledger")

    def _since(self) -> datetime:
        return self._clock() if self._run is None else self._run.started_at

    async def _save(self, position: int, *, sample: float, seed: int) -> None:
        if self._runs is None or self._run is None or time.monotonic() - self._saved < _SAVED_EVERY:
            return
        self._saved = time.monotonic()
        await self._runs.save(
            self._run.id,
            position=position,
            issues=self._findings.counts,
            details={
                "sample": sample,
                "seed": seed,
                "examples": self._findings.examples,
                "keys": sorted(self._seen.keys),
            },
        )


def _slices(size: int, *, sample: float, seed: int) -> list[int]:
    """Where the slices start that are looked at: all, or some by chance, always the first and the last."""
    starts = list(range(0, size, SLICE))
    if sample >= 100 or len(starts) <= 2:
        return starts
    # The same ones when an interrupted run goes on: entries that came meanwhile must not change what was drawn.
    return [
        start
        for start in starts
        if start in {starts[0], starts[-1]} or random.Random(seed * 1_000_003 + start).random() < sample / 100  # noqa: S311 - a sample
    ]


def _silent(_done: int, _all: int) -> None:
    pass


def _now() -> datetime:
    return datetime.now(UTC)


def main(arguments: Sequence[str] | None = None) -> int:
    """Look at the database that the settings name and give the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m app.ops.integrity",
        description="Check the integrity of the stored data. Changes nothing unless `--repair` is given.",
        epilog=f"exit codes:\n  {EXIT_CLEAN}  nothing was found\n  {EXIT_FINDINGS}  something was found\n"
        f"  {EXIT_USAGE}  the command line or the settings are wrong\n  {EXIT_FAILED}  it could not be done",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sample", type=float, default=100.0, metavar="PERCENT", help="of the log (default: all)")
    parser.add_argument("--pace", type=float, default=PACE, metavar="SHARE", help=f"of the time (default {PACE:g})")
    parser.add_argument("--resume", action="store_true", help="go on where an interrupted run stopped")
    parser.add_argument("--repair", action="store_true", help="put right what can be made again or has had its time")
    parser.add_argument(
        "--no-record", action="store_true", help="leave no row for the metrics; needs no right to write"
    )
    given = parser.parse_args(arguments)
    wanted = Wanted(
        sample=given.sample,
        pace=given.pace,
        resume=given.resume,
        repair=given.repair,
        record=not given.no_record,
    )
    try:
        url = Settings.load(rules_for={"database"}).database.command_url()
        if url is None:
            sys.stderr.write("error: no database is named\n  fix: set MFW_DATABASE__URL\n")
            return EXIT_USAGE
        report = asyncio.run(run(url, wanted))
    except SettingsError as error:
        for problem in error.problems:
            sys.stderr.write(f"error: {problem.variable}: {problem.detail}\n  fix: {problem.fix}\n")
        return EXIT_USAGE
    except FirewallError as error:
        sys.stderr.write(f"error: {error.detail}\n" + (f"  fix: {error.fix}\n" if error.fix else ""))
        return EXIT_USAGE if error.kind is Kind.MALFORMED else EXIT_FAILED
    for one in report.findings:
        sys.stdout.write(f"{one.severity}: {one.check}: {one.count}\n")
        sys.stdout.writelines(f"  {example}\n" for example in one.examples)
        sys.stdout.write(f"  {'repaired' if one.repaired else 'fix'}: {one.repaired or one.fix}\n")
    sys.stdout.write(f"{report.looked_at} of {report.entries} entries looked at in {report.seconds:.1f} s\n")
    return EXIT_CLEAN if report.clean else EXIT_FINDINGS


if __name__ == "__main__":
    sys.exit(main())
