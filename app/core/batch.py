"""Mutations that are asked about in one request, and what it means that they stand or fall together. Pure."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Final, NamedTuple

from app.core.decide import FIREWALL
from app.core.obligations import unmet
from app.core.types import Effect, Mutation, Obligation, Reason, Verdict
from app.errors import FirewallError

# The rule of ours that denies what would have been allowed alone.
BATCH_NOT_ALLOWED: Final = "batch-not-allowed"


class BatchMode(StrEnum):
    """Whether each mutation is answered for itself, or all of them are allowed or none."""

    EACH = "each"
    ATOMIC = "atomic"


class Batch(NamedTuple):
    """What is asked, in order; an error stands where a mutation could not be read.

    With `until` the batch ends behind the first that is allowed (True), or that is not (False), and the rest is not
    decided. It goes with the mode `EACH` alone. `fulfilled` has, by position, the keys of the obligations that whoever
    carries a mutation out will meet; None where that is not asked here, and an allow is one whatever it asks for.
    """

    items: Sequence[Mutation | FirewallError]
    mode: BatchMode = BatchMode.EACH
    until: bool | None = None
    fulfilled: Sequence[Collection[str]] | None = None

    def lets(self, position: int, effect: Effect, obligations: Iterable[Obligation]) -> bool:
        """Tell whether the answer at a position lets its mutation happen."""
        if effect is not Effect.ALLOW:
            return False
        return self.fulfilled is None or not unmet(obligations, self.fulfilled[position])


def all_or_none(verdicts: Mapping[int, Verdict], *, barring: Iterable[int]) -> Mapping[int, Verdict]:
    """Give the verdicts, by position in the batch, of an atomic one; `barring` are the positions that hold no mutation.

    Where anything is not allowed, or is no mutation at all, what would have been allowed is denied. Its own reasons
    follow ours, and its budgets stay: the decision can be made again from them. Obligations go with the allow.
    """
    barred = {position: f"is {verdict.effect.value}" for position, verdict in verdicts.items() if not _allows(verdict)}
    barred |= dict.fromkeys(barring, "cannot be read or asked")
    if not barred:
        return verdicts
    first = min(barred)
    message = f"all or none: mutation {first} of this batch {barred[first]}"
    if len(barred) > 1:
        message += f", and {len(barred) - 1} more are not allowed"
    reason = Reason(FIREWALL, BATCH_NOT_ALLOWED, Effect.DENY, message)
    return {
        position: verdict._replace(effect=Effect.DENY, reasons=(reason, *verdict.reasons), obligations=())
        if _allows(verdict)
        else verdict
        for position, verdict in verdicts.items()
    }


def _allows(verdict: Verdict) -> bool:
    return verdict.effect is Effect.ALLOW
