"""Cursors belong to their search, and keys tell words apart."""

from base64 import urlsafe_b64encode
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.types import Effect
from app.errors import FirewallError, Kind
from app.ledger.search import Wanted, search_key

EVERYTHING = Wanted()
ONE_AGENT = Wanted(subject=("agent", "a"), decision=Effect.DENY, since=datetime(2026, 1, 1, tzinfo=UTC))


@given(st.integers(0, 2**63 - 1))
def test_a_cursor_comes_back(idx):
    assert ONE_AGENT.read_cursor(ONE_AGENT.cursor(idx)) == idx


@pytest.mark.parametrize(
    "other",
    [
        EVERYTHING,
        Wanted(resource=("agent", "a"), decision=Effect.DENY, since=datetime(2026, 1, 1, tzinfo=UTC)),
        Wanted(subject=("agent", "b"), decision=Effect.DENY, since=datetime(2026, 1, 1, tzinfo=UTC)),
        Wanted(subject=("agent", "a"), decision=Effect.DENY, until=datetime(2026, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_cursor_of_another_search_is_refused(other):
    with pytest.raises(FirewallError) as caught:
        other.read_cursor(ONE_AGENT.cursor(7))
    assert caught.value.kind is Kind.MALFORMED


@given(st.text(max_size=64) | st.binary(max_size=40).map(lambda content: urlsafe_b64encode(content).decode()))
def test_what_is_no_cursor_is_refused(text):
    with pytest.raises(FirewallError) as caught:
        EVERYTHING.read_cursor(text)
    assert caught.value.kind is Kind.MALFORMED


def test_a_cursor_has_one_form():
    for form in (f"{EVERYTHING.cursor(7)}=", EVERYTHING.cursor(7) + "A", EVERYTHING.cursor(2**63)):
        with pytest.raises(FirewallError):
            EVERYTHING.read_cursor(form)


@given(st.text(), st.text(), st.text(), st.text())
def test_keys_tell_words_apart(one, other, third, fourth):
    assert (search_key(one, other) == search_key(third, fourth)) == ((one, other) == (third, fourth))
    assert -(2**63) <= search_key(one, other) < 2**63
