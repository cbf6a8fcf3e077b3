"""Which revisions are refused, and what the refusal tells to type."""

import pytest

from app.errors import FirewallError, Kind
from app.persistence.revision import MAXIMUM_REVISION, MINIMUM_REVISION, Standing, judge


@pytest.mark.parametrize("found", [MINIMUM_REVISION, MAXIMUM_REVISION])
def test_what_this_code_works_with_passes(found):
    assert judge(Standing(found)) == found


@pytest.mark.parametrize(
    ("found", "command"),
    [
        (None, "python -m app.migrations.apply"),
        ("0002", "python -m app.migrations.apply"),
        ("0006", "python -m app.migrations.rollback 0005"),
        ("9999", "python -m app.migrations.rollback 0005"),
        ("garbage", "python -m app.migrations.rollback 0005"),
    ],
)
def test_everything_else_is_refused_with_the_command(found, command):
    with pytest.raises(FirewallError) as caught:
        judge(Standing(found), minimum="0003", maximum="0005")
    assert caught.value.kind is Kind.SCHEMA_MISMATCH
    assert command in str(caught.value.fix)
    assert str(found) in caught.value.detail or found is None


@pytest.mark.parametrize(("found", "needs"), [("0006", "0005"), ("0009", "0003")])
def test_a_later_one_that_asks_for_no_more_than_is_known_here_passes(found, needs):
    assert judge(Standing(found, needs), minimum="0003", maximum="0005") == found


@pytest.mark.parametrize(("found", "needs"), [("0006", "0006"), ("0009", "0007"), ("0006", None), ("0002", "0002")])
def test_a_later_one_that_asks_for_more_and_an_earlier_one_are_refused(found, needs):
    with pytest.raises(FirewallError) as caught:
        judge(Standing(found, needs), minimum="0003", maximum="0005")
    assert caught.value.kind is Kind.SCHEMA_MISMATCH
