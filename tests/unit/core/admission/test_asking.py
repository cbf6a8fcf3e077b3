"""What no document can bring forth, and must deny all the same; and the limits of what is said."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from app.core.admission.asking import NOTES_MAX, VALIDATION_FAILURE, Heard, ask_admission
from app.core.admission.matching import AdmissionMatch, MatchResources
from app.core.admission.policy import Action, AdmissionPolicy, AuditAnnotation, FailurePolicy, Validation
from app.core.cel import bind
from app.core.index import Condition
from app.core.types import Mode


@dataclass(frozen=True, slots=True)
class _Broken:
    """An expression that goes wrong in a way of its own, or gives what it may not."""

    gives: Any = None
    text: str = "broken"

    def evaluate(self, _bindings: Any) -> Any:
        if isinstance(self.gives, Exception):
            raise self.gives
        return self.gives


def broken(gives: Any) -> Any:
    return _Broken(gives)


BINDINGS = bind(
    {
        "subject": {"type": "user", "id": "u", "properties": {}},
        "action": {"name": "create", "properties": {}},
        "resource": {"type": "core/Pod", "id": "x", "properties": {}},
        "context": {},
        "change": {"after": {"apiVersion": "v1", "kind": "Pod"}},
    },
    now=datetime(2026, 3, 13, 12, tzinfo=UTC),
)


def asked(**members: Any):
    members.setdefault("validations", ())
    heard = Heard()
    policy = AdmissionPolicy("p", "b", AdmissionMatch(MatchResources()), **members)
    return ask_admission(policy, BINDINGS, heard), heard


@pytest.mark.parametrize(
    ("gives", "message"), [(RuntimeError("x"), "rule_error: `RuntimeError`"), ("yes", "rule_error: gave no bool")]
)
def test_whatever_goes_wrong_is_a_failure(gives, message):
    words, _ = asked(validations=(Validation("v", broken(gives)),))
    assert [(word.reason.message, word.failure is not None) for word in words] == [(message, True)]
    words, _ = asked(conditions=(Condition("c", broken(gives)),))
    assert [word.reason.message for word in words] == [message]


@pytest.mark.parametrize("gives", [RuntimeError("x"), 3])
def test_an_annotation_that_goes_wrong_denies_or_is_a_shadow(gives):
    for failure_policy, mode in ((FailurePolicy.FAIL, Mode.ENFORCE), (FailurePolicy.IGNORE, Mode.SHADOW)):
        words, heard = asked(
            annotations=(AuditAnnotation("a", "k", broken(gives)),),
            actions=(Action.AUDIT,),
            failure_policy=failure_policy,
        )
        assert [word.reason.mode for word in words] == [mode]
        assert not heard.notes


@pytest.mark.parametrize("gives", [RuntimeError("x"), 3, " \n ", "a\nb"])
def test_a_message_that_goes_wrong_is_replaced(gives):
    words, _ = asked(validations=(Validation("v", broken(False), None, broken(gives)),))
    assert [word.reason.message for word in words] == ["failed expression: broken"]


def test_an_annotation_of_one_value_is_there_once():
    same = tuple(AuditAnnotation(f"a{i}", "k", broken("v")) for i in range(3))
    _, heard = asked(annotations=same)
    assert heard.all_annotations() == {"p/k": "v"}


def test_what_is_said_beside_the_decision_is_bounded():
    many = tuple(Validation(f"v{i}", broken(False), "no") for i in range(NOTES_MAX + 6))
    _, heard = asked(validations=many, actions=(Action.WARN, Action.AUDIT))
    warnings = heard.bounded_warnings()
    assert len(warnings) == NOTES_MAX
    assert warnings[-1] == "7 more validations failed"
    assert len(json.loads(heard.all_annotations()[VALIDATION_FAILURE])) == NOTES_MAX


@pytest.mark.parametrize(("actions", "mode"), [((Action.DENY,), Mode.ENFORCE), ((Action.WARN,), Mode.SHADOW)])
def test_a_policy_that_cannot_deny_is_a_shadow(actions, mode):
    policy = AdmissionPolicy("p", "b", AdmissionMatch(MatchResources()), (), actions)
    assert (policy.name, policy.mode) == ("p/b", mode)
