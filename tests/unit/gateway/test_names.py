"""Names, outward and inward."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.gateway.names import Exposed, is_name, is_upstream


@pytest.mark.parametrize("text", ["a", "get_file", "A.b-C", "x" * 128])
def test_names_of_tools(text):
    assert is_name(text)


@pytest.mark.parametrize("text", ["", "a b", "a/b", "naïve", "a\u200b", "x" * 129, "a\n"])
def test_what_is_none(text):
    assert not is_name(text)


@pytest.mark.parametrize(("text", "expected"), [("a", True), ("a-1", True), ("a_b", False), ("-a", False), ("A", False), ("a" * 33, False), ("", False)])  # fmt: skip
def test_names_of_upstreams(text, expected):
    assert is_upstream(text) is expected


def test_one_upstream_changes_no_name():
    exposed = Exposed(["server"])
    assert exposed.outward("server", "a__b") == "a__b"
    assert exposed.inward("a__b") == ("server", "a__b")


NAMES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,5}[a-z0-9])?", fullmatch=True)


@given(st.sets(NAMES, min_size=2), st.from_regex(r"[A-Za-z0-9_.\-]{1,20}", fullmatch=True), st.data())
def test_of_several_each_comes_back_to_where_it_was(upstreams, tool, data):
    exposed = Exposed(sorted(upstreams))
    upstream = data.draw(st.sampled_from(sorted(upstreams)))
    assert exposed.inward(exposed.outward(upstream, tool)) == (upstream, tool)


@pytest.mark.parametrize("name", ["add", "c__add", "__add", "a_add", ""])
def test_what_nobody_has(name):
    assert Exposed(["a", "b"]).inward(name) is None
