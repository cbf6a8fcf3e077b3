"""`mfw witness`: a witness of logs (C2SP tlog-witness), for a second team to run on a machine of its own."""

import asyncio
import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, assert_never

import uvicorn
from starlette.types import Receive, Scope, Send

from app.cli.exits import ExitCode
from app.cli.note_keys import write_pair
from app.cli.output import Refused, console, plain, write_json
from app.cli.server import OPTIONS
from app.core.notes import Algorithm, Checkpoint, Note, SignerKey, VerifierKey, parse_note
from app.core.witnessing import (
    ADD_CHECKPOINT,
    SIZE_MEDIA_TYPE,
    SUBMISSION_BYTES_MAX,
    Judgement,
    Outcome,
    Submission,
    judge,
)
from app.errors import FirewallError

TEXT: Final = "text/plain; charset=utf-8"
HEALTH: Final = "/health"
# A submission comes in one piece over any working network.
BODY_SECONDS: Final = 10.0
# A key is one line.
KEY_BYTES_MAX: Final = 4096
# A log keeps one connection open; the others are strangers.
CONNECTIONS_MAX: Final = 256

_log: Final = logging.getLogger("mfw.witness")


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back over the wire."""

    status: int
    body: bytes
    media_type: str = TEXT


class Witness:
    """One key, the logs that it witnesses, and on disk what it cosigned last of each.

    INVARIANT: what is cosigned was synced to the disk before, and one submission is judged at a time.
    """

    def __init__(
        self,
        key: SignerKey,
        *,
        logs: Mapping[str, Sequence[VerifierKey]],
        directory: Path,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Take the directory, and read what is there. Raises `Refused`: what cannot be read is never taken for new."""
        self._key = key
        self._logs = logs
        self._clock = clock
        self._directory = directory
        self._lock = threading.Lock()
        self._taken = _take(directory)
        try:
            self._latest = {origin: note for origin in logs if (note := self._read(origin)) is not None}
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the directory."""
        os.close(self._taken)

    def latest(self, origin: str) -> Checkpoint | None:
        """What was cosigned last for a log; None for nothing."""
        note = self._latest.get(origin)
        return None if note is None else Checkpoint.parse(note.text)

    def add_checkpoint(self, body: bytes) -> Answer:
        """Judge a submission, and cosign it if everything holds. Blocks while the disk writes.

        Raises OSError where the checkpoint cannot be kept; then it is not cosigned.
        """
        try:
            submission = Submission.parse(body)
            origin = submission.claim.origin
        except FirewallError as error:
            return Answer(400, f"{error.detail}\n".encode())
        with self._lock:
            latest = self.latest(origin)
            found = judge(submission, logs=self._logs, latest=latest)
            _report(found, submission)
            if found.outcome is not Outcome.COSIGNED:
                return _refusal(found, latest)
            cosignature = self._key.sign(submission.checkpoint.text, at=int(self._clock()))
            self._keep(origin, submission.checkpoint.with_signatures([cosignature]))
        return Answer(200, cosignature.line.encode())

    def checkpoint(self, name: str) -> bytes | None:
        """What was cosigned last, by the SHA-256 of the log's origin: for auditors, who may not trust the log."""
        for origin, note in list(self._latest.items()):
            if _name(origin) == name:
                return note.serialise()
        return None

    def _keep(self, origin: str, note: Note) -> None:
        """Write it so that it survives a loss of power at any moment: the old one or the new one, whole."""
        file = self._file(origin)
        scratch = file.with_suffix(".new")
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(note.serialise())
            stream.flush()
            os.fsync(descriptor)
        scratch.replace(file)
        os.fsync(self._taken)
        self._latest[origin] = note

    def _read(self, origin: str) -> Note | None:
        file = self._file(origin)
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unreadable(file, (error.strerror or "unknown reason").lower()) from error
        try:
            note = parse_note(content)
            if Checkpoint.parse(note.text).origin != origin:
                raise _unreadable(file, "it is of another log")
        except FirewallError as error:
            raise _unreadable(file, error.detail) from error
        return note

    def _file(self, origin: str) -> Path:
        return self._directory / f"{_name(origin)}.checkpoint"


class WitnessApp:
    """The witness over HTTP: `add-checkpoint` for logs, `<sha256 of origin>/checkpoint` for auditors, `health`."""

    def __init__(self, witness: Witness) -> None:
        self._witness = witness

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            answer = await self._answer(scope, receive)
        except OSError:
            # Nothing was cosigned: the log asks again.
            _log.exception("the checkpoint cannot be kept")
            answer = Answer(500, b"the witness cannot keep the checkpoint\n")
        headers = [
            (b"content-type", answer.media_type.encode()),
            (b"content-length", b"%d" % len(answer.body)),
            (b"cache-control", b"no-store"),
            (b"x-content-type-options", b"nosniff"),
        ]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        method, path = scope["method"], scope["path"]
        if path == ADD_CHECKPOINT:
            if method != "POST":
                return Answer(405, b"use POST\n")
            body = await _body(receive)
            if isinstance(body, Answer):
                return body
            return await asyncio.to_thread(self._witness.add_checkpoint, body)
        if method != "GET":
            return Answer(405, b"use GET\n")
        if path == HEALTH:
            return Answer(200, b"ok\n")
        name, slash, rest = path.removeprefix("/").partition("/")
        found = self._witness.checkpoint(name) if slash and rest == "checkpoint" else None
        return Answer(404, b"there is nothing here\n") if found is None else Answer(200, found)


def read_key(file: Path) -> SignerKey:
    """The witness' key from its file. Raises `Refused`."""
    try:
        with file.open("rb") as stream:
            text = stream.read(KEY_BYTES_MAX).decode("utf-8", "replace").strip()
    except OSError as error:
        reason = (error.strerror or "unknown reason").lower()
        raise Refused(
            ExitCode.NO_INPUT, f"cannot read `{file}`: {reason}", fix="make a key: `mfw witness keygen`"
        ) from error
    try:
        key = SignerKey.parse(text)
    except FirewallError as error:
        raise Refused(
            ExitCode.BAD_DATA, f"`{file}` has {error.detail}", fix="make a key: `mfw witness keygen`"
        ) from error
    if key.algorithm is not Algorithm.COSIGNATURE:
        raise Refused(
            ExitCode.BAD_DATA,
            f"the key in `{file}` is a log's, not a witness'",
            fix="make one of its own: `mfw witness keygen`",
        )
    return key


def read_logs(texts: Sequence[str]) -> dict[str, tuple[VerifierKey, ...]]:
    """The logs to witness, each `VKEY` or `VKEY ORIGIN`; several keys of one origin all count. Raises `Refused`."""
    logs: dict[str, tuple[VerifierKey, ...]] = {}
    for text in texts:
        written, _, origin = text.strip().partition(" ")
        try:
            key = VerifierKey.parse(written)
        except FirewallError as error:
            raise Refused(
                ExitCode.USAGE,
                f"`{text[:80]}` names no log: {error.detail}",
                fix="write the log's verifier key, `name+id+base64`, and its origin after a space if that is not "
                "the name",
            ) from error
        named = origin.strip() or key.name
        logs[named] = (*logs.get(named, ()), key)
    return logs


def run_keygen(out: Path, *, name: str, as_json: bool) -> None:
    """Make a witness' key. Raises `Refused`; never touches a file that is there."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    try:
        key = SignerKey.of(name, Ed25519PrivateKey.generate(), algorithm=Algorithm.COSIGNATURE)
    except FirewallError as error:
        raise Refused(ExitCode.USAGE, error.detail, fix=error.fix) from error
    public = write_pair(key, out)
    if as_json:
        write_json({"name": name, "private_key": str(out), "public_key": str(public), "vkey": key.verifier.text})
        return
    show = console()
    show.print(plain(f"{out}  the private key: keep it where secrets are kept"), soft_wrap=True)
    show.print(plain(f"{public}  the public key, for the log and for whoever verifies it:"), soft_wrap=True)
    show.print(plain(key.verifier.text), soft_wrap=True)
    show.print(plain(f"next: mfw witness serve --key {out} --state-dir DIR --log 'VKEY'"), soft_wrap=True)


def run_serve(*, key: Path, directory: Path, logs: Sequence[str], host: str, port: int, json_logs: bool) -> None:
    """Serve until told to go. Raises `Refused`."""
    from app.observability.logs import Logs

    witness = Witness(read_key(key), logs=read_logs(logs), directory=directory)
    written = Logs(form="json" if json_logs else "text")
    written.install()
    options: dict[str, Any] = OPTIONS | {"lifespan": "off", "limit_concurrency": CONNECTIONS_MAX, "host": host}
    try:
        server = _Server(uvicorn.Config(WitnessApp(witness), port=port, **options))
        with suppress(KeyboardInterrupt):
            server.run()
    except SystemExit as error:
        raise Refused(
            ExitCode.FAILED, f"cannot listen on {host}:{port}", fix="choose another port with --port"
        ) from error
    finally:
        written.stop()
        witness.close()


class _Server(uvicorn.Server):
    """Says where it listens once it does."""

    async def startup(self, sockets: list[Any] | None = None) -> None:
        """Start, then say so."""
        await super().startup(sockets=sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            where = f"[{host}]" if ":" in host else host
            _log.info("witness listens", extra={"fields": {"url": f"http://{where}:{port}"}})


def _take(directory: Path) -> int:
    """The directory's descriptor, locked: two witnesses on one state would each cosign what the other refuses."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        reason = (error.strerror or "unknown reason").lower()
        raise Refused(
            ExitCode.NO_INPUT, f"cannot use `{directory}`: {reason}", fix="name another with --state-dir"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise Refused(
            ExitCode.FAILED, f"another witness uses `{directory}`", fix="stop it, or name another with --state-dir"
        ) from error
    return descriptor


async def _body(receive: Receive) -> bytes | Answer:
    body = b""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return Answer(400, b"the request ended too early\n")
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > SUBMISSION_BYTES_MAX:
                    return Answer(413, b"the request is too large\n")
    except TimeoutError:
        return Answer(408, b"the request did not arrive in time\n")
    return body


def _refusal(found: Judgement, latest: Checkpoint | None) -> Answer:
    words = f"{found.detail}\n".encode()
    match found.outcome:
        case Outcome.MALFORMED:
            return Answer(400, words)
        case Outcome.UNKNOWN_LOG:
            return Answer(404, words)
        case Outcome.UNSIGNED:
            return Answer(403, words)
        case Outcome.OTHER_SIZE:
            return Answer(409, b"%d\n" % (0 if latest is None else latest.size), SIZE_MEDIA_TYPE)
        case Outcome.FORKED:
            # Without a size: logs take a conflict with one for an invitation to try again.
            return Answer(409, words)
        case Outcome.INCONSISTENT:
            return Answer(422, words)
        case Outcome.COSIGNED:
            raise AssertionError("what was cosigned is not refused")
        case _:
            assert_never(found.outcome)


def _report(found: Judgement, submission: Submission) -> None:
    """One line for each that names a log; what proves that a log lied is kept whole, so that it can be shown."""
    checkpoint = found.checkpoint
    if checkpoint is None or found.outcome in {Outcome.UNKNOWN_LOG, Outcome.UNSIGNED, Outcome.MALFORMED}:
        _log.info("submission refused", extra={"fields": {"outcome": found.outcome.value}})
        return
    fields = {"outcome": found.outcome.value, "origin": checkpoint.origin, "size": checkpoint.size}
    match found.outcome:
        case Outcome.COSIGNED:
            _log.info("checkpoint cosigned", extra={"fields": fields})
        case Outcome.OTHER_SIZE:
            _log.info("submission refused", extra={"fields": fields | {"reason": found.detail}})
        case _:
            evidence = {"reason": found.detail, "submission": submission.serialise().decode()}
            _log.error("the log contradicts itself", extra={"fields": fields | evidence})


def _name(origin: str) -> str:
    return sha256(origin.encode()).hexdigest()


def _unreadable(file: Path, reason: str) -> Refused:
    return Refused(
        ExitCode.BAD_DATA,
        f"`{file}` cannot be read: {reason}",
        fix="restore it from a backup: a witness that forgets can be made to cosign a fork",
    )
