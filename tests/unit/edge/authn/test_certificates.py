"""Client certificates: whose they are, and who may say so."""

from typing import Any

import pytest

from app.core.networks import networks_of
from app.core.principal import AuthMethod, Role, require_subject
from app.core.quota import Limit
from app.edge.authn import Authenticator, ClientCertificates, FailedAttempts, SubjectCondition, identity_rule
from app.edge.authn.certificates import IDENTITY_CHARS_MAX
from app.edge.authn.rejected import RejectedError
from app.edge.peer import Peer
from app.errors import FirewallError, Kind
from app.observability.metrics import Metrics
from tests.certificates import ClientAuthority

SPIFFE = "spiffe://example.org/ns/agents/sa/deploy"
PROXY = "10.0.0.7"
RULES = ["agent=spiffe://example.org/ns/agents/*", "viewer=spiffe://*", "operator=CN=ops,*"]


def certificates(header: str | None = "x-client") -> ClientCertificates:
    return ClientCertificates(
        header=header, proxies=networks_of(["10.0.0.0/8"]), rules=[identity_rule(text) for text in RULES]
    )


class Edge:
    def __init__(self, header: str | None = "x-client") -> None:
        self.metrics = Metrics(version="0")
        self.authenticator = Authenticator(
            api_keys=None,
            jwt=None,
            certificates=certificates(header),
            failures=FailedAttempts(Limit(60, 3)),
            metrics=self.metrics,
        )
        self.header = (header or "").encode()

    async def ask(self, *values: bytes, peer: str | None = PROXY, more: Any = (), shown: bytes | None = None) -> Any:
        headers = [*((self.header, value) for value in values), *more]
        return await self.authenticator.authenticate(
            headers, client_ip="192.0.2.1", peer=None if peer is None else Peer(peer, shown)
        )

    async def refused(self, *values: bytes, **options: Any) -> FirewallError:
        with pytest.raises(FirewallError) as caught:
            await self.ask(*values, **options)
        return caught.value


async def test_an_identity_speaks_for_the_subjects_that_the_condition_allows() -> None:
    condition = "subject.type == 'agent' && context.claims.identity.endsWith('/sa/' + subject.id)"
    found = ClientCertificates(
        header="x-client",
        proxies=networks_of([PROXY]),
        rules=[identity_rule(RULES[0])],
        subjects=SubjectCondition(condition),
    ).find(SPIFFE.encode())
    require_subject(found, {"type": "agent", "id": "deploy", "properties": {}})
    for subject in (
        {"type": "user", "id": "deploy"},
        {"type": "agent", "id": "other"},
        {"type": "agent", "id": "x/sa/deploy"},
    ):
        with pytest.raises(FirewallError) as caught:
            require_subject(found, {**subject, "properties": {}})
        assert caught.value.kind is Kind.FORBIDDEN
    # Without a condition anybody, as a gateway in front of many agents needs.
    assert certificates().find(SPIFFE.encode()).binding is None


def test_a_condition_that_is_none_names_its_setting() -> None:
    with pytest.raises(FirewallError) as caught:
        SubjectCondition("subject.", setting="MFW_AUTH__MTLS__SUBJECT_CONDITION", example="true")
    assert "MFW_AUTH__MTLS__SUBJECT_CONDITION" in str(caught.value)


async def test_an_identity_becomes_a_principal_with_the_roles_of_every_rule() -> None:
    edge = Edge()
    principal = await edge.ask(SPIFFE.encode())
    assert (principal.id, principal.method) == (SPIFFE, AuthMethod.MTLS)
    assert principal.roles == {Role.AGENT, Role.VIEWER}
    assert await edge.ask(SPIFFE.encode()) is principal
    assert (await edge.ask(b" CN=ops,OU=platform,O=Example ")).roles == {Role.OPERATOR}
    # Known to the proxy, and to nobody here.
    assert (await edge.ask(b"CN=else")).scopes == frozenset()
    value = edge.metrics.registry.get_sample_value("mfw_auth_attempts_total", {"method": "mtls", "result": "success"})
    assert value == 4


@pytest.mark.parametrize("peer", [None, "192.0.2.1", "unknown", "11.0.0.1"])
@pytest.mark.parametrize("value", [SPIFFE.encode(), b""])
async def test_the_header_of_anybody_else_is_an_error(peer: str | None, value: bytes) -> None:
    error = await Edge().refused(value, peer=peer)
    assert error.kind is Kind.MALFORMED
    # Even beside a credential: nobody is to think that it counted.
    error = await Edge().refused(value, peer=peer, more=[(b"authorization", b"Bearer x")])
    assert error.kind is Kind.MALFORMED


async def test_the_header_twice_is_an_error() -> None:
    assert (await Edge().refused(b"CN=a", b"CN=b")).kind is Kind.MALFORMED


async def test_without_a_certificate_the_others_are_asked() -> None:
    for values in ((), (b"",)):
        error = await Edge().refused(*values)
        assert (error.kind, error.detail) == (Kind.UNAUTHENTICATED, "a valid api key or token is needed")


async def test_a_credential_goes_before_the_certificate_of_its_connection() -> None:
    error = await Edge().refused(SPIFFE.encode(), more=[(b"authorization", b"Bearer mfw_x")])
    assert error.kind is Kind.UNAUTHENTICATED


@pytest.mark.parametrize("value", [b"\xff", b"a\tb", b"x" * (IDENTITY_CHARS_MAX + 1), "a\u202eb".encode()])
async def test_what_names_nobody(value: bytes) -> None:
    assert (await Edge().refused(value)).kind is Kind.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("value", "identity"),
    [
        (f"Hash=0a;URI={SPIFFE}", SPIFFE),
        (f'By=spiffe://example.org/me;Hash=0a;Subject="CN=a,O=\\"b;c\\"";URI={SPIFFE}', SPIFFE),
        ('Hash=0a;Subject="CN=ops,O=\\"b;c\\"";URI=', 'CN=ops,O="b;c"'),
        ("Subject=CN", "CN"),
        ("hash=0a;subject=x;", "x"),
    ],
)
async def test_envoys_header(value: str, identity: str) -> None:
    assert (await Edge("x-forwarded-client-cert").ask(value.encode())).id == identity


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (f"URI={SPIFFE},URI={SPIFFE}", "more than one hop"),
        (f'Subject="a",URI={SPIFFE}', "more than one hop"),
        (f"URI={SPIFFE};URI=spiffe://example.org/other", "several uris"),
        ("Hash=0a", "without a usable identity"),
        ("Subject=a;Subject=b", "without a usable identity"),
        ("Hash", "not understood"),
        ('Subject="a', "not understood"),
        ('Subject="a\\', "not understood"),
        ('Subject="a"b', "not understood"),
    ],
)
def test_envoys_header_that_cannot_be_relied_on(value: str, reason: str) -> None:
    with pytest.raises(RejectedError, match=reason):
        certificates("x-forwarded-client-cert").find(value.encode())


def test_only_so_many_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.edge.authn.certificates.REMEMBERED_MAX", 2)
    known = certificates()
    first = known.find(b"CN=1")
    assert known.find(b"CN=1") is first
    known.find(b"CN=2")
    known.find(b"CN=3")
    assert known.find(b"CN=1") is not first


@pytest.mark.parametrize("text", ["", "agent", "agent=", "boss=*", "agent=**"])
def test_a_rule_that_is_none(text: str) -> None:
    with pytest.raises(ValueError):
        identity_rule(text)


AUTHORITY = ClientAuthority()


@pytest.mark.parametrize("header", ["x-client", None])
async def test_the_certificate_of_the_connection_names_who_asks(header: str | None) -> None:
    edge = Edge(header)
    spiffe = await edge.ask(shown=AUTHORITY.der(uris=(SPIFFE,)), peer="192.0.2.1")
    assert (spiffe.id, spiffe.method, spiffe.roles) == (SPIFFE, AuthMethod.MTLS, {Role.AGENT, Role.VIEWER})
    der = AUTHORITY.der()
    subject = await edge.ask(shown=der)
    # As Envoy writes it: the last part first, and commas within a value escaped.
    assert (subject.id, subject.roles) == ("O=a,CN=ops", frozenset())
    assert await edge.ask(shown=der) is subject
    # A credential goes before it.
    error = await edge.refused(shown=der, more=[(b"authorization", b"Bearer mfw_x")])
    assert error.kind is Kind.UNAUTHENTICATED


async def test_whom_a_proxy_names_goes_before_the_proxy() -> None:
    assert (await Edge().ask(SPIFFE.encode(), shown=AUTHORITY.der())).id == SPIFFE


async def test_a_certificate_that_is_over_while_its_connection_lasts() -> None:
    error = await Edge(None).refused(shown=AUTHORITY.der(ends_in=-1))
    assert (error.kind, error.detail) == (Kind.TOKEN_EXPIRED, "client certificate expired")


@pytest.mark.parametrize("der", [b"no certificate", AUTHORITY.der(uris=(SPIFFE, SPIFFE + "2"))])
async def test_certificates_that_name_nobody_or_several(der: bytes) -> None:
    assert (await Edge(None).refused(shown=der)).kind is Kind.UNAUTHENTICATED


def test_only_so_many_shown_ones_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.edge.authn.certificates.REMEMBERED_MAX", 1)
    known, first = certificates(None), AUTHORITY.der()
    principal = known.find_shown(first, now=0)
    known.find_shown(AUTHORITY.der(), now=0)
    assert known.find_shown(first, now=0) is not principal


def test_without_a_header_nobody_is_named_by_one() -> None:
    assert certificates(None).value_of([(b"x-client", b"CN=a")], peer=None) is None
