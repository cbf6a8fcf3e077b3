"""Budgets: whose budget a mutation would use, whether there is room, and what of it replay needs. Pure.

How often a budget was used is an input like the mutation itself: `counters` maps policy and budget to a `Count`. Who
asks without counters is told which ones are needed (`Verdict.budgets` with `used` None), and is told no.
"""

from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any, Final, NamedTuple, TypeAlias

from app.core.canonical import canonical
from app.core.cel import Bindings, EvaluationError, Program, one_line
from app.core.index import MESSAGE_MAX_CHARS, Budget, Per, Policy
from app.core.types import BudgetUse, JsonObject, Mode
from app.errors import FirewallError, Kind

# Each digest names what it is of (compare app/ledger/receipt.py).
KEY_PREFIX: Final = b"mutationfirewall.io/budget-key/v1\x00"
VALUE_PREFIX: Final = b"mutationfirewall.io/budget-value/v1\x00"


class Count(NamedTuple):
    """What is known of one budget: its uses within the window, or its different values; and whether the value of this
    mutation is among them.
    """

    used: int
    seen: bool = False


Counters: TypeAlias = Mapping[tuple[str, str], Count]

# INVARIANT: a budget that nobody counted denies.
NOT_COUNTED: Final[Counters] = {}


class Tally:
    """What the decisions of one transaction see of their budgets: what was counted before it, and what those of them
    that came first take.
    """

    __slots__ = ("_seen", "_used")

    def __init__(self) -> None:
        self._used: dict[bytes, int] = {}
        self._seen: set[tuple[bytes, bytes]] = set()

    def put(self, use: BudgetUse, count: Count) -> None:
        """Note what was counted of the key and the value of a use."""
        self._used[use.key] = count.used
        if count.seen and use.value is not None:
            self._seen.add((use.key, use.value))

    def counters(self, uses: Iterable[BudgetUse]) -> Counters:
        """Give the counters of one mutation. Raises KeyError for a key that was never put."""
        return {
            (use.policy, use.budget): Count(
                self._used[use.key], use.value is not None and (use.key, use.value) in self._seen
            )
            for use in uses
        }

    def take(self, uses: Iterable[BudgetUse]) -> None:
        """Count the uses that a decision takes, for those that follow."""
        for use in uses:
            if use.value is None:
                self._used[use.key] += 1
            elif (use.key, use.value) not in self._seen:
                self._used[use.key] += 1
                self._seen.add((use.key, use.value))


class Assumed(dict[tuple[str, str], Count]):
    """Counters for a rehearsal: what is not given was never used. No decision that counts is made with these."""

    def __missing__(self, key: tuple[str, str]) -> Count:
        """Give the count of an unused budget."""
        return Count(0)


def concerned(policy: Policy, budget: Budget, bindings: Bindings) -> BudgetUse:
    """Say whose budget this mutation would use, and which value of it; nothing is counted yet.

    Raises:
        EvaluationError: an expression gives no text.
    """
    key = _key(policy, budget, bindings)
    value = None
    if budget.distinct is not None:
        # The key's length is fixed and it is part of the digest: who knows one table of values knows no other.
        value = sha256(VALUE_PREFIX + key + canonical(_text(budget.distinct, bindings))).digest()
    return BudgetUse(
        policy=policy.name,
        budget=budget.name,
        mode=policy.mode,
        key=key,
        value=value,
        limit=budget.limit,
        window=budget.window,
        window_seconds=budget.window_seconds,
    )


def _key(policy: Policy, budget: Budget, bindings: Bindings) -> bytes:
    owner: Any
    if budget.per is Per.KEY and budget.key is not None:
        owner = _text(budget.key, bindings)
    else:
        entity = bindings.inputs["resource" if budget.per is Per.RESOURCE else "subject"]
        owner = [entity["type"], entity["id"]]
    # As JSON, never joined: ("a", "b/c") and ("a/b", "c") are two owners.
    return sha256(KEY_PREFIX + canonical([policy.name, budget.name, budget.per.value, owner])).digest()


def _text(program: Program, bindings: Bindings) -> str:
    value = program.evaluate(bindings)
    if not isinstance(value, str):
        raise EvaluationError("gave no string")
    return value


def counted(use: BudgetUse, counters: Counters) -> BudgetUse:
    """Give the use with its count; unchanged where nobody counted."""
    try:
        count = counters[use.policy, use.budget]
    except KeyError:
        return use
    # Whether a value was seen means something only where values are counted.
    return use._replace(used=count.used, seen=count.seen and use.value is not None)


def exhausted_message(budget: Budget, use: BudgetUse) -> str:
    """Say what the proposer reads where there is no room: the policy's words, then the numbers."""
    what = "different values in" if use.value is not None else "used in"
    numbers = f" ({use.used} of {use.limit} {what} {use.window})"
    return one_line(budget.message or "the budget is used up", MESSAGE_MAX_CHARS - len(numbers)) + numbers


def to_record(uses: Iterable[BudgetUse]) -> list[JsonObject]:
    """Write what a decision saw of its budgets, for its record."""
    return [
        {"policy": use.policy, "budget": use.budget, "used": use.used, **({"seen": True} if use.seen else {})}
        for use in uses
        if use.used is not None
    ]


def to_answer(uses: Iterable[BudgetUse]) -> list[JsonObject]:
    """Write what the proposer is told of budgets: those that decide, before this mutation."""
    return [
        {"policy": use.policy, "budget": use.budget, "used": use.used, "limit": use.limit, "window": use.window}
        for use in uses
        if use.used is not None and use.mode is Mode.ENFORCE
    ]


def from_record(record: JsonObject) -> Counters:
    """Read the counters that a recorded decision was made with, so that it can be made again.

    Raises:
        FirewallError: MALFORMED, where `budgets` is not what `to_record` writes.
    """
    try:
        counters = {
            (str(one["policy"]), str(one["budget"])): Count(_whole(one["used"]), one.get("seen", False) is True)
            for one in record.get("budgets", ())
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise FirewallError(Kind.MALFORMED, "the record's budgets cannot be read", pointer="/budgets") from error
    return counters


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError
    return value
