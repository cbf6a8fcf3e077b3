"""Which revisions are refused, and what the refusal tells to type."""

import pytest

from app.errors import FirewallError, Kind
from app.persistence.revision import MAXIMUM_REVISION, MINIMUM_REVISION, Standing, judge, wait


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


class Starting:
    """A database that answers each question with the next of these, the last one for ever; its clock is the questions'."""

    def __init__(self, *answers: Exception | str) -> None:
        self._answers = list(answers)
        self.now = 0.0
        self.told: list[str] = []

    async def check(self) -> str:
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def sleep(self, seconds: float) -> None:
        self.now += seconds

    async def wait(self, within: float) -> str:
        return await wait(self.check, within=within, told=self.told.append, clock=lambda: self.now, sleep=self.sleep)


AWAY = FirewallError(Kind.UNAVAILABLE, "the database cannot be reached")
EMPTY = FirewallError(Kind.SCHEMA_MISMATCH, "the database has no schema yet")
WRONG = FirewallError(Kind.INVALID_SETTINGS, "no database is named")


async def test_what_comes_up_later_is_waited_for_and_each_reason_told_once():
    database = Starting(AWAY, AWAY, EMPTY, AWAY, EMPTY, "0011")
    assert await database.wait(60) == "0011"
    assert database.told == [AWAY.detail, EMPTY.detail]
    assert database.now == 5


@pytest.mark.parametrize(("within", "waited"), [(0, 0), (3, 3)])
async def test_what_does_not_come_up_is_refused_in_the_end(within, waited):
    database = Starting(AWAY, EMPTY)
    with pytest.raises(FirewallError) as caught:
        await database.wait(within)
    assert caught.value is (AWAY if within == 0 else EMPTY)
    assert database.now == waited


async def test_what_waiting_does_not_change_is_refused_at_once():
    database = Starting(AWAY, WRONG)
    with pytest.raises(FirewallError) as caught:
        await database.wait(60)
    assert caught.value is WRONG
    assert database.now == 1
