"""Kill switches: which ones a decision has to know, until when, and what the record keeps of them."""

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.switches import (
    Switch,
    SwitchKind,
    approvals_stopped,
    concerning,
    denying,
    from_record,
    shadowed,
    to_record,
)
from app.errors import FirewallError, Kind

NOW = dt.datetime(2026, 3, 14, 12, tzinfo=dt.UTC)
LATER = NOW + dt.timedelta(hours=1)
ALL = Switch("1", SwitchKind.DENY_ALL)
BOT = Switch("2", SwitchKind.DENY_SUBJECT, "bot", LATER)
OTHER = Switch("3", SwitchKind.DENY_SUBJECT, "other")
SHADOW = Switch("4", SwitchKind.SHADOW, "prod", LATER)
STOP = Switch("5", SwitchKind.STOP_APPROVALS)


def test_a_switch_holds_until_its_end_and_not_at_it():
    assert BOT.holds(LATER - dt.timedelta(microseconds=1))
    assert not BOT.holds(LATER)
    assert ALL.holds(LATER)
    assert (BOT.ends, ALL.ends) == ("until 2026-03-14T13:00:00Z", "until it is ended")


def test_a_decision_knows_those_that_concern_its_subject():
    switches = [ALL, BOT, OTHER, SHADOW, STOP]
    assert concerning(switches, "bot", NOW) == (ALL, BOT, SHADOW, STOP)
    assert concerning(switches, "bot", LATER) == (ALL, STOP)
    assert concerning([OTHER], "bot", NOW) == ()


def test_the_most_general_denial_speaks():
    assert denying([BOT, ALL], "bot", NOW) == ALL
    assert denying([BOT, SHADOW, STOP], "bot", NOW) == BOT
    assert denying([BOT], "bot", LATER) is None
    assert denying([BOT], "somebody", NOW) is None
    # An id is compared whole and as it is: no other one passes for it.
    assert denying([BOT], "Bot", NOW) is None
    assert denying([BOT], None, NOW) is None


def test_shadows_and_approvals():
    assert shadowed([SHADOW, ALL], NOW) == {"prod": SHADOW}
    assert shadowed([SHADOW], LATER) == {}
    assert approvals_stopped([ALL, STOP], NOW) == STOP
    assert approvals_stopped([ALL], NOW) is None
    assert approvals_stopped([STOP._replace(until=NOW)], NOW) is None


moments = st.datetimes(timezones=st.just(dt.UTC))
switches = st.builds(
    Switch,
    id=st.text(),
    kind=st.sampled_from(SwitchKind),
    target=st.none() | st.text(),
    until=st.none() | moments,
)


@given(st.lists(switches))
def test_what_a_record_keeps_can_be_read_again(some):
    assert from_record({"switches": to_record(some)}) == tuple(some)


def test_a_record_without_switches_had_none():
    assert from_record({}) == ()


@pytest.mark.parametrize(
    "value",
    [
        None,
        1,
        [1],
        [{}],
        [{"id": "1", "kind": "nothing"}],
        [{"id": "1", "kind": "deny-all", "until": "soon"}],
        [{"id": "1", "kind": "deny-all", "until": "2026-03-14T13:00:00"}],
        [{"id": "1", "kind": "deny-all", "until": 1}],
    ],
)
def test_a_record_that_cannot_be_read_is_refused(value):
    with pytest.raises(FirewallError) as caught:
        from_record({"switches": value})
    assert (caught.value.kind, caught.value.pointer) == (Kind.MALFORMED, "/switches")


@given(st.lists(switches), st.text(), moments)
def test_with_those_that_concern_it_a_decision_comes_out_the_same(some, subject, now):
    few = concerning(some, subject, now)
    assert denying(few, subject, now) == denying(some, subject, now)
    assert shadowed(few, now) == shadowed(some, now)
    assert approvals_stopped(few, now) == approvals_stopped(some, now)
