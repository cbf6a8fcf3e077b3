"""One check of a gateway, in the words of `service/decide.py`: the same over HTTP and over gRPC."""

from abc import ABC, abstractmethod
from collections.abc import Coroutine, Sequence
from typing import Any, Final, Protocol

from app.core.principal import AccessScope, Principal, require
from app.core.quota import RouteClass
from app.core.types import Mutation
from app.edge.context import RequestContext
from app.edge.gate import Gate
from app.edge.peer import Peer
from app.errors import FirewallError, Kind
from app.ledger.once import Claim
from app.service.decide import Decision, Exchange
from app.surfaces.answering import Answer
from app.surfaces.ext_authz.answers import decision_facts, decision_to_answer, error_to_answer
from app.surfaces.ext_authz.mapping import Gateway, GatewayMapping, Refusals
from app.surfaces.ext_authz.wire import Check, mutation_of

_AUTHORIZATION: Final = b"authorization"

Headers = Sequence[tuple[bytes, bytes]]


class Decides(Protocol):
    """The use case: it takes the steps in their order, through the exchange, and gives back what `render` made."""

    def decide(self, exchange: Exchange) -> Coroutine[Any, Any, bytes]:
        """Return the rendered decision, or raise FirewallError."""


class Checks:
    """What all checks share. `credential_header` is where a gateway, and nobody else, says who it is.

    `certificate_header` is the one in which a trusted proxy names the certificate of its client, if there is one: it
    counts only where it is the credential header as well, since gateways hand on what their callers send.
    """

    def __init__(
        self,
        service: Decides,
        *,
        gate: Gate,
        mapping: GatewayMapping,
        credential_header: str,
        certificate_header: str | None,
        max_body_bytes: int,
    ) -> None:
        self.service = service
        self.gate = gate
        self.mapping = mapping
        self.max_body_bytes = max_body_bytes
        self._credential_header = credential_header.lower().encode()
        certificate = (certificate_header or "").lower().encode()
        self._shown_as = certificate if certificate == self._credential_header else _AUTHORIZATION

    def credentials(self, headers: Headers) -> list[tuple[bytes, bytes]]:
        """Give what authenticates a gateway: its own credential, and nothing else that came with the check."""
        return [(self._shown_as, value) for name, value in headers if name == self._credential_header]

    def without_credential(self, headers: Headers) -> list[tuple[bytes, bytes]]:
        """Give the headers that a mutation may be made of: no mapping can name the gateway's own credential."""
        return [(name, value) for name, value in headers if name != self._credential_header]


class CheckExchange(ABC):
    """One check. `answer` is there once the decision is in the ledger."""

    __slots__ = (
        "_checks",
        "_gateway",
        "_headers",
        "answer",
        "client_ip",
        "context",
        "decision",
        "limit_headers",
        "peer",
    )

    def __init__(
        self, checks: Checks, *, headers: Headers, context: RequestContext, client_ip: str, peer: Peer | None
    ) -> None:
        self._checks = checks
        self._headers = headers
        self._gateway: Gateway | None = None
        self.context = context
        self.client_ip = client_ip
        self.peer = peer
        self.answer: Answer | None = None
        self.decision: Decision | None = None
        self.limit_headers = [checks.gate.limits.policy_header(RouteClass.DECIDE)]

    @abstractmethod
    async def read(self) -> bytes:
        """Step 1, which is the transport's."""

    @abstractmethod
    def check(self, body: bytes) -> Check:
        """Give what is asked, with its body."""

    async def authenticate(self) -> Principal:
        """Step 2."""
        principal = await self._checks.gate.authenticator.authenticate(
            self._checks.credentials(self._headers), client_ip=self.client_ip, peer=self.peer
        )
        self.context.principal = principal
        self._gateway = self._checks.mapping.gateway_of(principal.id)
        return principal

    async def limit(self, principal: Principal) -> None:
        """Step 3."""
        gate = self._checks.gate
        allowance = await gate.limits.take(principal, RouteClass.DECIDE)
        self.limit_headers = allowance.headers()
        gate.checked(allowance)
        require(principal, AccessScope.DECIDE)
        if self._gateway is None:
            raise FirewallError(
                Kind.FORBIDDEN,
                f"`{principal.id[:200]}` is not known as a gateway",
                fix="use the credential of one, or name it in the file that MFW_EXT_AUTHZ__MAPPING names",
            )

    def parse(self, body: bytes) -> Mutation:
        """Step 4."""
        assert self._gateway is not None  # noqa: S101 - step 3 was before step 4
        return mutation_of(
            self.check(body),
            self._gateway,
            self._checks.mapping,
            max_bytes=self._checks.max_body_bytes,
            request_id=self.context.request_id,
        )

    def claim(self, _principal: Principal, _body: bytes) -> Claim | None:
        """Step 3b: a key that the caller of a gateway sends is for what is behind the gateway."""
        return None

    def render(self, decision: Decision) -> bytes:
        """Step 10."""
        self.decision = decision
        self.answer = decision_to_answer(decision, self._checks.mapping)
        return self.answer.body

    def replayed(self) -> None:  # noqa: B027 - what every check does then: nothing
        """Nothing is kept under a key here."""

    @property
    def removed(self) -> Sequence[str]:
        """Headers that what is behind the gateway shall not get."""
        return self._checks.mapping.removed

    def facts(self) -> dict[str, str]:
        """What the headers of an answer say of the decision, by name; nothing where none was made."""
        if self.decision is None:
            return {}
        told = decision_facts(self.decision)
        return {name: told[fact] for name, fact in self._checks.mapping.facts.items()}

    def metadata(self) -> dict[str, str]:
        """All that may be said of the decision, by the name of the fact."""
        if self.decision is None:
            return {}
        return {fact.value: text for fact, text in decision_facts(self.decision).items()}

    def refused(self, error: FirewallError) -> Answer:
        """Say that nothing was decided, as this gateway passes it on."""
        refusals = Refusals.OWN if self._gateway is None else self._gateway.refusals
        return error_to_answer(error, refusals, request_id=self.context.request_id)
