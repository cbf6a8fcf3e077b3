import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.canonical import canonical
from app.core.normalise import normalise
from app.core.tool_calls import Risk, read_tool_call, riskier
from app.errors import FirewallError, Kind

AGENT = {"type": "agent", "id": "coder", "properties": {}}


def test_a_tool_of_which_nothing_is_known_is_one_call_with_its_arguments():
    call = read_tool_call("cancel_order", {"order_id": 7}, server="shop", cwd="/srv/app", context={"session": "s1"})
    (part,) = call.parts
    assert part.action == {"name": "call", "properties": {"risk": "runs"}}
    assert part.resource == {
        "type": "tool",
        "id": "shop/cancel_order",
        "properties": {"name": "cancel_order", "server": "shop"},
    }
    assert part.change == {"after": {"order_id": 7}}
    assert part.context == {
        "session": "s1",
        "tool": {"name": "cancel_order", "server": "shop"},
        "cwd": "/srv/app",
    }
    assert call.risk is Risk.RUNS
    mutation = part.mutation(AGENT, request_id="r")
    assert mutation.request_id == "r"
    assert normalise(mutation).inputs["change"]["added"] == [""]


def test_without_a_server_the_name_is_the_id():
    (part,) = read_tool_call("x", {}).parts
    assert part.resource == {"type": "tool", "id": "x", "properties": {"name": "x"}}
    assert part.context == {"tool": {"name": "x"}}


def test_what_the_caller_says_of_the_tool_cannot_take_the_place_of_what_is_known():
    (part,) = read_tool_call("x", {}, context={"tool": {"name": "y"}, "cwd": "/"}, cwd="/srv").parts
    assert part.context == {"tool": {"name": "x"}, "cwd": "/srv"}


@pytest.mark.parametrize(
    ("hints", "risk"),
    [
        ({}, "runs"),
        ({"readOnlyHint": True}, "runs"),
        ({"destructiveHint": False}, "runs"),
        ({"readOnlyHint": True, "destructiveHint": True}, "destroys"),
        ({"destructiveHint": True, "title": "x", "unheard-of": 3}, "destroys"),
    ],
)
def test_hints_only_ever_raise_the_risk(hints, risk):
    (part,) = read_tool_call("x", {}, hints=hints).parts
    assert part.action["properties"]["risk"] == risk
    flags = {name: value for name, value in hints.items() if name.endswith("Hint")}
    assert part.context["tool"].get("hints", {}) == flags


@pytest.mark.parametrize("value", [None, 1, 0, "true", [], {}])
def test_a_hint_that_is_no_boolean_is_refused(value):
    with pytest.raises(FirewallError) as caught:
        read_tool_call("x", {}, hints={"readOnlyHint": value})
    assert (caught.value.kind, caught.value.pointer) == (Kind.MALFORMED, "/annotations/readOnlyHint")


@pytest.mark.parametrize("arguments", [None, [], "{}", 1, True])
def test_arguments_that_are_no_object_are_refused(arguments):
    with pytest.raises(FirewallError) as caught:
        read_tool_call("x", arguments)
    assert (caught.value.kind, caught.value.pointer) == (Kind.MALFORMED, "/arguments")


@pytest.mark.parametrize("pointer", ["/name", "/server"])
@pytest.mark.parametrize(
    "name", ["", "a/b", "a b", "Bаsh", "B\u200bash", "a\x00", "a\n", "\u202eab", "a" * 129, "ｒｍ", "a\ud800"]
)
def test_a_name_with_more_than_one_reading_is_refused(pointer, name):
    with pytest.raises(FirewallError) as caught:
        read_tool_call(**{"name": "x", "server": None, pointer[1:]: name}, arguments={})
    assert (caught.value.kind, caught.value.pointer) == (Kind.MALFORMED, pointer)
    assert caught.value.detail.isascii()
    assert caught.value.detail.isprintable()


def test_the_same_tool_of_two_servers_is_two_tools():
    ids = {read_tool_call(name, {}, server=server).parts[0].resource["id"] for server in "ab" for name in ("t", "T")}
    assert len(ids) == 4


def test_the_highest_risk_counts_and_none_is_not_known():
    assert riskier([Risk.READS, Risk.DESTROYS, Risk.CHANGES]) is Risk.DESTROYS
    assert riskier([]) is Risk.UNKNOWN


NAMES = st.text(st.characters(codec="ascii"), max_size=8) | st.text(max_size=4)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
    lambda x: st.lists(x) | st.dictionaries(st.text(max_size=3), x),
    max_leaves=5,
)


@given(NAMES, st.dictionaries(st.text(max_size=3), VALUES), st.none() | NAMES)
def test_any_call_is_read_or_refused_as_malformed(name, arguments, server):
    try:
        call = read_tool_call(name, arguments, server=server)
    except FirewallError as error:
        assert error.kind is Kind.MALFORMED  # noqa: PT017 - either outcome is right, and each has its own check
        return
    assert call.parts
    for part in call.parts:
        assert canonical(part.context)
        assert part.action["properties"]["risk"] in set(Risk)
