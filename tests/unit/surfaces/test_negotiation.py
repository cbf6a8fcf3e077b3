"""The form of an answer is the one that the caller would rather have, or none."""

import pytest

from app.errors import FirewallError, Kind
from app.surfaces.negotiation import chosen

OFFERED = ("application/json", "text/plain")


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ([], "application/json"),
        ([""], "application/json"),
        (["*/*"], "application/json"),
        (["text/plain"], "text/plain"),
        (["TEXT/Plain; charset=utf-8"], "text/plain"),
        (["text/*"], "text/plain"),
        (["text/plain, application/json"], "application/json"),
        (["application/json;q=0.5, text/plain"], "text/plain"),
        (["application/json; q=0.5", "text/plain;q=0.4"], "application/json"),
        (["*/*;q=0.9, application/json;q=0"], "text/plain"),
        (["text/plain;q=0, */*"], "application/json"),
        (["text/html, */*;q=0.1"], "application/json"),
        (["text/plain;q=bad"], "text/plain"),
        (["image/*," * 63 + "text/plain"], "text/plain"),
    ],
)
def test_the_better_form_is_chosen(accept, form):
    assert chosen(accept, OFFERED) == form


@pytest.mark.parametrize(
    "accept", [["text/html"], ["image/*"], ["*/*;q=0"], ["nonsense"], ["image/*," * 64 + "text/plain"]]
)
def test_none_is_refused(accept):
    with pytest.raises(FirewallError) as caught:
        chosen(accept, OFFERED)
    assert caught.value.kind is Kind.NOT_ACCEPTABLE
    assert caught.value.fix == "there is `application/json` and `text/plain`"
