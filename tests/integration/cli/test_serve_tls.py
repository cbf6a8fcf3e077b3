"""`mfw serve` with TLS of its own: who is let in, and a certificate that changes while everybody asks."""

import contextlib
import json
import signal
import socket
import ssl
import threading
import time

import httpx
import pytest

from tests.certificates import ClientAuthority, serving, write
from tests.integration.cli.test_serve import MUTATION, production

TYPED = {"Content-Type": "application/json"}


def presented(port: int) -> bytes:
    """The certificate that a new connection is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), timeout=60) as plain, context.wrap_socket(plain) as wrapped:
        assert wrapped.version() == "TLSv1.3"
        der = wrapped.getpeercert(binary_form=True)
    assert der is not None
    return der


def trusting(*authorities: bytes) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=b"".join(authorities).decode())


@pytest.fixture
def tls(database_dsn, commands, tmp_path):
    """Settings of a service with TLS, its first certificate, and the authority of its clients."""
    issued, clients = serving(), ClientAuthority()
    files = write(tmp_path, issued)
    (tmp_path / "clients.crt").write_bytes(clients.certificate)
    port = commands.free_port()
    settings = production(database_dsn, commands.free_port(), commands.free_port()) | {
        "MFW_TLS__CERTIFICATE_FILE": str(files.certificate),
        "MFW_TLS__KEY_FILE": str(files.key),
        "MFW_TLS__CLIENT_CA_FILE": str(tmp_path / "clients.crt"),
        "MFW_TLS__PORT": str(port),
        "MFW_TLS__POLL_SECONDS": "0.1",
        # However often it is asked until it has noticed a certificate.
        "MFW_LIMITS__BURST": "100000",
        "MFW_AUTH__MTLS__ROLES": '["agent=CN=kube-apiserver,*", "operator=CN=kube-apiserver,*"]',
    }
    return port, settings, issued, clients


def test_another_certificate_drops_no_connection(commands, tls, tmp_path):
    port, settings, issued, clients = tls
    url = f"https://localhost:{port}"
    client = clients.client(tmp_path, "kube-apiserver", organisation="system:masters")
    following = serving()
    context = trusting(issued.authority, following.authority)
    context.load_cert_chain(*client)
    with commands.running("serve", settings=settings) as process:
        process.read_until("Application startup complete")
        stopping = threading.Event()
        statuses: list[int] = []
        lost: list[Exception] = []

        def ask(*, anew: bool) -> None:
            """With one connection for all requests, or one for each."""
            with httpx.Client(base_url=url, headers=TYPED, verify=context, timeout=60) as kept:
                while not stopping.is_set():
                    try:
                        if anew:
                            with httpx.Client(base_url=url, headers=TYPED, verify=context, timeout=60) as fresh:
                                statuses.append(fresh.post("/v1/decisions", content=MUTATION).status_code)
                        else:
                            statuses.append(kept.post("/v1/decisions", content=MUTATION).status_code)
                    except httpx.HTTPError as error:
                        lost.append(error)
                    time.sleep(0.01)

        threads = [threading.Thread(target=ask, kwargs={"anew": anew}) for anew in (True, False)]
        for thread in threads:
            thread.start()
        try:
            first = presented(port)
            for issue in (following, issued) * 3:
                before, deadline = presented(port), time.monotonic() + 60
                write(tmp_path, issue)
                while presented(port) == before and time.monotonic() < deadline:
                    time.sleep(0.02)
                assert presented(port) != before
            assert presented(port) == first
        finally:
            stopping.set()
            for thread in threads:
                thread.join()
        assert not lost
        assert statuses
        assert set(statuses) == {200}
        with httpx.Client(base_url=url, verify=context, timeout=60) as kept:
            told = json.dumps(kept.get("/health/detailed").json())
        assert "certificate of `localhost`, valid until" in told
        scraped = httpx.get(f"http://127.0.0.1:{settings['MFW_METRICS__PORT']}/metrics", timeout=60).text
        assert "mfw_tls_certificate_expiry_timestamp_seconds 1." in scraped
        # What is half written is not taken; the last good one is shown.
        (tmp_path / "tls.key").write_bytes(following.key)
        process.read_until("certificate not taken")
        assert presented(port) == first
        assert process.stop(signal.SIGTERM) == 0


def test_who_is_let_in(commands, tls, tmp_path):
    port, settings, issued, clients = tls
    url = f"https://localhost:{port}"
    strangers = ClientAuthority().client(tmp_path, "stranger")
    known = clients.client(tmp_path, "kube-apiserver", organisation="system:masters")
    else_known = clients.client(tmp_path, "kubelet")
    with commands.running("serve", settings=settings) as process:
        process.read_until("Application startup complete")

        def status(shown=None, **headers) -> int:
            context = trusting(issued.authority)
            if shown is not None:
                context.load_cert_chain(*shown)
            with httpx.Client(base_url=url, headers=TYPED, verify=context, timeout=60) as client:
                return client.post("/v1/decisions", content=MUTATION, headers=headers).status_code

        assert status(known) == 200
        # A certificate of the same authority without a role; none at all; somebody who names another in a header.
        assert status(else_known) == 403
        assert status() == 401
        assert status(X_Forwarded_Client_Cert="Subject=CN=kube-apiserver") == 401
        with pytest.raises(httpx.HTTPError):
            status(strangers)
        # Without TLS there is health and nothing else, whatever is sent.
        plain = f"http://127.0.0.1:{settings['MFW_HTTP__PORT']}"
        commands.ready(plain)
        refused = httpx.post(f"{plain}/v1/decisions", content=MUTATION, headers=TYPED, timeout=60)
        assert refused.status_code == 403
        checked = httpx.get(f"{plain}/envoy/v1/check/x", headers={"X-Mfw-Authorization": "Bearer mfw_x"}, timeout=60)
        assert (checked.status_code, "without TLS" in checked.text) == (403, True)
        assert refused.headers["content-type"] == "application/problem+json"
        # Old protocols, and bytes that are none.
        old = trusting(issued.authority)
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1"):
            old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
        with (
            socket.create_connection(("127.0.0.1", port), timeout=60) as raw,
            pytest.raises((ssl.SSLError, ConnectionResetError)),
        ):
            old.wrap_socket(raw, server_hostname="localhost")
        with socket.create_connection(("127.0.0.1", port), timeout=60) as raw:
            raw.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):
                assert b"HTTP/1.1 2" not in raw.recv(1024)
        assert status(known) == 200
        assert process.stop(signal.SIGTERM) == 0


def test_no_port_without_tls(commands, tls, tmp_path):
    port, settings, issued, _ = tls
    settings |= {"MFW_TLS__PLAIN_HTTP": "none"}
    with commands.running("serve", settings=settings) as process:
        process.read_until("Application startup complete")
        commands.ready(f"https://localhost:{port}", verify=trusting(issued.authority))
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{settings['MFW_HTTP__PORT']}/health/ready", timeout=60)
        assert process.stop(signal.SIGTERM) == 0


def test_a_key_that_does_not_fit_ends_it(commands, tls, tmp_path):
    _, settings, _, _ = tls
    (tmp_path / "tls.key").write_bytes(serving().key)
    result = commands.run("serve", **settings)
    assert result.returncode == 78
    assert "does not belong to the certificate" in result.stderr
