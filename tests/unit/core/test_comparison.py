import copy
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.core import comparison
from app.core.comparison import compare, equal
from app.core.pointer import escape
from app.errors import FirewallError

_TREES = st.recursive(
    st.sampled_from([None, True, False, 0, 1, 1.0, 0.0, -0.0, 2, "", "1", "a"]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["a", "b", "c/d", "~"]), inner, max_size=3)
    ),
    max_leaves=15,
)


def _kind(value: Any) -> str:
    return "number" if type(value) in {int, float} else type(value).__name__


def _naive(before: Any, after: Any, place: str = "") -> tuple[list[str], list[str], list[str]]:
    """(changed, added, removed) by plain recursion."""
    if _kind(before) != _kind(after):
        return [place], [], []
    if isinstance(before, list):
        before = {str(i): value for i, value in enumerate(before)}
        after = {str(i): value for i, value in enumerate(after)}
    if isinstance(before, dict):
        changed: list[str] = []
        added = [f"{place}/{escape(key)}" for key in after.keys() - before.keys()]
        removed = [f"{place}/{escape(key)}" for key in before.keys() - after.keys()]
        for key in before.keys() & after.keys():
            for total, found in zip(
                (changed, added, removed), _naive(before[key], after[key], f"{place}/{escape(key)}"), strict=True
            ):
                total.extend(found)
        return changed, added, removed
    return ([] if before == after else [place]), [], []


@given(_TREES, _TREES)
@example([True], [1])
@example({"a": {"b": [1, {"a": True}]}}, {"a": {"b": [1, {"a": 1}]}})
@example({"a": {"b": 1}}, {"a": {"b": 1.0}})
@example([0.0], [False])
def test_compare_is_what_plain_recursion_finds(before, after):
    snapshot = copy.deepcopy((before, after))
    changed, added, removed = _naive(before, after)
    difference = compare(before, after)
    assert difference.paths == sorted(changed + added + removed)
    assert difference.added == sorted(added)
    assert difference.removed == sorted(removed)
    assert equal(before, after) is (difference.paths == [])
    assert repr((before, after)) == repr(snapshot)


@given(_TREES)
def test_a_value_is_equal_to_its_copy(tree):
    assert compare(tree, copy.deepcopy(tree)).paths == []
    assert equal(tree, copy.deepcopy(tree))


def test_a_deployment_that_is_scaled():
    before = {"spec": {"replicas": 3, "template": {"containers": [{"image": "a:1"}]}}}
    after = {"spec": {"replicas": 5, "template": {"containers": [{"image": "a:1"}, {"image": "b"}]}, "paused": True}}
    difference = compare(before, after)
    assert difference.paths == ["/spec/paused", "/spec/replicas", "/spec/template/containers/1"]
    assert difference.added == ["/spec/paused", "/spec/template/containers/1"]
    assert difference.removed == []


def test_more_differences_than_anybody_reviews_are_refused():
    with pytest.raises(FirewallError, match="more than 10000 members differ"):
        compare([0] * 10_001, [1] * 10_001)
    assert len(compare([0] * 10_000, [1] * 10_000).paths) == 10_000


def test_a_long_key_above_many_differences_is_refused():
    key = "k" * (comparison.MAX_POINTER_TEXT // 1000)
    with pytest.raises(FirewallError, match="longer than"):
        compare({key: [0] * 1001}, {key: [1] * 1001})
