"""The shape of Kubernetes' documents (admissionregistration.k8s.io/v1), as `shape.py` has it of the firewall's own."""

from collections.abc import Mapping

from app.core.admission.facts import OPERATIONS
from app.core.admission.matching import RuleScope
from app.core.admission.policy import Action, FailurePolicy, NotFound
from app.core.admission.selectors import Operator
from app.core.cel import EXPRESSION_MAX_CHARS
from app.core.types import JsonObject
from app.policies.shape import ITEMS_MAX, LABEL_MAX_CHARS, Shape

API_GROUP = "admissionregistration.k8s.io"
API_VERSION = f"{API_GROUP}/v1"
POLICY_KIND = "ValidatingAdmissionPolicy"
BINDING_KIND = "ValidatingAdmissionPolicyBinding"

# RFC 1123, as Kubernetes has it for the names of these objects.
SUBDOMAIN_PATTERN = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*"
SUBDOMAIN_MAX_CHARS = 253
QUALIFIED_PATTERN = r"(?:[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?"
QUALIFIED_MAX_CHARS = SUBDOMAIN_MAX_CHARS + 1 + 63
# Kubernetes has no limit of its own for what is written down; what is said is cut where a reason is.
MESSAGE_MAX_CHARS = 5 * 1024
ANNOTATIONS_MAX = 20
REASONS = ("Unauthorized", "Forbidden", "Invalid", "RequestEntityTooLarge")
MATCH_POLICIES = ("Exact", "Equivalent")
_ANYTHING: JsonObject = {}


def _text(about: str, *, most: int = MESSAGE_MAX_CHARS) -> JsonObject:
    return {"description": about, "type": ["string", "null"], "maxLength": most}


def _texts(about: str) -> JsonObject:
    return {"description": about, "type": ["array", "null"], "maxItems": ITEMS_MAX, "items": {"type": "string"}}


def _list(about: str, shape: str) -> JsonObject:
    return {
        "description": about,
        "type": ["array", "null"],
        "maxItems": ITEMS_MAX,
        "items": {"$ref": f"#/$defs/{shape}"},
    }


def _reference(shape: str, about: str) -> JsonObject:
    return {"description": about, "$ref": f"#/$defs/{shape}"}


def _choice(about: str, choices: tuple[str, ...]) -> JsonObject:
    return {"description": about, "enum": [*choices, None]}


def _name(about: str) -> JsonObject:
    return {
        "description": about,
        "type": "string",
        "pattern": f"^{SUBDOMAIN_PATTERN}$",
        "maxLength": SUBDOMAIN_MAX_CHARS,
    }


def _expression(about: str) -> JsonObject:
    return {"description": about, "type": "string", "pattern": r"\S", "maxLength": EXPRESSION_MAX_CHARS}


_STRINGS: JsonObject = {"type": ["object", "null"], "additionalProperties": {"type": "string"}}

METADATA = Shape(
    "metadata",
    {
        "name": _name("Unique among the objects of its kind."),
        "generateName": _ANYTHING,
        "namespace": _ANYTHING,
        "labels": _STRINGS,
        "annotations": _STRINGS,
        "uid": _ANYTHING,
        "resourceVersion": _ANYTHING,
        "generation": _ANYTHING,
        "creationTimestamp": _ANYTHING,
        "deletionTimestamp": _ANYTHING,
        "deletionGracePeriodSeconds": _ANYTHING,
        "ownerReferences": _ANYTHING,
        "finalizers": _ANYTHING,
        "managedFields": _ANYTHING,
        "selfLink": _ANYTHING,
    },
    required=("name",),
)

REQUIREMENT = Shape(
    "requirement",
    {
        "key": _text("A label.", most=QUALIFIED_MAX_CHARS),
        "operator": {"description": "How it compares.", "enum": [str(one) for one in Operator]},
        "values": _texts("For `In` and `NotIn`."),
    },
    required=("key", "operator"),
)

SELECTOR = Shape(
    "selector",
    {
        "matchLabels": _STRINGS,
        "matchExpressions": _list("All must be fulfilled.", "requirement"),
    },
    more={"type": ["object", "null"]},
)

RESOURCE_RULE = Shape(
    "resourceRule",
    {
        "apiGroups": _texts("Groups, empty for the core; `*` is all."),
        "apiVersions": _texts("Versions; `*` is all."),
        "operations": {
            "description": "Operations; `*` is all.",
            "type": "array",
            "items": {"enum": [*OPERATIONS, "*"]},
        },
        "resources": _texts("Resources in the plural, `pods/*` with all parts, `*/scale` one part of all."),
        "resourceNames": _texts("Names; none is all."),
        "scope": _choice("Whether it is about what lives in namespaces.", tuple(RuleScope)),
    },
    required=("apiGroups", "apiVersions", "operations", "resources"),
)

MATCH_RESOURCES = Shape(
    "matchResources",
    {
        "namespaceSelector": _reference("selector", "Labels of the namespace."),
        "objectSelector": _reference("selector", "Labels of the object, before or after."),
        "resourceRules": _list("One must fit.", "resourceRule"),
        "excludeResourceRules": _list("None may fit.", "resourceRule"),
        "matchPolicy": _choice("`Equivalent` is also about other versions of a resource.", MATCH_POLICIES),
    },
    more={"type": ["object", "null"]},
)

PARAM_KIND = Shape(
    "paramKind",
    {
        "apiVersion": _text("Group and version of the parameters.", most=LABEL_MAX_CHARS),
        "kind": _text("Their kind.", most=LABEL_MAX_CHARS),
    },
    required=("apiVersion", "kind"),
    more={"type": ["object", "null"]},
)

VALIDATION = Shape(
    "validation",
    {
        "expression": _expression("CEL that gives a bool; false fails the request."),
        "message": _text("What the proposer reads, in one line."),
        "messageExpression": _text("CEL that gives the message; wins over `message`.", most=EXPRESSION_MAX_CHARS),
        "reason": _choice("Kubernetes' word for it.", REASONS),
    },
    required=("expression",),
)

AUDIT_ANNOTATION = Shape(
    "auditAnnotation",
    {
        "key": _text("Written after the name of the policy.", most=63),
        "valueExpression": _expression("CEL that gives a text, or null for no annotation."),
    },
    required=("key", "valueExpression"),
)

CONDITION = Shape(
    "condition",
    {
        "name": _text("Unique among the conditions.", most=QUALIFIED_MAX_CHARS),
        "expression": _expression("CEL that gives a bool; false silences the policy."),
    },
    required=("name", "expression"),
)

VARIABLE = Shape(
    "variable",
    {
        "name": _text("Read as `variables.NAME` by what stands after it.", most=63),
        "expression": _expression("CEL of any type."),
    },
    required=("name", "expression"),
)

POLICY_SPEC = Shape(
    "spec",
    {
        "failurePolicy": _choice("What becomes of a failure.", tuple(FailurePolicy)),
        "paramKind": _reference("paramKind", "The kind of the parameters."),
        "matchConstraints": _reference("matchResources", "What the policy is about."),
        "matchConditions": _list("All must be true for the policy to be asked.", "condition"),
        "variables": _list("Named expressions, evaluated when they are first read.", "variable"),
        "validations": _list("All must be true.", "validation"),
        "auditAnnotations": _list("What is kept for the audit.", "auditAnnotation"),
    },
    required=("matchConstraints",),
)

PARAM_REF = Shape(
    "paramRef",
    {
        "name": _text("One object.", most=SUBDOMAIN_MAX_CHARS),
        "namespace": _text("Where it is; left out, in the namespace of the request.", most=SUBDOMAIN_MAX_CHARS),
        "selector": _reference("selector", "All objects with these labels."),
        "parameterNotFoundAction": {"description": "Where there is none.", "enum": [str(one) for one in NotFound]},
    },
    required=("parameterNotFoundAction",),
    more={"type": ["object", "null"]},
)

BINDING_SPEC = Shape(
    "spec",
    {
        "policyName": _name("The policy that is put into force."),
        "paramRef": _reference("paramRef", "Its parameters."),
        "matchResources": _reference("matchResources", "What it is further restricted to."),
        "validationActions": {
            "description": "What becomes of a validation that is false.",
            "type": "array",
            "minItems": 1,
            "items": {"enum": [str(one) for one in Action]},
        },
    },
    required=("policyName", "validationActions"),
)


def _document(kind: str, about: str, *, status: bool) -> Shape:
    return Shape(
        kind,
        {
            "apiVersion": {"const": API_VERSION},
            "kind": {"const": kind},
            "metadata": {"$ref": "#/$defs/metadata"},
            "spec": {"$ref": "#/$defs/spec"},
            **({"status": _ANYTHING} if status else {}),
        },
        required=("apiVersion", "kind", "metadata", "spec"),
        more={"description": about},
    )


POLICY = _document(POLICY_KIND, "Kubernetes' own admission policy; docs/admission-policies.md.", status=True)
BINDING = _document(BINDING_KIND, "Puts an admission policy into force; docs/admission-policies.md.", status=False)

_MATCHING = (MATCH_RESOURCES, RESOURCE_RULE, SELECTOR, REQUIREMENT)
KINDS: Mapping[str, tuple[Shape, ...]] = {
    POLICY_KIND: (
        POLICY,
        METADATA,
        POLICY_SPEC,
        PARAM_KIND,
        *_MATCHING,
        CONDITION,
        VARIABLE,
        VALIDATION,
        AUDIT_ANNOTATION,
    ),
    BINDING_KIND: (BINDING, METADATA, BINDING_SPEC, PARAM_REF, *_MATCHING),
}
