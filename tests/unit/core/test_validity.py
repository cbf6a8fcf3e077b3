"""One place decides what has begun, what is over and what soon will be."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.validity import ALWAYS, Phase, Validity, parse_instant

START = datetime(2026, 3, 1, tzinfo=UTC)
END = datetime(2026, 4, 1, tzinfo=UTC)
TICK = timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("now", "phase"),
    [
        (START - TICK, Phase.PENDING),
        (START, Phase.CURRENT),
        (END - TICK, Phase.CURRENT),
        (END, Phase.EXPIRED),
        (END + TICK, Phase.EXPIRED),
    ],
)
def test_the_start_is_in_and_the_end_is_out(now, phase):
    assert Validity(START, END).phase(now) is phase


def test_one_end_may_be_open():
    assert Validity(start=START).phase(datetime.max.replace(tzinfo=UTC)) is Phase.CURRENT
    assert Validity(end=END).phase(datetime.min.replace(tzinfo=UTC)) is Phase.CURRENT
    assert ALWAYS.phase(START) is Phase.CURRENT


@pytest.mark.parametrize(
    ("validity", "now", "expected"),
    [
        (Validity(end=END), END - timedelta(days=14), True),
        (Validity(end=END), END - timedelta(days=14) - TICK, False),
        (Validity(end=END), END, False),
        (Validity(START, START + timedelta(days=1)), START - timedelta(days=1), True),
        (ALWAYS, START, False),
    ],
)
def test_what_ends_soon(validity, now, expected):
    assert validity.ends_within(timedelta(days=14), now) is expected


def test_what_holds_long():
    span = timedelta(days=31)
    assert not Validity(START, END).longer_than(span, START)
    assert Validity(START, END + TICK).longer_than(span, END)
    assert Validity(end=END).longer_than(span, START - TICK)
    assert ALWAYS.longer_than(span, START)


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-03-01T00:00:00Z", START),
        ("2026-03-01t02:30:00.000000+02:30", START),
        ("2026-02-28 19:00:00.0-05:00", START),
    ],
)
def test_an_instant_is_read(text, instant):
    found = parse_instant(text)
    assert (found, found.tzinfo) == (instant, UTC)


@pytest.mark.parametrize(
    "text",
    [
        "2026-03-01",
        "2026-03-01T00:00:00",
        "2026-02-30T00:00:00Z",
        "2026-03-01T24:00:01Z",
        "2026-03-01T00:00:00.0000001Z",
        "0001-01-01T00:00:00+01:00",
        "20260301T000000Z",
        "2026-03-01T00:00:00+0100",
        "",
        "tomorrow",
    ],
)
def test_what_is_no_instant_is_refused(text):
    with pytest.raises(ValueError, match="is not an instant with an offset; write it as"):
        parse_instant(text)


@given(st.datetimes(timezones=st.just(UTC)), st.datetimes(timezones=st.just(UTC)), st.datetimes(timezones=st.just(UTC)))
def test_every_instant_is_in_one_phase(one, other, now):
    start, end = sorted((one, other))
    phase = Validity(start, end).phase(now)
    assert (phase is Phase.CURRENT) == (start <= now < end)
    assert (phase is Phase.EXPIRED) == (now >= end)
