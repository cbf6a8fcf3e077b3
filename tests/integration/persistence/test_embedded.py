"""The embedded PostgreSQL: starts from nothing, dies with its launcher, survives every kill, harms nobody."""

import asyncio
import contextlib
import fcntl
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg
import pytest

from app.errors import FirewallError, Kind
from app.persistence import embedded, spawn
from app.persistence.embedded import EmbeddedPostgres, Installation, find_installation
from app.persistence.engine import parse_dsn
from tests.ports import free_port

REPOSITORY = Path(__file__).resolve().parents[3]
ROOT = os.geteuid() == 0
NOBODY = 65534

# Needs the standard library alone, so that any interpreter that the uid can reach will do.
LAUNCHER = f"""
import sys
sys.path[:0] = [{str(REPOSITORY)!r}, {str(find_installation().root.parents[1])!r}]
from pathlib import Path
from app.errors import FirewallError
from app.persistence.embedded import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]))
try:
    print(server.start(), server.pid, flush=True)
except FirewallError as error:
    print("refused", error, flush=True)
    sys.exit(7)
sys.stdin.read()
"""


async def query(dsn, *statements):
    connection = await asyncpg.connect(dsn)
    try:
        answer = None
        for statement in statements:
            answer = await connection.fetchval(statement)
        return answer
    finally:
        await connection.close()


def until(condition, *, seconds=60.0):
    """Wait for what must come; the limit only ends a test that would fail anyway."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it did not happen"
        time.sleep(0.01)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def reachable_interpreter():
    """An interpreter that an ordinary uid can execute: this one may lie below root's home."""
    for path in (sys.executable, "/usr/local/bin/python3", "/usr/bin/python3"):
        tried = (
            subprocess.run([path, "-I", "-S", "-c", ""], user=NOBODY if ROOT else None, check=False)
            if _enters(path)
            else None
        )
        if tried is not None and tried.returncode == 0:
            return path
    raise AssertionError("no interpreter that an ordinary uid can execute")


def _enters(path):
    return (
        embedded._cannot_reach(
            embedded.Account(NOBODY, NOBODY) if ROOT else embedded.Account(os.geteuid(), os.getegid()), Path(path)
        )
        is None
    )


@contextlib.contextmanager
def launcher(state, *, python=sys.executable, user=None):
    """A launcher in a process of its own; gives the process, the DSN and the server's pid."""
    process = subprocess.Popen(
        [python, "-I", "-S", "-B", "-c", LAUNCHER, str(state)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
        cwd="/",
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        dsn, _, rest = process.stdout.readline().strip().partition(" ")
        yield process, dsn, rest
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


async def test_it_starts_from_nothing_and_keeps_its_data(state_directory):
    with EmbeddedPostgres(state_directory) as server:
        dsn = server.dsn
        await query(dsn, "CREATE TABLE t (n int)", "INSERT INTO t VALUES (7)")
        for setting, value in (
            ("fsync", "on"),
            ("synchronous_commit", "on"),
            ("data_checksums", "on"),
            ("server_encoding", "UTF8"),
        ):
            assert await query(dsn, f"SHOW {setting}") == value
    assert server.pid is None
    async with EmbeddedPostgres(state_directory) as server:
        assert server.dsn == dsn
        assert await query(server.dsn, "SELECT n FROM t") == 7
        assert server.start() == dsn  # a second call finds it running


async def test_its_files_are_private_and_it_is_not_root(state_directory):
    with EmbeddedPostgres(state_directory) as server:
        for path in (state_directory, server.data_directory, state_directory / "run"):
            assert stat.S_IMODE(path.lstat().st_mode) == 0o700
        assert stat.S_IMODE((state_directory / "password").lstat().st_mode) == 0o600
        uid = Path(f"/proc/{server.pid}").lstat().st_uid
        assert uid != 0
        assert state_directory.lstat().st_uid == uid
        groups = next(
            line for line in Path(f"/proc/{server.pid}/status").read_text().splitlines() if line.startswith("Groups:")
        )
        assert not ROOT or groups.split() == ["Groups:"]


async def test_a_wider_mode_of_its_own_directory_is_narrowed(state_directory):
    state_directory.mkdir(mode=0o755)
    state_directory.chmod(0o755)
    above = stat.S_IMODE(state_directory.parent.stat().st_mode)
    with EmbeddedPostgres(state_directory):
        assert stat.S_IMODE(state_directory.lstat().st_mode) == 0o700
        assert stat.S_IMODE(state_directory.parent.stat().st_mode) == above


async def test_it_asks_for_the_password(state_directory):
    with EmbeddedPostgres(state_directory) as server:
        wrong = parse_dsn(server.dsn).set(drivername="postgresql", password="guess")
        with pytest.raises(asyncpg.InvalidPasswordError):
            await query(wrong.render_as_string(hide_password=False), "SELECT 1")


async def test_tcp_only_when_asked(state_directory):
    with EmbeddedPostgres(state_directory) as server:
        assert await query(server.dsn, "SHOW listen_addresses") == ""
    port = free_port()
    with EmbeddedPostgres(state_directory, port=port) as server:
        assert await query(server.dsn, "SHOW listen_addresses") == "127.0.0.1"
        tcp = parse_dsn(server.dsn).set(drivername="postgresql", host="127.0.0.1", port=port, query={})
        assert await query(tcp.render_as_string(hide_password=False), "SELECT inet_server_port()") == port
        assert await query(server.dsn, "SELECT 1") == 1


async def test_a_second_launcher_is_refused_and_the_first_unharmed(state_directory):
    with EmbeddedPostgres(state_directory) as server:
        second = EmbeddedPostgres(state_directory)
        with pytest.raises(FirewallError) as caught:
            second.start()
        assert caught.value.kind is Kind.UNAVAILABLE
        assert f"already started by process {os.getpid()}" in caught.value.detail
        with launcher(state_directory) as (process, said, rest):
            assert said == "refused"
            assert f"process {os.getpid()}" in rest
            assert process.wait() == 7
        with pytest.raises(FirewallError, match="not started"):
            _ = second.dsn
        assert await query(server.dsn, "SELECT 1") == 1


def test_an_end_that_nobody_asked_for_is_told_and_another_is_not(state_directory):
    told = threading.Event()
    with EmbeddedPostgres(state_directory, ended=told.set) as server:
        os.kill(server.pid or 0, signal.SIGKILL)
        assert told.wait(60)
    told.clear()
    with EmbeddedPostgres(state_directory, ended=told.set):
        pass
    assert not told.is_set()


async def test_a_killed_server_recovers(state_directory):
    server = EmbeddedPostgres(state_directory)
    with server:
        await query(server.dsn, "CREATE TABLE t (n int)")
        for number in range(3):
            await query(server.dsn, f"INSERT INTO t VALUES ({number})")
            os.kill(server.pid or 0, signal.SIGKILL)
            until(lambda: server.pid is None)
            server.start()
            assert await query(server.dsn, "SELECT count(*) FROM t") == number + 1


async def test_a_killed_launcher_takes_its_server_along(state_directory):
    with launcher(state_directory) as (process, dsn, pid):
        await query(dsn, "CREATE TABLE t (n int)", "INSERT INTO t VALUES (7)")
        process.kill()
        process.wait()
        # At once: the next start waits for the old server by its lock.
        with EmbeddedPostgres(state_directory) as server:
            assert not alive(int(pid))
            assert await query(server.dsn, "SELECT n FROM t") == 7


async def test_a_terminated_launcher_stops_its_server_cleanly(state_directory):
    with launcher(state_directory) as (process, dsn, pid):
        assert await query(dsn, "SELECT 1") == 1
        process.terminate()
        process.wait()
        until(lambda: not alive(int(pid)))
    controldata = subprocess.run(
        [find_installation().program("pg_controldata"), state_directory / "data"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "shut down" in next(line for line in controldata.stdout.splitlines() if "cluster state" in line)


async def test_both_killed_at_once_recover(state_directory):
    with launcher(state_directory) as (process, dsn, pid):
        await query(dsn, "CREATE TABLE t (n int)", "INSERT INTO t VALUES (7)")
        os.kill(int(pid), signal.SIGKILL)
        process.kill()
        process.wait()
    with EmbeddedPostgres(state_directory) as server:
        assert await query(server.dsn, "SELECT n FROM t") == 7


async def test_it_outlives_the_thread_that_started_it(state_directory):
    server = EmbeddedPostgres(state_directory)
    with ThreadPoolExecutor(max_workers=1) as thread:
        dsn = thread.submit(server.start).result()
    try:
        assert await query(dsn, "SELECT 1") == 1
        await asyncio.to_thread(lambda: None)
        assert server.pid is not None
    finally:
        await server.astop()


async def test_a_stale_pid_file_harms_nobody(state_directory):
    with EmbeddedPostgres(state_directory) as server:
        pid_file = server.data_directory / "postmaster.pid"
        content = pid_file.read_text().split("\n", 1)[1]
        owner = server.data_directory.lstat()
    bystander = subprocess.Popen(["sleep", "600"], user=owner.st_uid if ROOT else None)
    try:
        pid_file.write_text(f"{bystander.pid}\n{content}")
        os.chown(pid_file, owner.st_uid, owner.st_gid)
        with EmbeddedPostgres(state_directory) as server:
            assert await query(server.dsn, "SELECT 1") == 1
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


@pytest.mark.parametrize("content", ["", "no number\n"])
async def test_a_broken_pid_file_is_no_obstacle_of_ours(state_directory, content):
    with EmbeddedPostgres(state_directory) as server:
        data = server.data_directory
    (data / "postmaster.pid").write_text(content)
    if content:
        # PostgreSQL itself refuses such a file, and says what to do.
        with pytest.raises(FirewallError, match=r"postmaster\.pid"):
            EmbeddedPostgres(state_directory).start()
        (data / "postmaster.pid").unlink()
    else:
        EmbeddedPostgres(state_directory)._refuse_foreign_server()
        (data / "postmaster.pid").unlink()
    with EmbeddedPostgres(state_directory) as server:
        assert await query(server.dsn, "SELECT 1") == 1


async def test_a_server_that_somebody_else_started_keeps_its_data(state_directory):
    with EmbeddedPostgres(state_directory) as server:
        owner = server.data_directory.lstat()
        data = server.data_directory
    foreign = subprocess.Popen(
        [find_installation().program("postgres"), "-D", data, "-k", state_directory / "run", "-c", "listen_addresses="],
        user=owner.st_uid if ROOT else None,
        group=owner.st_gid if ROOT else None,
        extra_groups=[] if ROOT else None,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: (data / "postmaster.pid").exists() and "ready" in (data / "postmaster.pid").read_text())
        with pytest.raises(FirewallError) as caught:
            EmbeddedPostgres(state_directory).start()
        assert f"process {foreign.pid}" in caught.value.detail
        assert foreign.poll() is None
    finally:
        foreign.send_signal(signal.SIGINT)
        foreign.wait()


async def test_an_earlier_server_that_does_not_end_is_reported(state_directory, monkeypatch):
    monkeypatch.setattr(embedded, "LOCK_TIMEOUT", 0.05)
    state_directory.mkdir(mode=0o700)
    with (state_directory / "server.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(FirewallError, match="does not end"):
            EmbeddedPostgres(state_directory).start()
    with EmbeddedPostgres(state_directory) as server:
        assert await query(server.dsn, "SELECT 1") == 1


async def test_a_long_path_gets_a_short_socket(state_directory):
    state = state_directory / ("long" * 20) / "state"
    for path in (state_directory, state.parent):
        path.mkdir(mode=0o755)
    with EmbeddedPostgres(state) as server:
        directory = Path(str(parse_dsn(server.dsn).query["host"]))
        assert len(str(directory / ".s.PGSQL.5432")) <= 107
        assert stat.S_IMODE(directory.lstat().st_mode) == 0o700
        assert await query(server.dsn, "SELECT 1") == 1
    assert not directory.exists()
    # What a killed launcher left behind is used again, not left for ever.
    with launcher(state) as (process, dsn, _):
        left = Path(str(parse_dsn(dsn).query["host"]))
        process.kill()
        process.wait()
    with EmbeddedPostgres(state) as server:
        assert Path(str(parse_dsn(server.dsn).query["host"])) == left
    assert not left.exists()


async def test_an_interrupted_creation_begins_again(state_directory):
    state_directory.mkdir(mode=0o700)
    (state_directory / "data.new").mkdir()
    (state_directory / "data.new" / "PG_VERSION").write_text("18\n")
    with EmbeddedPostgres(state_directory) as server:
        assert await query(server.dsn, "SELECT 1") == 1
    assert not (state_directory / "data.new").exists()


def test_a_server_that_refuses_its_settings_is_quoted(state_directory):
    server = EmbeddedPostgres(state_directory, settings={"shared_buffers": "nonsense"})
    with pytest.raises(FirewallError) as caught:
        server.start()
    assert "shared_buffers" in caught.value.detail
    assert server.pid is None


def test_a_server_that_is_not_ready_in_time_is_stopped(state_directory, monkeypatch):
    command = embedded._command

    def idle(death_signal, account, *arguments):
        # Nothing that may be ready before anybody looks.
        made = ("/bin/sleep", "600") if death_signal is signal.SIGINT else arguments
        return command(death_signal, account, *made)

    server = EmbeddedPostgres(state_directory, start_timeout=0.05)
    with monkeypatch.context() as patch:
        patch.setattr(embedded, "_command", idle)
        with pytest.raises(FirewallError) as caught:
            server.start()
    assert caught.value.kind is Kind.TIMEOUT
    assert server.pid is None
    with EmbeddedPostgres(state_directory):
        pass


def test_a_missing_wheel_says_what_else_will_do(monkeypatch):
    monkeypatch.setattr(embedded, "DISTRIBUTION", "no-such-distribution")
    with pytest.raises(FirewallError) as caught:
        find_installation()
    assert "MFW_DATABASE__URL" in str(caught.value.fix)


def test_data_of_another_version_is_refused(state_directory):
    (state_directory / "data").mkdir(parents=True)
    (state_directory / "data" / "PG_VERSION").write_text("15\n")
    with pytest.raises(FirewallError, match="PostgreSQL 15"):
        EmbeddedPostgres(state_directory).start()


def test_the_older_version_of_the_wheel_is_found_too():
    assert find_installation(version=16).version == 16
    assert find_installation().version == 18


def test_a_uid_without_a_name_is_told_so(state_directory, monkeypatch):
    def nobody_knows(uid):
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", nobody_knows)
    with pytest.raises(FirewallError, match="needs a name for uid"):
        EmbeddedPostgres(state_directory).start()
    assert embedded._user_name(12345) == "uid 12345"


@pytest.mark.parametrize("path", ["/proc/mfw-none", "/dev/null"])
def test_an_impossible_directory_is_told(path):
    with pytest.raises(FirewallError) as caught:
        EmbeddedPostgres(Path(path)).start()
    assert caught.value.kind is Kind.UNAVAILABLE
    assert caught.value.fix


def test_another_platform_is_told(state_directory, monkeypatch):
    monkeypatch.setattr(sys, "platform", "plan9")
    with pytest.raises(FirewallError, match="Linux"):
        EmbeddedPostgres(state_directory).start()


@pytest.fixture
def private_wheel():
    """A copy of the wheel's server where no other uid can reach it."""
    found = find_installation()
    above = Path(tempfile.mkdtemp(prefix="mfw-test-"))
    package = above / found.root.parent.name
    shutil.copytree(found.root, package / found.root.name, ignore=embedded.NOT_COPIED)
    shutil.copytree(found.root.parents[1] / embedded.LIBRARIES, above / embedded.LIBRARIES)
    yield Installation(package / found.root.name, found.version, found.distribution_version)
    shutil.rmtree(above)


async def test_binaries_out_of_reach_are_copied_once(state_directory, monkeypatch, private_wheel):
    monkeypatch.setattr(embedded, "find_installation", lambda **_: private_wheel)
    above = private_wheel.root.parents[1]
    for _ in range(2):
        with EmbeddedPostgres(state_directory) as server:
            assert await query(server.dsn, "SELECT 1") == 1
            running = Path(f"/proc/{server.pid}/exe").readlink()
            assert running.is_relative_to(state_directory / "binaries" if ROOT else above)
    assert stat.S_IMODE(above.stat().st_mode) == 0o700


def test_binaries_that_may_not_be_executed_are_told(state_directory, monkeypatch, private_wheel):
    private_wheel.root.parents[1].chmod(0o755)
    private_wheel.program("initdb").chmod(0o644)
    monkeypatch.setattr(embedded, "find_installation", lambda **_: private_wheel)
    with pytest.raises(FirewallError) as caught:
        EmbeddedPostgres(state_directory).start()
    assert "cannot execute" in caught.value.detail
    assert "reinstall" in str(caught.value.fix)


def test_a_state_directory_out_of_reach_is_told_and_left_as_it_is():
    above = Path(tempfile.mkdtemp(prefix="mfw-test-"))
    try:
        server = EmbeddedPostgres(above / "postgresql")
        if ROOT:
            with pytest.raises(FirewallError, match="cannot reach"):
                server.start()
        else:
            server.start()
            server.stop()
        assert stat.S_IMODE(above.stat().st_mode) == 0o700
        assert above.stat().st_uid == os.geteuid()
    finally:
        shutil.rmtree(above)


async def test_it_works_for_an_ordinary_user(state_directory):
    if ROOT:
        os.chown(state_directory.parent, NOBODY, NOBODY)
    with launcher(state_directory, python=reachable_interpreter(), user=NOBODY if ROOT else None) as (
        process,
        dsn,
        rest,
    ):
        assert dsn.startswith("postgresql://"), rest
        assert await query(dsn, "SELECT 1") == 1
        owner = state_directory.lstat().st_uid
        assert owner == (NOBODY if ROOT else os.geteuid())
        process.stdin.close()
        assert process.wait() == 0
    with EmbeddedPostgres(state_directory) as server:
        assert await query(server.dsn, "SELECT 1") == 1


async def test_somebody_elses_directory_is_told(state_directory):
    if ROOT:
        state_directory.mkdir(mode=0o700)
        with launcher(state_directory, python=reachable_interpreter(), user=NOBODY) as (_, said, rest):
            assert (said, "belongs to `root`" in rest) == ("refused", True), rest
    else:
        with pytest.raises(FirewallError, match="belongs to"):
            EmbeddedPostgres(Path("/")).start()


def test_the_default_place(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert embedded.default_state_directory() == tmp_path / "mutation-firewall" / "postgresql"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/zoe")
    assert embedded.default_state_directory() == Path("/home/zoe/.local/state/mutation-firewall/postgresql")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert embedded.default_state_directory() == Path("/var/lib/mutation-firewall/postgresql")


def _spawned(*arguments):
    return subprocess.run(
        [sys.executable, "-I", "-S", spawn.__file__, *arguments], capture_output=True, text=True, check=False
    )


def test_a_child_whose_parent_is_gone_does_not_start():
    result = _spawned(str(int(signal.SIGINT)), "1", str(os.geteuid()), str(os.getegid()), "/bin/true")
    assert result.returncode == spawn.EXIT_PARENT_GONE


def test_a_child_that_may_not_change_its_uid_says_so():
    result = _spawned(spawn.CHECK, "1", "-1", "-1", "/")
    assert result.returncode == spawn.EXIT_CANNOT_BECOME
    assert "cannot become" in result.stderr


def test_the_log_is_turned_over(state_directory, monkeypatch):
    with EmbeddedPostgres(state_directory):
        pass
    monkeypatch.setattr(embedded, "LOG_LIMIT", 0)
    with EmbeddedPostgres(state_directory) as server:
        assert server.log_file.with_suffix(".log.1").exists()
