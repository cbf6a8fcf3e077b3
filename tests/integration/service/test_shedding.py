"""Load is shed at the front door: what is refused says so, what is let in is answered, health always is."""

import threading
import time
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[3]
BODY = (ROOT / "examples" / "allow-k8s-deployment-scaled.json").read_bytes()
TYPED = {"Content-Type": "application/json"}
SHEDDING = {"MFW_SHEDDING__ENABLED": "true", "MFW_SHEDDING__LAG_SECONDS": "60", "MFW_SHEDDING__MEMORY_SHARE": "1"}


def ask(client, times, answers):
    for _ in range(times):
        answers.append(client.post("/v1/decisions", content=BODY, headers=TYPED))


def test_more_than_the_limit_is_refused_and_nothing_is_half_done(serve, database_dsn):
    one = {"MFW_SHEDDING__DECISIONS_MIN": "1", "MFW_SHEDDING__DECISIONS_MAX": "1"}
    answers: list[httpx.Response] = []
    with serve(database_dsn, **SHEDDING, **one) as service, service.client() as client:
        callers = [threading.Thread(target=ask, args=(client, 25, answers)) for _ in range(8)]
        for caller in callers:
            caller.start()
        health = [client.get("/health/live").status_code for _ in range(20)]
        for caller in callers:
            caller.join(60)
        entries = service.entries()
    assert set(health) == {200}
    refused = [answer for answer in answers if answer.status_code == 503]
    decided = [answer for answer in answers if answer.status_code == 200]
    assert len(decided) + len(refused) == len(answers) == 200
    assert decided
    assert refused
    for answer in refused:
        assert answer.json()["type"].endswith("/overloaded")
        assert 1 <= int(answer.headers["retry-after"]) <= 3
        assert answer.headers["x-request-id"] == answer.json()["request_id"]
    # What was refused was not decided: the ledger has what was answered, and no more.
    assert sorted(answer.json()["ledger_index"] for answer in decided) == [index for index, _, _ in entries]


def test_long_polls_use_up_their_own_room_only(serve, database_dsn):
    polls = {"MFW_SHEDDING__OTHERS_MAX": "2", "MFW_POLICIES__POLL_SECONDS": "1"}
    with serve(database_dsn, **SHEDDING, **polls) as service, service.client(key=service.admin_key) as client:
        known = client.get("/v1/policy-sets/active").headers["etag"]

        seen = threading.Event()

        def poll():
            with service.client(key=service.admin_key) as own:
                # The room may be taken at first by who looks whether it is, and who looks may come late.
                while not seen.is_set():
                    own.get("/v1/policy-sets/active", params={"wait": 2}, headers={"If-None-Match": known})

        waiting = [threading.Thread(target=poll) for _ in range(2)]
        for one in waiting:
            one.start()
        statuses, deadline = set(), time.monotonic() + 60
        try:
            while 503 not in statuses and time.monotonic() < deadline:
                statuses.add(client.get("/v1/policy-sets").status_code)
                with service.client() as asking:
                    assert asking.post("/v1/decisions", content=BODY, headers=TYPED).status_code == 200
                assert client.get("/health/ready").status_code == 200
        finally:
            seen.set()
            for one in waiting:
                one.join(60)
        assert 503 in statuses
        # Who was answered may leave its place a moment later.
        deadline = time.monotonic() + 60
        while client.get("/v1/policy-sets").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        # A report is up to a second old.
        deadline = time.monotonic() + 60
        while client.get("/health/detailed").json()["components"]["load"]["status"] != "healthy":
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_the_time_that_a_caller_gives(serve, database_dsn):
    def within(client, milliseconds):
        return client.post("/v1/decisions", content=BODY, headers=TYPED | {"X-Request-Timeout-Ms": milliseconds})

    with serve(database_dsn, **SHEDDING) as service, service.client() as client:
        answered = [within(client, "60000") for _ in range(20)]
        wrong = within(client, "soon")
        too_little = [within(client, "1") for _ in range(20)]
    assert {answer.status_code for answer in answered} == {200}
    assert (wrong.status_code, wrong.json()["type"].rpartition("/")[2]) == (400, "malformed")
    assert "`X-Request-Timeout-Ms`" in wrong.json()["detail"]
    # A machine may be fast enough for some; who is not answered in time gets no allow, and is told when to come back.
    assert {answer.status_code for answer in too_little} <= {200, 503, 504}
    for answer in too_little:
        if answer.status_code != 200:
            assert "decision" not in answer.json()
            assert int(answer.headers["retry-after"]) >= 1
