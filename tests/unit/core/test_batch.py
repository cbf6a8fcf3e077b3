"""All or none: nothing is left allowed where anything is not, and nothing changes where all is."""

from hypothesis import given
from hypothesis import strategies as st

from app.core.batch import BATCH_NOT_ALLOWED, all_or_none
from app.core.types import Effect, Obligation, Reason, Verdict


def verdict(effect: Effect) -> Verdict:
    return Verdict(effect, (Reason("p", "r", effect, "m"),), obligations=(Obligation("p", "r", "k", 1),))


@given(st.lists(st.sampled_from([*Effect, None]), min_size=1, max_size=12))
def test_all_or_none(told: list[Effect | None]) -> None:
    verdicts = {position: verdict(effect) for position, effect in enumerate(told) if effect is not None}
    barring = [position for position, effect in enumerate(told) if effect is None]
    result = all_or_none(verdicts, barring=barring)
    assert list(result) == list(verdicts)
    if set(told) == {Effect.ALLOW}:
        assert result == verdicts
        return
    first = next(position for position, effect in enumerate(told) if effect is not Effect.ALLOW)
    for position, own in verdicts.items():
        now = result[position]
        if own.effect is not Effect.ALLOW:
            assert now == own
            continue
        assert now.effect is Effect.DENY
        assert now.reasons[0].rule == BATCH_NOT_ALLOWED
        assert f"mutation {first} " in now.reasons[0].message
        assert now.reasons[1:] == own.reasons
        assert now.obligations == ()
