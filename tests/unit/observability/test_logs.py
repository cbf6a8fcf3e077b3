"""One line per event, without a secret, whatever is logged and whatever breaks."""

import json
import logging
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from app.core.api_key import generate
from app.observability import logs as module
from app.observability.logs import EventHandler, Logs, clean, current_request, redact

KEY = generate(b"\x07" * 32)
TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl"
PEM = "-----BEGIN PRIVATE KEY-----\nMIIEvQ\n-----END PRIVATE KEY-----"


class Sink:
    def __init__(self) -> None:
        self.data = b""
        self.calls = 0
        self.gate: threading.Event | None = None
        self.entered = threading.Event()

    def __call__(self, data: bytes) -> None:
        self.calls += 1
        self.entered.set()
        if self.gate is not None:
            self.gate.wait(60)
        self.data += data

    @property
    def events(self) -> list[dict[str, Any]]:
        assert self.data.endswith(b"\n") or not self.data
        return [json.loads(line) for line in self.data.splitlines()]


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def logs(sink: Sink) -> Iterator[Logs]:
    made = Logs(level="debug", sink=sink)
    made.install()
    yield made
    made.stop()


def event(**fields: Any) -> dict[str, Any]:
    return {"ts": 1_800_000_000.25, "level": "info", "event": "e"} | fields


def test_an_event_is_one_line_of_json(sink: Sink, logs: Logs) -> None:
    logs.write(event(number=7, text="a\nb"))
    logs.stop()
    assert sink.data == (b'{"ts":"2027-01-15T08:00:00.250000Z","level":"info","event":"e","number":7,"text":"a\\nb"}\n')


def test_python_logging_becomes_events(sink: Sink, logs: Logs) -> None:
    logging.getLogger("mfw.test").warning("hello %s", "you", extra={"fields": {"count": 3}})
    logs.stop()
    (line,) = sink.events
    assert line.pop("ts")
    assert line == {"level": "warning", "event": "hello you", "logger": "mfw.test", "count": 3}


def test_an_event_carries_the_request_it_belongs_to(sink: Sink, logs: Logs) -> None:
    token = current_request.set(("r-1", "0af7651916cd43dd8448eb211c80319c"))
    logging.getLogger("mfw.test").info("in a request")
    current_request.reset(token)
    token = current_request.set(("r-2", None))
    logging.getLogger("mfw.test").info("in another")
    current_request.reset(token)
    logs.stop()
    first, second = sink.events
    assert (first["request_id"], first["trace_id"]) == ("r-1", "0af7651916cd43dd8448eb211c80319c")
    assert second["request_id"] == "r-2"
    assert "trace_id" not in second


def test_the_level_holds_back_what_is_below_it(sink: Sink) -> None:
    logs = Logs(level="warning", sink=sink)
    logs.install()
    logging.getLogger("mfw.test").info("no")
    logging.getLogger("mfw.test").error("yes")
    logs.stop()
    assert [line["event"] for line in sink.events] == ["yes"]
    assert logs.level == logging.WARNING


def test_servers_and_warnings_come_out_the_same_way_and_get_their_loggers_back(
    sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = logging.getLogger("uvicorn")
    own = logging.StreamHandler()
    # Whatever another test, or pytest itself, has left there.
    monkeypatch.setattr(server, "handlers", [own])
    monkeypatch.setattr(server, "propagate", False)
    root_before = list(logging.getLogger().handlers)
    logs = Logs(sink=sink)
    logs.install()
    logging.getLogger("uvicorn.error").info("started")
    logging.getLogger("gunicorn.error").info("booted")
    logging.getLogger("uvicorn.access").info("GET /")
    logging.getLogger("httpx").info("HTTP Request: POST https://witness.example.com")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("mind this", UserWarning, stacklevel=1)
    logs.stop()
    told = [line["event"] for line in sink.events]
    assert told[:2] == ["started", "booted"]
    assert "mind this" in told[2]
    assert len(told) == 3
    assert server.handlers == [own]
    assert server.propagate is False
    assert logging.getLogger().handlers == root_before
    assert not logging.getLogger("uvicorn.access").disabled
    server.propagate = True


def fail(text: str) -> None:
    raise ZeroDivisionError(text)


def fail_after(text: str) -> None:
    try:
        fail("cause")
    except ZeroDivisionError as cause:
        raise ValueError(text) from cause


def test_an_exception_tells_where_and_little_of_what(sink: Sink, logs: Logs) -> None:
    try:
        fail_after("x" * 10_000)
    except ValueError:
        logging.getLogger("mfw.test").exception("failed")
    try:
        fail("short")
    except ZeroDivisionError:
        logging.getLogger("mfw.test").exception("failed")
    logs.stop()
    first, second = sink.events
    assert first["exception"].startswith("ValueError: " + "x" * 200 + "...; after ZeroDivisionError\n")
    assert "in fail_after" in first["exception"]
    assert len(first["exception"]) < 2000
    assert second["exception"].startswith("ZeroDivisionError: short\n")


def test_a_wrong_format_string_does_not_break_the_caller(sink: Sink, logs: Logs) -> None:
    handler = EventHandler(logs)
    for message, arguments in (("%d items", ("many",)), ("x" * 100_000, ())):
        handler.emit(logging.LogRecord("mfw.test", logging.INFO, __file__, 1, message, arguments, None))
    logs.stop()
    assert sink.events[0]["event"] == "%d items"
    assert len(sink.events[1]["event"]) == module.MAX_MESSAGE


@pytest.mark.parametrize(
    "secret",
    [
        KEY,
        TOKEN,
        TOKEN + ".AAAA.BBBB",
        f"Authorization: Bearer {KEY}",
        f"bearer {TOKEN}",
        "Basic dXNlcjpwYXNzd29yZA==",
        "postgresql://user:hunter22@db:5432/x",
        PEM,
    ],
)
def test_nothing_that_looks_like_a_credential_is_written(sink: Sink, logs: Logs, secret: str) -> None:
    logs.write(event(text=f"before {secret} after", nested={"list": [secret]}))
    logging.getLogger("mfw.test").error("message %s", secret, extra={"fields": {"value": secret}})
    try:
        fail(secret)
    except ZeroDivisionError:
        logging.getLogger("mfw.test").exception("failed")
    logs.stop()
    assert len(sink.events) == 3
    for part in (KEY, "c2lnbmF0dXJl", "dXNlcjpwYXNzd29yZA", "hunter22", "MIIEvQ"):
        assert part.encode() not in sink.data
    assert b"[redacted" in sink.data


def test_metrics_names_and_ordinary_text_stay_readable() -> None:
    line = b'{"event":"mfw_request_duration_seconds is high, see http://host:9090/metrics and eyJ"}'
    assert redact(line) == line


def test_what_is_named_like_a_secret_is_not_written() -> None:
    fields = {
        "password": "a",
        "db_passwd": "a",
        "client_secret": "a",
        "Authorization": "a",
        "api_key": "a",
        "apiKey": "a",
        "x-api-key": "a",
        "Set-Cookie": "a",
        "access_token": "a",
        "token": "a",
        "inner": {"PASSWORD": "a", "kept": 1},
        "tokens": 5,
    }
    cleaned = clean(fields)
    assert cleaned.pop("tokens") == 5
    assert cleaned["inner"].pop("kept") == 1
    assert cleaned.pop("inner") == {"PASSWORD": "[redacted]"}
    assert "x-api-key" in cleaned
    cleaned.pop("x-api-key")
    assert set(cleaned.values()) == {"[redacted]"}


def test_a_secret_string_stays_secret(sink: Sink, logs: Logs) -> None:
    logs.write(event(value=SecretStr("hunter22")))
    logs.stop()
    assert sink.events[0]["value"] == "**********"


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.binary()
    | st.builds(object),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=6,
)


@given(
    fields=st.dictionaries(st.text(st.characters(), max_size=5).filter(lambda name: name != "ts"), VALUES, max_size=4),
    form=st.sampled_from(["json", "text"]),
)
def test_any_event_gives_one_line(fields: dict[str, Any], form: Any) -> None:
    sink = Sink()
    logs = Logs(sink=sink, form=form)
    logs.write(event() | fields)
    logs.stop()
    assert sink.data.endswith(b"\n")
    if form == "json" or not fields.get("exception"):
        assert sink.data.count(b"\n") == 1
    if form == "json":
        json.loads(sink.data)


def test_text_is_for_people(sink: Sink) -> None:
    logs = Logs(sink=sink, form="text")
    logs.write(event(level="warning", route="/x\nforged", nothing=None))
    logs.write(event(exception="ValueError: x\n  File ...\n"))
    logs.stop()
    first, *rest = sink.data.decode().splitlines()
    assert first.endswith("warning e route=/x\\nforged")
    assert rest[1:] == ["ValueError: x", "  File ..."]


@pytest.mark.parametrize("command", ["\x1b[2J", "\x9b2J", "\u2028", "\u202e", "\x07", "\x7f", "\r"])
def test_a_text_line_does_not_speak_to_the_terminal(sink: Sink, command: str) -> None:
    logs = Logs(sink=sink, form="text")
    logs.write(event(path=f"/a{command}b", exception=f"ValueError: {command}\n  File"))
    logs.stop()
    text = sink.data.decode()
    assert command[0] not in text
    assert text.count("\n") == 3
    assert "path=/a\\" in text


def test_a_line_that_cannot_be_rendered_says_so(sink: Sink, logs: Logs) -> None:
    logs.write({"ts": "never", "level": "info", "event": "e"})
    logs.stop()
    assert (sink.events[0]["event"], sink.events[0]["error"]) == ("log event not rendered", "TypeError")


def test_a_thread_writes_without_being_asked(sink: Sink) -> None:
    logs = Logs(sink=sink)
    logs.write(event())
    assert sink.entered.wait(60)
    logs.write(event())
    logs.stop()
    logs.stop()
    assert len(sink.events) == 2


def test_a_blocked_sink_loses_the_newest_and_says_how_many(sink: Sink) -> None:
    dropped: list[int] = []
    sink.gate = threading.Event()
    logs = Logs(sink=sink, max_pending=3, dropped=dropped.append)
    logs.write(event(number=0))
    assert sink.entered.wait(60)
    for number in range(1, 9):
        logs.write(event(number=number))
    sink.gate.set()
    logs.stop()
    assert [line.get("number") for line in sink.events[:4]] == [0, 1, 2, 3]
    assert (sink.events[4]["event"], sink.events[4]["count"]) == ("log events dropped", 5)
    assert dropped == [5]


def test_losses_need_not_be_counted(sink: Sink) -> None:
    logs = Logs(sink=sink, max_pending=1)
    logs._pending.append(b"waits\n")
    logs.write(event())
    logs.flush()
    assert b'"count":1' in sink.data


def test_without_a_sink_it_is_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[int, bytes]] = []

    def write(descriptor: int, data: bytes) -> int:
        if written:
            raise BrokenPipeError
        written.append((descriptor, bytes(data[:5])))
        return 5

    monkeypatch.setattr(os, "write", write)
    logs = Logs()
    logs._pending.append(b"0123456789\n")
    logs.flush()
    assert written == [(2, b"01234")]


FORKS = """
import os, time
from app.observability.logs import Logs
logs = Logs()
logs.write({"ts": 0, "level": "info", "event": "parent"})
child = os.fork()
if child == 0:
    logs.write({"ts": 0, "level": "info", "event": "child"})
    logs.stop()
    os._exit(0)
os.waitpid(child, 0)
logs.stop()
"""


def test_a_forked_child_writes_its_own_lines_and_not_its_parents() -> None:
    done = subprocess.run([sys.executable, "-c", FORKS], check=True, capture_output=True)
    assert sorted(json.loads(line)["event"] for line in done.stderr.splitlines()) == ["child", "parent"]


def test_what_a_child_forgets(sink: Sink) -> None:
    logs = Logs(sink=sink)
    logs.write(event())
    logs._forked()
    assert logs._thread is None
    assert not logs._pending
    logs.write(event(number=1))
    logs.stop()
    assert sink.events[-1]["number"] == 1
