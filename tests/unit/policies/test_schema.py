"""The schemas and the loader agree: what the loader takes is valid, and what only a schema can miss is known."""

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from app.policies.document import read_policy
from app.policies.exception_document import read_exception
from app.policies.reader import Reader
from app.policies.schema import file_name, schema
from app.policies.shape import KINDS
from app.policies.tree import Mapping, Node, Scalar, Sequence, documents

ROOT = Path(__file__).parents[3]
POLICY = Draft202012Validator(schema("MutationPolicy"))
TEST = Draft202012Validator(schema("PolicyTest"))
GOOD: dict[str, Any] = {
    "apiVersion": "mutationfirewall.io/v1",
    "kind": "MutationPolicy",
    "metadata": {"name": "p", "labels": {"team": "sre"}},
    "spec": {
        "mode": "shadow",
        "validFrom": "2026-03-01T00:00:00Z",
        "validUntil": "2026-04-01T00:00:00.5+02:00",
        "match": {
            "subjects": [{"type": "agent"}],
            "actions": ["update", "patch*"],
            "resources": [
                {"type": "a/b", "id": "x*", "properties": {"e": "p", "n": 1, "b": True}, "labels": {"l": "g*"}}
            ],
            "exclude": [{"subjects": [{"id": "s"}], "actions": ["a"]}, {"resources": [{"labels": {"l": "x"}}]}],
        },
        "matchConditions": [{"name": "c", "expression": "true"}],
        "variables": [{"name": "v", "expression": "1"}],
        "rules": [
            {"name": "a", "effect": "allow", "when": "variables.v == 1"},
            {
                "name": "h",
                "effect": "hold",
                "message": "m",
                "approval": {
                    "anyOf": [{"group": "g", "count": 2}, {"allOf": [{"group": "h"}]}],
                    "expiresAfter": "24h",
                    "executeWithin": "1h30m",
                },
            },
            {
                "name": "d",
                "effect": "deny",
                "messageExpression": "'no'",
                "obligations": [{"key": "a/b", "value": "t"}, {"key": "n", "valueExpression": "change.paths"}],
            },
        ],
        "budgets": [
            {
                "name": "b",
                "per": "subject",
                "when": "true",
                "distinct": "'x'",
                "limit": 3,
                "window": "24h",
                "effect": "hold",
                "message": "m",
                "approval": {"anyOf": [{"group": "g"}]},
            },
            {"name": "k", "key": "'x'", "limit": 1, "window": "1h", "effect": "deny"},
        ],
        "freezes": [
            {"name": "w", "schedule": "0 18 * * 5", "timeZone": "Europe/Berlin", "duration": "62h", "when": "true"},
            {
                "name": "n",
                "schedule": "0 22 * * *",
                "timeZone": "UTC",
                "duration": "8h",
                "effect": "hold",
                "message": "m",
                "approval": {"anyOf": [{"group": "g"}]},
            },
        ],
    },
}


def node(value: Any) -> Node:
    if isinstance(value, dict):
        names = {name: Scalar(name, 1, 1) for name in value}
        return Mapping({name: node(item) for name, item in value.items()}, names, 1, 1)
    if isinstance(value, list):
        return Sequence(tuple(node(item) for item in value), 1, 1)
    return Scalar(value, 1, 1)


def loads(value: Any) -> bool:
    reader = Reader("p.yaml", text="")
    return read_policy(node(value), reader) is not None


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for name, item in inner for place in places(item, (*at, name)))]


PLACES = [place for place in places(GOOD) if place]
STRANGE: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, 0, -1, 1, 101, 2.5, "", " ", "x", "A", "a b", "**", "7d", "0h", "1h", "deny", "hold", "allow", "shadow",
     [], {}, ["x"], [{}], {"x": 1}, {"group": "g"}, "mutation-firewall", "a" * 300, "true", "1"]
)  # fmt: skip


def changed(place, act, value, *, of=GOOD):
    document = copy.deepcopy(of)
    holder = document
    for step in place[:-1]:
        holder = holder[step]
    match act:
        case "replace":
            holder[place[-1]] = value
        case "remove":
            del holder[place[-1]]
        case "misspell" if isinstance(place[-1], str):
            holder[place[-1] + "x"] = holder.pop(place[-1])
        case _:
            pass
    return document


def test_the_schemas_are_schemas():
    for kind in KINDS:
        Draft202012Validator.check_schema(schema(kind))
    assert file_name("MutationPolicy") == "mutation-policy.json"


EXCEPTION: dict[str, Any] = {
    "apiVersion": "mutationfirewall.io/v1",
    "kind": "PolicyException",
    "metadata": {"name": "e"},
    "spec": {
        "owner": "o",
        "reason": "r",
        "validFrom": "2026-03-01T00:00:00Z",
        "validUntil": "2026-04-01T00:00:00Z",
        "policies": [{"name": "p", "rules": ["r"]}, {"name": "q"}],
        "match": {"actions": ["a"], "exclude": [{"subjects": [{"id": "s"}]}]},
        "matchConditions": [{"name": "c", "expression": "true"}],
    },
}
EXCEPTION_PLACES = [place for place in places(EXCEPTION) if place]


@given(st.sampled_from(EXCEPTION_PLACES), st.sampled_from(["replace", "remove", "misspell"]), STRANGE)
def test_what_is_read_of_an_exception_is_valid(place, act, value):
    document = changed(place, act, value, of=EXCEPTION)
    validator = Draft202012Validator(schema("PolicyException"))
    if (
        document.get("kind") == "PolicyException"
        and read_exception(node(document), Reader("e.yaml", text="")) is not None
    ):
        validator.validate(document)


def test_the_good_one_is_good_for_both():
    assert read_exception(node(EXCEPTION), Reader("e.yaml", text="")) is not None
    Draft202012Validator(schema("PolicyException")).validate(EXCEPTION)
    assert loads(GOOD)
    POLICY.validate(GOOD)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)))
def test_a_misspelt_member_is_valid_for_neither(place):
    document = changed(place, "misspell", None)
    free = isinstance(place[-1], int) or place[-2:-1] in {("labels",), ("properties",)}
    assert POLICY.is_valid(document) is free
    assert loads(document) is free


@given(st.sampled_from(PLACES), st.sampled_from(["replace", "remove"]), STRANGE)
def test_what_the_loader_takes_is_valid(place, act, value):
    document = changed(place, act, value)
    if loads(document):
        POLICY.validate(document)


@given(st.sampled_from(PLACES), STRANGE)
def test_what_is_valid_is_refused_only_for_what_a_schema_cannot_say(place, value):
    document = changed(place, "replace", value)
    if POLICY.is_valid(document) and not loads(document):
        reader = Reader("p.yaml", text="")
        read_policy(node(document), reader)
        assert any(
            words in found.message
            for found in reader.diagnostics
            for words in (
                "expression",
                "undeclared",
                "declared",
                "used twice",
                "between a second",
                "is not an instant",
                "schedule",
                "time zone",
                "ends before",
                "gives",
                "twice",
                "not `",
                "bool",
                "string",
                "word of CEL",
            )
        ), reader.diagnostics


@pytest.mark.parametrize("file", sorted((ROOT / "policies" / "starter").glob("*.yaml")), ids=lambda file: file.name)
def test_the_starter_policies_are_valid(file):
    for root in documents(file.read_text()):
        POLICY.validate(root.plain())
    assert file.read_text().startswith("# yaml-language-server: $schema=../../docs/schemas/mutation-policy.json\n")
    assert (file.parent / "../../docs/schemas/mutation-policy.json").exists()


@pytest.mark.parametrize(
    "file", sorted((ROOT / "policies" / "starter.tests").glob("*.yaml")), ids=lambda file: file.name
)
def test_the_tests_of_the_starter_policies_are_valid(file):
    for root in documents(file.read_text()):
        TEST.validate(root.plain())
