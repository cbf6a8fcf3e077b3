"""A second wall: rules that deny as native ValidatingAdmissionPolicies, should the webhook be removed or away.

INVARIANT: it denies nothing that the firewall would not. A rule is written in Kubernetes' own CEL where that says the
same of every request; every other one is left out, with the reason, and nothing is made to fit.

An expression of a policy reads `subject`, `action`, `resource`, `context` and `change`. Each becomes a variable that an
API server computes as `surfaces/admission/wire.py` does, under a name that begins with `mfw_`; `object`, `oldObject`
and the functions are the same in both. `match` and `matchConditions` become one variable, for they fail as `&&` does: a
part that is false silences the policy, even where another part fails.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from app.core.admission.callers import AgentRule, EnvironmentRule
from app.core.admission.resources import own_kinds
from app.core.cel import ExpressionError, Portable, UnportableError, portable
from app.core.glob import Glob
from app.core.index import CompiledPolicySet, EntityPattern, Match, Policy, PropertyPattern, Rule
from app.core.types import Effect, JsonObject, Mode
from app.core.validity import ALWAYS
from app.policies.admission import BindingDocument, ParameterDocument, PolicyDocument
from app.policies.document import declared_variables
from app.policies.load import Checked, Document
from app.policies.webhook import agents_alone, asked, outside, quoted, resource_rules

# What finds them again: `kubectl delete validatingadmissionpolicies,validatingadmissionpolicybindings -l ...`.
LABEL: Final = "mutationfirewall.io/backstop"
DIGEST: Final = "mutationfirewall.io/policy-set"

_API_VERSION: Final = "admissionregistration.k8s.io/v1"
_PREFIX: Final = "mfw_"
_APPLIES: Final = f"{_PREFIX}applies"
_INPUTS: Final = frozenset(
    ("subject", "action", "resource", "context", "change", "now", "object", "oldObject", "request", "namespaceObject")
)
_RENAMED: Final = {
    name: f"variables.{_PREFIX}{name}" for name in ("subject", "action", "resource", "context", "change", "request")
}
# What both sides leave out where it is empty, and fill in the same way.
_REQUEST: Final = frozenset(
    (
        "kind",
        "resource",
        "subResource",
        "requestKind",
        "requestResource",
        "requestSubResource",
        "name",
        "namespace",
        "operation",
        "userInfo",
        "dryRun",
    )
)
# What the firewall computes of a change; of what an API server sends there are no files and no statements.
_COMPUTED: Final = frozenset({"paths", "added", "removed"})
_AGENTS: Final = "who is an agent is not known; name them with `--agent`"
_ENVIRONMENTS: Final = "the environments of namespaces are not known; name them with `--environment`"
_CLUSTER: Final = "the name of the cluster is not known; give it with `--cluster`"


@dataclass(frozen=True, slots=True)
class Backstop:
    """What is not in the policies, and must be as the firewall and its webhook were told.

    `agents` tell who is an agent: nobody else is denied anything. None of `agents` and `environments` and no `cluster`
    mean that nobody said, and rules that read these are left out. `holds`: what is held is denied.
    """

    name: str
    agents: Sequence[AgentRule] = ()
    environments: Sequence[EnvironmentRule] = ()
    cluster: str = ""
    exempt_namespaces: Sequence[str] = ()
    named_only: bool = False
    holds: bool = False


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What is no part of the wall, and why; without a `rule` it is all of the policy."""

    policy: str
    rule: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Rendered:
    """The documents in the order in which a cluster takes them, the rules they have, and what was left out."""

    documents: tuple[JsonObject, ...]
    rules: tuple[tuple[str, str], ...]
    left_out: tuple[LeftOut, ...]


def render(checked: Checked, backstop: Backstop) -> Rendered:
    """Render the wall for a policy set that loads.

    Raises: ValueError where nothing is left of it, or where `checked` has no policy set.
    """
    if checked.policy_set is None:
        raise ValueError("the policies do not load")
    renderer = _Renderer(backstop, checked.policy_set)
    documents: list[JsonObject] = []
    for document in sorted(checked.documents, key=lambda one: one.policy.name if one.policy is not None else ""):
        if document.policy is not None:
            documents += renderer.policy(document.policy, document)
    passed = list(_passed(checked, renderer.left_out))
    if not documents and not passed:
        raise ValueError("no rule can be expressed in Kubernetes' own policies: " + _why(renderer.left_out))
    return Rendered((*documents, *passed), tuple(renderer.rules), tuple(renderer.left_out))


def _why(left_out: Sequence[LeftOut]) -> str:
    return "; ".join(f"`{one.policy}`: {one.reason}" for one in left_out[:4]) or "there is none that denies"


def _passed(checked: Checked, left_out: list[LeftOut]) -> Iterator[JsonObject]:
    """Give the documents of Kubernetes' own kinds as they are, with their parameters."""
    assert checked.policy_set is not None  # noqa: S101 - `render` has looked
    lifted = {name.split("/")[0] for exception in checked.policy_set.exceptions for name in exception.policies}
    for document in checked.documents:
        match document.admission:
            case None:
                continue
            case PolicyDocument(name=name) | BindingDocument(policy=name) if name in lifted:
                if isinstance(document.admission, PolicyDocument):
                    left_out.append(LeftOut(name, None, "an exception may lift it"))
            case PolicyDocument() | BindingDocument() | ParameterDocument():
                value = document.root.plain()
                assert isinstance(value, dict)  # noqa: S101 - it was read as one
                yield value


class _LeftOutError(Exception):
    """Why something cannot be part of the wall."""


class _Renderer:
    def __init__(self, backstop: Backstop, policy_set: CompiledPolicySet) -> None:
        self._backstop = backstop
        self._set = policy_set
        self.left_out: list[LeftOut] = []
        self.rules: list[tuple[str, str]] = []

    def policy(self, policy: Policy, document: Document) -> list[JsonObject]:
        """Give the policy and the binding for one policy, nothing where no rule of it is left."""
        if not policy.budgets and all(rule.effect is Effect.ALLOW for rule in policy.rules):
            return []
        try:
            writer = _Writer(policy, declared_variables(document.root), self._backstop)
        except _LeftOutError as error:
            self.left_out.append(LeftOut(policy.name, None, str(error)))
            return []
        validations = list(self._validations(policy, writer))
        for budget in policy.budgets:
            self.left_out.append(LeftOut(policy.name, budget.name, "an API server counts no budgets"))
        if not validations:
            return []
        name = f"{self._backstop.name}-{policy.name}"
        metadata = {
            "name": name,
            "labels": {LABEL: "true"},
            "annotations": {DIGEST: self._set.digest},
        }
        matched = {"matchPolicy": "Equivalent", "namespaceSelector": outside(self._backstop.exempt_namespaces)}
        return [
            {
                "apiVersion": _API_VERSION,
                "kind": "ValidatingAdmissionPolicy",
                "metadata": metadata,
                "spec": {
                    "failurePolicy": "Fail",
                    "matchConstraints": {**matched, "resourceRules": writer.resource_rules},
                    "matchConditions": [asked(), *agents_alone(self._backstop.agents)],
                    "variables": writer.variables(validations),
                    "validations": validations,
                },
            },
            {
                "apiVersion": _API_VERSION,
                "kind": "ValidatingAdmissionPolicyBinding",
                "metadata": metadata,
                "spec": {"policyName": name, "validationActions": ["Deny"]},
            },
        ]

    def _validations(self, policy: Policy, writer: "_Writer") -> Iterator[JsonObject]:
        for position, rule in enumerate(policy.rules):
            if rule.effect is Effect.ALLOW:
                continue
            if rule.effect is Effect.HOLD and not self._backstop.holds:
                self.left_out.append(LeftOut(policy.name, rule.name, "people may lift a hold; `--holds` denies it"))
                continue
            lifting = [
                exception
                for name in (rule.name, *(condition.name for condition in policy.conditions))
                for exception in self._set.exceptions_of(policy.name, name)
            ]
            if lifting:
                self.left_out.append(LeftOut(policy.name, rule.name, f"the exception `{lifting[0].name}` may lift it"))
                continue
            try:
                made = writer.validation(rule, policy.reasons[position].message)
            except _LeftOutError as error:
                self.left_out.append(LeftOut(policy.name, rule.name, str(error)))
                continue
            self.rules.append((policy.name, rule.name))
            yield made


class _Writer:
    """Writes the expressions of one policy.

    Raises _LeftOutError where the policy has no place in the wall.
    """

    def __init__(self, policy: Policy, variables: Mapping[str, str], backstop: Backstop) -> None:
        self._policy = policy
        self._texts = variables
        self._backstop = backstop
        self._portable: dict[str, Portable | str] = {}
        if policy.mode is not Mode.ENFORCE:
            raise _LeftOutError("it is in shadow")
        if policy.validity is not ALWAYS:
            raise _LeftOutError("it is valid for a time only, and no admission policy reads the time")
        taken = next((name for name in variables if name.startswith(_PREFIX)), None)
        if taken is not None:
            raise _LeftOutError(f"the name of its variable `{taken}` begins with `{_PREFIX}`; rename it")
        self.resource_rules = resource_rules([policy], named_only=backstop.named_only)
        if not self.resource_rules:
            raise _LeftOutError("it is about nothing that an API server changes")
        self._applies = self._speaks(policy)

    def _speaks(self, policy: Policy) -> str:
        """Say when a policy has something to say."""
        parts = list(_match(policy.match, self._backstop))
        for condition in policy.conditions:
            try:
                parts.append(self._expression(condition.program.text))
            except _LeftOutError as error:
                raise _LeftOutError(f"its condition `{condition.name}`: {error}") from None
        return " && ".join(f"({part})" if len(parts) > 1 else part for part in parts) or "true"

    def validation(self, rule: Rule, message: str) -> JsonObject:
        """Write a rule as what must be true."""
        if rule.window is not None:
            raise _LeftOutError("no admission policy reads the time")
        # INVARIANT: not `!applies || !when`, which is true where the first fails and the second is true.
        text = "true" if rule.when is None else self._expression(rule.when.text)
        said = f"denied by policy `{self._policy.name}`, rule `{rule.name}`: "
        made: JsonObject = {
            "expression": f"variables.{_APPLIES} ? !({text}) : true",
            "message": f"{said}{message} (by the wall behind the firewall)",
            "reason": "Forbidden",
        }
        if rule.message_expression is not None:
            try:
                explained = self._expression(rule.message_expression.text, for_people=True)
            except _LeftOutError:
                return made  # the other message is less, and no less true
            made["messageExpression"] = f"{quoted(said)} + ({explained})"
        return made

    def variables(self, validations: Iterable[Mapping[str, Any]]) -> list[JsonObject]:
        """Give the variables that these read, each behind what it reads."""
        written = " ".join(f"{one['expression']} {one.get('messageExpression', '')}" for one in validations)
        every = {
            **_inputs(self._backstop, self.resource_rules),
            **{name: found.text for name, found in self._portable.items() if isinstance(found, Portable)},
            _APPLIES: self._applies,
        }
        # Variables of the policy may read the inputs and one another, and so does what says when it applies.
        needed: set[str] = set()
        todo = [written]
        while todo:
            text = todo.pop()
            for name in every.keys() - needed:
                if _reads(text, name):
                    needed.add(name)
                    todo.append(every[name])
        return [{"name": name, "expression": text} for name, text in every.items() if name in needed]

    def _expression(self, text: str, *, for_people: bool = False) -> str:
        found = self._of(text, for_people=for_people)
        for name in found.variables:
            if name not in self._portable:
                try:
                    self._portable[name] = self._of(self._texts[name], for_people=False)
                except _LeftOutError as error:
                    self._portable[name] = str(error)
            known = self._portable[name]
            if isinstance(known, str):
                raise _LeftOutError(f"its variable `{name}`: {known}")
        # What ends with a comment would hide the bracket behind it.
        return f"{found.text}\n" if "//" in found.text else found.text

    def _of(self, text: str, *, for_people: bool) -> Portable:
        try:
            found = portable(text, variables=self._texts, inputs=_INPUTS, renamed=_RENAMED, for_people=for_people)
        except (UnportableError, ExpressionError) as error:
            raise _LeftOutError(str(error)) from None
        for path in sorted(found.paths):
            reason = _differs(path, self._backstop)
            if reason is not None:
                raise _LeftOutError(reason)
        return found


def _reads(text: str, name: str) -> bool:
    at = text.find(f"variables.{name}")
    while at >= 0:
        end = at + len("variables.") + len(name)
        if not (text[end : end + 1].isalnum() or text[end : end + 1] == "_"):
            return True
        at = text.find(f"variables.{name}", end)
    return False


def _differs(path: tuple[str, ...], backstop: Backstop) -> str | None:
    """Say why an API server has something else at a path, or cannot know; None where it has the same."""
    match path:
        case ("object" | "oldObject" | "action", *_):
            return None
        case ("change", member, *_) if member not in _COMPUTED:
            return None
        case ("subject", "id" | "properties", *_):
            return None
        case ("subject", *_):
            return None if backstop.agents else _AGENTS
        case ("resource", "type" | "id", *_):
            return None
        case ("resource", "properties", "environment", *_):
            return None if backstop.environments else _ENVIRONMENTS
        case ("resource", "properties", "cluster", *_):
            return None if backstop.cluster else _CLUSTER
        case ("resource", "properties", _, *_):
            return None
        case ("resource", *_):
            return _ENVIRONMENTS if not backstop.environments else None if backstop.cluster else _CLUSTER
        case ("request" as first, *rest) | ("context" as first, "kubernetes", "request", *rest):
            known = rest and rest[0] in _REQUEST
            return None if known else f"it reads `{'.'.join(path)}`" + ("" if rest else f", the whole {first}")
        case ("context", "kubernetes", _, *_):
            return None
        case ("context", member, *_) if member != "kubernetes":
            return None
        case _:
            return f"it reads `{'.'.join(path)}`, which no API server has"


def _match(match: Match, backstop: Backstop) -> Iterator[str]:
    """Write `match` as conditions that must all hold; they cannot fail."""
    if match.actions:
        yield _any(_fits(f"{_RENAMED['action']}.name", glob) for glob in match.actions)
    if match.resources:
        yield _any(_entity("resource", pattern, backstop) for pattern in match.resources)
    if match.subjects:
        yield _any(_entity("subject", pattern, backstop) for pattern in match.subjects)
    for exclusion in match.exclude:
        inner = list(_match(exclusion, backstop))
        yield f"!({' && '.join(inner)})" if inner else "false"


def _any(alternatives: Iterable[str]) -> str:
    found = list(dict.fromkeys(alternatives))
    return found[0] if len(found) == 1 else f"({' || '.join(found)})"


def _entity(name: str, pattern: EntityPattern, backstop: Backstop) -> str:
    root = _RENAMED[name]
    parts: list[str] = []
    if pattern.type is not None:
        if name == "subject" and not backstop.agents:
            raise _LeftOutError(_AGENTS)
        parts.append(_fits(f"{root}.type", pattern.type))
    if pattern.id is not None:
        parts.append(_fits(f"{root}.id", pattern.id))
    for one in pattern.properties:
        reason = _differs((name, "properties", one.name), backstop)
        if reason is not None:
            raise _LeftOutError(reason)
        parts.append(_property(f"{root}.properties", one))
    if pattern.labels:
        # An API server tells the firewall of no labels there.
        parts.append("false")
    # One bracket for each entry: they stand between `||`.
    return f"({' && '.join(parts)})" if len(parts) > 1 else parts[0] if parts else "true"


def _property(properties: str, pattern: PropertyPattern) -> str:
    # What is known of a subject or a resource here is text, or a list or an object, which no pattern fits.
    if pattern.glob is None or pattern.name in {"groups", "extra", "serviceAccount"}:
        return "false"
    key = _text(pattern.name)
    return f"({key} in {properties} && {_fits(f'{properties}[{key}]', pattern.glob)})"


def _fits(value: str, glob: Glob) -> str:
    """Write that a text fits a pattern, whatever characters it has."""
    if glob.literal is not None:
        return f"{value} == {_text(glob.literal)}"
    head, *rest = glob.text.split("*")
    if "?" not in glob.text and len(rest) == 1:
        tail = rest[0]
        if not head and not tail:
            return "true"
        if not head or not tail:
            return f"{value}.endsWith({_text(tail)})" if tail else f"{value}.startsWith({_text(head)})"
    pattern = "".join({"*": ".*", "?": "."}.get(c) or _escaped(c) for c in glob.text)
    return f"{value}.matches({_text(f'(?s)^{pattern}$')})"


def _escaped(character: str) -> str:
    return f"\\{character}" if character in "\\.+()|[]{}^$" else character


def _text(text: str) -> str:
    escaped = quoted(text)
    for character, name in (("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t")):
        escaped = escaped.replace(character, name)
    return escaped


def _inputs(backstop: Backstop, rules: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Give what an API server computes of a request, as `surfaces/admission/wire.py` does, by the names it has here."""

    def said(holder: str, member: str) -> str:
        there = f"{holder} != null && has({holder}.metadata) && has({holder}.metadata.{member})"
        return f"{there} ? string({holder}.metadata.{member}) : ''"

    def own(name: str) -> str:
        return f"variables.{_PREFIX}{name}"

    part, name, named, namespace = own("part"), own("name"), own("named"), own("namespace")
    environments = "optional.none()"
    for rule in reversed(backstop.environments):
        environments = (
            f"{_fits(own('where'), rule.namespace)} ? optional.of(dyn({_text(rule.environment)})) : {environments}"
        )
    properties = [f"?'environment': {environments}"] if backstop.environments else []
    properties += [f"'cluster': dyn({_text(backstop.cluster)})"] if backstop.cluster else []
    made = {
        "request": "dyn(request)",
        "part": "has(request.subResource) ? request.subResource : ''",
        "namespace": "has(request.namespace) ? request.namespace : ''",
        "said": f"{said('object', 'name')}",
        "name": (
            f"has(request.name) && request.name != '' ? request.name : {part} != '' ? '' : "
            f"{own('said')} != '' ? {own('said')} : {said('oldObject', 'name')}"
        ),
        # A name that has yet to be made; no name ends like this.
        "named": (
            f"{name} != '' ? {name} : "
            f"request.operation == 'CREATE' && {part} == '' ? ({said('object', 'generateName')}) + '*' : '*'"
        ),
        # A namespace lives in none, and is its own environment.
        "is_namespace": "request.resource.group == '' && request.resource.resource == 'namespaces'",
        "where": f"{own('is_namespace')} ? {named} : {namespace}",
        "id": f"{own('is_namespace')} || {namespace} == '' ? {named} : {namespace} + '/' + {named}",
        **_types(rules, own),
        "resource": (
            f"dyn({{'type': dyn({own('type')}), 'id': dyn({own('id')}), "
            f"'properties': dyn({{{', '.join(properties)}}})}})"
        ),
        "acts": (
            f"request.operation == 'DELETE' && {name} == '' ? 'deletecollection' : "
            f"{part} != '' && request.operation in ['CREATE', 'CONNECT'] ? {part} : request.operation.lowerAscii()"
        ),
        "action": (
            f"dyn({{'name': dyn({own('acts')}), 'properties': dyn({{'operation': request.operation, "
            f"?'subresource': optional.ofNonZeroValue({part})}})}})"
        ),
        "account": "request.userInfo.username.split(':', 4)",
        "subject": (
            "dyn({'type': dyn('agent'), 'id': dyn(request.userInfo.username), 'properties': dyn({"
            "'groups': dyn(has(request.userInfo.groups) ? request.userInfo.groups : []), "
            "?'uid': has(request.userInfo.uid) ? optional.ofNonZeroValue(dyn(request.userInfo.uid)) : optional.none(), "
            "?'extra': has(request.userInfo.extra) ? optional.ofNonZeroValue(dyn(request.userInfo.extra)) "
            ": optional.none(), "
            "?'serviceAccount': request.userInfo.username.matches('(?s)^system:serviceaccount:[^:]+:.+$') "
            f"? optional.of(dyn({{'namespace': {own('account')}[2], 'name': {own('account')}[3]}})) "
            ": optional.none()})})"
        ),
        "context": f"dyn({{'kubernetes': dyn({{'request': {own('request')}}})}})",
        "change": (
            "dyn({?'before': oldObject == null ? optional.none() : optional.of(dyn(oldObject)), "
            "?'after': object == null ? optional.none() : optional.of(dyn(object)), "
            "'files': dyn([]), 'statements': dyn([])})"
        ),
    }
    return {f"{_PREFIX}{key}": text for key, text in made.items()}


def _types(rules: Sequence[Mapping[str, Any]], own: Any) -> dict[str, str]:
    """Give `resource.type`: what a request to a part of an object is about is the object.

    Kinds are named for those resources alone whose parts the rules have.
    """
    whole = "(request.kind.group == '' ? 'core' : request.kind.group) + '/' + request.kind.kind"
    with_parts = {
        (group, resource.partition("/")[0])
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        if "/" in resource
    }
    if not with_parts:
        return {"type": whole}
    kinds = {
        f"{group}/{resource}": kind
        for (group, resource), kind in sorted(own_kinds().items())
        if with_parts & {(group, resource), (group, "*"), ("*", resource), ("*", "*")}
    }
    listed = ", ".join(f"{_text(key)}: {_text(kind)}" for key, kind in kinds.items())
    lower, plural = own("lower"), "request.resource.resource"
    # Of a custom resource the request may say the kind of the part: then it is the resource itself.
    spelt = (
        f"{plural} in [{lower}, {lower} + 's', {lower} + 'es'] || "
        f"({lower}.endsWith('y') && {plural} == {lower}.substring(0, size({lower}) - 1) + 'ies')"
    )
    key = "request.resource.group + '/' + request.resource.resource"
    return {
        "lower": "request.kind.kind.lowerAscii()",
        "kinds": f"{{{listed}}}" if kinds else "{'': ''}",
        "kind": (
            f"{key} in {own('kinds')} ? {own('kinds')}[{key}] : "
            f"request.kind.group == request.resource.group && ({spelt}) ? request.kind.kind : {plural}"
        ),
        "type": (
            f"{own('part')} == '' ? {whole} : "
            f"(request.resource.group == '' ? 'core' : request.resource.group) + '/' + {own('kind')}"
        ),
    }
