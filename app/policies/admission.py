"""Kubernetes' admission policies, their bindings and their parameters: from documents to policies of the core.

The documents are read one by one; what they are to one another is known when all of them were read (`assembled`).
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeAlias

from app.core.admission.facts import group_and_version, labels_of
from app.core.admission.matching import AdmissionMatch, MatchResources, ResourceRule, RuleScope
from app.core.admission.policy import (
    Action,
    AdmissionPolicy,
    AuditAnnotation,
    FailurePolicy,
    NotFound,
    Parameter,
    ParameterReference,
    Validation,
)
from app.core.admission.resources import is_namespaced
from app.core.admission.selectors import Operator, Requirement, Selector
from app.core.cel import (
    EXPRESSION_MAX_CHARS,
    RESERVED_WORDS,
    VARIABLE_NAME,
    ExpressionError,
    Program,
    ResultType,
    Scope,
    check_variable,
    compile_expression,
)
from app.core.decide import FIREWALL
from app.core.index import Condition
from app.core.types import JsonObject
from app.policies import admission_shape as shape
from app.policies.diagnostics import Diagnostic, Severity
from app.policies.reader import Reader, join
from app.policies.shape import API_VERSION as OWN_API_VERSION
from app.policies.shape import ITEMS_MAX, LABEL_MAX_CHARS, Shape
from app.policies.shape import KINDS as OWN_KINDS
from app.policies.tree import Mapping, Node, Scalar, Sequence

_SUBDOMAIN = re.compile(f"{shape.SUBDOMAIN_PATTERN}\\Z")
_QUALIFIED = re.compile(f"{shape.QUALIFIED_PATTERN}\\Z")
# kubectl puts what says no namespace into this one, unless it was told otherwise.
_DEFAULT_NAMESPACE = "default"


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands, for what is found out about it later."""

    file: str
    line: int
    column: int
    path: str

    def diagnostic(self, message: str, fix: str | None, severity: Severity = Severity.ERROR) -> Diagnostic:
        """Make a finding of it."""
        return Diagnostic(self.file, self.line, self.column, self.path, message, fix, severity)


@dataclass(frozen=True, slots=True)
class PolicyDocument:
    """A ValidatingAdmissionPolicy, compiled; `param_kind` is the `apiVersion` and `kind` of its parameters."""

    name: str
    place: Place
    constraints: MatchResources
    failure_policy: FailurePolicy
    conditions: tuple[Condition, ...]
    validations: tuple[Validation, ...]
    annotations: tuple[AuditAnnotation, ...]
    param_kind: tuple[str, str] | None
    labels: dict[str, str]


@dataclass(frozen=True, slots=True)
class ParamRef:
    """`paramRef` of a binding: a name, or a selector."""

    place: Place
    not_found: NotFound
    name: str | None
    selector: Selector
    namespace: str


@dataclass(frozen=True, slots=True)
class BindingDocument:
    """A ValidatingAdmissionPolicyBinding."""

    name: str
    place: Place
    policy: str
    match: MatchResources
    actions: tuple[Action, ...]
    param_ref: ParamRef | None


@dataclass(frozen=True, slots=True)
class ParameterDocument:
    """A document that is none of the kinds with a meaning of their own; it must be some policy's `paramKind`."""

    kind: tuple[str, str]
    parameter: Parameter
    place: Place


AdmissionDocument: TypeAlias = PolicyDocument | BindingDocument | ParameterDocument


def is_admission(root: Node) -> bool:
    """Tell whether a document belongs to Kubernetes' group of admission policies."""
    return (_plain(root, "apiVersion") or "").split("/")[0] == shape.API_GROUP


def parameter_kind(root: Node) -> tuple[str, str] | None:
    """Give the `apiVersion` and `kind` of a document, None if it does not say them."""
    api_version, kind = _plain(root, "apiVersion"), _plain(root, "kind")
    return (api_version, kind) if api_version and kind else None


def may_be_parameter(root: Node) -> bool:
    """Tell whether a document is of none of the kinds that have a meaning of their own here."""
    kind = parameter_kind(root)
    if kind is None or is_admission(root):
        return False
    return kind[0].split("/")[0] != OWN_API_VERSION.split("/")[0] and kind[1] not in OWN_KINDS


def named_within(root: Node) -> tuple[str, ...]:
    """Give what a name is unique in: nothing for policies, the kind for bindings, kind and namespace for parameters."""
    kind = parameter_kind(root)
    if kind is not None and is_admission(root):
        return (shape.BINDING_KIND,) if kind[1] == shape.BINDING_KIND else ()
    if kind is not None and may_be_parameter(root):
        assert isinstance(root, Mapping)  # noqa: S101 - it has a kind
        return (*kind, _plain(root.items.get("metadata"), "namespace") or "")
    return ()


def read_admission(root: Node, reader: Reader) -> PolicyDocument | BindingDocument | None:
    """Read and compile one document of Kubernetes' group; None if anything is wrong, which `reader` has then noted.

    Does not check what other documents of the set have to say about it.
    """
    before = len(reader.diagnostics)
    kind = _plain(root, "kind")
    policy = kind != shape.BINDING_KIND
    known = shape.POLICY if policy else shape.BINDING
    members = _members(root, "", known, reader)
    api_version = members.get("apiVersion")
    if isinstance(api_version, Scalar) and api_version.value != shape.API_VERSION:
        message = f"`{str(api_version.value)[:80]}` is not supported, only `{shape.API_VERSION}` is"
        reader.note(api_version, "apiVersion", message, fix=f"write `{shape.API_VERSION}`; check what changed since")
    if reader.choice(members.get("kind"), "kind", (shape.POLICY_KIND, shape.BINDING_KIND)) is None:
        return None
    name, labels = _metadata(members.get("metadata"), reader)
    if "spec" not in members:
        return None
    place = Place(reader.file, root.line, root.column, "")
    spec = members["spec"]
    found = _policy(spec, name, labels, place, reader) if policy else _binding(spec, name, place, reader)
    return found if len(reader.diagnostics) == before else None


def read_parameter(root: Node, reader: Reader) -> ParameterDocument | None:
    """Read a parameter; None, and noted, if it has no name."""
    kind = parameter_kind(root)
    value = _integral(root.plain())
    metadata = root.items.get("metadata") if isinstance(root, Mapping) else None
    name = _plain(metadata, "name") if metadata is not None else None
    if kind is None or not name or not isinstance(value, dict):
        reader.note(metadata or root, "metadata", "`name` is missing", fix="add `name`: a binding refers to it")
        return None
    group, _ = group_and_version(kind[0])
    namespace = (_plain(metadata, "namespace") if metadata is not None else None) or ""
    if not namespace and is_namespaced(group, kind[1]):
        namespace = _DEFAULT_NAMESPACE
    labels = {key: str(text) for key, text in labels_of(value).items()}
    place = Place(reader.file, root.line, root.column, "metadata.name")
    return ParameterDocument(kind, Parameter(namespace, name, labels, value), place)


def assembled(found: Iterable[AdmissionDocument]) -> tuple[list[AdmissionPolicy], list[Diagnostic]]:
    """Put policies, bindings and parameters together: one policy of the core for each policy and binding."""
    documents = list(found)
    policies = {one.name: one for one in documents if isinstance(one, PolicyDocument)}
    bindings = [one for one in documents if isinstance(one, BindingDocument)]
    parameters = [one for one in documents if isinstance(one, ParameterDocument)]
    compiled: list[AdmissionPolicy] = []
    diagnostics: list[Diagnostic] = []
    for binding in bindings:
        policy = policies.get(binding.policy)
        if policy is None:
            near = get_close_matches(binding.policy, policies, n=1)
            fix = f"did you mean `{near[0]}`?" if near else "add the policy to the set, or remove the binding"
            diagnostics.append(binding.place.diagnostic(f"there is no policy `{binding.policy}`", fix))
            continue
        diagnostics += _doubts(policy, binding, parameters)
        compiled.append(_compiled(policy, binding, parameters))
    bound = {binding.policy for binding in bindings}
    for policy in policies.values():
        if policy.name not in bound:
            fix = f"add a `{shape.BINDING_KIND}` with `policyName: {policy.name}`"
            message = f"the policy `{policy.name}` does nothing: no binding names it"
            diagnostics.append(policy.place.diagnostic(message, fix, Severity.WARNING))
    return compiled, diagnostics


def param_kinds(found: Iterable[AdmissionDocument]) -> frozenset[tuple[str, str]]:
    """Give the kinds of parameters that the policies have."""
    return frozenset(one.param_kind for one in found if isinstance(one, PolicyDocument) and one.param_kind is not None)


def _compiled(
    policy: PolicyDocument, binding: BindingDocument, parameters: Iterable[ParameterDocument]
) -> AdmissionPolicy:
    reference = None
    if policy.param_kind is not None and binding.param_ref is not None:
        objects = [one.parameter for one in parameters if one.kind == policy.param_kind]
        group, _ = group_and_version(policy.param_kind[0])
        known = is_namespaced(group, policy.param_kind[1])
        reference = ParameterReference(
            tuple(sorted(objects, key=lambda one: (one.namespace, one.name))),
            known if known is not None else any(one.namespace for one in objects),
            binding.param_ref.not_found,
            binding.param_ref.name,
            binding.param_ref.selector,
            binding.param_ref.namespace,
        )
    return AdmissionPolicy(
        policy.name,
        binding.name,
        AdmissionMatch(policy.constraints, binding.match),
        policy.validations,
        binding.actions,
        policy.failure_policy,
        policy.conditions,
        policy.annotations,
        reference,
        policy.labels,
    )


def _doubts(
    policy: PolicyDocument, binding: BindingDocument, parameters: Iterable[ParameterDocument]
) -> Iterator[Diagnostic]:
    """Give what loads, as it does in Kubernetes, and is hardly meant."""
    reference = binding.param_ref
    if policy.param_kind is None:
        if reference is not None:
            message = f"the policy `{policy.name}` has no `paramKind`, so `paramRef` means nothing"
            yield reference.place.diagnostic(message, "remove it, or add `paramKind`", Severity.WARNING)
        return
    kind = " ".join(policy.param_kind)
    if reference is None:
        message = f"the policy `{policy.name}` has parameters (`{kind}`) and the binding names none: `params` is null"
        yield binding.place.diagnostic(message, "add `paramRef`", Severity.WARNING)
    elif reference.name is not None and not any(
        one.kind == policy.param_kind
        and one.parameter.name == reference.name
        and reference.namespace in {"", one.parameter.namespace}
        for one in parameters
    ):
        then = "every request is denied" if reference.not_found is NotFound.DENY else "the binding does nothing"
        message = f"there is no `{kind}` with the name `{reference.name}` in the set: {then}"
        yield reference.place.diagnostic(message, "add the document to the set", Severity.WARNING)


def _policy(spec: Node, name: str, labels: dict[str, str], place: Place, reader: Reader) -> PolicyDocument:
    members = _members(spec, "spec", shape.POLICY_SPEC, reader)
    constraints = MatchResources()
    if "matchConstraints" in members:
        constraints = _match(members["matchConstraints"], "spec.matchConstraints", reader)
        if not constraints.rules:
            at = members["matchConstraints"]
            reader.note(at, "spec.matchConstraints", "`resourceRules` is missing", fix="say what the policy is about")
    failure = reader.choice(members.get("failurePolicy"), "spec.failurePolicy", tuple(FailurePolicy))
    param_kind = _param_kind(members.get("paramKind"), reader)
    variables = _variables(members.get("variables"), reader)
    conditions = _conditions(members.get("matchConditions"), variables, reader)
    validations = tuple(
        validation
        for position, (item, path) in enumerate(_items(members.get("validations"), "spec.validations", reader))
        if (validation := _validation(item, path, position, variables, reader)) is not None
    )
    annotations = _annotations(members.get("auditAnnotations"), variables, reader)
    if not {"validations", "auditAnnotations"} & members.keys():
        reader.note(spec, "spec", "needs `validations` or `auditAnnotations`", fix="add `validations`")
    return PolicyDocument(
        name,
        place,
        constraints,
        FailurePolicy(failure or FailurePolicy.FAIL),
        conditions,
        validations,
        annotations,
        param_kind,
        labels,
    )


def _binding(spec: Node, name: str, place: Place, reader: Reader) -> BindingDocument:
    members = _members(spec, "spec", shape.BINDING_SPEC, reader)
    policy = _subdomain(members.get("policyName"), "spec.policyName", reader) or ""
    if (node := members.get("policyName")) is not None:
        place = Place(reader.file, node.line, node.column, "spec.policyName")
    actions: list[Action] = []
    for item, path in _items(members.get("validationActions"), "spec.validationActions", reader):
        action = reader.choice(item, path, tuple(Action))
        if action is not None and action in actions:
            reader.note(item, path, f"`{action}` is there twice", fix="remove one")
        elif action is not None:
            actions.append(Action(action))
    if (node := members.get("validationActions")) is not None:
        if {Action.DENY, Action.WARN} <= set(actions):
            message = "`Deny` and `Warn` do not go together: who is denied is told why anyway"
            reader.note(node, "spec.validationActions", message, fix="remove one of them")
        elif isinstance(node, Sequence) and not node.items:
            reader.note(node, "spec.validationActions", "the list is empty", fix="write `[Deny]`")
    match = MatchResources()
    if "matchResources" in members:
        match = _match(members["matchResources"], "spec.matchResources", reader)
    return BindingDocument(name, place, policy, match, tuple(actions), _param_ref(members.get("paramRef"), reader))


def _param_ref(node: Node | None, reader: Reader) -> ParamRef | None:
    path = "spec.paramRef"
    if node is None:
        return None
    members = _members(node, path, shape.PARAM_REF, reader)
    not_found = reader.choice(
        members.get("parameterNotFoundAction"), f"{path}.parameterNotFoundAction", tuple(NotFound)
    )
    name = _subdomain(_without_empty(members.get("name")), f"{path}.name", reader)
    namespace = _subdomain(_without_empty(members.get("namespace")), f"{path}.namespace", reader)
    if (name is None) == ("selector" not in members):
        reader.note(node, path, "needs exactly one of `name` and `selector`", fix="`selector: {}` is all objects")
    selector = _selector(members.get("selector"), f"{path}.selector", reader)
    place = Place(reader.file, node.line, node.column, path)
    return ParamRef(place, NotFound(not_found or NotFound.DENY), name, selector, namespace or "")


def _param_kind(node: Node | None, reader: Reader) -> tuple[str, str] | None:
    if node is None:
        return None
    members = _members(node, "spec.paramKind", shape.PARAM_KIND, reader)
    api_version = reader.text(members.get("apiVersion"), "spec.paramKind.apiVersion", max_chars=LABEL_MAX_CHARS)
    kind = reader.text(members.get("kind"), "spec.paramKind.kind", max_chars=LABEL_MAX_CHARS)
    return None if api_version is None or kind is None else (api_version, kind)


def _match(node: Node, path: str, reader: Reader) -> MatchResources:
    members = _members(node, path, shape.MATCH_RESOURCES, reader)
    policy = reader.choice(members.get("matchPolicy"), f"{path}.matchPolicy", shape.MATCH_POLICIES)
    return MatchResources(
        _rules(members.get("resourceRules"), f"{path}.resourceRules", reader),
        _rules(members.get("excludeResourceRules"), f"{path}.excludeResourceRules", reader),
        _selector(members.get("namespaceSelector"), f"{path}.namespaceSelector", reader),
        _selector(members.get("objectSelector"), f"{path}.objectSelector", reader),
        policy != "Exact",
    )


def _rules(node: Node | None, path: str, reader: Reader) -> tuple[ResourceRule, ...]:
    rules: list[ResourceRule] = []
    for item, item_path in _items(node, path, reader):
        members = _members(item, item_path, shape.RESOURCE_RULE, reader)
        lists = {
            name: _texts(members.get(name), f"{item_path}.{name}", reader, empty=name == "apiGroups")
            for name in ("apiGroups", "apiVersions", "operations", "resources", "resourceNames")
        }
        for name in ("apiGroups", "apiVersions", "operations", "resources"):
            listed = members.get(name)
            if isinstance(listed, Sequence) and not listed.items:
                reader.note(listed, f"{item_path}.{name}", "the list is empty", fix='write `["*"]` for all')
        operations = _operations(members.get("operations"), f"{item_path}.operations", reader)
        scope = reader.choice(members.get("scope"), f"{item_path}.scope", tuple(RuleScope))
        parts = [text.partition("/") for text in lists["resources"]]
        rules.append(
            ResourceRule(
                operations,
                frozenset(lists["apiGroups"]),
                frozenset(lists["apiVersions"]),
                frozenset((resource, part) for resource, _, part in parts),
                RuleScope(scope or RuleScope.ALL),
                frozenset(lists["resourceNames"]),
            )
        )
    return tuple(rules)


def _operations(node: Node | None, path: str, reader: Reader) -> frozenset[str]:
    known = shape.RESOURCE_RULE.members["operations"]["items"]["enum"]
    return frozenset(
        operation
        for item, item_path in _items(node, path, reader)
        if isinstance(item, Scalar) and (operation := reader.choice(item, item_path, known)) is not None
    )


def _selector(node: Node | None, path: str, reader: Reader) -> Selector:
    if node is None:
        return Selector()
    members = _members(node, path, shape.SELECTOR, reader)
    found = [
        Requirement(key, Operator.IN, frozenset((value,)))
        for key, value in _strings(members.get("matchLabels"), f"{path}.matchLabels", reader).items()
    ]
    for item, item_path in _items(members.get("matchExpressions"), f"{path}.matchExpressions", reader):
        inner = _members(item, item_path, shape.REQUIREMENT, reader)
        key = reader.text(inner.get("key"), f"{item_path}.key", max_chars=shape.QUALIFIED_MAX_CHARS)
        operator = reader.choice(inner.get("operator"), f"{item_path}.operator", tuple(Operator))
        values = _texts(inner.get("values"), f"{item_path}.values", reader, empty=True)
        if key is None or operator is None:
            continue
        if (operator in {Operator.IN, Operator.NOT_IN}) != bool(values):
            needs = "needs values" if not values else "takes no values"
            reader.note(item, item_path, f"`{operator}` {needs}", fix="change `operator` or `values`")
        found.append(Requirement(key, Operator(operator), frozenset(values)))
    return Selector(tuple(found))


def _variables(node: Node | None, reader: Reader) -> dict[str, str]:
    """Give the variables; each may read those before it, as in Kubernetes."""
    texts: dict[str, str] = {}
    for item, path in _items(node, "spec.variables", reader):
        members = _members(item, path, shape.VARIABLE, reader)
        name = reader.checked(members.get("name"), f"{path}.name", _check_variable, max_chars=63)
        text = reader.text(members.get("expression"), f"{path}.expression", max_chars=EXPRESSION_MAX_CHARS)
        if name is None:
            continue
        if name in texts:
            reader.note(members["name"], f"{path}.name", f"the variable `{name}` is declared twice", fix="rename one")
            continue
        if text is not None:
            try:
                check_variable(name, variables={**texts, name: text}, scope=Scope.ADMISSION, also=reader.also)
            except ExpressionError as error:
                reader.note_expression(members["expression"], f"{path}.expression", error)
                text = None
        # Readers of a variable that has no value are not to blame for it.
        texts[name] = text if text is not None else "dyn(null)"
    return texts


def _conditions(node: Node | None, variables: dict[str, str], reader: Reader) -> tuple[Condition, ...]:
    found: dict[str, Condition] = {}
    for item, path in _items(node, "spec.matchConditions", reader):
        members = _members(item, path, shape.CONDITION, reader)
        name = reader.checked(
            members.get("name"), f"{path}.name", _check_qualified, max_chars=shape.QUALIFIED_MAX_CHARS
        )
        program = _program(members.get("expression"), f"{path}.expression", ResultType.BOOL, variables, reader)
        if name is not None and name in found:
            reader.note(members["name"], f"{path}.name", f"the name `{name}` is used twice", fix="rename one")
        elif name is not None and program is not None:
            found[name] = Condition(name, program)
    return tuple(found.values())


def _validation(node: Node, path: str, position: int, variables: dict[str, str], reader: Reader) -> Validation | None:
    members = _members(node, path, shape.VALIDATION, reader)
    program = _program(members.get("expression"), f"{path}.expression", ResultType.BOOL, variables, reader)
    message = reader.text(_without_empty(members.get("message")), f"{path}.message", max_chars=shape.MESSAGE_MAX_CHARS)
    if message is not None and "\n" in message.strip():
        reader.note(members["message"], f"{path}.message", "has more than one line", fix="write one line")
    expression = _program(
        _without_empty(members.get("messageExpression")),
        f"{path}.messageExpression",
        ResultType.STRING,
        variables,
        reader,
    )
    reader.choice(_without_empty(members.get("reason")), f"{path}.reason", shape.REASONS)
    return None if program is None else Validation(f"validations[{position}]", program, message, expression)


def _annotations(node: Node | None, variables: dict[str, str], reader: Reader) -> tuple[AuditAnnotation, ...]:
    found: dict[str, AuditAnnotation] = {}
    for position, (item, path) in enumerate(_items(node, "spec.auditAnnotations", reader)):
        members = _members(item, path, shape.AUDIT_ANNOTATION, reader)
        key = reader.checked(members.get("key"), f"{path}.key", _check_qualified, max_chars=63)
        program = _program(
            members.get("valueExpression"), f"{path}.valueExpression", ResultType.STRING_OR_NULL, variables, reader
        )
        if key is not None and key in found:
            reader.note(members["key"], f"{path}.key", f"the key `{key}` is used twice", fix="rename one")
        elif key is not None and program is not None:
            found[key] = AuditAnnotation(f"auditAnnotations[{position}]", key, program)
    if node is not None and len(found) > shape.ANNOTATIONS_MAX:
        message = f"there are {len(found)}, and {shape.ANNOTATIONS_MAX} are the most"
        reader.note(node, "spec.auditAnnotations", message, fix="make several policies of it")
    return tuple(found.values())


def _program(
    node: Node | None, path: str, result: ResultType, variables: dict[str, str], reader: Reader
) -> Program | None:
    text = reader.text(node, path, max_chars=EXPRESSION_MAX_CHARS)
    if node is None or text is None:
        return None
    try:
        return compile_expression(text, result=result, variables=variables, scope=Scope.ADMISSION, also=reader.also)
    except ExpressionError as error:
        if error.variable is None:
            reader.note_expression(node, path, error)
        elif not reader.diagnostics:
            # INVARIANT: no expression is left out silently. The variable was noted at its own place; if not, here.
            reader.note(node, path, f"the variable `{error.variable}` has no value", fix="correct it")
    return None


def _metadata(node: Node | None, reader: Reader) -> tuple[str, dict[str, str]]:
    if node is None:
        return "", {}
    members = _members(node, "metadata", shape.METADATA, reader)
    name = _subdomain(members.get("name"), "metadata.name", reader)
    if name == FIREWALL:
        message = f"the name `{FIREWALL}` is the firewall's own in reasons"
        reader.note(members["name"], "metadata.name", message, fix="choose another")
    _strings(members.get("annotations"), "metadata.annotations", reader)
    return name or "", _strings(members.get("labels"), "metadata.labels", reader)


def _members(node: Node, path: str, of: Shape, reader: Reader) -> dict[str, Node]:
    """Give the members of an object; null stands for a member that is not there, as in Kubernetes."""
    if isinstance(node, Mapping):
        items = {
            name: item for name, item in node.items.items() if not (isinstance(item, Scalar) and item.value is None)
        }
        keys = {name: key for name, key in node.keys.items() if name in items or name not in of.known}
        node = Mapping(items, keys, node.line, node.column)
    return reader.mapping(node, path, known=of.known, required=of.required)


def _items(node: Node | None, path: str, reader: Reader) -> Iterator[tuple[Node, str]]:
    """Give the items of a list; unlike those of the firewall's own documents it may be empty."""
    if isinstance(node, Sequence) and not node.items:
        return
    yield from reader.items(node, path)


def _texts(node: Node | None, path: str, reader: Reader, *, empty: bool) -> list[str]:
    found: list[str] = []
    for item, item_path in _items(node, path, reader):
        if empty and isinstance(item, Scalar) and item.value == "":
            found.append("")
        elif (text := reader.text(item, item_path, max_chars=LABEL_MAX_CHARS)) is not None:
            found.append(text)
    return found


def _strings(node: Node | None, path: str, reader: Reader) -> dict[str, str]:
    if node is None:
        return {}
    if not isinstance(node, Mapping):
        reader.note(node, path, "must be an object of texts")
        return {}
    if len(node.items) > ITEMS_MAX:
        reader.note(node, path, f"has more than {ITEMS_MAX} members")
        return {}
    found: dict[str, str] = {}
    for key, item in node.items.items():
        if isinstance(item, Scalar) and isinstance(item.value, str):
            found[key] = item.value
        else:
            reader.note(item, join(path, key), "must be text", fix="quote it")
    return found


def _without_empty(node: Node | None) -> Node | None:
    """Take an empty text for what is not there, as Kubernetes does where it is not required."""
    return None if isinstance(node, Scalar) and node.value == "" else node


def _subdomain(node: Node | None, path: str, reader: Reader) -> str | None:
    return reader.checked(node, path, _check_subdomain, max_chars=shape.SUBDOMAIN_MAX_CHARS)


def _check_subdomain(text: str) -> None:
    if _SUBDOMAIN.match(text) is None:
        raise ValueError(f"`{text[:80]}` is not a name; use lower case letters, digits, dashes and dots")


def _check_qualified(text: str) -> None:
    if _QUALIFIED.match(text) is None:
        raise ValueError(f"`{text[:80]}` is not a name; use letters, digits, dashes, underscores and dots")


def _check_variable(text: str) -> None:
    if VARIABLE_NAME.match(text) is None or text in RESERVED_WORDS:
        raise ValueError(
            f"`{text[:80]}` is not a variable name; use letters, digits and underscores, and no word of CEL"
        )


def _plain(node: Node | None, name: str) -> str | None:
    found = node.items.get(name) if isinstance(node, Mapping) else None
    return found.value if isinstance(found, Scalar) and isinstance(found.value, str) else None


def _integral(value: Any) -> Any:
    """Make integers of numbers without a fraction, as Kubernetes' own reading of YAML does."""
    if isinstance(value, list):
        return [_integral(item) for item in value]
    if isinstance(value, dict):
        found: JsonObject = {name: _integral(item) for name, item in value.items()}
        return found
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value
