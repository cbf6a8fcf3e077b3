"""Step 1: what is refused before it is read, and what is counted while it is."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Receive

from app.edge.body import ClientDisconnectedError, read_body
from app.errors import FirewallError, Kind

JSON = (b"content-type", b"application/json")


def scope(*headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http", "headers": list(headers)}


def chunks(*parts: bytes, then_leaves: bool = False) -> Receive:
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    if then_leaves:
        messages.append({"type": "http.disconnect"})
    else:
        messages[-1]["more_body"] = False
    taken = iter(messages)

    async def receive() -> Any:
        return next(taken)

    return receive


async def refused(*headers: tuple[bytes, bytes], body: bytes = b"{}", max_bytes: int = 100) -> FirewallError:
    with pytest.raises(FirewallError) as caught:
        await read_body(scope(*headers), chunks(body), max_bytes=max_bytes)
    return caught.value


@pytest.mark.parametrize(
    "content_type",
    [
        b"application/json",
        b"Application/JSON",
        b"application/json; charset=utf-8",
        b'application/json;charset="UTF-8"',
        b"application/json ;",
    ],
)
async def test_json_by_any_spelling_is_read(content_type: bytes) -> None:
    assert await read_body(scope((b"content-type", content_type)), chunks(b"{}")) == b"{}"


@pytest.mark.parametrize(
    "headers",
    [
        (),
        ((b"content-type", b"text/plain"),),
        ((b"content-type", b""),),
        ((b"content-type", b"application/json; charset=latin-1"),),
        ((b"content-type", b"application/json; version=2"),),
        ((b"content-type", b"application/json-patch+json"),),
        (JSON, JSON),
    ],
)
async def test_what_is_not_plain_json_is_refused_by_its_headers(headers: tuple[tuple[bytes, bytes], ...]) -> None:
    async def never() -> Any:
        raise AssertionError("the body was read")

    with pytest.raises(FirewallError) as caught:
        await read_body(scope(*headers), never)
    assert caught.value.kind is Kind.UNSUPPORTED_MEDIA_TYPE


@pytest.mark.parametrize("codings", [(b"br",), (b"gzip", b"gzip"), (b"gzip, gzip",), (b"identity, br",)])
async def test_another_coding_is_refused_by_its_headers(codings: tuple[bytes, ...]) -> None:
    async def never() -> Any:
        raise AssertionError("the body was read")

    with pytest.raises(FirewallError) as caught:
        await read_body(scope(JSON, *((b"content-encoding", coding) for coding in codings)), never)
    assert caught.value.kind is Kind.UNSUPPORTED_ENCODING


async def test_the_identity_coding_is_no_coding() -> None:
    assert await read_body(scope(JSON, (b"content-encoding", b" Identity ")), chunks(b"1")) == b"1"


@pytest.mark.parametrize("length", [b"101", b"99999999999999999999999999"])
async def test_a_length_over_the_limit_is_refused_without_reading(length: bytes) -> None:
    assert (await refused(JSON, (b"content-length", length))).kind is Kind.TOO_LARGE


@pytest.mark.parametrize("length", [b"", b"-1", b"+1", b"1_0", b"0x10", b"\xb2"])
async def test_a_length_that_is_no_number_is_malformed(length: bytes) -> None:
    assert (await refused(JSON, (b"content-length", length))).kind is Kind.MALFORMED


async def test_an_empty_body_is_malformed_at_its_root() -> None:
    error = await refused(JSON, body=b"")
    assert (error.kind, error.pointer) == (Kind.MALFORMED, "")


async def test_one_chunk_over_the_limit_is_too_large() -> None:
    assert (await refused(JSON, body=b"x" * 101)).kind is Kind.TOO_LARGE


async def test_a_body_without_a_length_is_counted_and_cut_off() -> None:
    read = 0

    async def endless() -> Any:
        nonlocal read
        read += 1
        return {"type": "http.request", "body": b"x" * 30, "more_body": True}

    with pytest.raises(FirewallError) as caught:
        await read_body(scope(JSON), endless, max_bytes=100)
    assert caught.value.kind is Kind.TOO_LARGE
    assert read == 4


async def test_a_body_that_ends_over_the_limit_is_too_large() -> None:
    with pytest.raises(FirewallError) as caught:
        await read_body(scope(JSON), chunks(b"x" * 60, b"x" * 60), max_bytes=100)
    assert caught.value.kind is Kind.TOO_LARGE


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=8))
async def test_chunks_are_put_together_in_order(parts: list[bytes]) -> None:
    whole = b"".join(parts)
    if 0 < len(whole) <= 80:
        assert await read_body(scope(JSON), chunks(*parts), max_bytes=80) == whole
    else:
        with pytest.raises(FirewallError) as caught:
            await read_body(scope(JSON), chunks(*parts), max_bytes=80)
        assert caught.value.kind is (Kind.TOO_LARGE if whole else Kind.MALFORMED)


@pytest.mark.parametrize("parts", [(), (b"half",), (b"a", b"b")])
async def test_a_client_that_leaves_is_not_answered(parts: tuple[bytes, ...]) -> None:
    with pytest.raises(ClientDisconnectedError):
        await read_body(scope(JSON), chunks(*parts, then_leaves=True))


async def test_a_body_that_stops_coming_is_given_up() -> None:
    first = [{"type": "http.request", "body": b"{", "more_body": True}]

    async def stalls() -> Any:
        if not first:
            await asyncio.Event().wait()
        return first.pop()

    with pytest.raises(FirewallError) as caught:
        await read_body(scope(JSON), stalls, timeout_seconds=0)
    assert caught.value.kind is Kind.MALFORMED
