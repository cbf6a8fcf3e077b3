"""What is sent to an API server, and what its answers are in our words."""

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from app.cluster.api import Access, KubernetesApi
from app.errors import FirewallError, Kind


def api(
    tmp_path: Path, answer: Callable[[httpx.Request], httpx.Response], monkeypatch: pytest.MonkeyPatch
) -> KubernetesApi:
    (tmp_path / "token").write_text("first\n")
    made = KubernetesApi(Access("https://kubernetes", tmp_path / "token", tmp_path / "ca.crt"))
    transport = httpx.MockTransport(answer)
    monkeypatch.setattr(made, "_opened", lambda: httpx.AsyncClient(base_url="https://kubernetes", transport=transport))
    return made


async def test_the_token_is_read_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, str, str, bytes]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(
            (str(request.url), request.headers["Authorization"], request.headers["Content-Type"], request.content)
        )
        return httpx.Response(200, json={"kind": "Secret"})

    async with api(tmp_path, answer, monkeypatch) as made:
        assert await made.call("GET", "/api/v1/x") == {"kind": "Secret"}
        (tmp_path / "token").write_text("second")
        await made.call("PATCH", "/api/v1/x", {"a": 1}, query={"dryRun": "All"}, content_type="a/b")
    assert seen == [
        ("https://kubernetes/api/v1/x", "Bearer first", "application/json", b""),
        ("https://kubernetes/api/v1/x?dryRun=All", "Bearer second", "a/b", b'{"a":1}'),
    ]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, Kind.MALFORMED),
        (401, Kind.UNAUTHENTICATED),
        (403, Kind.FORBIDDEN),
        (404, Kind.NOT_FOUND),
        (409, Kind.CONFLICT),
        (422, Kind.MALFORMED),
        (429, Kind.UNAVAILABLE),
        (500, Kind.UNAVAILABLE),
    ],
)
async def test_a_refusal_has_a_kind(status: int, kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"kind": "Status", "message": "no\x1b[2J" + "x" * 1000}
    async with api(tmp_path, lambda _: httpx.Response(status, json=said), monkeypatch) as made:
        with pytest.raises(FirewallError) as caught:
            await made.call("GET", "/x")
        assert (await made.send("GET", "/x")).status == status
    assert caught.value.kind is kind
    assert "no\\x1b[2J" in caught.value.detail
    assert len(caught.value.detail) < 600


@pytest.mark.parametrize("content", [b"", b"[]", b"<html>", b'"a"'])
async def test_an_answer_that_is_no_object(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with api(tmp_path, lambda _: httpx.Response(502, content=content), monkeypatch) as made:
        reply = await made.send("GET", "/x")
    assert (reply.body, reply.message) == ({}, "status 502")


async def test_an_api_server_that_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    errors: list[Exception] = [httpx.ConnectError("refused"), httpx.ReadTimeout("late")]

    def answer(_request: httpx.Request) -> httpx.Response:
        raise errors.pop(0)

    async with api(tmp_path, answer, monkeypatch) as made:
        for kind in (Kind.UNAVAILABLE, Kind.TIMEOUT):
            with pytest.raises(FirewallError) as caught:
                await made.send("GET", "/x")
            assert caught.value.kind is kind
        (tmp_path / "token").unlink()
        with pytest.raises(FirewallError, match="credential cannot be read"):
            await made.send("GET", "/x")


@pytest.mark.parametrize("content", [b"\xff\xfe", "t\u00f6ken".encode(), b"two\nlines", b"a\x00b"])
async def test_a_credential_that_is_no_token(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with api(tmp_path, lambda _: pytest.fail("it was sent"), monkeypatch) as made:
        (tmp_path / "token").write_bytes(content)
        with pytest.raises(FirewallError, match="the credential is no token"):
            await made.send("GET", "/x")


async def test_without_an_authority_nothing_is_sent(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t")
    async with KubernetesApi(Access("https://kubernetes", tmp_path / "token", tmp_path / "ca.crt")) as made:
        with pytest.raises(FirewallError, match="credential cannot be read"):
            await made.send("GET", "/x")


def test_a_pod_knows_where_it_is(tmp_path: Path) -> None:
    found = Access.in_cluster(
        {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}, account=tmp_path
    )
    assert (found.url, found.token_file, found.ca_file) == (
        "https://[fd00::1]:443",
        tmp_path / "token",
        tmp_path / "ca.crt",
    )
    with pytest.raises(FirewallError) as caught:
        Access.in_cluster({})
    assert caught.value.kind is Kind.INVALID_SETTINGS
