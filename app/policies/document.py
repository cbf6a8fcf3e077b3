"""A document of kind MutationPolicy: from its tree to a compiled policy of the core (docs/policies.md)."""

import re
from datetime import datetime, timedelta
from difflib import get_close_matches
from typing import Any

from app.core.canonical import canonical
from app.core.cel import (
    EXPRESSION_MAX_CHARS,
    JSON_MAX_BYTES,
    RESERVED_WORDS,
    VARIABLE_NAME,
    ExpressionError,
    Program,
    ResultType,
    check_variable,
    compile_expression,
)
from app.core.decide import FIREWALL
from app.core.freeze import SCHEDULE_MAX_CHARS, check_schedule, window
from app.core.glob import GLOB_MAX_CHARS, Glob, compile_glob
from app.core.index import (
    MESSAGE_MAX_CHARS,
    Approval,
    Condition,
    Duty,
    EntityPattern,
    LabelPattern,
    Match,
    Policy,
    PropertyPattern,
    Rule,
)
from app.core.types import Effect, Json, Mode
from app.core.validity import ALWAYS, Validity, parse_instant
from app.core.zones import zone_names
from app.policies import shape
from app.policies.budgets import Parts, read_budgets
from app.policies.diagnostics import Severity
from app.policies.durations import check_duration, seconds
from app.policies.reader import Reader, join
from app.policies.tree import Mapping, Node, Scalar, Sequence

_NAME = re.compile(f"{shape.NAME_PATTERN}\\Z")
_OBLIGATION_KEY = re.compile(f"{shape.OBLIGATION_KEY_PATTERN}\\Z")
# "Any of (both of ..., all of ...)" is two levels; nobody can vote by what nobody can read.
_APPROVAL_DEPTH_MAX = 4


def read_policy(root: Node, reader: Reader) -> Policy | None:
    """Read and compile one document; None if anything is wrong, which `reader` has then noted.

    Does not check that the name is unique in the set.
    """
    before = len(reader.diagnostics)
    members = reader.mapping(root, "", known=shape.POLICY.known, required=shape.POLICY.required)
    reader.choice(members.get("apiVersion"), "apiVersion", (shape.API_VERSION,))
    if reader.choice(members.get("kind"), "kind", shape.SET_KINDS) is None:
        return None  # another kind has another shape: its members would only add noise
    name, labels = read_metadata(members.get("metadata"), reader)
    policy = _spec(members["spec"], name or "", labels, reader) if "spec" in members else None
    if policy is None or len(reader.diagnostics) > before:
        return None
    _warn(policy, members["spec"], reader)
    return policy


def declared_variables(root: Node) -> dict[str, str]:
    """Give the variables of a policy document: names and expressions."""
    spec = root.items.get("spec") if isinstance(root, Mapping) else None
    listed = spec.items.get("variables") if isinstance(spec, Mapping) else None
    found: dict[str, str] = {}
    for item in listed.items if isinstance(listed, Sequence) else ():
        if isinstance(item, Mapping):
            name, text = item.items.get("name"), item.items.get("expression")
            if isinstance(name, Scalar) and isinstance(text, Scalar):
                found[str(name.value)] = str(text.value)
    return found


def _warn(policy: Policy, spec: Node, reader: Reader) -> None:
    """Note what is allowed and hardly meant."""
    if policy.match.resources or policy.conditions or policy.mode is not Mode.ENFORCE:
        return
    for rule in policy.rules:
        if rule.effect is Effect.ALLOW and rule.when is None:
            message = f"the rule `{rule.name}` allows every change of every resource"
            reader.note(spec, "spec", message, fix="add `match.resources` or `when`", severity=Severity.WARNING)


def read_metadata(node: Node | None, reader: Reader) -> tuple[str | None, dict[str, str]]:
    """Read the name and the labels of a document."""
    if node is None:
        return None, {}
    members = reader.mapping(node, "metadata", known=shape.METADATA.known, required=shape.METADATA.required)
    name = reader.checked(members.get("name"), "metadata.name", _check_policy_name, max_chars=shape.LABEL_MAX_CHARS)
    labels: dict[str, str] = {}
    if (found := members.get("labels")) is not None:
        if isinstance(found, Mapping):
            for key, item in found.items.items():
                value = reader.text(item, f"metadata.labels.{key}", max_chars=shape.LABEL_MAX_CHARS)
                labels[key] = value or ""
        else:
            reader.note(found, "metadata.labels", "must be an object of texts")
    return name, labels


def _spec(node: Node, name: str, labels: dict[str, str], reader: Reader) -> Policy:
    members = reader.mapping(node, "spec", known=shape.SPEC.known, required=shape.SPEC.required)
    if isinstance(node, Mapping) and not {"rules", "freezes", "budgets"} & members.keys():
        reader.note(node, "spec", "`rules` is missing", fix="add `rules`")
    mode = reader.choice(members.get("mode"), "spec.mode", tuple(Mode)) or Mode.ENFORCE
    validity = read_validity(members, "spec", reader)
    match = read_match(members["match"], reader) if "match" in members else Match()
    variables = _variables(members.get("variables"), reader)
    names: set[str] = set()
    conditions = read_conditions(members.get("matchConditions"), variables, names, reader)
    rules = [
        rule
        for item, path in reader.items(members.get("rules"), "spec.rules")
        if (rule := _rule(item, path, variables, names, reader)) is not None
    ]
    rules += [
        freeze
        for item, path in reader.items(members.get("freezes"), "spec.freezes")
        if (freeze := _freeze(item, path, variables, names, reader)) is not None
    ]
    parts = Parts(
        name=lambda item, path: _unique(item, path, names, reader),
        program=lambda item, path, result: read_program(item, path, result, variables, reader),
        approval=lambda item, path: _approval(item, path, reader),
    )
    budgets = read_budgets(members.get("budgets"), reader, parts=parts)
    return Policy(
        name=name,
        rules=tuple(rules),
        mode=Mode(mode),
        match=match,
        conditions=conditions,
        labels=labels,
        budgets=budgets,
        validity=validity,
    )


def read_validity(members: dict[str, Node], path: str, reader: Reader) -> Validity:
    """Read `validFrom` and `validUntil`; what is wrong with them is noted."""
    start = _instant(members.get("validFrom"), f"{path}.validFrom", reader)
    end = _instant(members.get("validUntil"), f"{path}.validUntil", reader)
    if start is not None and end is not None and end <= start:
        message = "ends before it starts: `validUntil` is not after `validFrom`"
        reader.note(members["validUntil"], f"{path}.validUntil", message, fix="correct one of them")
    return ALWAYS if start is None and end is None else Validity(start, end)


def _instant(node: Node | None, path: str, reader: Reader) -> datetime | None:
    text = reader.checked(node, path, _check_instant, max_chars=shape.LABEL_MAX_CHARS)
    return None if text is None else parse_instant(text)


def _check_instant(text: str) -> None:
    parse_instant(text)


def read_match(node: Node, reader: Reader, path: str = "spec.match", *, exclusion: bool = False) -> Match:
    """Read `match`, or an entry of its `exclude`, which has no exclusions of its own."""
    members = reader.mapping(node, path, known=(shape.EXCLUSION if exclusion else shape.MATCH).known)
    if isinstance(node, Mapping) and not node.items:
        reader.note(node, path, "is empty", fix="leave it out" + ("" if exclusion else " to match everything"))
    actions = [
        _glob(item, item_path, reader) for item, item_path in reader.items(members.get("actions"), f"{path}.actions")
    ]
    return Match(
        subjects=_entities(members.get("subjects"), f"{path}.subjects", reader),
        actions=tuple(glob for glob in actions if glob is not None),
        resources=_entities(members.get("resources"), f"{path}.resources", reader),
        exclude=tuple(
            read_match(item, reader, item_path, exclusion=True)
            for item, item_path in reader.items(members.get("exclude"), f"{path}.exclude")
        ),
    )


def _entities(node: Node | None, path: str, reader: Reader) -> tuple[EntityPattern, ...]:
    found: list[EntityPattern] = []
    for item, item_path in reader.items(node, path):
        members = reader.mapping(item, item_path, known=shape.ENTITY.known)
        if isinstance(item, Mapping) and not item.items:
            reader.note(item, item_path, "matches everything", fix=f"leave `{path.rpartition('.')[2]}` out instead")
        found.append(
            EntityPattern(
                type=_glob(members.get("type"), f"{item_path}.type", reader),
                id=_glob(members.get("id"), f"{item_path}.id", reader),
                properties=_properties(members.get("properties"), f"{item_path}.properties", reader),
                labels=_label_patterns(members.get("labels"), f"{item_path}.labels", reader),
            )
        )
    return tuple(found)


def _properties(node: Node | None, path: str, reader: Reader) -> tuple[PropertyPattern, ...]:
    if node is None:
        return ()
    if not isinstance(node, Mapping) or not node.items:
        reader.note(node, path, "must be an object with at least one property")
        return ()
    found: list[PropertyPattern] = []
    for name, item in node.items.items():
        member = join(path, name)
        if len(name) > shape.PROPERTY_MAX_CHARS:
            reader.note(item, path, f"a property's name has more than {shape.PROPERTY_MAX_CHARS} characters")
        elif not isinstance(item, Scalar) or item.value is None:
            reader.note(item, member, "must be text, a number or a boolean", fix="use `matchConditions` for more")
        elif isinstance(item.value, str):
            found.append(PropertyPattern(name, glob=_glob(item, member, reader)))
        else:
            found.append(PropertyPattern(name, value=item.value))
    return tuple(found)


def _label_patterns(node: Node | None, path: str, reader: Reader) -> tuple[LabelPattern, ...]:
    if node is None:
        return ()
    if not isinstance(node, Mapping) or not node.items:
        reader.note(node, path, "must be an object with at least one label")
        return ()
    found: list[LabelPattern] = []
    for key, item in node.items.items():
        if not key.strip():
            reader.note(node.keys[key], path, "the key of a label is empty")
        elif len(key) > shape.LABEL_KEY_MAX_CHARS:
            reader.note(item, path, f"the key of a label has more than {shape.LABEL_KEY_MAX_CHARS} characters")
        elif (glob := _glob(item, join(path, key), reader)) is not None:
            found.append(LabelPattern(key, glob))
    return tuple(found)


def _glob(node: Node | None, path: str, reader: Reader) -> Glob | None:
    def check(text: str) -> None:
        compile_glob(text)

    text = reader.checked(node, path, check, max_chars=GLOB_MAX_CHARS)
    return None if text is None else compile_glob(text)


def _variables(node: Node | None, reader: Reader) -> dict[str, str]:
    texts: dict[str, str] = {}
    places: dict[str, tuple[Node, str]] = {}
    for item, path in reader.items(node, "spec.variables"):
        members = reader.mapping(item, path, known=shape.VARIABLE.known, required=shape.VARIABLE.required)
        name = reader.checked(
            members.get("name"), f"{path}.name", _check_variable_name, max_chars=shape.LABEL_MAX_CHARS
        )
        text = reader.text(members.get("expression"), f"{path}.expression", max_chars=EXPRESSION_MAX_CHARS)
        if name is None:
            continue
        if name in texts:
            reader.note(members["name"], f"{path}.name", f"the variable `{name}` is declared twice", fix="rename one")
            continue
        # A variable whose text is missing is declared all the same: its readers are not to blame.
        texts[name] = text if text is not None else "dyn(null)"
        if text is not None:
            places[name] = (members["expression"], f"{path}.expression")
    noted: set[str] = set()
    elsewhere: dict[str, ExpressionError] = {}
    for name, (place, path) in places.items():
        try:
            check_variable(name, variables=texts)
        except ExpressionError as error:
            if error.variable is None:
                reader.note_expression(place, path, error)
                noted.add(name)
            else:
                elsewhere[name] = error
    # In a circle each blames the next one: without this nobody would be told, and their readers would lose `when`.
    for name, failure in elsewhere.items():
        blamed = failure.variable or name
        if name not in noted and blamed not in noted and blamed in places:
            reader.note_expression(*places[blamed], failure)
            noted.add(blamed)
    return texts


def read_conditions(
    node: Node | None, variables: dict[str, str], names: set[str], reader: Reader
) -> tuple[Condition, ...]:
    """Read `matchConditions`, without those that anything is wrong with; `names` gets theirs."""
    found = [
        _condition(item, path, variables, names, reader) for item, path in reader.items(node, "spec.matchConditions")
    ]
    return tuple(condition for condition in found if condition is not None)


def _condition(node: Node, path: str, variables: dict[str, str], names: set[str], reader: Reader) -> Condition | None:
    members = reader.mapping(node, path, known=shape.CONDITION.known, required=shape.CONDITION.required)
    name = _unique(members.get("name"), f"{path}.name", names, reader)
    program = read_program(members.get("expression"), f"{path}.expression", ResultType.BOOL, variables, reader)
    return None if name is None or program is None else Condition(name, program)


def _rule(node: Node, path: str, variables: dict[str, str], names: set[str], reader: Reader) -> Rule | None:
    members = reader.mapping(
        node,
        path,
        known=shape.RULE.known,
        required=shape.RULE.required,
    )
    name = _unique(members.get("name"), f"{path}.name", names, reader)
    effect = reader.choice(members.get("effect"), f"{path}.effect", tuple(Effect))
    when = read_program(members.get("when"), f"{path}.when", ResultType.BOOL, variables, reader)
    message = reader.text(members.get("message"), f"{path}.message", max_chars=MESSAGE_MAX_CHARS)
    expression = read_program(
        members.get("messageExpression"), f"{path}.messageExpression", ResultType.STRING, variables, reader
    )
    approval = _approval(members["approval"], f"{path}.approval", reader) if "approval" in members else None
    duties = _duties(members.get("obligations"), f"{path}.obligations", variables, reader)
    if effect in {Effect.DENY, Effect.HOLD} and not {"message", "messageExpression"} & members.keys():
        fix = "add `message`: what the proposer can do instead"
        reader.note(node, path, f"a rule that says `{effect}` needs a `message` or a `messageExpression`", fix=fix)
    _approval_if_held(node, path, effect, members, reader)
    if name is None or effect is None:
        return None
    return Rule(
        name=name,
        effect=Effect(effect),
        when=when,
        message=message,
        message_expression=expression,
        approval=approval,
        duties=duties,
    )


def _freeze(node: Node, path: str, variables: dict[str, str], names: set[str], reader: Reader) -> Rule | None:
    members = reader.mapping(node, path, known=shape.FREEZE.known, required=shape.FREEZE.required)
    name = _unique(members.get("name"), f"{path}.name", names, reader)
    effects = (Effect.DENY, Effect.HOLD)
    effect = reader.choice(members.get("effect"), f"{path}.effect", effects) or Effect.DENY
    when = read_program(members.get("when"), f"{path}.when", ResultType.BOOL, variables, reader)
    message = reader.text(members.get("message"), f"{path}.message", max_chars=MESSAGE_MAX_CHARS)
    schedule = reader.checked(members.get("schedule"), f"{path}.schedule", check_schedule, max_chars=SCHEDULE_MAX_CHARS)
    zone = reader.checked(members.get("timeZone"), f"{path}.timeZone", _check_zone, max_chars=shape.LABEL_MAX_CHARS)
    duration = reader.checked(
        members.get("duration"), f"{path}.duration", check_duration, max_chars=shape.LABEL_MAX_CHARS
    )
    approval = _approval(members["approval"], f"{path}.approval", reader) if "approval" in members else None
    _approval_if_held(node, path, effect, members, reader)
    if name is None or schedule is None or zone is None or duration is None:
        return None
    span = timedelta(seconds=seconds(duration))
    return Rule(
        name=name,
        effect=Effect(effect),
        when=when,
        message=message,
        approval=approval,
        window=window(schedule, time_zone=zone, duration=span),
    )


def _check_zone(text: str) -> None:
    if text not in zone_names():
        near = get_close_matches(text, zone_names(), n=1)
        fix = f"did you mean `{near[0]}`?" if near else "write a name such as `Europe/Berlin`, or `UTC`"
        raise ValueError(f"there is no time zone `{text[:64]}`; {fix}")


def _duties(node: Node | None, path: str, variables: dict[str, str], reader: Reader) -> tuple[Duty, ...]:
    if isinstance(node, Sequence) and len(node.items) > shape.OBLIGATIONS_PER_RULE_MAX:
        message = f"the rule has {len(node.items)} obligations, and {shape.OBLIGATIONS_PER_RULE_MAX} are the most"
        reader.note(node, path, message, fix="put several values into one")
        return ()
    found: list[Duty] = []
    keys: set[str] = set()
    for item, item_path in reader.items(node, path):
        members = reader.mapping(item, item_path, known=shape.OBLIGATION.known, required=shape.OBLIGATION.required)
        key = reader.checked(
            members.get("key"), f"{item_path}.key", _check_obligation_key, max_chars=shape.LABEL_MAX_CHARS
        )
        if key is not None and key in keys:
            message = f"the rule has the obligation `{key}` twice"
            reader.note(members["key"], f"{item_path}.key", message, fix="make one of them")
        keys.add(key or "")
        if isinstance(item, Mapping) and ("value" in members) == ("valueExpression" in members):
            fix = "give the value, or the expression that makes it"
            reader.note(item, item_path, "needs exactly one of `value` and `valueExpression`", fix=fix)
            continue
        expression = read_program(
            members.get("valueExpression"), f"{item_path}.valueExpression", ResultType.JSON, variables, reader
        )
        value = _constant(members["value"], f"{item_path}.value", reader) if "value" in members else None
        if key is not None:
            found.append(Duty(key, value, expression))
    return tuple(found)


def _constant(node: Node, path: str, reader: Reader) -> Json:
    """Read a text, a number or a boolean that is the same whatever is decided."""
    if isinstance(node, Scalar) and isinstance(node.value, str):
        text = reader.text(node, path, max_chars=JSON_MAX_BYTES)
        if text is not None and len(canonical(text)) > JSON_MAX_BYTES:
            reader.note(node, path, f"has more than {JSON_MAX_BYTES} bytes as JSON")
        return text
    if not isinstance(node, Scalar) or node.value is None:
        reader.note(node, path, "must be text, a number or a boolean", fix="use `valueExpression` for more")
        return None
    return node.value


def _approval_if_held(node: Node, path: str, effect: str | None, members: dict[str, Node], reader: Reader) -> None:
    if effect == Effect.HOLD and "approval" not in members:
        fix = "add `approval: {anyOf: [{group: NAME, count: 1}]}`"
        reader.note(node, path, "a rule that says `hold` needs `approval`", fix=fix)
    if effect is not None and effect != Effect.HOLD and "approval" in members:
        fix = "remove it, or make the effect `hold`"
        reader.note(members["approval"], f"{path}.approval", f"no approval lifts a rule that says `{effect}`", fix=fix)


def _unique(node: Node | None, path: str, names: set[str], reader: Reader) -> str | None:
    """Give a name that no other rule or condition of the policy has: a reason names one of them."""
    name = reader.checked(node, path, _check_name, max_chars=shape.LABEL_MAX_CHARS)
    if node is not None and name is not None:
        if name in names:
            reader.note(node, path, f"the name `{name}` is used twice in this policy", fix="rename one")
        names.add(name)
    return name


def read_program(
    node: Node | None, path: str, result: ResultType, variables: dict[str, str], reader: Reader
) -> Program | None:
    """Read and compile an expression; None if it is not there, or if anything is wrong with it, which is then noted."""
    text = reader.text(node, path, max_chars=EXPRESSION_MAX_CHARS)
    if node is None or text is None:
        return None
    try:
        return compile_expression(text, result=result, variables=variables)
    except ExpressionError as error:
        if error.variable is None:
            reader.note_expression(node, path, error)
        elif not reader.diagnostics:
            # INVARIANT: no expression is left out silently. The variable was noted at its own place; if not, here.
            reader.note(node, path, f"the variable `{error.variable}` has no value", fix="correct it")
    return None


def _approval(node: Node, path: str, reader: Reader) -> Approval | None:
    members = reader.mapping(node, path, known=shape.APPROVAL.known)
    tree = _quorum(node, path, members, reader, depth=1)
    expires = _duration(members.get("expiresAfter"), f"{path}.expiresAfter", shape.EXPIRES_AFTER, reader)
    execute = _duration(members.get("executeWithin"), f"{path}.executeWithin", shape.EXECUTE_WITHIN, reader)
    if tree is None or expires is None or execute is None:
        return None
    return Approval(tree, expires, seconds(expires), execute, seconds(execute))


def _quorum(node: Node, path: str, members: dict[str, Node], reader: Reader, *, depth: int) -> dict[str, Any] | None:
    """Read `{anyOf: [...]}` or `{allOf: [...]}`, of groups with counts and of further such trees."""
    kinds = [kind for kind in ("anyOf", "allOf") if kind in members]
    if len(kinds) != 1:
        reader.note(node, path, "needs exactly one of `anyOf` and `allOf`", fix="nest one inside the other for both")
        return None
    if depth > _APPROVAL_DEPTH_MAX:
        reader.note(node, path, f"approvals are nested more than {_APPROVAL_DEPTH_MAX} deep", fix="make it simpler")
        return None
    branches: list[dict[str, Any]] = []
    for item, item_path in reader.items(members[kinds[0]], f"{path}.{kinds[0]}"):
        inner = reader.mapping(item, item_path, known=shape.BRANCH.known)
        if "group" in inner:
            if inner.keys() & {"anyOf", "allOf"}:
                reader.note(item, item_path, "is either a group or a tree, not both", fix="make two items of it")
            group = reader.text(inner["group"], f"{item_path}.group", max_chars=shape.GROUP_MAX_CHARS)
            count = 1
            if "count" in inner:
                count = reader.whole(inner["count"], f"{item_path}.count", minimum=1, maximum=shape.COUNT_MAX) or 1
            branches.append({"group": group, "count": count})
        elif inner.keys() & {"anyOf", "allOf"}:
            if "count" in inner:
                reader.note(inner["count"], f"{item_path}.count", "only a group has a count", fix="remove it")
            branches.append(_quorum(item, item_path, inner, reader, depth=depth + 1) or {})
        elif isinstance(item, Mapping):
            reader.note(item, item_path, "`group` is missing", fix="add `group`")
    return {kinds[0]: branches} if branches else None


def _duration(node: Node | None, path: str, default: str, reader: Reader) -> str | None:
    return default if node is None else reader.checked(node, path, check_duration, max_chars=shape.LABEL_MAX_CHARS)


def _check_name(text: str) -> None:
    if _NAME.match(text) is None:
        raise ValueError(
            f"`{text[:80]}` is not a name; use at most {shape.NAME_MAX_CHARS} lower case letters, digits and dashes"
        )


def _check_obligation_key(text: str) -> None:
    if _OBLIGATION_KEY.match(text) is None:
        raise ValueError(
            f"`{text[:80]}` is not the key of an obligation; use at most 128 letters, digits and `-`, `_`, `.`, `/`"
        )


def _check_policy_name(text: str) -> None:
    _check_name(text)
    if text == FIREWALL:
        raise ValueError(f"the name `{FIREWALL}` is the firewall's own in reasons; choose another")


def _check_variable_name(text: str) -> None:
    if VARIABLE_NAME.match(text) is None or text in RESERVED_WORDS:
        raise ValueError(
            f"`{text[:80]}` is not a variable name; use letters, digits and underscores, and no word of CEL"
        )
