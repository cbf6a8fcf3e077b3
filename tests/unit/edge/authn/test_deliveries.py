"""Who delivers: the signature over the body, by any of the secrets, and nothing else."""

import asyncio

import pytest

from app.core.principal import AuthMethod, Principal, PrincipalKind
from app.core.quota import Limit
from app.edge.authn import FailedAttempts, SignedDeliveries
from app.errors import FirewallError, Kind
from app.observability.metrics import AuthResult, Metrics

# docs.github.com, "Validating webhook deliveries".
SECRET = b"It's a Secret to Everybody"
BODY = b"Hello, World!"
SIGNATURE = b"sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
PRINCIPAL = Principal("github", PrincipalKind.SERVICE, frozenset(), AuthMethod.SIGNATURE)


async def at_once(_seconds: float) -> None:
    pass


def deliveries(*secrets: bytes, burst: int = 100) -> tuple[SignedDeliveries, Metrics]:
    metrics = Metrics(version="0")
    failures = FailedAttempts(Limit(burst, burst), sleep=at_once)
    return SignedDeliveries(secrets, principal=PRINCIPAL, failures=failures, metrics=metrics), metrics


def ask(of: SignedDeliveries, body: bytes = BODY, signature: bytes = SIGNATURE) -> Principal:
    return asyncio.run(of.authenticate(body, signature, client_ip="192.0.2.1"))


def test_the_documented_vector():
    of, metrics = deliveries(SECRET)
    assert of.presented([(b"host", b"x"), (b"x-hub-signature-256", SIGNATURE)]) == SIGNATURE
    assert ask(of) is PRINCIPAL
    assert metrics.auth_attempts[AuthMethod.SIGNATURE, AuthResult.SUCCESS].value == 1


def test_any_of_several_secrets():
    assert ask(deliveries(b"new", SECRET)[0]) is PRINCIPAL
    assert ask(deliveries(SECRET, b"old")[0]) is PRINCIPAL


@pytest.mark.parametrize(
    ("secrets", "body"), [((SECRET,), BODY + b"\n"), ((b"another",), BODY), ((b"",), BODY)], ids=str
)
def test_another_body_or_secret(secrets, body):
    of, metrics = deliveries(*secrets)
    with pytest.raises(FirewallError) as caught:
        ask(of, body)
    assert caught.value.kind is Kind.UNAUTHENTICATED
    assert metrics.auth_attempts[AuthMethod.SIGNATURE, AuthResult.FAILURE].value == 1


@pytest.mark.parametrize(
    "sent",
    [
        [],
        [SIGNATURE, SIGNATURE],
        [b"sha1=" + b"0" * 40],
        [SIGNATURE.upper()],
        [SIGNATURE[:-1]],
        [b""],
    ],
    ids=str,
)
def test_what_is_no_signature_is_refused_before_the_body_is_read(sent):
    of, _ = deliveries(SECRET)
    with pytest.raises(FirewallError) as caught:
        of.presented([(b"x-hub-signature-256", value) for value in sent])
    assert caught.value.kind is Kind.UNAUTHENTICATED


def test_without_a_secret_nothing_is_believed():
    of, _ = deliveries()
    with pytest.raises(FirewallError):
        of.presented([(b"x-hub-signature-256", SIGNATURE)])
    with pytest.raises(FirewallError):
        ask(of)


def test_who_fails_often_is_refused_and_does_not_keep_out_who_signs():
    of, metrics = deliveries(SECRET, burst=2)
    kinds = []
    for _ in range(3):
        with pytest.raises(FirewallError) as caught:
            ask(of, b"x")
        kinds.append(caught.value.kind)
    assert kinds == [Kind.UNAUTHENTICATED, Kind.UNAUTHENTICATED, Kind.RATE_LIMITED]
    assert metrics.auth_attempts[AuthMethod.SIGNATURE, AuthResult.LIMITED].value == 1
    assert ask(of) is PRINCIPAL


def test_answers_that_wait_are_bounded():
    waiting = asyncio.Event()

    async def wait(_seconds: float) -> None:
        await waiting.wait()

    async def many() -> list[object]:
        of = SignedDeliveries(
            [SECRET],
            principal=PRINCIPAL,
            failures=FailedAttempts(Limit(1000, 1000), sleep=wait),
            metrics=Metrics(version="0"),
        )
        tasks = [asyncio.create_task(of.authenticate(b"x", SIGNATURE, client_ip="192.0.2.1")) for _ in range(40)]
        await asyncio.sleep(0)
        waiting.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    kinds = {error.kind for error in asyncio.run(many()) if isinstance(error, FirewallError)}
    assert kinds == {Kind.UNAUTHENTICATED, Kind.RATE_LIMITED}
