from datetime import UTC, datetime, timedelta, timezone

import pytest

from app.core.months import Month
from app.errors import FirewallError


def test_a_month_is_one_of_utc():
    late = datetime(2026, 1, 31, 23, 30, tzinfo=timezone(timedelta(hours=-2)))
    assert Month.of(late) == Month(2026, 2)


def test_where_it_starts_and_ends():
    december = Month(2026, 12)
    assert december.starts == datetime(2026, 12, 1, tzinfo=UTC)
    assert december.ends == datetime(2027, 1, 1, tzinfo=UTC)
    assert (december.suffix, str(december)) == ("2026_12", "2026-12")


@pytest.mark.parametrize(
    ("count", "there"), [(0, "2026-11"), (1, "2026-12"), (2, "2027-01"), (14, "2028-01"), (-11, "2025-12")]
)
def test_so_many_later(count, there):
    assert str(Month(2026, 11).after(count)) == there


def test_what_is_written_is_read():
    assert Month.parse("2026-01") == Month.parse("2026_01") == Month(2026, 1)


@pytest.mark.parametrize(
    "text", ["", "2026", "2026-13", "2026-00", "26-01", "2026-1", "0000-01", "9999-12", "2026-01-01", "٢٠٢٦-٠١"]
)
def test_what_is_no_month_is_refused(text):
    with pytest.raises(FirewallError, match="not a month"):
        Month.parse(text)
