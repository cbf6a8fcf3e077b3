"""Hostile lines: each stands for itself, and none moves the borders of another."""

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.surfaces.native.batch import PATH
from app.surfaces.native.lines import LinesEndpoint
from app.surfaces.native.models import EXAMPLE_REQUEST
from tests.corpus.hostile import hostile, reading
from tests.corpus.served import Kept, ask, gate, problem_of, said_of, service

LINES = "application/x-ndjson"
GOOD = json.dumps(EXAMPLE_REQUEST).encode()
MAX_LINE_BYTES = 20_000


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.one_of(st.just(GOOD), hostile([EXAMPLE_REQUEST]), st.binary(max_size=20)), max_size=5))
def test_lines(lines):
    ledger = Kept()
    endpoint = LinesEndpoint(service(ledger), gate=gate(), max_line_bytes=MAX_LINE_BYTES, timeout_seconds=10)
    body = b"\n".join(lines)
    answer = ask(endpoint, PATH, body, content_type=LINES.encode())
    if answer.status != 200:
        problem_of(answer, reading)
        return
    *found, summary = [reading(line) for line in answer.body.splitlines()]
    assert summary["complete"] is True
    # A line ends at a line feed and at nothing else: not at U+2028, not at a form feed.
    sent = {number: line for number, line in enumerate(body.split(b"\n"), 1) if line and not line.isspace()}
    assert [one["line"] for one in found] == list(sent)
    decided = 0
    for one in found:
        line = sent[one["line"]]
        if "decision" not in one:
            assert 400 <= one["status"] < 500
            assert line != GOOD
            continue
        decided += 1
        assert len(line) <= MAX_LINE_BYTES
        asked = reading(line)
        if one["decision"] == "allow":
            assert one["reasons"][0]["message"] == said_of(asked)
    assert decided == len(ledger.entries)
