"""The shape of the documents: which members there are, which must be, and what each may hold.

One source for two readers: the loader takes the names from here, and `app/policies/schema.py` writes JSON Schemas for
editors. What only the loader can tell (expressions that compile, names that are used twice) is not here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from app.core.cel import EXPRESSION_MAX_CHARS, JSON_MAX_BYTES
from app.core.decide import FIREWALL
from app.core.freeze import SCHEDULE_MAX_CHARS
from app.core.glob import GLOB_MAX_CHARS
from app.core.index import MESSAGE_MAX_CHARS
from app.core.record_masks import MaskAction
from app.core.types import Effect, JsonObject, Mode

API_VERSION = "mutationfirewall.io/v1"
KIND = "MutationPolicy"
EXCEPTION_KIND = "PolicyException"
MASK_KIND = "RecordMask"
TEST_KIND = "PolicyTest"
# What a policy set is made of.
SET_KINDS = (KIND, EXCEPTION_KIND, MASK_KIND)

# Names stand in reasons, metrics and paths: Kubernetes' rule for labels (RFC 1123).
NAME_PATTERN = "[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
NAME_MAX_CHARS = 63
LABEL_MAX_CHARS = 253
GROUP_MAX_CHARS = 128
PROPERTY_MAX_CHARS = 128
# Kubernetes' rule for the key of a label: a prefix of 253 characters, a slash, a name of 63.
LABEL_KEY_MAX_CHARS = 317
# The key of an obligation is a word of the enforcement point's, often with a prefix: `audit/ticket`.
OBLIGATION_KEY_PATTERN = "[A-Za-z0-9](?:[-_./A-Za-z0-9]{0,126}[A-Za-z0-9])?"
OBLIGATIONS_PER_RULE_MAX = 16
# A quorum of more people than this is a typing error.
COUNT_MAX = 100
DURATION_PATTERN = "(?=[0-9])(?:([0-9]{1,6})h)?(?:([0-9]{1,6})m)?(?:([0-9]{1,8})s)?"
# DESIGN.md section 7: an approval lives seven days unless the policy says otherwise.
EXPIRES_AFTER = "168h"
EXECUTE_WITHIN = "1h"
# Longer lists are written by programs, and checking grows faster than a list; a policy has a handful of rules.
ITEMS_MAX = 1_000
EXCEPTION_REASON_MAX_CHARS = 1_000
# As long as a place in a document that a person would name.
POINTER_MAX_CHARS = 1_000
# Each use within the window is a row that is counted: more is a matter for the rate limit.
BUDGET_LIMIT_MAX = 10_000
# What a test may assume.
BUDGET_USED_MAX = 1_000_000
# Rows are kept for as long as the window looks back.
BUDGET_WINDOW_MAX_SECONDS = 31 * 24 * 3600
# A name of a test case is a sentence.
CASE_NAME_MAX_CHARS = 200


@dataclass(frozen=True, slots=True)
class Shape:
    """An object. `members` maps each name to its JSON Schema, in the order in which the members are best written."""

    name: str
    members: Mapping[str, JsonObject]
    required: tuple[str, ...] = ()
    more: Mapping[str, object] = field(default_factory=dict)

    @property
    def known(self) -> tuple[str, ...]:
        """The names of the members."""
        return tuple(self.members)


def _text(about: str, *, most: int, **more: object) -> JsonObject:
    # Not empty and not blank only: a member that says nothing is left out.
    return {"description": about, "type": "string", "pattern": r"\S", "maxLength": most, **more}


def _list(about: str, of: JsonObject, *, most: int = ITEMS_MAX) -> JsonObject:
    return {"description": about, "type": "array", "minItems": 1, "maxItems": most, "items": of}


def _reference(shape: str, about: str | None = None) -> JsonObject:
    return {**({"description": about} if about else {}), "$ref": f"#/$defs/{shape}"}


def _name(about: str, **more: object) -> JsonObject:
    return {"description": about, "type": "string", "pattern": f"^{NAME_PATTERN}$", **more}


def _expression(about: str) -> JsonObject:
    return _text(about, most=EXPRESSION_MAX_CHARS)


def _glob(about: str) -> JsonObject:
    return {**_text(about, most=GLOB_MAX_CHARS), "not": {"pattern": r"\*\*"}}


def _duration(about: str, default: str) -> JsonObject:
    return {"description": about, "type": "string", "pattern": f"^{DURATION_PATTERN}$", "default": default}


METADATA = Shape(
    "metadata",
    {
        "name": _name("Unique in the set; reasons name it.", **{"not": {"const": FIREWALL}}),
        "labels": {
            "description": "Texts for your own order; no meaning for decisions.",
            "type": "object",
            "additionalProperties": {"type": "string", "pattern": r"\S", "maxLength": LABEL_MAX_CHARS},
        },
    },
    required=("name",),
)

_INSTANT: JsonObject = {
    "type": "string",
    "format": "date-time",
    "pattern": r"^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)$",
}
VALID_FROM: JsonObject = {"description": "Silent before this instant, for example `2026-03-01T00:00:00Z`.", **_INSTANT}
VALID_UNTIL: JsonObject = {"description": "Silent from this instant on.", **_INSTANT}

ENTITY = Shape(
    "entity",
    {
        "type": _glob("A glob for the type, for example `apps/*`."),
        "id": _glob("A glob for the id."),
        "properties": {
            "description": "Each must be there and fit: a glob for text, else an equal number or boolean.",
            "type": "object",
            "minProperties": 1,
            "propertyNames": {"maxLength": PROPERTY_MAX_CHARS},
            "additionalProperties": {
                "anyOf": [_glob("A glob for the property."), {"type": "number"}, {"type": "boolean"}]
            },
        },
        "labels": {
            "description": "Each must be in `properties.labels` and fit.",
            "type": "object",
            "minProperties": 1,
            "propertyNames": {"pattern": r"\S", "maxLength": LABEL_KEY_MAX_CHARS},
            "additionalProperties": _glob("A glob for the label; `*` for any text, none too."),
        },
    },
    more={"minProperties": 1},
)

_LISTS: Mapping[str, JsonObject] = {
    "subjects": _list("Who asks: one entry must fit.", _reference("entity")),
    "actions": _list("Globs for the name of the action: one must fit.", _glob("A glob, for example `delete*`.")),
    "resources": _list("What is changed: one entry must fit.", _reference("entity")),
}

EXCLUSION = Shape("exclusion", _LISTS, more={"minProperties": 1})

MATCH = Shape(
    "match",
    {**_LISTS, "exclude": _list("What fits one of these is left out again.", _reference("exclusion"))},
    more={"minProperties": 1},
)

CONDITION = Shape(
    "condition",
    {
        "name": _name("Unique among the rules and conditions of the policy."),
        "expression": _expression("CEL that gives a bool; false silences the policy."),
    },
    required=("name", "expression"),
)

VARIABLE = Shape(
    "variable",
    {
        "name": {
            "description": "Read as `variables.NAME`.",
            "type": "string",
            "pattern": "^[A-Za-z_][A-Za-z0-9_]{0,62}$",
        },
        "expression": _expression("CEL of any type."),
    },
    required=("name", "expression"),
)

GROUP = Shape(
    "group",
    {
        "group": _text("A group whose members may vote.", most=GROUP_MAX_CHARS),
        "count": {
            "description": "How many of them.",
            "type": "integer",
            "minimum": 1,
            "maximum": COUNT_MAX,
            "default": 1,
        },
    },
    required=("group",),
)

_BRANCHES: JsonObject = {"anyOf": [_reference("group"), _reference("quorum")]}
_ANY_OF = _list("One of these is enough.", _BRANCHES)
_ALL_OF = _list("All of these are needed.", _BRANCHES)
_ONE_KIND = {"oneOf": [{"required": ["anyOf"]}, {"required": ["allOf"]}]}

QUORUM = Shape("quorum", {"anyOf": _ANY_OF, "allOf": _ALL_OF}, more=_ONE_KIND)

BRANCH = Shape("branch", {**GROUP.members, **QUORUM.members})

APPROVAL = Shape(
    "approval",
    {
        **QUORUM.members,
        "expiresAfter": _duration("How long people have to vote, for example `24h`.", EXPIRES_AFTER),
        "executeWithin": _duration("How long the change may be made once approved.", EXECUTE_WITHIN),
    },
    more=_ONE_KIND,
)

OBLIGATION = Shape(
    "obligation",
    {
        "key": {
            "description": "What has to be done, in the words of the enforcement point.",
            "type": "string",
            "pattern": f"^{OBLIGATION_KEY_PATTERN}$",
        },
        "value": {
            "description": "A text, a number or a boolean.",
            "anyOf": [_text("A text.", most=JSON_MAX_BYTES), {"type": "number"}, {"type": "boolean"}],
        },
        "valueExpression": _expression("CEL of any type that JSON has."),
    },
    required=("key",),
    more={"oneOf": [{"required": ["value"]}, {"required": ["valueExpression"]}]},
)

RULE = Shape(
    "rule",
    {
        "name": _name("Unique among the rules and conditions of the policy."),
        "effect": {"description": "What the rule asks for; deny > hold > allow.", "enum": [str(e) for e in Effect]},
        "when": _expression("CEL that gives a bool; left out, the rule always speaks."),
        "message": _text("What the proposer reads.", most=MESSAGE_MAX_CHARS),
        "messageExpression": _expression("CEL that gives the message; wins over `message`."),
        "approval": _reference("approval", "Who lifts a hold."),
        "obligations": _list(
            "What has to be done as well when this rule wins.", _reference("obligation"), most=OBLIGATIONS_PER_RULE_MAX
        ),
    },
    required=("name", "effect"),
    more={
        "allOf": [
            {
                "if": {"required": ["effect"], "properties": {"effect": {"enum": ["deny", "hold"]}}},
                "then": {"anyOf": [{"required": ["message"]}, {"required": ["messageExpression"]}]},
            },
            {
                "if": {"required": ["effect"], "properties": {"effect": {"const": "hold"}}},
                "then": {"required": ["approval"]},
                "else": {"not": {"required": ["approval"]}},
            },
        ]
    },
)

FREEZE = Shape(
    "freeze",
    {
        "name": _name("Unique among the rules and conditions of the policy."),
        "schedule": _text(
            "When a window opens: minute, hour, day of the month, month, day of the week.", most=SCHEDULE_MAX_CHARS
        ),
        "timeZone": _text("Whose clock the schedule reads, for example `Europe/Berlin`.", most=LABEL_MAX_CHARS),
        "duration": {
            "description": "How long it stays open, for example `62h`.",
            "type": "string",
            "pattern": f"^{DURATION_PATTERN}$",
        },
        "effect": {
            "description": "What the freeze asks for while a window is open.",
            "enum": [str(Effect.DENY), str(Effect.HOLD)],
            "default": str(Effect.DENY),
        },
        "when": _expression("CEL that gives a bool; left out, everything the policy speaks about is frozen."),
        "message": _text("What the proposer reads; the end of the window is added.", most=MESSAGE_MAX_CHARS),
        "approval": _reference("approval", "Who lifts a hold."),
    },
    required=("name", "schedule", "timeZone", "duration"),
    more={
        "if": {"required": ["effect"], "properties": {"effect": {"const": "hold"}}},
        "then": {"required": ["approval"]},
        "else": {"not": {"required": ["approval"]}},
    },
)

BUDGET = Shape(
    "budget",
    {
        "name": _name("Unique among the rules, conditions and budgets of the policy."),
        "per": {"description": "Each of these has a budget of its own.", "enum": ["subject", "resource"]},
        "key": _expression("CEL that gives a text: each text has a budget of its own; instead of `per`."),
        "when": _expression("CEL that gives a bool; left out, every mutation that the policy speaks about counts."),
        "distinct": _expression("CEL that gives a text: different texts are counted, not mutations."),
        "limit": {
            "description": "How many may be allowed in the window.",
            "type": "integer",
            "minimum": 1,
            "maximum": BUDGET_LIMIT_MAX,
        },
        "window": {
            "description": "How far back uses count, at most 31 days, for example `1h`.",
            "type": "string",
            "pattern": f"^{DURATION_PATTERN}$",
        },
        "effect": {
            "description": "What the budget asks for when it is used up.",
            "enum": ["deny", "hold"],
            "default": "deny",
        },
        "message": _text("What the proposer reads when it is used up; the numbers follow.", most=MESSAGE_MAX_CHARS),
        "approval": _reference("approval", "Who lifts a hold."),
    },
    required=("name", "limit", "window"),
    more={
        "oneOf": [{"required": ["per"]}, {"required": ["key"]}],
        "if": {"required": ["effect"], "properties": {"effect": {"const": "hold"}}},
        "then": {"required": ["approval"]},
        "else": {"not": {"required": ["approval"]}},
    },
)

SPEC = Shape(
    "spec",
    {
        "mode": {
            "description": "`shadow` is evaluated and recorded but never changes a decision.",
            "enum": [str(mode) for mode in Mode],
            "default": "enforce",
        },
        "validFrom": VALID_FROM,
        "validUntil": VALID_UNTIL,
        "match": _reference("match", "What the policy is about; cheap and indexed."),
        "matchConditions": _list("All must be true for the policy to speak.", _reference("condition")),
        "variables": _list("Named expressions, evaluated when they are first read.", _reference("variable")),
        "rules": _list("Every one is asked.", _reference("rule")),
        "freezes": _list("Windows in which changes are denied or held.", _reference("freeze")),
        "budgets": _list("How much may be allowed in a sliding window.", _reference("budget")),
    },
    more={"anyOf": [{"required": ["rules"]}, {"required": ["freezes"]}, {"required": ["budgets"]}]},
)


def _document(kind: str, about: str, *, spec: str) -> Shape:
    return Shape(
        kind,
        {
            "apiVersion": {"const": API_VERSION},
            "kind": {"const": kind},
            "metadata": _reference("metadata"),
            "spec": _reference(spec),
        },
        required=("apiVersion", "kind", "metadata", "spec"),
        more={"description": about},
    )


POLICY = _document(KIND, "Rules about changes; docs/policies.md has the language.", spec="spec")

EXCEPTED = Shape(
    "excepted",
    {
        "name": _text("A policy of the set.", most=LABEL_MAX_CHARS),
        "rules": _list("Rules of it that deny or hold; all of them without.", _text("A rule.", most=LABEL_MAX_CHARS)),
    },
    required=("name",),
)

EXCEPTION_SPEC = Shape(
    "exceptionSpec",
    {
        "owner": _text("Who answers for it.", most=LABEL_MAX_CHARS),
        "reason": _text("Why, for whoever finds it in a year.", most=EXCEPTION_REASON_MAX_CHARS),
        "validFrom": {**VALID_FROM, "description": "Lifts nothing before this instant."},
        "validUntil": {**VALID_UNTIL, "description": "Lifts nothing from this instant on."},
        "policies": _list("Whose denials and holds are lifted.", _reference("excepted")),
        "match": _reference("match", "For which changes; left out, for all of them."),
        "matchConditions": _list("All must be true; one that fails lifts nothing.", _reference("condition")),
    },
    required=("owner", "reason", "validUntil", "policies"),
)

EXCEPTION = _document(
    EXCEPTION_KIND, "Lifts what policies deny or hold, for a while; docs/policies.md.", spec="exceptionSpec"
)

HIDING = Shape(
    "hiding",
    {
        "pointer": _text(
            "A JSON pointer into the mutation; `*` is any one member, `**` any number of them.", most=POINTER_MAX_CHARS
        ),
        "pointersExpression": _expression("CEL that gives a list of JSON pointers."),
        "action": {
            "description": "`erase` keeps nothing; `hash` keeps a salted commitment.",
            "enum": [str(action) for action in MaskAction],
            "default": str(MaskAction.ERASE),
        },
    },
    more={"oneOf": [{"required": ["pointer"]}, {"required": ["pointersExpression"]}]},
)

MASK_SPEC = Shape(
    "maskSpec",
    {
        "match": _reference("match", "In which mutations; left out, in all of them."),
        "matchConditions": _list("One that is false hides nothing; one that fails hides.", _reference("condition")),
        "masks": _list("What the ledger's records do not have.", _reference("hiding")),
    },
    required=("masks",),
)

MASK = _document(MASK_KIND, "Keeps values out of the ledger's records; docs/ledger.md.", spec="maskSpec")

_NOW: JsonObject = {
    "type": "string",
    "format": "date-time",
    "pattern": r"^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)$",
}

EXPECTED_OBLIGATION = Shape(
    "expectedObligation",
    {
        "policy": _text("The policy that says so.", most=LABEL_MAX_CHARS),
        "rule": _text("Its rule.", most=LABEL_MAX_CHARS),
        "key": _text("What has to be done.", most=LABEL_MAX_CHARS),
        "value": {"description": "Must be equal: any JSON value."},
    },
    required=("key",),
)

REASON = Shape(
    "reason",
    {
        "policy": _text("The policy that spoke.", most=LABEL_MAX_CHARS),
        "rule": _text("Its rule or condition.", most=LABEL_MAX_CHARS),
        "effect": {"description": "What it asked for.", "enum": [str(e) for e in Effect]},
        "mode": {"description": "`shadow` if it only watched.", "enum": [str(m) for m in Mode], "default": "enforce"},
        "message": _text("A part of the message.", most=MESSAGE_MAX_CHARS),
        "exception": _text("The exception that lifted it.", most=LABEL_MAX_CHARS),
        "binding": _text("The binding of an admission policy.", most=LABEL_MAX_CHARS),
    },
    required=("policy", "rule"),
)

EXPECT = Shape(
    "expect",
    {
        "decision": {"description": "The answer.", "enum": [str(e) for e in Effect]},
        "reasons": _list("All reasons, in order.", _reference("reason")),
        "message": _text("A part of the message of some reason.", most=MESSAGE_MAX_CHARS),
        "approval": {
            "description": "Members of the approval that is asked for; each given one must be equal.",
            "type": "object",
            "minProperties": 1,
            "properties": dict(APPROVAL.members),
            "additionalProperties": False,
        },
        "obligations": {
            "description": "All obligations, in order; `[]` for none.",
            "type": "array",
            "maxItems": ITEMS_MAX,
            "items": _reference("expectedObligation"),
        },
        "warnings": {
            "description": "A part of every warning of admission policies, in order; `[]` for none.",
            "type": "array",
            "maxItems": ITEMS_MAX,
            "items": _text("A part of a warning.", most=MESSAGE_MAX_CHARS),
        },
        "annotations": {
            "description": "All annotations of admission policies; `{}` for none.",
            "type": "object",
            "additionalProperties": {"type": "string"},
        },
        "exceptions": {
            "description": "The names of all exceptions that lifted something; `[]` for none.",
            "type": "array",
            "maxItems": ITEMS_MAX,
            "items": _text("An exception.", most=LABEL_MAX_CHARS),
        },
        "masked": {
            "description": "The JSON pointers of all that the record does not have, in any order; `[]` for none.",
            "type": "array",
            "maxItems": ITEMS_MAX,
            "items": _text("A JSON pointer.", most=POINTER_MAX_CHARS),
        },
    },
    required=("decision",),
)

COUNT = Shape(
    "count",
    {
        "used": {
            "description": "Uses, or different values, within the window.",
            "type": "integer",
            "minimum": 0,
            "maximum": BUDGET_USED_MAX,
        },
        "seen": {"description": "Whether the value of this mutation is among them.", "type": "boolean"},
    },
    required=("used",),
)

ANSWER = Shape(
    "answer",
    {
        "verb": _text("What is to be done, for example `create`.", most=LABEL_MAX_CHARS),
        "path": _text("A path; the question is then about it and a verb alone.", most=LABEL_MAX_CHARS),
        "group": _text("The group of the resource; none for the core group.", most=LABEL_MAX_CHARS),
        "resource": _text("The resource, in the plural.", most=LABEL_MAX_CHARS),
        "subresource": _text("The part of the resource.", most=LABEL_MAX_CHARS),
        "namespace": _text("The namespace.", most=LABEL_MAX_CHARS),
        "name": _text("The name of the object.", most=LABEL_MAX_CHARS),
        "fieldSelector": _text("The field selector, as the policy has it.", most=LABEL_MAX_CHARS),
        "labelSelector": _text("The label selector, as the policy has it.", most=LABEL_MAX_CHARS),
        "serviceAccount": _text("Who asks, as `NAMESPACE/NAME`; otherwise who made the request.", most=LABEL_MAX_CHARS),
        "allowed": {"description": "The answer.", "type": "boolean"},
        "reason": _text("What the answer gives as its reason.", most=MESSAGE_MAX_CHARS),
    },
    required=("verb", "allowed"),
)

CASE = Shape(
    "case",
    {
        "name": _text("What the case shows; unique in the file.", most=CASE_NAME_MAX_CHARS),
        "mutation": {"description": "The body of a request, as docs/api.md has it.", "type": "object"},
        "file": _text("A JSON file with the mutation, relative to this file.", most=4096),
        "edit": _list("RFC 6902 operations on the mutation.", {"type": "object"}),
        "now": {"description": "The instant of the decision.", **_NOW},
        "budgets": {
            "description": "How much of a budget (`POLICY/BUDGET`) is used; what is not named is unused.",
            "type": "object",
            "minProperties": 1,
            "additionalProperties": _reference("count"),
        },
        "authorizer": _list("What `authorizer` answers; no to what is not here.", _reference("answer")),
        "expect": _reference("expect"),
    },
    required=("name", "expect"),
    more={"oneOf": [{"required": ["mutation"]}, {"required": ["file"]}]},
)

TEST_SPEC = Shape(
    "testSpec",
    {
        "policies": _text("The directory of the policies, relative to this file.", most=4096),
        "now": {"description": "The instant of every case that names none.", **_NOW},
        "cases": _list("Questions and their answers.", _reference("case")),
    },
    required=("policies", "cases"),
)

TEST = _document(TEST_KIND, "Questions to a directory of policies, and the answers.", spec="testSpec")

KINDS: Mapping[str, tuple[Shape, ...]] = {
    KIND: (
        *(POLICY, METADATA, SPEC, MATCH, EXCLUSION, ENTITY, CONDITION, VARIABLE),
        *(RULE, OBLIGATION, FREEZE, BUDGET, APPROVAL, QUORUM, GROUP),
    ),
    EXCEPTION_KIND: (EXCEPTION, METADATA, EXCEPTION_SPEC, EXCEPTED, MATCH, EXCLUSION, ENTITY, CONDITION),
    MASK_KIND: (MASK, METADATA, MASK_SPEC, HIDING, MATCH, EXCLUSION, ENTITY, CONDITION),
    TEST_KIND: (TEST, METADATA, TEST_SPEC, CASE, COUNT, ANSWER, EXPECT, REASON, EXPECTED_OBLIGATION, QUORUM, GROUP),
}
