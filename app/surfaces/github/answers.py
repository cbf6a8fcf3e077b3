"""Step 10 for GitHub: a report that becomes a check run, a commit status or the answer that a deployment waits for.

Only an allow without a doubt is a success. Whatever policies, branches and files are called stands in code spans, where
Markdown has no links, no mentions and no HTML.
"""

import re
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple, assert_never

import orjson

from app.core.types import Effect, JsonObject, Mode, Reason
from app.errors import FirewallError
from app.service.decide import Decision
from app.surfaces.github.wire import Event, PullRequest
from app.surfaces.words import approval_in_words, clause_in_words, shown

TITLE_CHARS: Final = 200
# GitHub takes 65,535 of a summary, 1,024 of a comment to a deployment, 140 of a status; the rest is in the ledger.
MESSAGE_CHARS: Final = 600
COMMENT_MESSAGE_CHARS: Final = 200
DESCRIPTION_CHARS: Final = 140
REASONS_MAX: Final = 20
# What one call takes.
ANNOTATIONS_MAX: Final = 50

_FENCES: Final = re.compile(r"`+")


class Conclusion(StrEnum):
    """What a check run concludes; there is no fourth that we use."""

    SUCCESS = "success"
    FAILURE = "failure"
    ACTION_REQUIRED = "action_required"


def decision_to_wire(
    decision: Decision, event: Event, *, delivery: str, doubts: Sequence[str], files: Sequence[JsonObject]
) -> bytes:
    """Write what a delivery is answered, with the report in it: who asks again gets both again."""
    return orjson.dumps(
        {
            "delivery": delivery,
            "event": event.event,
            "outcome": "decided",
            "decision": {
                "id": decision.id,
                "decision": decision.effect.value,
                "ledger_index": decision.ledger_index,
                "mutation_digest": decision.mutation_digest,
                "policy_set": decision.policy_set,
                "decided_at": decision.decided_at,
            },
            "report": _report(decision, event, doubts, files),
        }
    )


def nothing_to_wire(event: str, *, delivery: str) -> bytes:
    """Write the answer to a delivery that asks nothing."""
    return orjson.dumps({"delivery": delivery, "event": event, "outcome": "nothing to decide"})


def refusal(error: FirewallError, *, request_id: str) -> JsonObject:
    """Report that nothing was decided, which is never a success."""
    fix = f"; {error.fix}" if error.fix else ""
    detail = f"{error.detail}{fix}"
    ending = f"\n\nRequest {code(request_id, 128)}. Deliver it again once that is mended."
    return {
        "conclusion": Conclusion.ACTION_REQUIRED.value,
        "state": None,
        "status": "error",
        "external_id": request_id[:128],
        "title": shown(f"nothing was decided: {error.detail}", TITLE_CHARS),
        "summary": f"**Nothing was decided**, so nothing is allowed: {code(detail, MESSAGE_CHARS)}{ending}",
        "comment": f"**Nothing was decided**, so nothing is allowed: {code(detail, COMMENT_MESSAGE_CHARS)}{ending}",
        "annotations": [],
    }


def doubts_of(event: Event, *, forks: bool) -> list[str]:
    """Say what keeps an event from being a success, whatever the policies say of its change."""
    if not isinstance(event, PullRequest):
        return []
    doubts = []
    if event.fork and not forks:
        doubts.append("it comes from a fork: somebody with rights here has to look at it (MFW_GITHUB__FORKS)")
    if event.draft:
        doubts.append("it is a draft: it is decided again when it is ready for review")
    return doubts


def code(text: str, most: int) -> str:
    """A text as a code span that ends where it ends (CommonMark section 6.1)."""
    clean = shown(text, most) or " "
    fence = "`" * (max(map(len, _FENCES.findall(clean)), default=0) + 1)
    pad = " " if clean.startswith("`") or clean.endswith("`") else ""
    return f"{fence}{pad}{clean}{pad}{fence}"


def _report(decision: Decision, event: Event, doubts: Sequence[str], files: Sequence[JsonObject]) -> JsonObject:
    reasons = [one for one in decision.reasons if one.mode is Mode.ENFORCE and one.effect is decision.effect]
    reasons = reasons or [decision.reasons[0]]
    first = reasons[0]
    keys = ", ".join(f"{one.key} of {one.policy}/{one.rule}" for one in decision.obligations)
    if keys:
        # Who cannot meet an obligation does not carry the change out.
        doubts = [*doubts, f"it is allowed under obligations that GitHub cannot meet: {keys}"]
    verdict = _verdict(decision, doubts)
    rule = f"{first.policy}/{first.rule}"
    commit = code(event.sha, 64)
    where = f"Decision {code(str(decision.id), 64)}, ledger entry {decision.ledger_index}, commit {commit}."
    lines = [f"**{verdict.word}**: {code(verdict.then, MESSAGE_CHARS)}", "", *_lines(reasons), "", where]
    return {
        "conclusion": verdict.conclusion.value,
        "state": verdict.state,
        "status": verdict.status,
        "external_id": str(decision.id),
        "title": shown(f"{verdict.word.lower()} by {rule}: {first.message}", TITLE_CHARS),
        "summary": "\n".join(lines),
        "comment": f"**{verdict.word}** by {code(rule, 128)}: {code(first.message, COMMENT_MESSAGE_CHARS)}\n\n{where}",
        "annotations": []
        if verdict.conclusion is Conclusion.SUCCESS
        else _annotations(reasons, files, verdict.conclusion),
    }


class _Verdict(NamedTuple):
    """A decision in GitHub's words, and what follows from it."""

    word: str
    conclusion: Conclusion
    state: str | None
    status: str
    then: str


def _verdict(decision: Decision, doubts: Sequence[str]) -> _Verdict:
    match decision.effect:
        case Effect.ALLOW:
            if not doubts:
                return _Verdict("Allowed", Conclusion.SUCCESS, "approved", "success", "nothing more is needed")
            return _Verdict("Not allowed yet", Conclusion.ACTION_REQUIRED, None, "pending", "; ".join(doubts))
        case Effect.HOLD:
            then = f"needs the approval of {approval_in_words(decision.approval or {})}"
            return _Verdict("Held", Conclusion.ACTION_REQUIRED, None, "pending", then)
        case Effect.DENY:
            then = "no approval lifts this: change what the message says, or ask the owners of the policy"
            return _Verdict("Denied", Conclusion.FAILURE, "rejected", "failure", then)
        case _:
            assert_never(decision.effect)


def _lines(reasons: Sequence[Reason]) -> Iterable[str]:
    for reason in reasons[:REASONS_MAX]:
        named = f"policy {code(reason.policy, 128)}, rule {code(reason.rule, 128)}"
        yield f"- {named}: {code(reason.message, MESSAGE_CHARS)}"
        if reason.clause is not None:
            yield f"  - {code(clause_in_words(reason.clause), MESSAGE_CHARS)}"
    if len(reasons) > REASONS_MAX:
        yield f"- and {len(reasons) - REASONS_MAX} more, in the ledger"


def _annotations(
    reasons: Sequence[Reason], files: Sequence[JsonObject], conclusion: Conclusion
) -> list[dict[str, Any]]:
    """A mark on each file that a reason names. Plain text: GitHub shows it as it is."""
    if conclusion is Conclusion.SUCCESS:
        return []
    level = "failure" if conclusion is Conclusion.FAILURE else "warning"
    found: list[dict[str, Any]] = []
    for reason in reasons:
        seen = reason.message if reason.clause is None else f"{reason.message}\n{clause_in_words(reason.clause)}"
        for file in files:
            if len(found) == ANNOTATIONS_MAX:
                return found
            # A file that is gone has no line that a mark could stand on.
            if file["kind"] != "deleted" and _names(seen, file["path"]):
                found.append(
                    {
                        "path": file["path"],
                        "start_line": 1,
                        "end_line": 1,
                        "annotation_level": level,
                        "title": shown(f"{reason.policy}/{reason.rule}", TITLE_CHARS),
                        "message": shown(reason.message, MESSAGE_CHARS) or "no message",
                    }
                )
    return found


def _names(text: str, path: str) -> bool:
    """Whether a text names a path, and not one that it is a part of."""
    return re.search(rf"(?<![\w./-]){re.escape(path)}(?![\w/-])", text) is not None
