"""Fetching keys when the fetch itself goes wrong: it is cancelled, or fails in a way that nobody foresaw."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.edge.authn import JwksKeys, http_jwks, jwks
from app.edge.authn.jwks import Fetched, FetchError

# RFC 7515, appendix A.3.1, its public part.
KEY = {
    "kty": "EC",
    "crv": "P-256",
    "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    "kid": "first",
}


class Issuer:
    """Gives one key, unless it was told to raise or to hang."""

    def __init__(self) -> None:
        self.now = 0.0
        self.asked = 0
        self.error: BaseException | None = None
        self.hangs = False

    async def __call__(self) -> Fetched:
        self.asked += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error
        return Fetched([KEY])

    def keys(self) -> JwksKeys:
        return JwksKeys(self, algorithms=["ES256"], monotonic=lambda: self.now, backoff_seconds=0)


async def opened(issuer: Issuer) -> JwksKeys:
    """Keys whose breaker is open, and lets one try through now."""
    keys = issuer.keys()
    issuer.error = FetchError("away")
    for _ in range(2):
        assert not await keys.refresh()
    issuer.now += jwks.RECOVERY_SECONDS
    issuer.error = None
    return keys


async def test_a_try_of_a_half_open_breaker_that_is_cancelled_is_not_the_last() -> None:
    issuer = Issuer()
    keys = await opened(issuer)
    issuer.hangs = True
    asking = asyncio.create_task(keys.refresh())
    while issuer.asked < 6:
        await asyncio.sleep(0)
    await keys.stop()
    with pytest.raises(asyncio.CancelledError):
        await asking
    issuer.hangs = False
    issuer.now += jwks.RECOVERY_SECONDS
    assert await keys.refresh()


async def test_nor_is_one_that_nobody_foresaw() -> None:
    issuer = Issuer()
    keys = await opened(issuer)
    issuer.error = RuntimeError("a fault")
    with pytest.raises(RuntimeError, match="a fault"):
        await keys.refresh()
    issuer.error = None
    issuer.now += jwks.RECOVERY_SECONDS
    assert await keys.refresh()


async def test_the_task_that_keeps_keys_fresh_outlives_what_nobody_foresaw(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    issuer, slept = Issuer(), []
    sleep = asyncio.sleep

    async def sleeping(seconds: float) -> None:
        slept.append(seconds)
        await sleep(0)

    keys = issuer.keys()
    await keys.refresh()
    issuer.error = RuntimeError("a fault")
    monkeypatch.setattr(asyncio, "sleep", sleeping)
    keeping = asyncio.create_task(keys._keep_fresh())
    while issuer.asked < 3:
        assert not keeping.done(), keeping.exception()
        await sleep(0)
    keeping.cancel()
    assert "fetching the keys of the token issuer failed" in caplog.text


async def test_a_token_file_that_is_no_text_is_a_fetch_that_failed(tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(b"\xff")
    with pytest.raises(FetchError, match="UnicodeDecodeError"):
        await http_jwks(url="https://issuer.example/keys", token_file=tmp_path / "token")()


@pytest.mark.parametrize(
    ("issuer", "where", "refused"),
    [
        ("https://issuer.example", "http://issuer.example/keys", True),
        ("https://issuer.example", "HTTP://issuer.example/keys", True),
        ("https://issuer.example", " http://issuer.example/keys", True),
        ("https://issuer.example", "/keys", True),
        ("https://issuer.example", "https://other.example/keys", False),
        ("http://issuer.example", "http://issuer.example/keys", False),
    ],
)
async def test_nobody_is_led_away_from_https(
    monkeypatch: pytest.MonkeyPatch, issuer: str, where: str, refused: bool
) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        document: dict[str, Any] = {"keys": [KEY]} if len(asked) > 1 else {"issuer": issuer, "jwks_uri": where}
        return httpx.Response(200, content=json.dumps(document).encode())

    real = httpx.AsyncClient

    def client(**more: Any) -> httpx.AsyncClient:
        return real(**{**more, "transport": httpx.MockTransport(answer)})

    monkeypatch.setattr(httpx, "AsyncClient", client)
    fetch = http_jwks(issuer=issuer)
    if refused:
        with pytest.raises(FetchError):
            await fetch()
        assert len(asked) == 1
    else:
        assert (await fetch()).keys == [KEY]
