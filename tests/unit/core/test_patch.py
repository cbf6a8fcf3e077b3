import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core import patch
from app.core.comparison import Difference, compare, equal
from app.core.patch import apply, named, parse
from app.errors import FirewallError, Kind

_TREES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from(["", "a"])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("abc"), inner, max_size=3)),
    max_leaves=10,
)
_POINTERS = st.lists(st.sampled_from(["a", "b", "c", "0", "1", "-"]), max_size=3).map(
    lambda tokens: "".join("/" + token for token in tokens)
)
_OPERATIONS = st.fixed_dictionaries(
    {"op": st.sampled_from(list(patch.Op)), "path": _POINTERS, "from": _POINTERS, "value": _TREES}
)


def _refused(before: Any, operations: Any) -> FirewallError:
    with pytest.raises(FirewallError) as caught:
        apply(parse(operations), before=before)
    assert caught.value.kind is Kind.MALFORMED
    return caught.value


@pytest.mark.parametrize(
    ("before", "operations", "after"),
    [
        # RFC 6902 appendix A
        ({"foo": "bar"}, [{"op": "add", "path": "/baz", "value": "qux"}], {"baz": "qux", "foo": "bar"}),
        ({"foo": ["bar", "baz"]}, [{"op": "add", "path": "/foo/1", "value": "qux"}], {"foo": ["bar", "qux", "baz"]}),
        ({"baz": "qux", "foo": "bar"}, [{"op": "remove", "path": "/baz"}], {"foo": "bar"}),
        ({"foo": ["bar", "qux", "baz"]}, [{"op": "remove", "path": "/foo/1"}], {"foo": ["bar", "baz"]}),
        ({"baz": "qux", "foo": "bar"}, [{"op": "replace", "path": "/baz", "value": "boo"}], {"baz": "boo", "foo": "bar"}),
        ({"foo": {"bar": "baz", "waldo": "fred"}, "qux": {"corge": "grault"}}, [{"op": "move", "from": "/foo/waldo", "path": "/qux/thud"}], {"foo": {"bar": "baz"}, "qux": {"corge": "grault", "thud": "fred"}}),
        ({"foo": ["all", "grass", "cows", "eat"]}, [{"op": "move", "from": "/foo/1", "path": "/foo/3"}], {"foo": ["all", "cows", "eat", "grass"]}),
        ({"baz": "qux", "foo": ["a", 2, "c"]}, [{"op": "test", "path": "/baz", "value": "qux"}, {"op": "test", "path": "/foo/1", "value": 2}], {"baz": "qux", "foo": ["a", 2, "c"]}),
        ({"foo": "bar"}, [{"op": "add", "path": "/child", "value": {"grandchild": {}}}], {"foo": "bar", "child": {"grandchild": {}}}),
        ({"foo": "bar"}, [{"op": "add", "path": "/baz", "value": "qux", "xyz": 123}], {"foo": "bar", "baz": "qux"}),
        ({"/": 9, "~1": 10}, [{"op": "test", "path": "/~01", "value": 10}], {"/": 9, "~1": 10}),
        ({"foo": ["bar"]}, [{"op": "add", "path": "/foo/-", "value": ["abc", "def"]}], {"foo": ["bar", ["abc", "def"]]}),
        # beyond the appendix
        ({"a": 1}, [{"op": "add", "path": "", "value": [2]}], [2]),
        ({"a": 1}, [{"op": "replace", "path": "", "value": 2}], 2),
        ({"a": {"b": 1}}, [{"op": "copy", "from": "", "path": "/a/c"}], {"a": {"b": 1, "c": {"a": {"b": 1}}}}),
        ({"a": {"b": 1}}, [{"op": "move", "from": "/a", "path": ""}], {"b": 1}),
        ({"a": {"b": 1}}, [{"op": "move", "from": "/a", "path": "/a"}], {"a": {"b": 1}}),
        ({"a": [1]}, [{"op": "copy", "from": "/a", "path": "/b"}, {"op": "add", "path": "/b/0", "value": 0}], {"a": [1], "b": [0, 1]}),
        ([1, 2], [{"op": "add", "path": "/2", "value": 3}, {"op": "replace", "path": "/0", "value": 0}], [0, 2, 3]),
        ([1.0], [{"op": "test", "path": "/0", "value": 1}], [1.0]),
    ],
)  # fmt: skip
def test_patches_apply(before, operations, after):
    snapshot = copy.deepcopy((before, operations))
    assert apply(parse(operations), before=before) == after
    assert (before, operations) == snapshot


@pytest.mark.parametrize(
    ("before", "operations", "pointer", "detail"),
    [
        ({"baz": "qux"}, [{"op": "test", "path": "/baz", "value": "bar"}], "/change/patch/0", "the value there is another one"),
        ({"foo": "bar"}, [{"op": "add", "path": "/baz/bat", "value": "qux"}], "/change/patch/0", "no member `baz`"),
        ({"a": 1}, [{"op": "add", "path": "/a/b", "value": 1}], "/change/patch/0", "neither an object nor an array"),
        ({"a": 1}, [{"op": "remove", "path": "/a/b"}], "/change/patch/0", "neither an object nor an array"),
        ({}, [{"op": "test", "path": "", "value": {}}, {"op": "remove", "path": "/a"}], "/change/patch/1", "no member `a`"),
        ({}, [{"op": "remove", "path": ""}], "/change/patch/0", "ask for the action `delete`"),
        ({}, [{"op": "replace", "path": "/a", "value": 1}], "/change/patch/0", "no member `a`"),
        ([1], [{"op": "add", "path": "/3", "value": 1}], "/change/patch/0", "beyond the end"),
        ([1], [{"op": "replace", "path": "/-", "value": 1}], "/change/patch/0", "not an array index"),
        ([1], [{"op": "remove", "path": "/01"}], "/change/patch/0", "not an array index"),
        ([True], [{"op": "test", "path": "/0", "value": 1}], "/change/patch/0", "another one"),
        ({}, [{"op": "copy", "from": "/a", "path": "/b"}], "/change/patch/0", "no member `a`"),
    ],
)  # fmt: skip
def test_a_patch_that_does_not_fit_says_which_operation(before, operations, pointer, detail):
    error = _refused(before, operations)
    assert error.pointer == pointer
    assert detail in error.detail


@pytest.mark.parametrize(
    ("operations", "pointer"),
    [
        ({}, "/change/patch"),
        ([], "/change/patch"),
        ([{"op": "test", "path": "", "value": 1}] * 2001, "/change/patch"),
        ([1], "/change/patch/0"),
        ([{"path": ""}], "/change/patch/0/op"),
        ([{"op": 1, "path": ""}], "/change/patch/0/op"),
        ([{"op": "", "path": ""}], "/change/patch/0/op"),
        ([{"op": "Add", "path": ""}], "/change/patch/0/op"),
        ([{"op": "add", "value": 1}], "/change/patch/0/path"),
        ([{"op": "add", "path": "/a"}], "/change/patch/0/value"),
        ([{"op": "add", "path": "a", "value": 1}], "/change/patch/0/path"),
        ([{"op": "add", "path": 1, "value": 1}], "/change/patch/0/path"),
        ([{"op": "move", "path": "/a"}], "/change/patch/0/from"),
        ([{"op": "copy", "path": "/a", "from": "/~2"}], "/change/patch/0/from"),
        ([{"op": "move", "path": "/a/b", "from": "/a"}], "/change/patch/0/path"),
        ([{"op": "move", "path": "/a", "from": ""}], "/change/patch/0/path"),
    ],
)
def test_what_is_no_patch_is_refused(operations, pointer):
    with pytest.raises(FirewallError) as caught:
        parse(operations)
    assert (caught.value.kind, caught.value.pointer) == (Kind.MALFORMED, pointer)


def test_copies_that_double_are_stopped():
    operations = [{"op": "copy", "from": "", "path": "/-"}] * 60
    assert "copies are larger" in _refused(["x" * 1000], operations).detail


def test_nesting_by_copies_is_stopped():
    operations = [{"op": "copy", "from": "", "path": "/" + "/".join(["0"] * 2**n)} for n in range(6)]
    assert "nests more than 64" in _refused([[]], [*operations, *operations]).detail
    deep: Any = []
    for _ in range(62):
        deep = [deep]
    assert apply(parse([{"op": "add", "path": "/a", "value": deep}]), before={})
    assert "nests more than 64" in _refused({}, [{"op": "add", "path": "/a", "value": [[deep]]}]).detail
    deepest = [{"op": "copy", "from": "", "path": "/0" * (63 * 2**n)} for n in range(3)]
    assert "nests more than 64" in _refused([deep], deepest).detail


def test_what_a_patch_names_without_a_document():
    operations = parse(
        [
            {"op": "add", "path": "/list/-", "value": 1},
            {"op": "remove", "path": "/gone"},
            {"op": "replace", "path": "/kept", "value": 2},
            {"op": "move", "from": "/here", "path": "/there"},
            {"op": "copy", "from": "/here", "path": "/twin"},
            {"op": "test", "path": "/only/read", "value": 1},
        ]
    )
    assert named(operations) == Difference(
        ["/gone", "/here", "/kept", "/list/-", "/there", "/twin"], ["/list/-", "/there", "/twin"], ["/gone", "/here"]
    )


@given(_TREES, st.lists(_OPERATIONS, min_size=1, max_size=6))
def test_any_patch_applies_or_is_refused_and_changes_nothing_it_was_given(before, operations):
    snapshot = json.dumps([before, operations])
    try:
        after = apply(parse(operations), before=before)
    except FirewallError as error:
        assert error.kind is Kind.MALFORMED  # noqa: PT017 - a refusal is one of two good outcomes
    else:
        # What was returned shares nothing with what was given.
        _spoil(after)
    assert json.dumps([before, operations]) == snapshot


def _spoil(tree: Any) -> None:
    for child in list(tree.values()) if isinstance(tree, dict) else list(tree) if isinstance(tree, list) else []:
        _spoil(child)
    if isinstance(tree, dict | list):
        tree.clear()


@given(_TREES, _TREES)
def test_replacing_what_differs_gives_the_other_tree(before, after):
    difference = compare(before, after)
    if difference.added or difference.removed:
        return
    operations = [{"op": "replace", "path": path, "value": _at(after, path)} for path in difference.paths]
    if operations:
        assert equal(apply(parse(operations), before=before), after)


def _at(tree: Any, path: str) -> Any:
    for token in path.split("/")[1:]:
        tree = tree[int(token)] if isinstance(tree, list) else tree[token]
    return tree
