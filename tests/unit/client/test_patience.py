"""What is sent again, after how long, and how often: with a clock and dice of the test's own."""

import json

import pytest

from app.client.operations import Call, Repeat
from app.client.patience import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, SPREAD, Patience, seconds
from app.client.problems import ProblemError, ProblemKind, problem_of

ONCE = Call("POST", "/v1/decisions", b"{}", repeat=Repeat.NEVER)
KEYED = Call("POST", "/v1/decisions", b"{}", headers={"Idempotency-Key": '"k"'})
LOST = ProblemError(ProblemKind.UNREACHABLE, "cannot reach `x`: reset")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def patience(call=KEYED, *, timeout=10.0, retries=2, draw=0.5, clock=None):
    return Patience(call, timeout=timeout, retries=retries, clock=clock or Clock(), draw=lambda: draw)


def answered(tried, status, *, retry_after=1.0):
    return tried.answered(status, b'{"title": "no"}', retry_after=retry_after)


@pytest.mark.parametrize("status", [200, 201])
def test_an_answer_is_an_answer(status):
    assert patience().answered(status, b"anything", retry_after=None) is None


@pytest.mark.parametrize(
    ("call", "status", "again"),
    [
        (ONCE, 429, True),
        (ONCE, 503, True),
        (ONCE, 504, False),
        (ONCE, 409, False),
        (KEYED, 429, True),
        (KEYED, 503, True),
        (KEYED, 504, True),
        (KEYED, 409, True),
        (KEYED, 400, False),
        (KEYED, 401, False),
        (KEYED, 403, False),
        (KEYED, 413, False),
        (KEYED, 500, False),
        (KEYED, 302, False),
        (KEYED, 202, False),
    ],
)
def test_only_what_is_safe_is_sent_again(call, status, again):
    if again:
        assert answered(patience(call), status) == 1 + SPREAD / 2
    else:
        with pytest.raises(ProblemError):
            answered(patience(call), status)


@pytest.mark.parametrize("status", [409, 429, 503, 504])
def test_who_is_not_told_when_to_come_back_stays_away(status):
    with pytest.raises(ProblemError):
        answered(patience(), status, retry_after=None)


def test_the_pause_is_never_shorter_than_told_and_bounded_by_the_spread():
    assert answered(patience(draw=0.0), 503, retry_after=2.0) == 2
    assert answered(patience(draw=1.0), 503, retry_after=2.0) == 2 * (1 + SPREAD)


def test_a_pause_that_would_outlast_the_call_is_not_begun():
    with pytest.raises(ProblemError) as caught:
        answered(patience(timeout=5), 429, retry_after=60.0)
    assert caught.value.retry_after == 60


def test_the_member_of_the_problem_comes_before_the_header():
    body = json.dumps({"title": "busy", "retry_after": 3}).encode()
    assert patience(draw=0.0).answered(503, body, retry_after=1.0) == 3


def test_a_connection_that_was_never_there_is_tried_again_whatever_it_is_for():
    tried = patience(ONCE, draw=1.0)
    assert [tried.failed(LOST, sent=False) for _ in range(2)] == [FIRST_PAUSE_SECONDS, 2 * FIRST_PAUSE_SECONDS]
    with pytest.raises(ProblemError) as caught:
        tried.failed(LOST, sent=False)
    assert caught.value is LOST


def test_a_connection_that_broke_is_tried_again_only_where_twice_is_once():
    assert patience(KEYED, draw=0.0).failed(LOST, sent=True) == 0
    with pytest.raises(ProblemError):
        patience(ONCE).failed(LOST, sent=True)


def test_pauses_grow_to_a_limit():
    tried = patience(draw=1.0, retries=20, timeout=1000)
    pauses = [tried.failed(LOST, sent=False) for _ in range(20)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE_SECONDS


def test_no_retries_are_none():
    with pytest.raises(ProblemError):
        answered(patience(retries=0), 503)


def test_the_time_is_for_all_tries_together():
    clock = Clock()
    tried = patience(timeout=4, clock=clock)
    assert tried.left == 4
    clock.now += 3
    assert tried.left == 1
    clock.now += 1
    with pytest.raises(ProblemError) as caught:
        _ = tried.left
    assert caught.value.kind is ProblemKind.NO_ANSWER
    assert "4 seconds" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "read"),
    [("7", 7.0), ("0", 0.0), (None, None), ("", None), ("-1", None), ("1.5", None), ("soon", None), ("²", None)],
)
def test_retry_after(text, read):
    assert seconds(text) == read


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"title": 1}', b"[" * 100_000])
def test_what_is_no_problem_is_told_as_that(body):
    problem = problem_of(502, body, retry_after=None, reason="Bad Gateway")
    assert (problem.kind, problem.status) == (ProblemKind.NOT_A_FIREWALL, 502)
    assert "502 Bad Gateway" in problem.detail


def test_a_problem_has_what_it_says():
    sent = {
        "type": "https://mutationfirewall.io/problems/malformed",
        "title": "the request is malformed",
        "status": 400,
        "detail": "unknown member `sbject`",
        "pointer": "/sbject",
        "fix": "did you mean `subject`?",
        "request_id": "r-1",
        "retry_after": True,
        "further": [1],
    }
    problem = problem_of(400, json.dumps(sent).encode(), retry_after=None)
    assert problem.kind is ProblemKind.MALFORMED
    assert (problem.pointer, problem.fix, problem.request_id) == ("/sbject", "did you mean `subject`?", "r-1")
    assert problem.retry_after is None
    assert problem.members["further"] == [1]
    assert str(problem) == "malformed: unknown member `sbject` at `/sbject`; did you mean `subject`?"


def test_a_problem_of_a_later_release_is_another_one():
    problem = problem_of(
        418, b'{"title": "a teapot", "type": "https://mutationfirewall.io/problems/teapot"}', retry_after=None
    )
    assert (problem.kind, problem.detail) == (ProblemKind.OTHER, "a teapot")
