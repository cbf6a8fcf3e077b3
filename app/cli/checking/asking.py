"""Asking about many changes that stand or fall together: a service, or the core in this process."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from app.cli.exits import ExitCode
from app.cli.output import Refused
from app.core.types import Effect, JsonObject

# What a service takes, the bytes unless its owner says otherwise (`MFW_HTTP__MAX_BATCH_BODY_BYTES`), with some room.
BATCH_MAX: Final = 1_000
BATCH_BYTES_MAX: Final = 8_000_000
BATCH_VALUES_MAX: Final = 490_000


@dataclass(frozen=True, slots=True)
class Asked:
    """One change: the mutation, what people call it, and the files that it is about, the first before all others."""

    name: str
    action: str
    mutation: JsonObject
    places: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answered:
    """What became of one change: the members of a decision, or of the problem that stands in its place.

    `effect` is None where there is no decision.
    """

    asked: Asked
    effect: Effect | None
    members: JsonObject


class Asks(Protocol):
    """Whoever answers."""

    def ask(self, asked: Sequence[Asked]) -> list[Answered]:
        """Answer all of them, in their order. Raises `Refused` and `FirewallError`."""
        ...


@dataclass(frozen=True, slots=True)
class Service:
    """A service at an address. Each batch stands or falls together; what does not fit in one goes in several."""

    url: str
    api_key: str | None
    timeout: float

    def ask(self, asked: Sequence[Asked]) -> list[Answered]:
        """Ask the service, batch after batch."""
        return [one for batch in batches(asked) for one in self._batch(batch)]

    def _batch(self, asked: Sequence[Asked]) -> list[Answered]:
        from app.cli.client import run
        from app.client import operations

        mutations = [one.mutation for one in asked]
        operation = operations.decide_batch(mutations, atomic=True, key=None)
        _, answer = run(operation, url=self.url, api_key=self.api_key, timeout=self.timeout)
        return [_answered(one, members) for one, members in zip(asked, answer["results"], strict=True)]


@dataclass(frozen=True, slots=True)
class Here:
    """The policies of a directory, in this process. Nothing is recorded, and every budget is as `used` says."""

    policies: Path
    used: Sequence[str] = ()

    def ask(self, asked: Sequence[Asked]) -> list[Answered]:
        """Decide about all, and then whether they stand."""
        from datetime import UTC, datetime

        from app.cli.budgets import read_used
        from app.core import strict_json
        from app.core.batch import all_or_none
        from app.core.decide import decide
        from app.core.normalise import normalise
        from app.core.reasons import reason_members
        from app.errors import FirewallError
        from app.policies.load import load_directory
        from app.surfaces.native.wire import mutation_from_wire

        policy_set = load_directory(self.policies)
        used = read_used(self.used, policy_set=policy_set)
        now = datetime.now(UTC)
        refused: dict[int, FirewallError] = {}
        normalised, verdicts = {}, {}
        for position, one in enumerate(asked):
            try:
                # As a service would read it: what is no JSON of one reading is refused here as well.
                normalised[position] = normalise(mutation_from_wire(strict_json.parse(_written(one.mutation)).tree))
            except FirewallError as error:
                refused[position] = error
                continue
            verdicts[position] = decide(policy_set, normalised[position], now, used)
        whole = all_or_none(verdicts, barring=refused)
        return [
            Answered(one, None, problem_of(refused[position]))
            if position in refused
            else Answered(
                one,
                whole[position].effect,
                {
                    "recorded": False,
                    "decision": whole[position].effect.value,
                    "reasons": [reason_members(reason) for reason in whole[position].reasons],
                    "policy_set": policy_set.digest,
                    "mutation_digest": normalised[position].digest,
                },
            )
            for position, one in enumerate(asked)
        ]


def _written(mutation: JsonObject) -> bytes:
    return json.dumps(mutation, separators=(",", ":")).encode()


def problem_of(error: Any) -> JsonObject:
    """The members that a service would answer in place of a decision."""
    told = {"title": error.kind.value, "detail": error.detail, "pointer": error.pointer, "fix": error.fix}
    return {name: value for name, value in told.items() if value}


def _answered(asked: Asked, members: Mapping[str, Any]) -> Answered:
    kept = {name: value for name, value in members.items() if name != "index"}
    effect = Effect(members["decision"]) if "decision" in members else None
    return Answered(asked, effect, kept)


def batches(asked: Sequence[Asked]) -> Iterator[list[Asked]]:
    """As few batches as a service takes. Raises `Refused` for a change that is too large for any."""
    batch: list[Asked] = []
    size = values = 0
    for one in asked:
        written = _written(one.mutation)
        length = len(written) + 1
        # Each value follows a comma or opens what it stands in; commas in texts only make it more.
        held = 1 + sum(map(written.count, (b",", b"[", b"{")))
        if length > BATCH_BYTES_MAX:
            raise Refused(
                ExitCode.BAD_DATA,
                f"the change of `{one.name[:200]}` has {length} bytes, and {BATCH_BYTES_MAX} are the most",
                fix="split it",
            )
        full = len(batch) == BATCH_MAX or size + length > BATCH_BYTES_MAX or values + held > BATCH_VALUES_MAX
        if batch and full:
            yield batch
            batch, size, values = [], 0, 0
        batch.append(one)
        size += length
        values += held
    if batch:
        yield batch
