"""Fields of values of every kind, as the operators select them."""

import pytest

from app.core.cel.operators import has, select
from app.core.cel.values import NONE, CelError, MixedMap, Optional

MIXED = MixedMap([("a", 1), (2, 3)])


@pytest.mark.parametrize("value", [{"a": 1}, MIXED], ids=["map", "mixed map"])
def test_a_field_of_a_map(value):
    assert (select(value, "a"), has(value, "a"), has(value, "b")) == (1, True, False)
    with pytest.raises(CelError, match="no such key: `b`"):
        select(value, "b")


def test_a_field_of_what_may_be_absent():
    there = Optional({"a": 1})
    assert select(there, "a") == Optional(1)
    assert select(there, "b") == select(NONE, "a") == NONE
    assert (has(there, "a"), has(there, "b"), has(NONE, "a")) == (True, False, False)


@pytest.mark.parametrize("value", [None, True, 1, 1.5, "a", b"a", ["a"]])
@pytest.mark.parametrize("ask", [select, has], ids=["select", "has"])
def test_what_is_no_map_has_no_fields(ask, value):
    with pytest.raises(CelError, match="no field `a` in a value that is no map"):
        ask(value, "a")
