"""One line per event, as JSON, without a secret, and never waiting for standard error on the path of a request."""

import logging
import os
import re
import threading
import time
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Literal

import orjson

Event = dict[str, Any]

# Request id and trace id of the request that the present task works for.
current_request: ContextVar[tuple[str, str | None] | None] = ContextVar("current_request", default=None)

# The writer gathers this long before it writes: one system call for many lines. A crash loses at most this much of the
# log; what must not be lost is in the ledger.
GATHER_SECONDS: Final = 0.05

# Lines that may wait for a blocked standard error, about 20 MB; then the newest are dropped and counted.
MAX_PENDING: Final = 50_000

# Third parties put what they like into a message or an exception; past this length it is somebody's payload.
MAX_MESSAGE: Final = 2_000
MAX_EXCEPTION_MESSAGE: Final = 200

REDACTED: Final = "[redacted]"

_SECRET_NAME: Final = re.compile(
    r"secret|passw|pwd|authorization|api_?key|cookie|credential|private_?key|(^|_)token$", re.IGNORECASE
)

# What a credential looks like anywhere in a line. Each with a literal that is cheap to look for first.
_SECRET_SHAPES: Final = (
    # an API key of ours; shorter things that start alike are names of metrics
    (b"mfw_", re.compile(rb"mfw_(?=[A-Za-z0-9_-]*[A-Z0-9])[A-Za-z0-9_-]{16,}"), b"mfw_[redacted]"),
    # a JWS or JWE in compact form: `eyJ` is `{"` in base64
    (b"eyJ", re.compile(rb"eyJ[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*){1,4}"), b"[redacted token]"),
    # RFC 9110 section 11.4: `Basic` and `Bearer` credentials
    (b"earer ", re.compile(rb"([Bb]earer )[A-Za-z0-9._~+/=-]+"), rb"\1[redacted]"),
    (b"asic ", re.compile(rb"([Bb]asic )[A-Za-z0-9+/=]{8,}"), rb"\1[redacted]"),
    # the password in a URL (RFC 3986 section 3.2.1)
    (b"://", re.compile(rb"(://[^/\s:@\"\\]*:)[^@\s\"\\]+@"), rb"\1[redacted]@"),
    # up to its end or the end of the string it stands in; an escape is never cut in two
    (
        b"PRIVATE KEY-----",
        re.compile(
            rb"-----BEGIN [A-Z ]*PRIVATE KEY-----(?:[^\"\\]|\\.)*?(?:-----END [A-Z ]*PRIVATE KEY-----|(?=\")|\Z)"
        ),
        b"[redacted private key]",
    ),
)

_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

# Loggers that servers set up for themselves, with handlers of their own.
_SERVERS: Final = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi", "gunicorn.error", "gunicorn.access")


# Says a line for each request that we make, at the level at which we say what happened: a witness is asked each second.
_CLIENT: Final = "httpx"


class Logs:
    """The log of one process: lines in a bounded queue, and one thread that redacts and writes them.

    `write(event)` costs about two microseconds and never blocks. It renders the line itself: a thread that renders
    holds the interpreter for milliseconds at a time, and every request waits for it. `install` routes Python's logging,
    warnings and the servers' loggers here as well.
    """

    def __init__(
        self,
        *,
        level: Literal["debug", "info", "warning", "error"] = "info",
        form: Literal["json", "text"] = "json",
        sink: Callable[[bytes], None] | None = None,
        dropped: Callable[[int], None] | None = None,
        max_pending: int = MAX_PENDING,
    ) -> None:
        self._level = _LEVELS[level]
        self._render = _as_json if form == "json" else _as_text
        self._sink = sink or _to_stderr
        self._dropped = dropped
        self._max_pending = max_pending
        self._pending: deque[bytes] = deque()
        self._lost = 0
        self._thread: threading.Thread | None = None
        self._awake = False
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._restore: list[Callable[[], None]] = []
        _after_fork(self)

    @property
    def level(self) -> int:
        """The least level that is written, in Python's numbers."""
        return self._level

    def write(self, event: Event) -> None:
        """Queue one event, which is taken over: at least `ts` (seconds since 1970), `level` and `event`."""
        if len(self._pending) >= self._max_pending:
            self._lost += 1
            return
        self._pending.append(self._line(event))
        if not self._awake:
            self._awake = True
            self._start()
            self._wake.set()

    def install(self) -> None:
        """Take over the root logger, Python's warnings and the servers' loggers until `stop`."""
        root = logging.getLogger()
        handler = EventHandler(self)
        self._restore.append(_restorer(root))
        root.handlers[:] = [handler]
        root.setLevel(self._level)
        for name in _SERVERS:
            logger = logging.getLogger(name)
            self._restore.append(_restorer(logger))
            logger.handlers[:] = []
            logger.propagate = True
        # The middleware writes one line per request already. A logger that leads nowhere is not even asked: uvicorn
        # quotes the path for it first, which is 3 us for nothing.
        access = logging.getLogger("uvicorn.access")
        access.disabled = True
        access.propagate = False
        client = logging.getLogger(_CLIENT)
        self._restore.append(_restorer(client))
        client.setLevel(max(self._level, logging.WARNING))
        logging.captureWarnings(capture=True)
        self._restore.append(lambda: logging.captureWarnings(capture=False))

    def flush(self) -> None:
        """Write what waits, on the calling thread."""
        # As many as there are now, so that a busy process does not keep this call busy for ever.
        take = self._pending.popleft
        lines = [take() for _ in range(len(self._pending))]
        if self._lost:
            lost, self._lost = self._lost, 0
            lines.append(
                self._line({"ts": time.time(), "level": "warning", "event": "log events dropped", "count": lost})
            )
            if self._dropped is not None:
                self._dropped(lost)
        if lines:
            self._sink(redact(b"".join(lines)))

    def stop(self) -> None:
        """Write what waits, end the thread, give the loggers back."""
        for restore in reversed(self._restore):
            restore()
        self._restore.clear()
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=2)
            self._thread = None
        self.flush()

    def _line(self, event: Event) -> bytes:
        try:
            return self._render(event)
        except Exception as error:  # noqa: BLE001 - a line that cannot be rendered must not end the log
            kept = {
                "ts": time.time(),
                "level": "error",
                "event": "log event not rendered",
                "error": type(error).__name__,
            }
            return self._render(kept)

    def _start(self) -> None:
        if self._thread is None and not self._stopping.is_set():
            self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.wait()
            self._stopping.wait(GATHER_SECONDS)
            self._wake.clear()
            # INVARIANT: cleared before the queue is emptied, so an event put after that wakes the thread again.
            self._awake = False
            self.flush()

    def _forked(self) -> None:
        # Threads do not survive a fork, and what waited will be written by the parent.
        self._pending.clear()
        self._thread = None
        self._awake = False
        self._wake = threading.Event()
        self._stopping = threading.Event()


class EventHandler(logging.Handler):
    """Makes an event of a record. Fields of our own come in `extra={"fields": {...}}`."""

    def __init__(self, logs: Logs) -> None:
        super().__init__(logs.level)
        self._logs = logs

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the record as an event; text and traceback are made now, since their objects may change."""
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - a caller's wrong format string must not break the caller
            message = str(record.msg)
        event: Event = {
            "ts": record.created,
            "level": record.levelname.lower(),
            "event": message[:MAX_MESSAGE],
            "logger": record.name,
        }
        ids = current_request.get()
        if ids is not None:
            event["request_id"], trace_id = ids
            if trace_id is not None:
                event["trace_id"] = trace_id
        fields = getattr(record, "fields", None)
        if isinstance(fields, Mapping):
            event |= clean(fields)
        if record.exc_info is not None and record.exc_info[1] is not None:
            _, error, trace = record.exc_info
            event["exception"] = describe_exception(error, trace)
        self._logs.write(event)


def clean(fields: Mapping[str, Any]) -> Event:
    """The same fields, with the value of everything that is named like a secret taken out, at every depth."""
    return {
        str(name): REDACTED if _SECRET_NAME.search(str(name)) else clean(value) if isinstance(value, Mapping) else value
        for name, value in fields.items()
    }


def redact(line: bytes) -> bytes:
    """A rendered line without anything that has the shape of a credential."""
    for literal, shape, replacement in _SECRET_SHAPES:
        if literal in line:
            line = shape.sub(replacement, line)
    return line


def describe_exception(error: BaseException, trace: TracebackType | None) -> str:
    """Type, the beginning of its message, and where it came from: lines of code, no values."""
    frames = "".join(traceback.format_tb(trace))
    message = str(error)
    if len(message) > MAX_EXCEPTION_MESSAGE:
        message = f"{message[:MAX_EXCEPTION_MESSAGE]}..."
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    before = f"; after {type(cause).__name__}" if cause is not None else ""
    return f"{type(error).__qualname__}: {message}{before}\n{frames}"


_JSON_OPTIONS: Final = orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS | orjson.OPT_APPEND_NEWLINE


def _as_json(event: Event) -> bytes:
    shown = {**event, "ts": datetime.fromtimestamp(event["ts"], UTC)}
    try:
        return orjson.dumps(shown, default=str, option=_JSON_OPTIONS)
    except TypeError:
        # Half a surrogate pair is not UTF-8, and an integer can be too long: written escaped rather than lost.
        return orjson.dumps({name: _plain(value) for name, value in shown.items()}, default=str, option=_JSON_OPTIONS)


def _plain(value: object) -> object:
    if isinstance(value, (datetime, bool, float)):
        return value
    return str(value).encode("utf-8", "backslashreplace").decode()


_HEAD: Final = frozenset({"ts", "level", "event", "exception"})


def _as_text(event: Event) -> bytes:
    moment = datetime.fromtimestamp(event["ts"], UTC).astimezone().strftime("%H:%M:%S")
    fields = "".join(f" {name}={value}" for name, value in event.items() if name not in _HEAD and value is not None)
    # One event is one line here too: a line break in a value would let a caller forge the next event, and an escape
    # sequence in the path of a request would speak to the terminal of whoever reads it.
    lines = [_visible(f"{moment} {event['level']:<7} {event['event']}{fields}")]
    if event.get("exception"):
        lines += map(_visible, f"{event['exception']}".rstrip("\n").split("\n"))
    return "".join(f"{line}\n" for line in lines).encode()


def _visible(line: str) -> str:
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def _to_stderr(data: bytes) -> None:
    # Not through sys.stderr: its buffer and lock belong to the other threads.
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(2, view) :]
    except OSError:
        # Standard error is closed or its pipe is gone: there is nowhere to say so.
        return


def _restorer(logger: logging.Logger) -> Callable[[], None]:
    handlers, level, propagate, disabled = list(logger.handlers), logger.level, logger.propagate, logger.disabled

    def restore() -> None:
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate = propagate
        logger.disabled = disabled

    return restore


def _after_fork(logs: Logs) -> None:
    reference = weakref.ref(logs)

    def in_child() -> None:
        alive = reference()
        if alive is not None:
            alive._forked()  # noqa: SLF001 - the other half of this module's own class

    os.register_at_fork(after_in_child=in_child)
