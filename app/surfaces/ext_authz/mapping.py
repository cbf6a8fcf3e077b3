"""What a request of HTTP is about: routes, as they were configured, make a resource and an action of it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from app.core.glob import Glob
from app.core.types import Json
from app.surfaces.ext_authz.targets import Target

# Named by a route, or by every request: its host, its path and its method.
ALWAYS_NAMED: Final = ("host", "path", "method")
NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")
REFERENCE: Final = re.compile(r"\{([^{}]*)\}")

_ACTIONS: Final = {
    "GET": "read",
    "HEAD": "read",
    "POST": "create",
    "PUT": "update",
    "PATCH": "patch",
    "DELETE": "delete",
}


class GatewayKind(StrEnum):
    """Where a gateway says what it was asked."""

    ENVOY = "envoy"  # it asks in the same way as it was asked: method, host and path are those of the check itself
    NGINX = "nginx"  # `X-Original-Method`, `X-Original-Host` and `X-Original-URI`, as its configuration sets them
    TRAEFIK = "traefik"  # `X-Forwarded-Method`, `X-Forwarded-Host` and `X-Forwarded-Uri`


class Refusals(StrEnum):
    """With which status a gateway is told that nothing was decided."""

    OWN = "own"  # that of the refusal: 400, 413, 429, 503 and others
    FORBIDDEN = "forbidden"  # 403, for gateways that take every other for a failure of their own


class BodyUse(StrEnum):
    """What the body of a request is to its mutation."""

    NONE = "none"  # nothing: it is not looked at
    JSON = "json"  # `change.after`
    MUTATION = "mutation"  # the mutation itself, but for its subject


@dataclass(frozen=True, slots=True)
class SubjectSource:
    """The header in which a gateway names the caller whom it authenticated.

    `type` is that of the subject, and the header has its id; None where the header has a whole subject as JSON.
    """

    header: str
    type: str | None


@dataclass(frozen=True, slots=True)
class Gateway:
    """One kind of asking; `principals` are the ids of those who ask in this way, empty for everybody."""

    principals: tuple[Glob, ...]
    kind: GatewayKind
    subject: SubjectSource
    refusals: Refusals

    def serves(self, principal_id: str) -> bool:
        """Tell whether a principal asks in this way."""
        return not self.principals or any(glob.matches(principal_id) for glob in self.principals)


@dataclass(frozen=True, slots=True)
class PathPattern:
    """Segments of a path: a text is itself, None stands for any one that is not empty; `rest` for all that follow."""

    segments: tuple[str | None, ...]
    names: tuple[str, ...]
    rest: str | None

    def match(self, segments: Sequence[str]) -> dict[str, str] | None:
        """Give the values of the names, None where a path does not fit."""
        count = len(self.segments)
        if len(segments) < count or (len(segments) == count) == (self.rest is not None):
            return None
        named = []
        for wanted, given in zip(self.segments, segments, strict=False):
            if wanted is None and given:
                named.append(given)
            elif wanted is None or wanted != given:
                return None
        values = dict(zip(self.names, named, strict=True))
        if self.rest is not None:
            values[self.rest] = "/".join(segments[count:])
        return values


@dataclass(frozen=True, slots=True)
class Template:
    """A text with names in braces, each of which the route of the text gives."""

    text: str

    def fill(self, values: Mapping[str, str]) -> str:
        """Put the values in; what they are is not looked at again."""
        return REFERENCE.sub(lambda found: values[found[1]], self.text)


@dataclass(frozen=True, slots=True)
class Route:
    """Which requests are about which resource. Empty `hosts` and `methods` fit all.

    `query` has the parameters that may be there, each once, and that policies may read; with `any_query` others may be
    there as well. `headers` are those that policies may read.
    """

    path: PathPattern
    resource_type: str
    resource_id: Template
    hosts: tuple[Glob, ...] = ()
    methods: frozenset[str] = frozenset()
    action: str | None = None
    properties: Mapping[str, "Template | Json"] = field(default_factory=dict)
    body: BodyUse = BodyUse.NONE
    query: frozenset[str] = frozenset()
    any_query: bool = False
    headers: frozenset[str] = frozenset()

    def match(self, method: str, host: str, target: Target) -> dict[str, str] | None:
        """Give the values of the names in a request, None where it does not fit."""
        if self.methods and method not in self.methods:
            return None
        if self.hosts and not any(glob.matches(host) for glob in self.hosts):
            return None
        values = self.path.match(target.segments)
        if values is None:
            return None
        return {"host": host, "path": target.path, "method": method, **values}


class Fact(StrEnum):
    """What of a decision a header may say."""

    DECISION_ID = "decision_id"
    EFFECT = "effect"
    LEDGER_INDEX = "ledger_index"
    POLICY_SET = "policy_set"
    MUTATION_DIGEST = "mutation_digest"
    RECEIPT_HASH = "receipt_hash"


DEFAULT_FACTS: Final[Mapping[str, Fact]] = MappingProxyType(
    {
        "x-mfw-decision-id": Fact.DECISION_ID,
        "x-mfw-effect": Fact.EFFECT,
        "x-mfw-ledger-index": Fact.LEDGER_INDEX,
    }
)

DEFAULT_SUBJECT: Final = SubjectSource("x-agent-id", "agent")

# Every request, by host and path. It says nothing of a change, so what reads one fails, and denies.
DEFAULT_ROUTE: Final = Route(
    path=PathPattern((), (), "rest"),
    resource_type="http",
    resource_id=Template("{host}{path}"),
    any_query=True,
)


@dataclass(frozen=True, slots=True)
class GatewayMapping:
    """Gateways and routes, each in the order in which they are looked at, and what answers say in headers.

    `removed` are headers that what is behind a gateway shall not get.
    """

    gateways: tuple[Gateway, ...]
    routes: tuple[Route, ...] = (DEFAULT_ROUTE,)
    facts: Mapping[str, Fact] = field(default_factory=lambda: DEFAULT_FACTS)
    removed: tuple[str, ...] = ()

    def gateway_of(self, principal_id: str) -> Gateway | None:
        """Give the way in which a principal asks, None where it is no gateway."""
        return next((one for one in self.gateways if one.serves(principal_id)), None)

    def route_of(self, method: str, host: str, target: Target) -> tuple[Route, dict[str, str]] | None:
        """Give the first route that fits, with the values of its names."""
        for route in self.routes:
            values = route.match(method, host, target)
            if values is not None:
                return route, values
        return None


def default_mapping(kind: GatewayKind) -> GatewayMapping:
    """Give the mapping of a service that has no file for it."""
    return GatewayMapping((Gateway((), kind, DEFAULT_SUBJECT, Refusals.OWN),))


def action_of(method: str) -> str:
    """Give the action of a route that names none."""
    return _ACTIONS.get(method, method.lower())
