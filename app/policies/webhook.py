"""The ValidatingWebhookConfiguration that lets a policy set be asked about everything that it speaks of.

It may ask about more than any policy matches, never about less: what is not asked about is not guarded.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, assert_never

from app.core.admission.callers import AgentRule, AgentSource
from app.core.admission.canary import NAME as CANARY
from app.core.admission.facts import CONNECT, CREATE, DELETE, NAMESPACE_NAME_LABEL, OPERATIONS, UPDATE
from app.core.admission.resources import own_groups, spellings
from app.core.glob import Glob, compile_glob
from app.core.index import AnyPolicy, CompiledPolicySet, Match, Policy
from app.core.types import JsonObject

# A namespace with this label is not asked about; who puts it on one is.
EXEMPT: Final = "mutationfirewall.io/exempt"
# Without these no cluster recovers from a firewall that is away.
SYSTEM_NAMESPACES: Final = ("kube-system", "kube-node-lease", "kube-public")

_ALL: Final = "*"
# Parts that change what runs or who may, with their operation and the resources that have them. Not `status`: that is
# what controllers write all the time about what was decided before.
_PARTS: Final[Mapping[str, tuple[str, frozenset[str]]]] = {
    "scale": (UPDATE, frozenset()),
    "ephemeralcontainers": (UPDATE, frozenset({"pods"})),
    "resize": (UPDATE, frozenset({"pods"})),
    "approval": (UPDATE, frozenset({"certificatesigningrequests"})),
    "eviction": (CREATE, frozenset({"pods"})),
    "binding": (CREATE, frozenset({"pods"})),
    "token": (CREATE, frozenset({"serviceaccounts"})),
    "exec": (CONNECT, frozenset({"pods"})),
    "attach": (CONNECT, frozenset({"pods"})),
    "portforward": (CONNECT, frozenset({"pods"})),
    "proxy": (CONNECT, frozenset({"pods", "services", "nodes"})),
}
# The actions that the webhook's surface gives a request to a whole object.
_WHOLE: Final = {"create": CREATE, "update": UPDATE, "delete": DELETE, "deletecollection": DELETE}

# What changes all the time, or is itself a question, and runs nothing.
_NOT_ASKED: Final = (
    "!(request.resource.group == 'coordination.k8s.io' && request.resource.resource == 'leases') && "
    "!(request.resource.resource == 'events' && request.resource.group in ['', 'events.k8s.io']) && "
    "!(request.resource.group in ['authentication.k8s.io', 'authorization.k8s.io'])"
)
_EXEMPTS: Final = (
    f"has(object.metadata.labels) && '{EXEMPT}' in object.metadata.labels && "
    f"!(oldObject != null && has(oldObject.metadata.labels) && '{EXEMPT}' in oldObject.metadata.labels)"
)

_NEW_CONFIGMAP: Final = (
    f"request.operation == '{CREATE}' && request.resource.group == '' && request.resource.resource == 'configmaps'"
)
_CANARY: Final = f"{_NEW_CONFIGMAP} && has(request.name) && request.name == '{CANARY}'"

_Asked = dict[tuple[str, str], set[str]]


@dataclass(frozen=True, slots=True)
class Webhook:
    """What the configuration says beside its rules. `client` is `clientConfig`; no `agents` are all callers."""

    name: str
    client: JsonObject
    exempt_namespaces: Sequence[str]
    agents: Sequence[AgentRule] = ()
    timeout_seconds: int = 3
    named_only: bool = False
    canary: bool = False


def webhook_configuration(policy_set: CompiledPolicySet, webhook: Webhook) -> JsonObject:
    """Render the configuration for a policy set.

    Raises ValueError where no policy speaks of anything that an API server changes. With `named_only` policies that are
    about everything do not count, and a pattern for API groups means those of Kubernetes' own.
    """
    rules = resource_rules(policy_set.policies, named_only=webhook.named_only)
    if not rules:
        raise ValueError("no policy is about a resource of Kubernetes")
    agents = agents_alone(webhook.agents)
    asking, conditions = rules, [asked(), *agents]
    if webhook.canary:
        asking, conditions = _with_canary(rules, webhook.agents)
    own = {
        "admissionReviewVersions": ["v1"],
        "sideEffects": "NoneOnDryRun",
        "failurePolicy": "Fail",
        "matchPolicy": "Equivalent",
        "timeoutSeconds": webhook.timeout_seconds,
        "clientConfig": webhook.client,
    }
    # INVARIANT: no selector here. A namespace is selected by the labels that it will have, so the request that puts the
    # label on it would be the first that nobody is asked about.
    guard = {
        "name": "exemptions.mutationfirewall.io",
        **own,
        "matchConditions": [{"name": "exempts", "expression": _EXEMPTS}, *agents],
        "rules": [
            {"apiGroups": [""], "apiVersions": ["*"], "operations": [CREATE, UPDATE], "resources": ["namespaces"]}
        ],
    }
    changes = {
        "name": "changes.mutationfirewall.io",
        **own,
        "namespaceSelector": outside(webhook.exempt_namespaces),
        "matchConditions": conditions,
        "rules": asking,
    }
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": webhook.name},
        "webhooks": [changes, guard],
    }


def _with_canary(rules: list[JsonObject], agents: Sequence[AgentRule]) -> tuple[list[JsonObject], list[JsonObject]]:
    """Rules and conditions by which the canary is asked about too, whoever sends it, and nothing else beside it."""
    conditions = [asked()]
    if agents:
        alone = " || ".join(map(agent_expression, agents))
        conditions.append({"name": "agents", "expression": f"({_CANARY}) || {alone}"})
    if any(_makes_configmaps(rule) for rule in rules):
        return rules, conditions
    conditions.append({"name": "canary", "expression": f"!({_NEW_CONFIGMAP}) || ({_CANARY})"})
    one = {"apiGroups": [""], "apiVersions": ["*"], "operations": [CREATE], "resources": ["configmaps"]}
    return [*rules, one], conditions


def _makes_configmaps(rule: JsonObject) -> bool:
    return (
        CREATE in rule["operations"]
        and any(group in {"", _ALL} for group in rule["apiGroups"])
        and any(resource in {"configmaps", _ALL} for resource in rule["resources"])
    )


def outside(exempt_namespaces: Iterable[str]) -> JsonObject:
    """Give the selector of the namespaces that are asked about."""
    exempt = sorted({*SYSTEM_NAMESPACES, *exempt_namespaces})
    return {
        "matchExpressions": [
            {"key": NAMESPACE_NAME_LABEL, "operator": "NotIn", "values": exempt},
            {"key": EXEMPT, "operator": "DoesNotExist"},
        ]
    }


def asked() -> JsonObject:
    """Give the `matchCondition` without which everything that is never asked about would be."""
    return {"name": "not-asked", "expression": _NOT_ASKED}


def agents_alone(agents: Sequence[AgentRule]) -> list[JsonObject]:
    """Give the `matchCondition` that keeps everybody else away; none where there are no rules for agents."""
    return [{"name": "agents", "expression": " || ".join(map(agent_expression, agents))}] if agents else []


def agent_expression(rule: AgentRule) -> str:
    """Say in CEL, for a `matchCondition`, what a rule for agents says."""
    user = "request.userInfo"
    match rule.source:
        case AgentSource.USER:
            return f"{user}.username.matches({_regex(rule.glob)})"
        case AgentSource.NAMESPACE:
            inner = _pattern(rule.glob).replace(".*", "[^:]*")
            return f"{user}.username.matches({quoted(f'^system:serviceaccount:{inner}:[^:]+$')})"
        case AgentSource.GROUP:
            return f"(has({user}.groups) && {user}.groups.exists(g, g.matches({_regex(rule.glob)})))"
        case AgentSource.EXTRA:
            key = quoted(rule.key)
            extra = f"{user}.extra[{key}].exists(v, v.matches({_regex(rule.glob)}))"
            return f"(has({user}.extra) && {key} in {user}.extra && {extra})"
        case AgentSource.LABEL:
            # Labels are not in a request: the firewall looks at each service account itself.
            return f"{user}.username.startsWith('system:serviceaccount:')"
        case _:
            assert_never(rule.source)


def _regex(glob: Glob) -> str:
    return quoted(f"^{_pattern(glob)}$")


def _pattern(glob: Glob) -> str:
    return "".join({"*": ".*", "?": "."}.get(c) or re.escape(c) for c in glob.text)


def quoted(text: str) -> str:
    """Write a text without control characters as a literal of CEL."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def resource_rules(policies: Iterable[AnyPolicy], *, named_only: bool) -> list[JsonObject]:
    """Give the rules for everything that policies are about, with `named_only` as in `webhook_configuration`."""
    asked: _Asked = {}
    for policy in policies:
        if isinstance(policy, Policy):
            _ask_about(policy.match, asked, named_only=named_only)
            continue
        for rule in policy.match.constraints.rules:
            every = set(OPERATIONS if _ALL in rule.operations else rule.operations)
            for group in rule.groups:
                for resource, part in rule.resources:
                    asked.setdefault((group, f"{resource}/{part}" if part else resource), set()).update(every)
    return list(_grouped(asked))


def _ask_about(match: Match, asked: _Asked, *, named_only: bool) -> None:
    """Add what a policy is about: its exclusions may make that less, never more."""
    types = [pattern.type for pattern in match.resources] or [None]
    for glob in types:
        if named_only and _is_everything(glob):
            continue
        for group, resources in _named(glob, own_only=named_only):
            for resource in resources:
                for name, operation in _WHOLE.items():
                    if _acts(match, name):
                        asked.setdefault((group, resource), set()).add(operation)
                for part, (operation, having) in _PARTS.items():
                    if having and resource != _ALL and resource not in having:
                        continue
                    if _acts(match, "update" if operation == UPDATE else part):
                        asked.setdefault((group, f"{resource}/{part}"), set()).add(operation)


def _acts(match: Match, name: str) -> bool:
    return not match.actions or any(glob.matches(name) for glob in match.actions)


def _is_everything(glob: Glob | None) -> bool:
    return glob is None or glob.text == _ALL


def _named(glob: Glob | None, *, own_only: bool) -> Iterator[tuple[str, Iterable[str]]]:
    """Give the API groups and resources that a pattern for `resource.type` may mean; none where it means no cluster."""
    group, slash, kind = (glob.text if glob is not None else _ALL).rpartition("/")
    if not slash:
        if glob is None or glob.literal is None:
            yield _ALL, (_ALL,)
        return
    if any(c in group for c in "*?"):
        meant = compile_glob(group)
        groups = sorted(own for own in own_groups() if meant.matches(own or "core")) if own_only else [_ALL]
    else:
        group = "" if group == "core" else group
        # A group of a custom resource has a dot; `sql/Database` is in no cluster.
        groups = [group] if "." in group or group in own_groups() else []
    for one in groups:
        if any(c in kind for c in "*?"):
            yield one, (_ALL,)
        else:
            yield one, sorted(spellings(one if one != _ALL else "custom", kind)) if kind[:1].isupper() else (kind,)


def _grouped(asked: _Asked) -> Iterator[JsonObject]:
    """Write each operation of each resource once, and nothing that a wider rule has."""
    left: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (group, resource), operations in sorted(asked.items()):
        whole, _, part = resource.partition("/")
        any_resource = f"{_ALL}/{part}" if part else _ALL
        wider = [(_ALL, any_resource), (_ALL, resource), (group, any_resource)]
        covered: set[str] = set()
        for key in wider:
            if key != (group, resource):
                covered |= asked.get(key, set())
        kept = tuple(operation for operation in OPERATIONS if operation in operations - covered)
        if kept and whole:
            left.setdefault((group, kept), []).append(resource)
    for (group, kept), resources in left.items():
        yield {"apiGroups": [group], "apiVersions": ["*"], "operations": list(kept), "resources": resources}
