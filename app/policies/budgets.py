"""Reading `spec.budgets` of policies (how much may be allowed in a sliding window) and the counts that tests assume."""

from collections.abc import Callable
from dataclasses import dataclass

from app.core.budgets import Assumed, Count
from app.core.cel import Program, ResultType
from app.core.index import MESSAGE_MAX_CHARS, Approval, Budget, CompiledPolicySet, Per
from app.core.types import Effect
from app.policies import shape
from app.policies.durations import check_duration, seconds
from app.policies.reader import Reader
from app.policies.tree import Mapping, Node, Scalar


@dataclass(frozen=True, slots=True)
class Parts:
    """How to read the parts that rules have as well; `document.py` knows the policy's variables and its names."""

    name: Callable[[Node | None, str], str | None]
    program: Callable[[Node | None, str, ResultType], Program | None]
    approval: Callable[[Node, str], Approval | None]


def read_budgets(node: Node | None, reader: Reader, *, parts: Parts) -> tuple[Budget, ...]:
    """Read the budgets of a policy; those with anything wrong, which is then noted, are left out."""
    return tuple(
        budget
        for item, path in reader.items(node, "spec.budgets")
        if (budget := _budget(item, path, reader, parts)) is not None
    )


def _budget(node: Node, path: str, reader: Reader, parts: Parts) -> Budget | None:
    members = reader.mapping(node, path, known=shape.BUDGET.known, required=shape.BUDGET.required)
    name = parts.name(members.get("name"), f"{path}.name")
    per = reader.choice(members.get("per"), f"{path}.per", (Per.SUBJECT, Per.RESOURCE))
    key = parts.program(members.get("key"), f"{path}.key", ResultType.TEXT)
    if isinstance(node, Mapping) and ("per" in members) == ("key" in members):
        fix = "say whose budget it is: `per: subject`, `per: resource`, or a `key` of your own"
        reader.note(node, path, "needs exactly one of `per` and `key`", fix=fix)
    limit = reader.whole(members.get("limit"), f"{path}.limit", minimum=1, maximum=shape.BUDGET_LIMIT_MAX)
    window = reader.checked(members.get("window"), f"{path}.window", _check_window, max_chars=shape.LABEL_MAX_CHARS)
    effect = reader.choice(members.get("effect"), f"{path}.effect", (Effect.DENY, Effect.HOLD)) or Effect.DENY
    distinct = parts.program(members.get("distinct"), f"{path}.distinct", ResultType.TEXT)
    when = parts.program(members.get("when"), f"{path}.when", ResultType.BOOL)
    message = reader.text(members.get("message"), f"{path}.message", max_chars=MESSAGE_MAX_CHARS)
    approval = parts.approval(members["approval"], f"{path}.approval") if "approval" in members else None
    if effect == Effect.HOLD and "approval" not in members:
        fix = "add `approval: {anyOf: [{group: NAME, count: 1}]}`"
        reader.note(node, path, "a budget that says `hold` needs `approval`", fix=fix)
    if effect == Effect.DENY and "approval" in members:
        fix = "remove it, or make the effect `hold`"
        reader.note(members["approval"], f"{path}.approval", "no approval lifts a budget that says `deny`", fix=fix)
    if name is None or limit is None or window is None:
        return None
    return Budget(
        name=name,
        per=Per.KEY if per is None else Per(per),
        limit=limit,
        window=window,
        window_seconds=seconds(window),
        effect=Effect(effect),
        key=key,
        distinct=distinct,
        when=when,
        message=message,
        approval=approval,
    )


def _check_window(text: str) -> None:
    check_duration(text, maximum=shape.BUDGET_WINDOW_MAX_SECONDS, limits="a second and 31 days")


def read_counts(node: Node | None, path: str, reader: Reader) -> Assumed:
    """Read how much of each budget a test case assumes to be used: `POLICY/BUDGET: {used: 20, seen: true}`."""
    counts = Assumed()
    if node is None:
        return counts
    if not isinstance(node, Mapping) or not node.items:
        reader.note(node, path, "must be an object with at least one budget", fix="write `POLICY/BUDGET: {used: 1}`")
        return counts
    for name, item in node.items.items():
        members = reader.mapping(item, f"{path}.{name}", known=shape.COUNT.known, required=shape.COUNT.required)
        used = reader.whole(members.get("used"), f"{path}.{name}.used", minimum=0, maximum=shape.BUDGET_USED_MAX)
        seen = members.get("seen")
        if seen is not None and not (isinstance(seen, Scalar) and isinstance(seen.value, bool)):
            reader.note(seen, f"{path}.{name}.seen", "must be true or false")
            continue
        policy, _, budget = name.partition("/")
        counts[policy, budget] = Count(used or 0, isinstance(seen, Scalar) and seen.value is True)
    return counts


def unknown_budgets(counts: Assumed, policy_set: CompiledPolicySet) -> tuple[str, ...]:
    """Name the budgets that are counted and that no policy has: misspelt, most of the time."""
    known = {(policy.name, budget.name) for policy in policy_set.mutation_policies for budget in policy.budgets}
    return tuple("/".join(key) for key in sorted(counts.keys() - known))
