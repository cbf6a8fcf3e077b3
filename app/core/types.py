"""The words of the firewall as types: what is asked, what is answered. Frozen, pure, no behaviour.

What is made for every request is a named tuple: as frozen as a frozen dataclass, and made three times as fast.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

# JSON as Python's own objects. Every tree in core has passed `core/strict_json.py`: integers are int64, strings carry
# no NUL and no lone surrogate, no object has a key twice, nesting is at most 64 deep.
Json: TypeAlias = "bool | int | float | str | list[Any] | dict[str, Any] | None"
JsonObject: TypeAlias = "dict[str, Any]"


class Effect(StrEnum):
    """What a rule asks for, and what a decision says. The order of strength is deny > hold > allow."""

    ALLOW = "allow"
    DENY = "deny"
    HOLD = "hold"


class Mode(StrEnum):
    """A policy in `shadow` is evaluated and recorded but never changes the decision."""

    ENFORCE = "enforce"
    SHADOW = "shadow"


class Mutation(NamedTuple):
    """Step 4: a request to change something, of checked shape, no longer of any wire format.

    `subject` and `resource` are `{type, id, properties}`, `action` is `{name, properties}`; `properties` is always
    there. `change` holds the members that were sent: before, after, patch, diff, statement, manifest. `request_id` and
    `rationale` carry no meaning for the decision and stay out of the digest.
    """

    subject: JsonObject
    action: JsonObject
    resource: JsonObject
    change: JsonObject
    context: JsonObject
    request_id: str | None = None
    rationale: str | None = None


class NormalisedMutation(NamedTuple):
    """Step 5: what policies read, and the digest that approvals, permits and the ledger bind to.

    `inputs` has exactly the keys subject, action, resource, context, change. `inputs["change"]` has the members of
    `Mutation.change` plus, always, `paths`, `added`, `removed` (sorted JSON pointers), `files` and `statements`.
    `digest` is "sha256:" and 64 hex digits. `sent` is what it is of, the five members as they were sent, as JSON with
    sorted keys; None where the digest's text would lose something that JSON keeps (it writes 1.0 as 1).
    """

    inputs: JsonObject
    digest: str
    sent: bytes | None = None


NO_ANNOTATIONS: Mapping[str, str] = MappingProxyType({})


class Outcome(StrEnum):
    """What an expression, or a part of one, said."""

    TRUE = "true"
    FALSE = "false"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Clause:
    """The part of an expression that decided, and what it saw.

    `path` is where the expression stands in its rule (`when`) or in the `spec` of its policy
    (`matchConditions[0].expression`, `variables[1].expression`); `text`, `line` and `column` are of the part, from 1 in
    the expression; `outcome` is what the part said. `values` has what it read by path, masked and cut short. A rule
    without a condition has the text `always`, without a place.
    """

    path: str
    text: str
    line: int
    column: int
    outcome: Outcome
    values: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Reason:
    """Why: one rule that spoke, or the firewall's own word where none did (`policy` is then "mutation-firewall").

    `clause` is there in every reason for a deny or a hold that comes from a rule or a condition. `exception` names the
    exception that lifted it, so that it did not count. `binding` is the ValidatingAdmissionPolicyBinding that put the
    policy into force, None for every other kind.
    """

    policy: str
    rule: str
    effect: Effect
    message: str
    mode: Mode = Mode.ENFORCE
    clause: Clause | None = None
    exception: str | None = None
    binding: str | None = None


class BudgetUse(NamedTuple):
    """A budget that a mutation would use: at most `limit` uses, or different values, in the last `window_seconds`.

    `key` says whose budget it is and `value` which value is counted (None where uses are), each as SHA-256 of 32 bytes.
    `used` is what was counted before this mutation, None where nobody counted; `seen` means that its value was
    counted already. `window` is the policy's own text.
    """

    policy: str
    budget: str
    mode: Mode
    key: bytes
    value: bytes | None
    limit: int
    window: str
    window_seconds: int
    used: int | None = None
    seen: bool = False

    @property
    def has_room(self) -> bool:
        """Whether one more use stays within the limit; never where nobody counted."""
        return self.used is not None and (self.seen or self.used < self.limit)


@dataclass(frozen=True, slots=True)
class Obligation:
    """What the enforcement point must do as well: a rule that won says so. `value` is any JSON value."""

    policy: str
    rule: str
    key: str
    value: Json


class Verdict(NamedTuple):
    """Step 8: the answer of the pure core. `reasons` has the deciding reason first and is never empty.

    `approval` is what every hold rule that spoke requires, None unless `effect` is hold: one tree as its policy states
    it, or `allOf` of several, with `expiresAfter` and `executeWithin` (the shortest that was stated). `obligations` are
    those of every rule that won, in the order of policies and rules. `budgets` are those that this mutation would use.
    Where nobody counted one of them the answer is no, for now: count them and decide again. `warnings` and
    `annotations` are what ValidatingAdmissionPolicies say beside the decision, to the client and for the audit.
    """

    effect: Effect
    reasons: tuple[Reason, ...]
    approval: Mapping[str, Any] | None = None
    obligations: tuple[Obligation, ...] = ()
    budgets: tuple[BudgetUse, ...] = ()
    warnings: tuple[str, ...] = ()
    annotations: Mapping[str, str] = NO_ANNOTATIONS

    @property
    def uncounted(self) -> tuple[BudgetUse, ...]:
        """The budgets that have to be counted before this verdict is one."""
        return tuple([use for use in self.budgets if use.used is None]) if self.budgets else ()
