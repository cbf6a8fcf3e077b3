"""The exit codes: every effect and every kind of failure has one, and they say what the page says."""

from app.cli.exits import MEANINGS, ExitCode, of_effect, of_kind
from app.core.types import Effect
from app.errors import Kind


def test_only_allow_is_zero():
    assert [effect for effect in Effect if of_effect(effect) == 0] == [Effect.ALLOW]
    assert len({of_effect(effect) for effect in Effect}) == len(Effect)


def test_no_failure_looks_like_a_decision():
    decisions = {of_effect(effect) for effect in Effect}
    assert {of_kind(kind) for kind in Kind}.isdisjoint(decisions)


def test_every_code_has_a_meaning():
    assert set(MEANINGS) == set(ExitCode)
