"""Freeze windows: against a reference that goes through the days one by one, on the days on which clocks change too."""

import os
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from threading import Thread
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.freeze import Window, window
from app.core.zones import iana_zone, zone_names

HOUR = timedelta(hours=1)
TICK = timedelta(microseconds=1)


def at(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def weekend(**changes):
    given_ = {"schedule": "0 18 * * 5", "time_zone": "Europe/Berlin", "duration": 62 * HOUR}
    return window(**{**given_, **changes})


@pytest.mark.parametrize(
    ("now", "end"),
    [
        ("2026-03-13T16:59:59.999999", None),
        ("2026-03-13T17:00:00", "2026-03-16T07:00"),
        ("2026-03-14T12:00:00", "2026-03-16T07:00"),
        ("2026-03-16T06:59:59.999999", "2026-03-16T07:00"),
        ("2026-03-16T07:00:00", None),
        # The clock goes forward on the Sunday: 62 hours pass all the same, and it is nine o'clock in Berlin.
        ("2026-03-27T17:00:00", "2026-03-30T07:00"),
        ("2026-03-30T06:30:00", "2026-03-30T07:00"),
        # ... and back.
        ("2026-10-23T16:00:00", "2026-10-26T06:00"),
    ],
)
def test_a_weekend(now, end):
    assert weekend().end(at(now)) == (None if end is None else at(end))


def test_a_start_that_the_clock_skips_is_after_the_gap():
    skipped = weekend(schedule="30 2 29 3 *", duration=HOUR)
    assert next(skipped.starts(at("2026-01-01T00:00"))) == at("2026-03-29T01:00")
    assert skipped.end(at("2026-03-29T01:00") - TICK) is None
    assert skipped.end(at("2026-03-29T01:00")) == at("2026-03-29T02:00")


def test_a_start_that_the_clock_shows_twice_is_the_first_one():
    twice = weekend(schedule="30 2 25 10 *", duration=HOUR)
    assert next(twice.starts(at("2026-10-24T00:00"))) == at("2026-10-25T00:30")
    assert twice.end(at("2026-10-25T01:29")) == at("2026-10-25T01:30")
    assert twice.end(at("2026-10-25T01:30")) is None


def test_a_day_that_was_left_out():
    # Samoa had no 30th of December in 2011.
    apia = window("0 12 30 12 *", time_zone="Pacific/Apia", duration=HOUR)
    assert apia.end(at("2011-12-30T10:30")) == at("2011-12-30T11:00")


def test_of_windows_that_overlap_the_last_one_counts():
    daily = weekend(schedule="0 12 * * *", duration=30 * HOUR)
    assert daily.end(at("2026-01-05T10:59")) == at("2026-01-05T17:00")
    assert daily.end(at("2026-01-05T11:00")) == at("2026-01-06T17:00")


def test_a_window_without_end_is_told():
    assert weekend(schedule="0 12 * * *", duration=24 * HOUR).endless(at("2026-01-05T10:59"))
    assert not weekend(schedule="0 12 * * *", duration=22 * HOUR).endless(at("2026-01-05T10:59"))
    assert not weekend().endless(at("2026-01-05T10:59"))
    assert not weekend(schedule="0 0 29 2 *").endless(at("2026-01-05T10:59"))


def test_nothing_comes_after_the_last_year():
    last = datetime.max.replace(tzinfo=UTC) - timedelta(days=3)
    assert weekend().end(last) is None
    assert not weekend(duration=400 * 24 * HOUR).endless(last)


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ("", "not a schedule of 5 fields"),
        ("0 18 * *", "not a schedule of 5 fields"),
        ("0 0 18 * * 5", "not a schedule of 5 fields"),
        ("@weekly", "not a schedule of 5 fields"),
        ("60 * * * *", "the minute is wrong; write minute, hour"),
        ("* 24 * * *", "the hour is wrong"),
        ("* * * * FRIDAY", "the day of week is wrong"),
        ("0 0 30 2 *", "the day of month is wrong"),
        ("0 0 * 2 1#5 ", None),
        ("0 0 */30 2 MON#5", "never comes"),
        ("9" * 200 + " * * * *", "is wrong"),
        ("٣ * * * *", "the minute is wrong"),
        ("*/0 * * * *", "the minute is wrong"),
    ],
)
def test_what_is_no_schedule_is_refused(schedule, words):
    if words is None:
        weekend(schedule=schedule)
        return
    with pytest.raises(ValueError, match=words) as refused:
        weekend(schedule=schedule)
    assert len(str(refused.value)) < 300


def test_an_unknown_zone_is_refused():
    with pytest.raises(ValueError, match="there is no time zone `Berlin`; use"):
        weekend(time_zone="Berlin")
    assert "0 18 * * 5" in repr(weekend())


ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "Pacific/Apia"]
NOW = st.datetimes(datetime(2011, 12, 1), datetime(2027, 1, 1), timezones=st.just(UTC))


def reference(hour, minute, weekday, zone, duration, now):
    """Every start around `now`, day by day, by the rule as docs/policies.md has it."""
    found = None
    day = date.fromordinal(now.date().toordinal() - duration.days - 9)
    while day <= now.date() + timedelta(days=2):
        if weekday is None or day.isoweekday() % 7 == weekday:
            wall = datetime(day.year, day.month, day.day, hour, minute)
            while (start := wall.replace(tzinfo=zone).astimezone(UTC)).astimezone(zone).replace(tzinfo=None) != wall:
                wall += timedelta(minutes=1)
            if start <= now < start + duration:
                found = start + duration
        day += timedelta(days=1)
    return found


@given(
    st.integers(0, 23),
    st.integers(0, 59),
    st.none() | st.integers(0, 6),
    st.sampled_from(ZONES),
    st.integers(60, 200 * 3600),
    st.lists(NOW, min_size=1, max_size=4),
)
def test_it_is_open_when_the_reference_says_so(hour, minute, weekday, zone, seconds, instants):
    duration = timedelta(seconds=seconds)
    tried = window(f"{minute} {hour} * * {'*' if weekday is None else weekday}", time_zone=zone, duration=duration)
    for now in [*instants, *reversed(instants)]:
        assert tried.end(now) == reference(hour, minute, weekday, iana_zone(zone), duration, now), now


@given(
    st.sampled_from(["0 18 * * 5", "*/7 * * * *", "30 2 * * *", "0 0 1 * *", "* 9-17 * * 1-5", "15 1,2,3 * * 0"]),
    st.sampled_from(ZONES),
    st.integers(1, 100 * 3600),
    st.lists(st.integers(0, 400 * 86400), min_size=2, max_size=30),
)
def test_what_was_asked_before_changes_nothing(schedule, zone, seconds, offsets):
    def fresh():
        return window(schedule, time_zone=zone, duration=timedelta(seconds=seconds))

    start = at("2026-01-01T00:00")
    remembering = fresh()
    for offset in offsets:
        now = start + timedelta(seconds=offset)
        end = remembering.end(now)
        assert end == fresh().end(now)
        if end is not None:
            assert remembering.end(end - TICK) is not None


def test_many_threads_get_the_same_answers():
    shared = weekend()
    instants = [at("2026-01-01T00:00") + timedelta(hours=7 * i) for i in range(400)]
    expected = [weekend().end(now) for now in instants[::40]]
    answers: list[list[datetime | None]] = []

    def ask():
        answers.append([shared.end(now) for now in instants][::40])

    threads = [Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [expected] * 6


def test_a_boundary_is_computed_once(monkeypatch):
    computed = []
    spell_at = Window._spell_at

    def counted(self, now):
        computed.append(now)
        return spell_at(self, now)

    monkeypatch.setattr(Window, "_spell_at", counted)
    tried = weekend()
    for minutes in range(0, 60 * 24 * 7, 10):
        tried.end(at("2026-01-05T00:00") + timedelta(minutes=minutes))
    assert len(computed) == 3  # before, inside, and after the weekend


class TestZones:
    def test_they_are_those_of_the_package(self):
        assert "Europe/Berlin" in zone_names()
        assert iana_zone("Europe/Berlin") is iana_zone("Europe/Berlin")
        assert iana_zone("Europe/berlin") is None
        assert iana_zone("../../etc/passwd") is None
        for name in sorted(zone_names()):
            assert iana_zone(name) is not None

    def test_they_say_what_the_hosts_zones_say(self):
        for month in range(1, 13):
            moment = datetime(2026, month, 1, 12, tzinfo=UTC)
            ours, hosts = iana_zone("Europe/Berlin"), ZoneInfo("Europe/Berlin")
            assert moment.astimezone(ours).utcoffset() == moment.astimezone(hosts).utcoffset()

    def test_they_do_not_come_from_the_host(self, tmp_path):
        # A host whose Berlin is somewhere else changes nothing.
        (tmp_path / "Europe").mkdir()
        (tmp_path / "Europe" / "Berlin").write_bytes(b"TZif no zone at all")
        line = "from app.core.zones import iana_zone; import datetime as d; print(d.datetime(2026, 1, 1, tzinfo=d.UTC).astimezone(iana_zone('Europe/Berlin')).hour)"
        made = subprocess.run(
            [sys.executable, "-c", line],
            env={**os.environ, "PYTHONTZPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert made.stdout == "1\n"
