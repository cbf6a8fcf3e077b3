"""From objects to a set, and from that to what each object says."""

from datetime import UTC, datetime
from typing import Any

import pytest

from app.controller.build import Built, Fault, build
from app.controller.objects import Item
from app.controller.status import Force, Trouble, ready_of, statuses
from app.policies.custom_resources import EXCEPTIONS, POLICIES, TEXT_MAX_CHARS
from app.policies.load import check_documents

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = datetime(2026, 3, 1, 13, tzinfo=UTC)


def policy(name: str, when: str = "true", *, generation: int = 1, **more: Any) -> Item:
    rules = [{"name": "all", "effect": "deny", "when": when, "message": "no"}]
    metadata = {"name": name, "uid": f"uid-{name}", "generation": generation, "resourceVersion": "1", **more}
    return Item(POLICIES, {"metadata": metadata, "spec": {"rules": rules}})


def exception(name: str, of: str, namespace: str = "a") -> Item:
    spec = {"owner": "o", "reason": "r", "validUntil": "2100-01-01T00:00:00Z", "policies": [{"name": of}]}
    metadata = {"name": name, "namespace": namespace, "uid": f"uid-{namespace}-{name}"}
    return Item(EXCEPTIONS, {"metadata": metadata, "spec": spec})


def force(*items: Item) -> Force:
    documents = [item.document for item in items]
    held = check_documents(documents).policy_set
    assert held is not None
    return Force(held.digest, {(one["kind"], one["metadata"]["name"]): one for one in documents})


def condition(status: dict[str, Any], kind: str) -> dict[str, Any]:
    (found,) = (one for one in status["conditions"] if one["type"] == kind)
    return dict(found)


def test_a_document_is_what_somebody_wrote() -> None:
    labels = {"team": "sre", "helm.sh/chart": "x-1", "empty": ""}
    item = policy("one", labels=labels, annotations={"a": "b"}, managedFields=[{}])

    assert item.document == {
        "apiVersion": "mutationfirewall.io/v1",
        "kind": "MutationPolicy",
        "metadata": {"name": "one", "labels": {"team": "sre"}},
        "spec": item.body["spec"],
    }
    assert policy("one", labels={"helm.sh/chart": "x-2"}).document == policy("one").document


def test_a_set_has_the_digest_of_the_same_files() -> None:
    items = [policy("one"), exception("e", "one")]
    built = build(items, also=())

    assert built.digest == force(*items).digest
    assert (built.faults, built.others, built.why(items)) == ({}, (), "")


def test_what_is_wrong_is_said_of_the_object_with_its_place() -> None:
    items = [policy("one"), policy("two", "true &&\n  subject.typ =")]
    built = build(items, also=())

    assert built.digest is None
    assert list(built.faults) == ["uid-two"]
    fault = built.faults["uid-two"][0]
    assert (fault.path, fault.line) == ("spec.rules[0].when", 2)
    assert "of the expression" not in fault.message
    assert built.why(items).startswith("MutationPolicy `two`: spec.rules[0].when:2:")


def test_what_is_wrong_elsewhere_keeps_the_set_from_being_one_too() -> None:
    built = build([policy("one")], also=[{"kind": "MutationPolicy"}])

    assert built.digest is None
    assert built.faults == {}
    assert "`apiVersion` is missing" in built.why([policy("one")])
    assert ", and " in built.why([policy("one")])


@pytest.mark.parametrize("items", [[], [exception("e", "one")]])
def test_without_a_policy_there_is_no_set(items: list[Item]) -> None:
    built = build(items, also=[policy("kept").document])

    assert built.digest is None
    assert "an empty set is never put into force" in built.why(items)


def test_two_exceptions_of_one_name_are_told_apart_by_nobody() -> None:
    items = [policy("one"), exception("e", "one", "a"), exception("e", "one", "b")]
    built = build(items, also=())

    assert list(built.faults) == ["uid-b-e"]
    assert "PolicyException `b/e`: metadata.name: the name `e` is used twice" in built.why(items)


def test_in_force() -> None:
    items = [policy("one", generation=4)]
    held = force(*items)
    status = statuses(items, build(items, also=()), held, None, now=NOW)["uid-one"]

    assert [(one["type"], one["status"], one["reason"]) for one in status["conditions"]] == [
        ("Ready", "True", "InForce"),
        ("Accepted", "True", "Valid"),
        ("Active", "True", "InForce"),
    ]
    assert (status["observedGeneration"], status["digest"], status["errors"]) == (4, held.digest, None)
    assert {one["observedGeneration"] for one in status["conditions"]} == {4}
    assert {one["lastTransitionTime"] for one in status["conditions"]} == {"2026-03-01T12:00:00Z"}


def test_a_refused_set_is_said_of_all() -> None:
    good, bad, fresh = policy("one"), policy("two", "tru"), policy("three")
    items = [good, bad, fresh]
    found = statuses(items, build(items, also=()), force(good, policy("two")), None, now=NOW)

    assert ready_of(found["uid-one"])[:2] == ("True", "SetRefused")
    assert ready_of(found["uid-two"])[:2] == ("False", "Invalid")
    assert ready_of(found["uid-three"])[:2] == ("False", "SetRefused")
    assert condition(found["uid-two"], "Active")["reason"] == "NotAccepted"
    assert "with this object as it was" in condition(found["uid-two"], "Active")["message"]
    assert found["uid-two"]["errors"][0]["path"] == "spec.rules[0].when"
    assert found["uid-one"]["digest"] is not None
    assert found["uid-three"]["digest"] is None


def test_a_set_that_was_denied() -> None:
    items = [policy("one"), policy("two")]
    trouble = Trouble("ActivationDenied", "no")
    found = statuses(items, build(items, also=()), force(items[0]), trouble, now=NOW)

    assert ready_of(found["uid-one"])[:2] == ("True", "ActivationDenied")
    assert ready_of(found["uid-two"])[:2] == ("False", "ActivationDenied")
    assert condition(found["uid-two"], "Accepted")["status"] == "True"


def test_nothing_in_force_yet() -> None:
    items = [policy("one")]
    found = statuses(items, build(items, also=()), Force(None, {}), None, now=NOW)["uid-one"]

    assert ready_of(found) == ("False", "NotActivated", "nothing is in force: ")


@pytest.mark.parametrize("trouble", [None, Trouble("ServiceUnavailable", "gone")])
def test_nobody_could_say(trouble: Trouble | None) -> None:
    items = [policy("one")]
    found = statuses(items, build(items, also=()), None, trouble, now=NOW)["uid-one"]

    assert condition(found, "Active")["status"] == "Unknown"
    assert ready_of(found)[1] == ("Unknown" if trouble is None else "ServiceUnavailable")


def test_a_condition_that_stays_keeps_its_time() -> None:
    first = policy("one")
    before = statuses([first], build([first], also=()), force(first), None, now=NOW)["uid-one"]
    again = Item(POLICIES, {**first.body, "status": before})
    same = statuses([again], build([again], also=()), force(again), None, now=LATER)["uid-one"]
    lost = statuses([again], build([again], also=()), None, None, now=LATER)["uid-one"]

    assert same == before
    assert condition(lost, "Active")["lastTransitionTime"] == "2026-03-01T13:00:00Z"
    assert condition(lost, "Accepted")["lastTransitionTime"] == "2026-03-01T12:00:00Z"


def test_what_is_shown_is_bounded_and_printable() -> None:
    item = policy("one")
    built = Built((), None, {"uid-one": (Fault("a\u202eb" + "x" * 5000), *[Fault("more")] * 30)})
    status = statuses([item], built, None, None, now=NOW)["uid-one"]

    assert len(status["errors"]) == 20
    assert status["errors"][0]["message"].startswith("a\\u202eb")
    assert len(status["errors"][0]["message"]) == TEXT_MAX_CHARS
    assert len(ready_of(status)[2]) == TEXT_MAX_CHARS


def test_no_conditions_yet() -> None:
    assert ready_of({}) == ("", "", "")
    assert ready_of({"conditions": [{"type": "Other"}]}) == ("", "", "")
