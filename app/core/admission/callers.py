"""Who is behind a request to an API server: an AI agent, a service or a person, by what was configured."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from app.core.glob import Glob, compile_glob
from app.core.types import JsonObject

_SERVICE_ACCOUNT: Final = "system:serviceaccount:"
_SYSTEM: Final = "system:"

AGENT, SERVICE, USER = "agent", "service", "user"


class AgentSource(StrEnum):
    """What of a caller tells that it is an agent."""

    USER = "user"
    GROUP = "group"
    NAMESPACE = "namespace"
    EXTRA = "extra"
    LABEL = "label"  # of the service account


class Accounts(Protocol):
    """What is known of the service accounts of a cluster."""

    def labels_of(self, namespace: str, name: str) -> Mapping[str, str] | None:
        """Give the labels of a service account; None where it is not known, or not any more."""


@dataclass(frozen=True, slots=True)
class AgentRule:
    """One way to tell an agent; `key` is the name of the `extra` or label that is looked at, else empty."""

    source: AgentSource
    glob: Glob
    key: str = ""

    def matches(self, user: JsonObject, accounts: Accounts | None = None) -> bool:
        """Tell whether a `userInfo` of checked shape is that of an agent.

        Doubt makes one: a service account whose labels nobody knows counts as labelled.
        """
        if self.source is AgentSource.LABEL:
            account = service_account(user["username"])
            if account is None:
                return False
            labels = None if accounts is None else accounts.labels_of(*account)
            return labels is None or (self.key in labels and self.glob.matches(labels[self.key]))
        return any(self.glob.matches(value) for value in self._values(user))

    def _values(self, user: JsonObject) -> Iterable[str]:
        if self.source is AgentSource.USER:
            return (user["username"],)
        if self.source is AgentSource.GROUP:
            return user.get("groups") or ()
        if self.source is AgentSource.NAMESPACE:
            account = service_account(user["username"])
            return () if account is None else (account[0],)
        return (user.get("extra") or {}).get(self.key) or ()


def agent_rule(text: str) -> AgentRule:
    """Read `user=GLOB`, `group=GLOB`, `namespace=GLOB`, `extra=KEY=GLOB` or `label=KEY=GLOB`.

    Raises ValueError that says why not.
    """
    source, equals, pattern = text.partition("=")
    if not equals or source not in tuple(AgentSource):
        raise ValueError(f"begins with none of {', '.join(f'`{one}=`' for one in AgentSource)}")
    key = ""
    if source in {AgentSource.EXTRA, AgentSource.LABEL}:
        key, equals, pattern = pattern.partition("=")
        if not key or not equals:
            raise ValueError(f"is not `{source}=KEY=GLOB`")
    return AgentRule(AgentSource(source), compile_glob(pattern), key)


@dataclass(frozen=True, slots=True)
class EnvironmentRule:
    """What the environment of a namespace is."""

    namespace: Glob
    environment: str


def environment_rule(text: str) -> EnvironmentRule:
    """Read `GLOB=ENVIRONMENT`. Raises ValueError that says what is wrong."""
    pattern, equals, environment = text.partition("=")
    if not equals or not environment:
        raise ValueError("is not `NAMESPACE=ENVIRONMENT`")
    return EnvironmentRule(compile_glob(pattern), environment)


def service_account(username: str) -> tuple[str, str] | None:
    """Give namespace and name of a service account; None for everybody else."""
    if not username.startswith(_SERVICE_ACCOUNT):
        return None
    namespace, colon, name = username.removeprefix(_SERVICE_ACCOUNT).partition(":")
    return (namespace, name) if namespace and colon and name else None


@dataclass(frozen=True, slots=True)
class ClusterView:
    """What an API server does not say in a review, and whoever runs the firewall knows.

    `agents` tell which callers are AI agents. `environments` say by its namespace where an object runs, the first that
    fits; what lives in none has the namespace that only `*` fits. `cluster` is the name of the cluster, or empty.
    `accounts` know the labels of service accounts, where a rule asks for one.
    """

    agents: tuple[AgentRule, ...] = ()
    environments: tuple[EnvironmentRule, ...] = ()
    cluster: str = ""
    accounts: Accounts | None = None

    def subject_type(self, user: JsonObject) -> str:
        """Tell what a caller is; the parts of the cluster itself are services."""
        if any(rule.matches(user, self.accounts) for rule in self.agents):
            return AGENT
        return SERVICE if user["username"].startswith(_SYSTEM) else USER

    def environment(self, namespace: str) -> str | None:
        """Give the environment of a namespace, None where nobody says it."""
        return next((rule.environment for rule in self.environments if rule.namespace.matches(namespace)), None)
