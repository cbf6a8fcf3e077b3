"""CustomResourceDefinitions of the documents, for `kubectl apply`; written from the shapes that the loader reads by.

Kubernetes' schemas are structural: no reference, no condition on another member. References are unfolded; what a shape
says with `if` and `oneOf` is said with CEL, or left to the controller, which loads every object as a file is loaded.
No member has a default: an object has the same digest as the file that it was applied from.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from app.core.decide import FIREWALL
from app.core.types import JsonObject
from app.policies.kinds import KINDS
from app.policies.shape import BRANCH, DURATION_PATTERN, EXCEPTION_KIND, KIND, NAME_MAX_CHARS, Shape

GROUP: Final = "mutationfirewall.io"
VERSION: Final = "v1"
CATEGORY: Final = "mutation-firewall"
# More than that is not read by anybody; the rest is counted in the message.
ERRORS_MAX: Final = 20
TEXT_MAX_CHARS: Final = 1024

# Written out so often, the object of an approval within an approval is left to the controller.
_QUORUM_DEPTH: Final = 2
# Go's regular expressions look at nothing ahead: that something is there is said by `minLength`.
_DURATION: Final = "^" + DURATION_PATTERN.removeprefix("(?=[0-9])") + "$"
# CEL reads only the writing of RFC 3339, which is the one that the documentation has.
_INSTANT: Final = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)$"
_COPIED: Final = ("description", "type", "enum", "minItems", "maxItems", "maxLength", "minProperties", "pattern")
# Lists whose items have a name that is there once: patches and server-side apply meet them by it.
_NAMED: Final = frozenset({"condition", "variable", "rule", "freeze", "budget", "excepted"})


@dataclass(frozen=True, slots=True)
class _Rule:
    """What the API server refuses, in CEL, and what it then says."""

    rule: str
    message: str
    path: str | None = None

    @property
    def members(self) -> JsonObject:
        return {"rule": self.rule, "message": self.message, **({"fieldPath": self.path} if self.path else {})}


_VALIDITY: Final = _Rule(
    "!has(self.validFrom) || !has(self.validUntil) || timestamp(self.validFrom) < timestamp(self.validUntil)",
    "ends before it starts: `validUntil` is not after `validFrom`",
    ".validUntil",
)
_HELD_BY_CHOICE: Final = _Rule(
    "has(self.approval) == (has(self.effect) && self.effect == 'hold')",
    "`approval` says who lifts a hold: it is needed with effect `hold`, and only there",
)
_RULES: Final[Mapping[str, tuple[_Rule, ...]]] = {
    "spec": (
        _Rule("has(self.rules) || has(self.freezes) || has(self.budgets)", "`rules` is missing; add `rules`"),
        _VALIDITY,
    ),
    "exceptionSpec": (_VALIDITY,),
    "rule": (
        _Rule(
            "self.effect == 'allow' || has(self.message) || has(self.messageExpression)",
            "a rule that denies or holds needs a `message` or a `messageExpression`",
        ),
        _Rule("has(self.approval) == (self.effect == 'hold')", _HELD_BY_CHOICE.message),
    ),
    "freeze": (_HELD_BY_CHOICE,),
    "budget": (_Rule("has(self.per) != has(self.key)", "needs exactly one of `per` and `key`"), _HELD_BY_CHOICE),
    "approval": (_Rule("has(self.anyOf) != has(self.allOf)", "needs exactly one of `anyOf` and `allOf`"),),
}
# Said by the shapes too, and understood by Kubernetes as it is.
_STRUCTURAL: Final[Mapping[str, JsonObject]] = {
    "obligation": {"oneOf": [{"required": ["value"]}, {"required": ["valueExpression"]}]},
    BRANCH.name: {"oneOf": [{"required": ["group"]}, {"required": ["anyOf"]}, {"required": ["allOf"]}]},
}
_NAME: Final = (
    _Rule(
        f"size(self.metadata.name) <= {NAME_MAX_CHARS} && !self.metadata.name.contains('.')",
        f"the name of a policy has at most {NAME_MAX_CHARS} characters, and no dot",
    ),
    _Rule(f"self.metadata.name != '{FIREWALL}'", f"`{FIREWALL}` is the name of what the firewall itself says"),
)


@dataclass(frozen=True, slots=True)
class Resource:
    """What Kubernetes calls the documents of a kind, and where they live."""

    kind: str
    plural: str
    short: str
    namespaced: bool
    columns: tuple[tuple[str, str, str], ...]

    @property
    def name(self) -> str:
        """The name of the definition."""
        return f"{self.plural}.{GROUP}"

    @property
    def path(self) -> str:
        """Where the objects of all namespaces are listed."""
        return f"/apis/{GROUP}/{VERSION}/{self.plural}"


# Policies judge everybody, so that only who may write for the whole cluster writes them; an exception is written by who
# needs it, and counts only in the namespaces that the controller is told.
POLICIES: Final = Resource(KIND, "mutationpolicies", "mpol", namespaced=False, columns=(("Mode", "mode", "string"),))
EXCEPTIONS: Final = Resource(
    EXCEPTION_KIND,
    "policyexceptions",
    "mpolex",
    namespaced=True,
    columns=(("Owner", "owner", "string"), ("Until", "validUntil", "string")),
)
RESOURCES: Final = (POLICIES, EXCEPTIONS)


def definition(resource: Resource) -> JsonObject:
    """Give the CustomResourceDefinition of a kind."""
    root, *parts = KINDS[resource.kind]
    spec = str(root.members["spec"]["$ref"]).rpartition("/")[2]
    unfold = _Unfolding({part.name: part for part in parts})
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": resource.name, "labels": {"app.kubernetes.io/name": "mutation-firewall"}},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced" if resource.namespaced else "Cluster",
            "names": {
                "kind": resource.kind,
                "listKind": f"{resource.kind}List",
                "plural": resource.plural,
                "singular": resource.kind.lower(),
                "shortNames": [resource.short],
                "categories": [CATEGORY],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {
                        "openAPIV3Schema": {
                            "description": root.more["description"],
                            "type": "object",
                            "properties": {
                                "apiVersion": {"type": "string"},
                                "kind": {"type": "string"},
                                "metadata": {"type": "object"},
                                "spec": unfold.shape(unfold.parts[spec]),
                                "status": _status(),
                            },
                            "required": ["spec"],
                            "x-kubernetes-validations": [rule.members for rule in _NAME],
                        }
                    },
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": _columns(resource),
                }
            ],
        },
    }


class _Unfolding:
    """Shapes to structural schemas."""

    def __init__(self, parts: Mapping[str, Shape]) -> None:
        self.parts = parts

    def shape(self, shape: Shape, depth: int = 0) -> JsonObject:
        rules = _RULES.get(shape.name, ())
        return {
            "type": "object",
            **({"minProperties": 1} if "minProperties" in shape.more else {}),
            "properties": {name: self.value(member, depth) for name, member in shape.members.items()},
            **({"required": list(shape.required)} if shape.required else {}),
            **_STRUCTURAL.get(shape.name, {}),
            **({"x-kubernetes-validations": [rule.members for rule in rules]} if rules else {}),
        }

    def value(self, schema: Mapping[str, Any], depth: int) -> JsonObject:
        about = {"description": schema["description"]} if "description" in schema else {}
        if "$ref" in schema:
            return {**about, **self.shape(self.parts[str(schema["$ref"]).rpartition("/")[2]], depth)}
        if "anyOf" in schema:
            # A text, a number or a boolean: Kubernetes' schemas have no such type, the controller tells.
            return {**about, "x-kubernetes-preserve-unknown-fields": True}
        made: JsonObject = {name: schema[name] for name in _COPIED if name in schema}
        if "enum" in made:
            made["type"] = "string"
        if made.get("pattern") == f"^{DURATION_PATTERN}$":
            made |= {"pattern": _DURATION, "minLength": 2, "maxLength": 32}
        elif schema.get("format") == "date-time":
            made |= {"pattern": _INSTANT, "maxLength": 40}
        for bound in ("minimum", "maximum"):
            if bound in schema:
                made[bound] = schema[bound]
        if "items" in schema:
            made |= self._items(schema["items"], depth)
        if "additionalProperties" in schema:
            made["additionalProperties"] = self.value(schema["additionalProperties"], depth)
        return made

    def _items(self, items: Mapping[str, Any], depth: int) -> JsonObject:
        if "anyOf" in items:
            if depth >= _QUORUM_DEPTH:
                inner: JsonObject = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
            else:
                inner = self.shape(BRANCH, depth + 1)
            return {"items": inner, "x-kubernetes-list-type": "atomic"}
        name = str(items.get("$ref", "")).rpartition("/")[2]
        made: JsonObject = {"items": self.value(items, depth)}
        if name in _NAMED:
            return {**made, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
        return {**made, "x-kubernetes-list-type": "atomic"}


def _status() -> JsonObject:
    def text(about: str, most: int = TEXT_MAX_CHARS) -> JsonObject:
        return {"description": about, "type": "string", "maxLength": most}

    place = {"type": "integer", "format": "int32", "minimum": 1}
    error = {
        "path": text("Member of the object, for example `spec.rules[0].when`."),
        "line": {"description": "Line of the text that this member is.", **place},
        "column": {"description": "Column in that line.", **place},
        "message": text("What is wrong."),
        "fix": text("What to write instead."),
    }
    condition = {
        "type": {"description": "`Ready`, `Accepted` or `Active`.", "type": "string", "maxLength": 316},
        "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
        "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
        "lastTransitionTime": {"type": "string", "format": "date-time"},
        "reason": text("One word, for programs."),
        "message": text("For people.", 32768),
    }
    return {
        "description": "Written by the controller alone.",
        "type": "object",
        "properties": {
            "observedGeneration": {
                "description": "The generation of the object that the rest is about.",
                "type": "integer",
                "format": "int64",
            },
            "digest": text("The policy set that has this generation and was in force when this was written.", 128),
            "errors": {
                "description": "What is wrong with the object.",
                "type": "array",
                "maxItems": ERRORS_MAX,
                "items": {"type": "object", "properties": error, "required": ["message"]},
                "x-kubernetes-list-type": "atomic",
            },
            "conditions": {
                "type": "array",
                "maxItems": 8,
                "items": {
                    "type": "object",
                    "properties": condition,
                    "required": ["type", "status", "lastTransitionTime", "reason", "message"],
                },
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
            },
        },
    }


def _columns(resource: Resource) -> list[JsonObject]:
    def condition(kind: str, member: str) -> str:
        return f'.status.conditions[?(@.type=="{kind}")].{member}'

    def column(name: str, path: str, kind: str = "string", *, wide: bool = False) -> JsonObject:
        return {"name": name, "type": kind, "jsonPath": path, **({"priority": 1} if wide else {})}

    return [
        *(column(name, f".spec.{member}", kind) for name, member, kind in resource.columns),
        column("Accepted", condition("Accepted", "status")),
        column("Active", condition("Active", "status")),
        column("Reason", condition("Ready", "reason")),
        column("Age", ".metadata.creationTimestamp", "date"),
        column("Message", condition("Ready", "message"), wide=True),
        column("Set", ".status.digest", wide=True),
    ]
