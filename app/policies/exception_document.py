"""A document of kind PolicyException: from its tree to an exception of the core (docs/policies.md)."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from app.core.index import Match, Policy, PolicyException
from app.core.types import Effect
from app.policies import shape
from app.policies.document import read_conditions, read_match, read_metadata, read_validity
from app.policies.reader import Reader
from app.policies.tree import Mapping as Object
from app.policies.tree import Node, Scalar, Sequence


def read_exception(root: Node, reader: Reader) -> PolicyException | None:
    """Read and compile one document; None if anything is wrong, which `reader` has then noted.

    Does not check that the name is unique in the set, and that there are such policies; `check_excepted` does.
    """
    before = len(reader.diagnostics)
    members = reader.mapping(root, "", known=shape.EXCEPTION.known, required=shape.EXCEPTION.required)
    reader.choice(members.get("apiVersion"), "apiVersion", (shape.API_VERSION,))
    name, labels = read_metadata(members.get("metadata"), reader)
    if "spec" not in members:
        return None
    of = shape.EXCEPTION_SPEC
    spec = reader.mapping(members["spec"], "spec", known=of.known, required=of.required)
    owner = reader.text(spec.get("owner"), "spec.owner", max_chars=shape.LABEL_MAX_CHARS)
    reason = reader.text(spec.get("reason"), "spec.reason", max_chars=shape.EXCEPTION_REASON_MAX_CHARS)
    validity = read_validity(spec, "spec", reader)
    policies = _policies(spec.get("policies"), reader)
    match = read_match(spec["match"], reader) if "match" in spec else Match()
    conditions = read_conditions(spec.get("matchConditions"), {}, set(), reader)
    if len(reader.diagnostics) > before or name is None or owner is None or reason is None:
        return None
    return PolicyException(name, owner, reason, validity, policies, match, conditions, labels)


def _policies(node: Node | None, reader: Reader) -> dict[str, frozenset[str] | None]:
    found: dict[str, frozenset[str] | None] = {}
    for item, path in reader.items(node, "spec.policies"):
        members = reader.mapping(item, path, known=shape.EXCEPTED.known, required=shape.EXCEPTED.required)
        name = reader.text(members.get("name"), f"{path}.name", max_chars=shape.LABEL_MAX_CHARS)
        rules = None
        if "rules" in members:
            texts = [
                reader.text(rule, rule_path, max_chars=shape.LABEL_MAX_CHARS)
                for rule, rule_path in reader.items(members["rules"], f"{path}.rules")
            ]
            rules = frozenset(text for text in texts if text is not None)
        if name is not None and name in found:
            reader.note(members["name"], f"{path}.name", f"the policy `{name}` is named twice", fix="make one of them")
        found[name or ""] = rules
    return found


def effects(policy: Policy) -> dict[str, Effect]:
    """Give what a policy has that can speak, by name."""
    rules = {rule.name: rule.effect for rule in policy.rules}
    return rules | {budget.name: budget.effect for budget in policy.budgets}


def check_excepted(root: Node, policies: Mapping[str, Mapping[str, Effect] | None], reader: Reader) -> None:
    """Note every policy and every rule that an exception names and that there is not, or that denies and holds nothing.

    `policies` has every name in the set with what it has that can speak; a policy that has errors of its own has None,
    and its rules are not looked at.
    """
    for item, path in _items(root, "policies"):
        name = _scalar(item, "name")
        if name is None:
            continue
        text = str(name.value)
        if text not in policies:
            fix = _near(text, policies, "a decision that no policy made cannot be lifted: write a rule that allows")
            reader.note(name, f"{path}.name", f"there is no policy `{text[:80]}` in the set", fix=fix)
        elif (known := policies[text]) is not None:
            _check_rules(item, path, text, known, reader)


def _check_rules(item: Node, path: str, policy: str, known: Mapping[str, Effect], reader: Reader) -> None:
    liftable = [name for name, effect in known.items() if effect is not Effect.ALLOW]
    listed = item.items.get("rules") if isinstance(item, Object) else None
    for position, rule in enumerate(listed.items if isinstance(listed, Sequence) else ()):
        text = str(rule.value) if isinstance(rule, Scalar) else ""
        place = f"{path}.rules[{position}]"
        if text not in known:
            fix = _near(text, liftable, f"it has {', '.join(f'`{name}`' for name in liftable) or 'none'} to lift")
            reader.note(rule, place, f"the policy `{policy}` has no rule `{text[:80]}`", fix=fix)
        elif known[text] is Effect.ALLOW:
            message = f"the rule `{text}` allows, and an exception lifts what denies or holds"
            reader.note(rule, place, message, fix="remove it")


def _near(text: str, names: Iterable[str], otherwise: str) -> str:
    near = get_close_matches(text, list(names), n=1)
    return f"did you mean `{near[0]}`?" if near else otherwise


def _items(root: Node, name: str) -> list[tuple[Node, str]]:
    spec = root.items.get("spec") if isinstance(root, Object) else None
    listed = spec.items.get(name) if isinstance(spec, Object) else None
    items = listed.items if isinstance(listed, Sequence) else ()
    return [(item, f"spec.{name}[{position}]") for position, item in enumerate(items)]


def _scalar(node: Node, name: str) -> Scalar | None:
    found = node.items.get(name) if isinstance(node, Object) else None
    return found if isinstance(found, Scalar) else None
