"""What comes over a raw socket: expectations, bodies that are slow or never end, connections that are half closed."""

import gzip
import json
import socket
import time
from pathlib import Path

import pytest
import zstandard

ROOT = Path(__file__).resolve().parents[3]
GOOD = (ROOT / "examples" / "allow-k8s-deployment-scaled.json").read_bytes()


def dial(service):
    host, port = service.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def head(service, length, *more, path="/v1/decisions"):
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: firewall",
        f"Authorization: Bearer {service.key}",
        "Content-Type: application/json",
        f"Content-Length: {length}",
        *more,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def read_all(connection):
    data = b""
    while chunk := connection.recv(65_536):
        data += chunk
    return data


def status_of(data):
    return int(data.split(b" ", 2)[1])


def test_expect_100_continue(service):
    with dial(service) as connection:
        connection.sendall(head(service, len(GOOD), "Expect: 100-continue", "Connection: close"))
        assert connection.recv(65_536).startswith(b"HTTP/1.1 100 ")
        connection.sendall(GOOD)
        assert status_of(read_all(connection)) == 200


def test_nobody_is_told_to_continue_with_what_will_be_refused(service):
    with dial(service) as connection:
        connection.sendall(head(service, 2_000_000, "Expect: 100-continue", "Connection: close"))
        assert connection.recv(65_536).startswith(b"HTTP/1.1 413 ")


def test_a_body_that_never_comes_is_not_waited_for(database_dsn, serve):
    with serve(database_dsn, MFW_HTTP__REQUEST_TIMEOUT_SECONDS="0.5") as service:
        for sent in (b"", b"{"):
            with dial(service) as connection:
                connection.sendall(head(service, 100, "Connection: close") + sent)
                assert connection.recv(65_536).startswith(b"HTTP/1.1 504 ")
        assert service.entries() == []


@pytest.mark.parametrize("sent", [0, 1, len(GOOD) - 1])
def test_a_half_closed_connection_with_half_a_body_is_over(service, sent):
    before = len(service.entries())
    with dial(service) as connection:
        connection.sendall(head(service, len(GOOD)) + GOOD[:sent])
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection) == b""
    assert len(service.entries()) == before


@pytest.fixture
def alone(serve, database_dsn):
    """A service of the test's own: what those who leave have asked for may be recorded when the next test has begun."""
    with serve(database_dsn) as started:
        yield started


def test_who_leaves_after_asking_has_asked(alone):
    service, before = alone, 0
    with dial(service) as connection:
        connection.sendall(head(service, len(GOOD)) + GOOD)
    deadline = time.monotonic() + 60
    while len(service.entries()) == before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(service.entries()) <= before + 1
    with service.client() as client:
        assert client.get("/health/ready").status_code == 200


@pytest.mark.parametrize(
    ("hosts", "version", "status"),
    [([], "1.1", 400), (["a", "b"], "1.1", 400), (["a", "a"], "1.0", 400), ([], "1.0", 200), (["a"], "1.1", 200)],
)
def test_one_host(service, hosts, version, status):
    with dial(service) as connection:
        lines = [f"GET /health/live HTTP/{version}", *(f"Host: {host}" for host in hosts), "Connection: close"]
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n")
        data = read_all(connection)
    assert status_of(data) == status
    if status == 400:
        problem = json.loads(data.partition(b"\r\n\r\n")[2])
        assert "`Host`" in problem["detail"]


def test_a_request_without_a_host_behind_another_only_closes(alone):
    with dial(alone) as connection:
        connection.sendall(head(alone, len(GOOD)) + GOOD + b"GET /health/live HTTP/1.1\r\n\r\n")
        data = read_all(connection)
    # Never an answer to the second one in the place of the first.
    assert data == b"" or status_of(data) == 200


def test_headers_have_a_limit(service):
    with dial(service) as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: a\r\n")
        for number in range(400):
            try:
                connection.sendall(f"X-{number}: {'y' * 1000}\r\n".encode())
            except OSError:
                break
            time.sleep(0.001)
        try:
            data = read_all(connection)
        except ConnectionResetError:
            return
    assert status_of(data) == 431


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
@pytest.mark.parametrize("path", ["/v1/decisions", "/v1/decisions:batch"])
def test_compressed_bodies(service, coding, path):
    compress = {"gzip": gzip.compress, "zstd": zstandard.ZstdCompressor().compress}[coding]
    plain = GOOD if path == "/v1/decisions" else b'{"mutations":[' + GOOD + b"]}"
    headers = {"Content-Type": "application/json", "Content-Encoding": coding}
    with service.client() as client:
        assert client.post(path, content=compress(plain), headers=headers).status_code == 200
        bomb = compress(b" " * 40_000_000)
        answer = client.post(path, content=bomb, headers=headers)
        assert (answer.status_code, answer.json()["type"].rpartition("/")[2]) == (413, "too-large")
        assert client.post(path, content=compress(plain) + b"x", headers=headers).status_code == 400
        assert client.post(path, content=plain, headers=headers).status_code == 400
        twice = headers | {"Content-Encoding": f"{coding}, {coding}"}
        assert client.post(path, content=compress(compress(plain)), headers=twice).status_code == 415
