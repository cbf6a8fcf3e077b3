"""Asking about a call of a tool (Model Context Protocol) before it is passed on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

from app.client.answers import Decision, Effect, Members, decision_from, tree
from app.client.operations import Call, Operation, Repeat, written
from app.client.problems import ProblemError, ProblemKind, problem_from

MCP_CHECK: Final = "/agents/v1/mcp/check"
# What the service answers in place of a result.
_NOT_ALLOWED: Final = {-32099: Effect.HOLD, -32098: Effect.DENY}
_NOT_DECIDED: Final = -32097


@dataclass(frozen=True, slots=True)
class ToolCheck:
    """What was decided about a call: `reason` in words, and one decision for each thing that it would do."""

    effect: Effect
    reason: str
    decisions: tuple[Decision, ...]

    @property
    def allowed(self) -> bool:
        """Whether it may be passed on: every part of it, and without an obligation."""
        return (
            self.effect is Effect.ALLOW
            and bool(self.decisions)
            and all(one.allowed and not one.obligations for one in self.decisions)
        )

    @property
    def deciding(self) -> Decision | None:
        """The decision that brought the whole about; the first of several."""
        of_effect = [one for one in self.decisions if one.effect is self.effect]
        return next(iter(of_effect or self.decisions), None)


def check(
    name: str,
    arguments: bytes,
    *,
    server: str,
    subject: Mapping[str, Any],
    annotations: Mapping[str, Any],
    context: Mapping[str, Any],
) -> Operation[ToolCheck]:
    """Ask about one call. The arguments are JSON already and are sent as they are."""
    number = str(uuid4())
    around = {"server": server, "subject": dict(subject), "annotations": dict(annotations), "context": dict(context)}
    head = (
        written(around)[:-1] + b',"request":' + written({"jsonrpc": "2.0", "id": number, "method": "tools/call"})[:-1]
    )
    body = head + b',"params":{"name":' + written(name) + b',"arguments":' + arguments + b"}}}"
    return Operation(Call("POST", MCP_CHECK, body, repeat=Repeat.NEVER), lambda answer: _read(answer, number=number))


def _read(body: bytes, *, number: str) -> ToolCheck:
    """A verdict. Raises ProblemError for anything that is not a whole one, is about another call, or is none."""
    answer = tree(body)
    members = Members(answer)
    if members.any("id") != number:
        # What stands between mixed answers up, or kept one.
        raise ProblemError(ProblemKind.NOT_A_FIREWALL, "the answer is about another request", fix="ask again")
    if members.has("result") == members.has("error"):
        raise _no_answer()
    if members.has("result"):
        told, effect = Members(members.mapping("result")), Effect.ALLOW
    else:
        error = Members(members.mapping("error"))
        told, code = Members(error.mapping("data")), error.number("code")
        if code == _NOT_DECIDED:
            raise problem_from(told.mapping("problem"), status=told.number("status"))
        if code not in _NOT_ALLOWED:
            raise _no_answer()
        effect = _NOT_ALLOWED[code]
    return ToolCheck(effect, told.text("reason"), told.items("decisions", lambda one: decision_from(one, raw=body)))


def _no_answer() -> ProblemError:
    return ProblemError(ProblemKind.NOT_A_FIREWALL, "what answers is no mutation firewall", fix="check the address")
