"""The key of a request: one, readable, short; quoted or not the same; whose it is and what it was sent with."""

from typing import Any

import pytest

from app.core.principal import AuthMethod, Principal, PrincipalKind, Role
from app.edge.idempotency import MAX_KEY_CHARS, claim_of, idempotency_key
from app.errors import FirewallError, Kind

WHO = Principal("ci", PrincipalKind.AGENT, frozenset({Role.AGENT}), AuthMethod.API_KEY)


def headers(*values: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"host", b"h"), *((b"idempotency-key", value) for value in values)]


@pytest.mark.parametrize(
    ("sent", "key"),
    [
        (b"8e03978e-40d5-43dd-bc93-6894a57f9324", "8e03978e-40d5-43dd-bc93-6894a57f9324"),
        (b'"8e03978e-40d5-43dd-bc93-6894a57f9324"', "8e03978e-40d5-43dd-bc93-6894a57f9324"),
        (b' "a b" ', "a b"),
        (rb'"a\"\\b"', 'a"\\b'),
        (b"x" * MAX_KEY_CHARS, "x" * MAX_KEY_CHARS),
    ],
)
def test_keys(sent: bytes, key: str) -> None:
    assert idempotency_key(headers(sent)) == key


def test_none() -> None:
    assert idempotency_key(headers()) is None
    assert claim_of(headers(), WHO, route="/r", body=b"") is None


@pytest.mark.parametrize(
    "sent",
    [(b"",), (b'""',), (b"a b",), (b'"a',), (b'"a\\b"',), ("ä".encode(),), (b'"a\x7f"',), (b"x" * 256,), (b"a", b"a"), (b'"a";p=1',)],
)  # fmt: skip
def test_what_is_no_key(sent: tuple[bytes, ...]) -> None:
    with pytest.raises(FirewallError) as caught:
        idempotency_key(headers(*sent))
    assert caught.value.kind is Kind.MALFORMED
    assert caught.value.fix


def test_a_claim_is_of_its_principal_and_its_request() -> None:
    def of(key: bytes = b"k", **changed: Any) -> Any:
        who = changed.pop("who", WHO)
        return claim_of(headers(key), who, **{"route": "/r", "body": b"{}"} | changed)

    own = of()
    assert own == of()
    assert own.id != of(b"other").id
    # The same name by another method is somebody else, and no pair of name and key reads like another pair.
    for other in (
        Principal("ci", PrincipalKind.AGENT, WHO.roles, AuthMethod.JWT),
        Principal("ci2", PrincipalKind.AGENT, WHO.roles, AuthMethod.API_KEY),
    ):
        assert of(who=other).id != own.id
    assert of(b"ik", who=Principal("c", PrincipalKind.AGENT, WHO.roles, AuthMethod.API_KEY)).id != own.id
    # Another route or body is another request under the same key.
    for changed in (of(route="/s"), of(body=b"{ }"), of(route="/", body=b"r{}")):
        assert changed.id == own.id
        assert changed.fingerprint != own.fingerprint
