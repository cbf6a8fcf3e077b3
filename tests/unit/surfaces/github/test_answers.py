"""What GitHub shows: only an allow without a doubt is a success, and nobody's text is more than a text."""

import re
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.types import Clause, Effect, Mode, Obligation, Outcome, Reason
from app.errors import FirewallError, Kind
from app.service.decide import Decision
from app.surfaces.github.answers import code, decision_to_wire, doubts_of, nothing_to_wire, refusal
from app.surfaces.github.models import DeliveryOut
from app.surfaces.github.wire import GithubView, event_of
from tests.corpus.deliveries import deployment, pull_request

VIEW = GithubView("https://api.github.com")
CLAUSE = Clause("when", "size(files) > 0", 1, 1, Outcome.TRUE, {"change.files[0].path": "src/a.py"})
FILES = [{"path": "src/a.py", "kind": "modified"}, {"path": "a.py", "kind": "added"}, {"path": "b", "kind": "deleted"}]


def event(**members: Any) -> Any:
    return event_of("pull_request", orjson.dumps(pull_request(**members)), VIEW)


def waiting() -> Any:
    return event_of("deployment_protection_rule", orjson.dumps(deployment()), VIEW)


def decision(effect: Effect = Effect.ALLOW, *reasons: Reason, **members: Any) -> Decision:
    return Decision(
        id=UUID("01a00000-0000-7000-8000-000000000000"),
        effect=effect,
        reasons=reasons or (Reason("p", "r", effect, "because", clause=CLAUSE),),
        policy_set="sha256:s",
        mutation_digest="sha256:m",
        ledger_index=41,
        receipt_hash="h",
        decided_at="2026-11-22T10:00:00.000Z",
        approval={"anyOf": [{"group": "sre", "count": 2}]} if effect is Effect.HOLD else None,
        request_id="d",
        **members,
    )


def report(one: Decision, *, doubts: tuple[str, ...] = (), of: Any = None) -> dict[str, Any]:
    body = orjson.loads(decision_to_wire(one, of or event(), delivery="d", doubts=doubts, files=FILES))
    DeliveryOut.model_validate(body, strict=True)
    found: dict[str, Any] = body["report"]
    return found


@pytest.mark.parametrize(
    ("one", "doubts", "expected"),
    [
        (decision(), (), ("success", "approved", "success")),
        (decision(), ("a draft",), ("action_required", None, "pending")),
        (decision(obligations=(Obligation("p", "r", "ticket", "X-1"),)), (), ("action_required", None, "pending")),
        (decision(Effect.HOLD), (), ("action_required", None, "pending")),
        (decision(Effect.DENY), (), ("failure", "rejected", "failure")),
        (decision(Effect.DENY), ("a draft",), ("failure", "rejected", "failure")),
    ],
)
def test_what_follows_from_a_decision(one, doubts, expected):
    found = report(one, doubts=doubts)
    assert (found["conclusion"], found["state"], found["status"]) == expected
    assert str(one.id) in found["summary"]
    assert str(one.id) in found["comment"]
    for doubt in doubts if one.effect is Effect.ALLOW else ():
        assert doubt in found["summary"]


def test_what_keeps_an_allow_from_being_a_success():
    assert doubts_of(event(), forks=False) == []
    assert doubts_of(waiting(), forks=False) == []
    fork = event(head={"ref": "x", "sha": "0" * 40, "repo": None}, draft=True)
    assert len(doubts_of(fork, forks=False)) == 2
    assert len(doubts_of(fork, forks=True)) == 1


def test_marks_stand_on_the_files_that_are_named():
    found = report(decision(Effect.DENY))["annotations"]
    assert [(one["path"], one["annotation_level"]) for one in found] == [("src/a.py", "failure")]
    named = Reason("p", "r", Effect.HOLD, "see a.py, b and src/a.pyc")
    assert [one["path"] for one in report(decision(Effect.HOLD, named))["annotations"]] == ["a.py"]
    assert report(decision(Effect.ALLOW, named))["annotations"] == []
    many = [Reason("p", str(number), Effect.DENY, "a.py") for number in range(60)]
    crowded = report(decision(Effect.DENY, *many))
    assert len(crowded["annotations"]) == 50
    assert "and 40 more" in crowded["summary"]


def test_shadows_are_not_shown():
    shadow = Reason("quiet", "r", Effect.DENY, "no", mode=Mode.SHADOW)
    assert "quiet" not in report(decision(Effect.DENY, Reason("p", "r", Effect.DENY, "no"), shadow))["summary"]
    assert "default" in report(decision(Effect.DENY, Reason("p", "default", Effect.ALLOW, "no")))["summary"]


HOSTILE = st.text(st.sampled_from("`a\n\r@<>[]()|*_\\#!~\u202e\u200b\0"), max_size=2000)


@given(HOSTILE)
def test_nothing_leaves_its_code_span(text):
    # CommonMark 6.1: a code span ends with the first run of as many backticks as it began with.
    span = code(text, 300)
    fence = re.match("`+", span)
    assert fence is not None
    ticks = len(fence[0])
    inner = span[ticks:-ticks]
    assert all(len(run) != ticks for run in re.findall("`+", inner))
    assert not inner.startswith("`")
    assert not inner.endswith("`")
    assert inner.isprintable()


@given(HOSTILE)
def test_limits_of_github(text):
    for effect in Effect:
        found = report(decision(effect, Reason("p" * 63, "r" * 63, effect, text, clause=CLAUSE)))
        assert len(found["comment"]) <= 1024
        assert len(found["summary"]) <= 65_535
        assert len(found["title"]) <= 255
        assert found["title"].isprintable()
    error = FirewallError(Kind.TOO_LARGE, text, fix=text)
    refused = refusal(error, request_id="r" * 128)
    assert len(refused["comment"]) <= 1024
    assert (refused["conclusion"], refused["state"], refused["status"]) == ("action_required", None, "error")


def test_what_asks_nothing():
    DeliveryOut.model_validate(orjson.loads(nothing_to_wire("ping", delivery="d")), strict=True)
