import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.canonical import canonical
from app.core.normalise import digest, normalise
from app.core.types import Mutation
from app.errors import FirewallError, Kind

_VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "mutation_digest.json").read_text("utf-8"))
_DERIVED = {"paths", "added", "removed", "files", "statements"}


def _mutation(sent: dict[str, Any]) -> Mutation:
    """A mutation as step 4 makes it of what was sent."""
    party = {
        name: {**sent[name], "properties": sent[name].get("properties", {})}
        for name in ("subject", "action", "resource")
    }
    return Mutation(
        party["subject"],
        party["action"],
        party["resource"],
        sent["change"],
        sent.get("context", {}),
        sent.get("request_id"),
        sent.get("rationale"),
    )


def _changed(change: Any, action: str = "update") -> Mutation:
    return _mutation(
        {
            "subject": {"type": "agent", "id": "a"},
            "action": {"name": action},
            "resource": {"type": "t", "id": "r"},
            "change": change,
        }
    )


def _change(change: Any, action: str = "update") -> dict[str, Any]:
    found: dict[str, Any] = normalise(_changed(change, action)).inputs["change"]
    return found


@pytest.mark.parametrize("vector", _VECTORS, ids=lambda vector: vector["name"])
def test_digest_vectors(vector):
    mutation = _mutation(vector["mutation"])
    normalised = normalise(mutation)
    assert normalised.digest == vector["digest"]
    # The text is in the vector, so that another implementation can find its first difference.
    assert "sha256:" + hashlib.sha256(vector["canonical"].encode()).hexdigest() == vector["digest"]
    named = {name: normalised.inputs[name] for name in ("action", "context", "resource", "subject")} | {
        "change": mutation.change
    }
    assert canonical(named).decode() == vector["canonical"]
    # And the text is about the mutation: read back, it says what was sent.
    assert json.loads(vector["canonical"])["change"] == vector["mutation"]["change"]


def test_a_mutation_that_cannot_be_normalised_has_a_digest_all_the_same():
    broken = _changed({"diff": "***"})
    with pytest.raises(FirewallError):
        normalise(broken)
    assert digest(broken).startswith("sha256:")
    good = _changed({"before": {}, "after": {"x": 1.5}})
    assert digest(good) == normalise(good).digest != digest(broken)


def test_the_vectors_cover_every_member_of_a_change():
    assert {name for vector in _VECTORS for name in vector["mutation"]["change"]} == {
        "before",
        "after",
        "patch",
        "diff",
        "statement",
        "manifest",
    }
    assert len({vector["digest"] for vector in _VECTORS}) == len(_VECTORS) - 1  # request id and rationale do not count


def test_missing_properties_are_empty_ones():
    given_them = Mutation(
        {"type": "a", "id": "b", "properties": {}},
        {"name": "c", "properties": {}},
        {"type": "d", "id": "e", "properties": {}},
        {"after": 1},
        {},
    )
    without = Mutation({"type": "a", "id": "b"}, {"name": "c"}, {"type": "d", "id": "e"}, {"after": 1}, {})
    assert normalise(without) == normalise(given_them)
    assert normalise(without).inputs["subject"]["properties"] == {}


_MEMBERS = st.fixed_dictionaries(
    {},
    optional={
        "subject": st.sampled_from(["x", "y"]),
        "action": st.sampled_from(["update", "patch"]),
        "resource": st.sampled_from(["x", "y"]),
        "context": st.dictionaries(st.sampled_from("ab"), st.integers(0, 2)),
        "change": st.dictionaries(st.sampled_from(["before", "after"]), st.integers(0, 2), min_size=1).filter(
            lambda change: "after" in change
        ),
        "request_id": st.text(),
        "rationale": st.text(),
    },
)


@given(_MEMBERS, _MEMBERS)
def test_digests_are_equal_when_and_only_when_the_meaning_is(one, other):
    def build(members: dict[str, Any]) -> Mutation:
        return _mutation(
            {
                "subject": {"type": "agent", "id": members.get("subject", "x")},
                "action": {"name": members.get("action", "update")},
                "resource": {"type": "t", "id": members.get("resource", "x")},
                "change": members.get("change", {"after": 1}),
                "context": members.get("context", {}),
                "request_id": members.get("request_id"),
                "rationale": members.get("rationale"),
            }
        )

    first, second = build(one), build(other)
    meaning = [
        (mutation.subject, mutation.action, mutation.resource, mutation.change, mutation.context)
        for mutation in (first, second)
    ]
    assert (normalise(first).digest == normalise(second).digest) is (meaning[0] == meaning[1])


@pytest.mark.parametrize(
    ("change", "action", "paths", "added", "removed"),
    [
        ({"before": {"a": 1, "b": 1}, "after": {"a": 2, "c": 1}}, "update", ["/a", "/b", "/c"], ["/c"], ["/b"]),
        ({"before": {"a": 1}, "after": {"a": 1}}, "update", [], [], []),
        ({"after": {"a": 1}}, "create", [""], [""], []),
        ({"before": None, "after": {"a": 1}}, "create", [""], [""], []),
        ({"before": {"a": 1}}, "delete", [""], [], [""]),
        ({"before": {"a": 1}, "after": None}, "update", [""], [], [""]),
        ({"before": 1, "after": 2}, "update", [""], [], []),
        ({"before": {"a": [1]}, "patch": [{"op": "add", "path": "/a/-", "value": 2}]}, "patch", ["/a/1"], ["/a/1"], []),
        ({"before": None, "patch": [{"op": "add", "path": "", "value": 2}]}, "patch", [""], [""], []),
        ({"before": None, "patch": [{"op": "test", "path": "", "value": None}]}, "patch", [], [], []),
        ({"patch": [{"op": "remove", "path": "/a"}]}, "patch", ["/a"], [], ["/a"]),
        ({"manifest": {"kind": "prompt", "target_digest": "sha256:" + "0" * 64}}, "promote", [], [], []),
    ],
)
def test_paths(change, action, paths, added, removed):
    snapshot = copy.deepcopy(change)
    found = _change(change, action)
    assert (found["paths"], found["added"], found["removed"]) == (paths, added, removed)
    assert change == snapshot
    assert found.keys() >= _DERIVED


def test_a_patch_gives_after():
    change = {"before": {"a": 1}, "patch": [{"op": "replace", "path": "/a", "value": 2}]}
    assert _change(change)["after"] == {"a": 2}
    assert "after" not in change
    assert _change({**change, "after": {"a": 2.0}})["after"] == {"a": 2}


def test_files_statements_and_manifest_are_filled():
    found = _change(
        {
            "diff": "--- a/f\n+++ b/f\n@@ -1 +1 @@\n-a\n+b\n",
            "statement": {"dialect": "postgres", "text": "DELETE FROM t"},
            "manifest": {
                "kind": "tool",
                "target_digest": "sha256:" + "0" * 64,
                "evaluations": [{"suite": "s", "metric": "m", "base": 1, "target": 0}],
            },
        }
    )
    assert [file["path"] for file in found["files"]] == ["f"]
    assert [statement["kind"] for statement in found["statements"]] == ["delete"]
    assert found["manifest"]["evaluations"][0]["regressed"] is True
    assert found["paths"] == []


def test_inputs_have_their_five_members_and_no_more():
    normalised = normalise(_mutation({**_VECTORS[1]["mutation"]}))
    assert normalised.inputs.keys() == {"subject", "action", "resource", "context", "change"}


@pytest.mark.parametrize("action", ["update", "delete"])
def test_of_a_change_that_nobody_states_nothing_is_known(action):
    assert _change({}, action) == {"paths": [], "added": [], "removed": [], "files": [], "statements": []}


@pytest.mark.parametrize(
    ("change", "action", "pointer"),
    [
        ({"before": 1}, "update", "/change"),
        ({"before": None}, "delete", "/change"),
        ({"after": None}, "update", "/change"),
        ({"before": None, "after": None}, "update", "/change"),
        ({"after": 1, "paths": []}, "update", "/change/paths"),
        ({"afer": 1}, "update", "/change/afer"),
        ({"diff": ["a"]}, "update", "/change/diff"),
        ({"diff": ""}, "update", "/change/diff"),
        ({"patch": {}}, "update", "/change/patch"),
        ({"patch": [{"op": "remove", "path": "/a"}], "after": 1}, "update", "/change/after"),
        ({"patch": [{"op": "remove", "path": "/a"}], "before": {"a": 1}, "after": 1}, "update", "/change/after"),
        ({"patch": [{"op": "remove", "path": "/a"}], "before": {}}, "update", "/change/patch/0"),
        ({"statement": "SELECT 1"}, "update", "/change/statement"),
        ({"manifest": []}, "update", "/change/manifest"),
        ({"before": [0] * 10_001, "after": [1] * 10_001}, "update", "/change/after"),
    ],
)
def test_what_is_refused(change, action, pointer):
    with pytest.raises(FirewallError) as caught:
        normalise(_changed(change, action))
    assert (caught.value.kind, caught.value.pointer) == (Kind.MALFORMED, pointer)


def test_did_you_mean():
    with pytest.raises(FirewallError) as caught:
        normalise(_changed({"afer": 1}))
    assert caught.value.fix == "did you mean `after`?"


_JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-5, 5),
        st.floats(allow_nan=False, allow_infinity=False),
        st.sampled_from(["", "a", "postgres"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["op", "path", "dialect", "text", "kind", "a"]), inner, max_size=3),
    ),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(["before", "after", "patch", "diff", "statement", "manifest", "x"]), _JSON, max_size=3
    ),
    st.sampled_from(["update", "delete"]),
)
def test_any_change_is_normalised_or_refused(change, action):
    snapshot = repr(change)
    try:
        normalised = normalise(_changed(change, action))
    except FirewallError as error:
        assert (error.kind, error.pointer is None) == (Kind.MALFORMED, False)  # noqa: PT017 - one of two good outcomes
    else:
        canonical(normalised.inputs)
    assert repr(change) == snapshot
