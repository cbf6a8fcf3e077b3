"""`mfw ledger replay`: every decision again, in as many processes as there are cores."""

import asyncio
import multiprocessing
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from app.cli.auditing.progress import progress
from app.cli.auditing.sources import Place, check_schema, open_source
from app.cli.exits import ExitCode
from app.cli.output import Refused, console, plain, table, write_json
from app.core.index import CompiledPolicySet
from app.errors import FirewallError, Kind
from app.ledger.files import write_file
from app.ledger.rows import LedgerSource
from app.policies.load import load_directory
from app.service.replay import Difference, PolicySets, Replayer, Result, Tally, Timeline, flip_order

# Kubernetes numbers the pods of an Indexed Job with it, from 0.
INDEX_VARIABLE: Final = "JOB_COMPLETION_INDEX"
_SHARD: Final = re.compile(r"([0-9]{0,6})/([0-9]{1,6})")


class Shard(NamedTuple):
    """Which part of the work is ours: of every `of` pieces the one with this number, from 0."""

    number: int = 0
    of: int = 1


@dataclass(frozen=True, slots=True)
class Work:
    """What every process needs to know."""

    place: Place
    policies: tuple[Path, ...]
    lag_max: timedelta


@dataclass(frozen=True, slots=True)
class Replayed:
    """What was replayed, from which entry up to before which, and what came of it."""

    start: int
    end: int
    shard: Shard
    workers: int
    seconds: float
    tally: Tally


def read_shard(text: str | None) -> Shard:
    """`I/N`, or `/N` with I from JOB_COMPLETION_INDEX. Raises `Refused`."""
    if text is None:
        return Shard()
    found = _SHARD.fullmatch(text)
    number = (found[1] or os.environ.get(INDEX_VARIABLE, "")) if found else ""
    if found is None or not number.isascii() or not number.isdigit() or not int(number) < int(found[2]):
        raise Refused(
            ExitCode.USAGE,
            f"`{text}` is no shard",
            fix=f"write `0/4` to `3/4`, or `/4` where {INDEX_VARIABLE} has the number",
        )
    return Shard(int(number), int(found[2]))


def run_replay(
    place: Place,
    *,
    start: int,
    end: int | None,
    shard: Shard,
    workers: int | None,
    policies: Sequence[Path],
    lag_max: timedelta,
    report: Path | None,
    as_json: bool,
) -> ExitCode:
    """Replay and report. Raises `FirewallError` and `Refused`."""
    work = Work(place, tuple(policies), lag_max)
    replayed = replay(work, start=start, end=end, shard=shard, workers=workers)
    told = to_json(replayed)
    if report is not None:
        import orjson

        write_file(report, orjson.dumps(told, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    if as_json:
        write_json(told)
    else:
        _show(replayed)
    return ExitCode.OK if replayed.tally.agrees else ExitCode.FAILED


def replay(work: Work, *, start: int, end: int | None, shard: Shard, workers: int | None) -> Replayed:
    """Replay the entries from `start` up to before `end`, by default all that there are now. Raises FirewallError."""
    began = time.monotonic()
    size, piece = asyncio.run(_measured(work.place))
    end = size if end is None else end
    if not 0 <= start <= end <= size:
        raise FirewallError(
            Kind.MALFORMED, f"there is nothing from {start} to {end}: the ledger has {size} entries", fix="ask for less"
        )
    # By the index, not by the start: every shard cuts in the same places.
    ours = [at for at in range(start - start % piece, end, piece) if at // piece % shard.of == shard.number]
    pieces = [(max(at, start), min(at + piece, end)) for at in ours]
    workers = max(1, min(workers or os.cpu_count() or 1, len(pieces)))
    tally = Tally()
    with progress("replaying", total=sum(last - first for first, last in pieces)) as bar:
        for found in _pieces(work, pieces, workers=workers):
            tally.add(found)
            bar.more(found.entries)
    return Replayed(start, end, shard, workers, time.monotonic() - began, tally)


async def _measured(place: Place) -> tuple[int, int]:
    if place.dsn is not None:
        await check_schema(place.dsn)
    source = await open_source(place)
    try:
        return await source.size(), source.piece
    finally:
        await source.close()


def _pieces(work: Work, pieces: Sequence[tuple[int, int]], *, workers: int) -> Iterator[Tally]:
    if workers == 1:
        with _Worker(work) as worker:
            for first, last in pieces:
                yield worker.replay(first, last)
        return
    # Spawned, not forked: nothing of this process is theirs, and an agreement does not depend on what it had in memory.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(work,)) as pool:
        running = [pool.submit(_replay, first, last) for first, last in pieces]
        try:
            for future in as_completed(running):
                found = future.result()
                if isinstance(found, _Failure):
                    raise FirewallError(found.kind, found.detail, fix=found.fix)
                yield found
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


class _Failure(NamedTuple):
    """An error on its way between processes."""

    kind: Kind
    detail: str
    fix: str | None


class _Worker:
    """One process's share: a source of its own, and the sets that it compiled."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._stack = ExitStack()
        self._source: LedgerSource | None = None

    def __enter__(self) -> Self:
        self._runner = self._stack.enter_context(asyncio.Runner())
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._source is not None:
                self._runner.run(self._source.close())
        finally:
            self._stack.close()

    def replay(self, start: int, end: int) -> Tally:
        """Replay a piece. Raises FirewallError."""
        return self._runner.run(self._replay(start, end))

    async def _replay(self, start: int, end: int) -> Tally:
        if self._source is None:
            self._sets = PolicySets(_given(self._work.policies))
            self._source = await open_source(self._work.place)
            self._timeline = Timeline(await self._source.activations())
        source = self._source
        replayer = Replayer(
            sets=self._sets,
            timeline=self._timeline,
            absent=await source.absent(),
            lag_max=self._work.lag_max,
        )
        expected, refreshed = start, False
        async for row in source.rows(start, end):
            for idx in range(expected, row.idx):
                replayer.missing(idx)
            expected = row.idx + 1
            if row.record is None and row.idx not in replayer.absent.erased and not refreshed:
                # Records may go while we read. Within the transaction that read this row: both are of one moment.
                replayer.absent, refreshed = await source.absent(), True
            while (digest := replayer.take(row)) is not None:
                self._sets.put(digest, await source.policy_set(digest))
        for idx in range(expected, end):
            replayer.missing(idx)
        return replayer.tally


_worker: _Worker | None = None


def _start(work: Work) -> None:
    global _worker  # noqa: PLW0603 - what a process of a pool keeps between its tasks
    _worker = _Worker(work).__enter__()


def _replay(start: int, end: int) -> Tally | _Failure:
    if _worker is None:
        raise RuntimeError
    try:
        return _worker.replay(start, end)
    except FirewallError as error:
        return _Failure(error.kind, error.detail, error.fix)


def _given(directories: Iterable[Path]) -> dict[str, CompiledPolicySet]:
    """Sets that no ledger stores, by their digests. Raises PolicyErrors."""
    return {one.digest: one for one in map(load_directory, directories)}


def to_json(replayed: Replayed) -> dict[str, Any]:
    """The report as JSON."""
    tally = replayed.tally
    return {
        "ok": tally.agrees,
        "from": replayed.start,
        "to": replayed.end,
        "shard": {"number": replayed.shard.number, "of": replayed.shard.of},
        "entries": tally.entries,
        "results": {result.value: tally.results[result] for result in Result},
        "flips": [
            {"recorded": flip[0], "derived": flip[1], "count": tally.flips[flip]}
            for flip in sorted(tally.flips, key=flip_order)
        ],
        "faults": {fault.value: count for fault, count in sorted(tally.faults.items())},
        "lagged": {"count": tally.lagged, "max_seconds": tally.lag_max.total_seconds()},
        "engine": _engine(),
        "engines": dict(sorted(tally.engines.items())),
        "differences": [_difference(one) for one in tally.differences],
        "workers": replayed.workers,
        "seconds": round(replayed.seconds, 3),
    }


def _difference(one: Difference) -> dict[str, Any]:
    return {
        "index": one.idx,
        "id": one.id,
        "fault": one.fault.value,
        "detail": one.detail,
        "flip": None if one.flip is None else {"recorded": one.flip[0], "derived": one.flip[1]},
        "members": [{"name": name, "recorded": was, "derived": came} for name, was, came in one.members],
    }


def _engine() -> str:
    return f"mutation-firewall/{version('mutation-firewall')}"


def _show(replayed: Replayed) -> None:
    from rich.text import Text

    out = console()
    tally = replayed.tally
    if tally.flips:
        flips = table("recorded", "derived again", "decisions", title="decisions that are other ones now")
        for flip in sorted(tally.flips, key=flip_order):
            flips.add_row(plain(flip[0]), plain(flip[1]), str(tally.flips[flip]))
        out.print(flips)
    if tally.differences:
        listing = table("index", "fault", "what", "member", "recorded", "derived again", title="the first differences")
        for one in tally.differences:
            first, *more = one.members or (("", "", ""),)
            listing.add_row(str(one.idx), one.fault.value, plain(one.detail), *map(plain, first))
            for member in more:
                listing.add_row("", "", "", *map(plain, member))
        out.print(listing)
    results = table("entries", "", "")
    for result, words in _WORDS.items():
        if count := tally.results[result]:
            results.add_row(str(count), result.value, words)
    out.print(results)
    if tally.lagged:
        seconds = tally.lag_max.total_seconds()
        out.print(f"{tally.lagged} decided by a replica that was behind an activation, by {seconds:.3f} s at most")
    for engine, count in sorted(tally.engines.items()):
        if engine != _engine():
            out.print(plain(f"{count} decided by {engine}; this is {_engine()}"))
    rate = tally.entries / replayed.seconds if replayed.seconds else 0.0
    word, style = ("all agree", "bold green") if tally.agrees else ("not all agree", "bold red")
    out.print(
        Text(f"entries {replayed.start} to {replayed.end}: {word}", style=style),
        f"({tally.entries} in {replayed.seconds:.1f} s, {rate:.0f}/s, {replayed.workers} at a time)",
    )


_WORDS: Final = {
    Result.AGREES: "decided again, with the same bytes",
    Result.CHECKED: "of other kinds: receipt and record fit",
    Result.MASKED: "cannot be decided again: a mask took values out of the record",
    Result.ERASED: "their records were erased",
    Result.ARCHIVED: "their records lie in an archive",
    Result.DIFFERS: "came out otherwise",
}
