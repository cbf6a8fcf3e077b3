"""Plans of Terraform and OpenTofu, as `terraform show -json` prints them: every change in one.

What a plan does not know yet, and what it calls sensitive, is replaced here, before anything leaves the machine. A
marker is an object, so that a policy that takes it for a text, a number or a flag fails, which denies; where markers
stand is told beside the change.

A plan gives secrets away: an attribute that is computed from a sensitive one is often not marked itself. So texts that
are sensitive anywhere in a plan are sensitive everywhere in it.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from app.core import members
from app.core.comparison import equal
from app.core.pointer import escape
from app.core.types import Json, JsonObject
from app.errors import FirewallError, Kind

UNKNOWN_KEY: Final = "mutationfirewall.io/unknown"
SENSITIVE_KEY: Final = "mutationfirewall.io/sensitive"

# A value that is known only after apply.
UNKNOWN: Final[Mapping[str, Json]] = {UNKNOWN_KEY: True}
# A sensitive value that is the same on both sides; of one that differs, each side has a word of its own.
UNCHANGED: Final = "unchanged"
BEFORE: Final = "before"
AFTER: Final = "after"

OUTPUT: Final = "terraform/Output"
PREFIX: Final = "terraform/"

# Every list that Terraform writes (`internal/command/jsonplan/plan.go`), and the action that policies read.
_ACTIONS: Final[Mapping[tuple[str, ...], str]] = {
    ("no-op",): "no-op",
    ("create",): "create",
    ("read",): "read",
    ("update",): "update",
    ("delete",): "delete",
    ("delete", "create"): "replace",
    ("create", "delete"): "replace",
    ("forget",): "forget",
    ("create", "forget"): "replace",
}
_NO_OP: Final = "no-op"
_FORMAT: Final = re.compile(r"1\.[0-9]{1,4}")
# The types of providers, which begin with the provider's name. `Plan` and `Output` are ours.
_TYPE: Final = re.compile(r"[a-z_][A-Za-z0-9_-]{0,199}")
# The key of an instance: a number, or a text as HCL writes it.
_INDEX: Final = re.compile(r'\[(?:[0-9]+|"(?:[^"\\]|\\.)*+")\]')
_MODULES_MAX_DEPTH: Final = 32
# Shorter texts are too common to be looked for elsewhere: `app`, `true`, a port.
SECRET_MIN_CHARS: Final = 8


@dataclass(frozen=True, slots=True)
class PlannedChange:
    """One change of a plan: which action, of which type and address, and what else policies read about it.

    `type` and `address` are those of the resource (`terraform/aws_s3_bucket`); `change` has `before` and `after`,
    masked; `context` says where the markers stand (`unknown`, `sensitive`, `sensitive_changed`, as JSON pointers below
    `before` or `after`), and what of the plan concerns it.
    """

    type: str
    address: str
    action: str
    action_properties: JsonObject
    properties: JsonObject
    change: JsonObject
    context: JsonObject


@dataclass(frozen=True, slots=True)
class Plan:
    """What a plan would do, in its order, and how many resources it leaves as they are."""

    changes: tuple[PlannedChange, ...]
    unchanged: int


def read_plan(tree: Json) -> Plan:
    """Read a plan that has passed `strict_json`.

    Resources with nothing to do are left out, unless they are imported (`import`) or get another address (`move`). Data
    sources that are read while the plan is applied are changes (`read`): some of them run programs.

    Raises: FirewallError(MALFORMED) for what is no plan of a known format, for a plan that is not whole (`errored`,
    `complete`, `deferred_changes`, `applyable`), and for an action that nobody knows.
    Does not check: that the plan is the one that will be applied.
    """
    if not isinstance(tree, dict):
        raise _refusal("a plan is an object", "")
    _check_whole(tree)
    drifted = {
        members.text(one, "address", pointer=f"/resource_drift/{position}")
        for position, one in enumerate(_objects(tree, "resource_drift", pointer=""))
    }
    runs = _provisioners(tree.get("configuration"))
    secrets = _secrets(tree)
    changes: list[PlannedChange] = []
    unchanged = 0
    for position, one in enumerate(_objects(tree, "resource_changes", pointer="")):
        made = _resource(one, pointer=f"/resource_changes/{position}", drifted=drifted, runs=runs, secrets=secrets)
        if made is None:
            unchanged += 1
        else:
            changes.append(made)
    for name, one in _object(tree, "output_changes", pointer="").items():
        output = _output(name, one, pointer=f"/output_changes/{escape(name)}", secrets=secrets)
        if output is not None:
            changes.append(output)
    for position, one in enumerate(_objects(tree, "action_invocations", pointer="")):
        changes.append(_invocation(one, pointer=f"/action_invocations/{position}", secrets=secrets))
    if tree.get("applyable") is False and changes:
        raise _refusal(
            "terraform says that this plan cannot be applied", "/applyable", fix="run `terraform plan` again"
        )
    return Plan(tuple(changes), unchanged)


def _check_whole(tree: JsonObject) -> None:
    form = tree.get("format_version")
    if not isinstance(form, str) or _FORMAT.fullmatch(form) is None:
        told = f"`{form[:20]}`" if isinstance(form, str) else "none"
        raise _refusal(
            f"the format of a plan is 1.x, and this says {told}",
            "/format_version",
            fix="send what `terraform show -json PLANFILE` of Terraform 1.x, or OpenTofu, prints",
        )
    if "planned_values" not in tree and "resource_changes" not in tree:
        raise _refusal(
            "this is no plan: a state, most likely", "", fix="run `terraform show -json PLANFILE` on a saved plan"
        )
    if tree.get("errored", False) is not False:
        raise _refusal(
            "the plan has errors, so it does not say all that would happen", "/errored", fix="mend the errors"
        )
    if (
        tree.get("complete", True) is not True
        or tree.get("deferred_changes")
        or tree.get("deferred_action_invocations")
    ):
        raise _refusal(
            "the plan puts off a part, so it does not say all that would happen",
            "/complete",
            fix="apply what can be planned in a plan of its own, without `-allow-deferral` or `-target`",
        )


def _resource(
    one: JsonObject,
    *,
    pointer: str,
    drifted: set[str],
    runs: Mapping[str, list[str]],
    secrets: "_Secrets | None",
) -> PlannedChange | None:
    address = members.text(one, "address", pointer=pointer)
    change = _required(one, "change", pointer=pointer)
    actions, action = _action(change, pointer=f"{pointer}/change")
    importing = change.get("importing")
    previous = one.get("previous_address")
    if action == _NO_OP:
        if importing is None and previous is None:
            return None
        action = "move" if importing is None else "import"
    kind = members.text(one, "type", pointer=pointer)
    if _TYPE.fullmatch(kind) is None:
        raise _refusal(f"`{kind[:80]}` is no type of a provider", f"{pointer}/type")
    masked, marks = _masked(change, pointer=f"{pointer}/change", secrets=secrets)
    about = {
        "actions": actions,
        "reason": one.get("action_reason"),
        "importing": importing,
        "previous_address": previous,
        "replace_paths": _pointers(change.get("replace_paths"), pointer=f"{pointer}/change/replace_paths") or None,
    }
    told = ("mode", "name", "module_address", "provider_name", "index", "deposed")
    programs = runs.get(_INDEX.sub("", address))
    return PlannedChange(
        type=PREFIX + kind,
        address=address,
        action=action,
        action_properties=_said(about),
        properties={"type": kind, **_said({name: one.get(name) for name in told})},
        change=masked,
        context={
            **marks,
            "drifted": address in drifted,
            **({"provisioners": programs} if programs else {}),
        },
    )


def _output(name: str, change: Any, *, pointer: str, secrets: "_Secrets | None") -> PlannedChange | None:
    if not isinstance(change, dict):
        raise members.refuse_type(change, expected="an object", pointer=pointer)
    actions, action = _action(change, pointer=pointer)
    if action == _NO_OP:
        return None
    masked, marks = _masked(change, pointer=pointer, secrets=secrets)
    return PlannedChange(
        type=OUTPUT,
        address=f"output.{name}",
        action=action,
        action_properties={"actions": actions},
        properties={"name": name},
        change=masked,
        context=marks,
    )


def _invocation(one: JsonObject, *, pointer: str, secrets: "_Secrets | None") -> PlannedChange:
    """What a provider does beside its resources (`action` blocks, since Terraform 1.14)."""
    kind = members.text(one, "type", pointer=pointer)
    if _TYPE.fullmatch(kind) is None:
        raise _refusal(f"`{kind[:80]}` is no type of a provider", f"{pointer}/type")
    values = one.get("config_values")
    change = {
        "before": None,
        "after": {} if values is None else values,
        "after_unknown": one.get("config_unknown", False),
        "after_sensitive": one.get("config_sensitive", False),
    }
    masked, marks = _masked(change, pointer=pointer, secrets=secrets)
    told = ("name", "provider_name")
    return PlannedChange(
        type=PREFIX + kind,
        address=members.text(one, "address", pointer=pointer),
        action="invoke",
        action_properties=_said({"trigger": one.get("lifecycle_action_trigger")}),
        properties={"type": kind, "mode": "action", **_said({name: one.get(name) for name in told})},
        change=masked,
        context=marks,
    )


def _action(change: JsonObject, *, pointer: str) -> tuple[list[str], str]:
    actions = change.get("actions")
    if not isinstance(actions, list) or not all(isinstance(one, str) for one in actions):
        raise members.refuse_type(actions, expected="an array of strings", pointer=f"{pointer}/actions")
    action = _ACTIONS.get(tuple(actions))
    if action is None:
        raise _refusal(
            f"no such actions are known: `{', '.join(actions)[:80]}`",
            f"{pointer}/actions",
            fix="a later release of mfw may know them",
        )
    return actions, action


def _masked(change: JsonObject, *, pointer: str, secrets: "_Secrets | None") -> tuple[JsonObject, JsonObject]:
    """`before` and `after` with what is not to be seen replaced, and the places where that was done."""
    masker = _Masker()
    before, after = change.get("before"), change.get("after")
    secret = _marked(change)
    if secrets is not None:
        secret = _union(secret, _union(_holding(before, secrets), _holding(after, secrets)))
    before, after = masker.pair(before, after, secret, change.get("after_unknown", False), "")
    if before is None and after is None:
        raise _refusal("nothing is there before and after", pointer)
    return {"before": before, "after": after}, {
        "unknown": sorted(masker.unknown),
        "sensitive": sorted(masker.sensitive),
        "sensitive_changed": sorted(masker.changed),
    }


def _marked(change: JsonObject) -> Any:
    """Where a change is sensitive. Marked on one side is marked on both: a secret that loses its mark is still one."""
    return _union(change.get("before_sensitive", False), change.get("after_sensitive", False))


def _secrets(tree: JsonObject) -> "_Secrets | None":
    """What finds the texts that are sensitive anywhere in a plan, None where there is none."""
    found: set[str] = set()
    changes = [one.get("change") for one in _objects(tree, "resource_changes", pointer="")]
    for change in (*changes, *_object(tree, "output_changes", pointer="").values()):
        if isinstance(change, dict):
            marks = _marked(change)
            for side in ("before", "after"):
                found.update(_texts(change.get(side), marks))
    for one in _objects(tree, "action_invocations", pointer=""):
        found.update(_texts(one.get("config_values"), one.get("config_sensitive", False)))
    values = tree.get("variables")
    for name, variable in _root_variables(tree).items():
        if isinstance(variable, dict) and variable.get("sensitive") is True and isinstance(values, dict):
            found.update(_texts(values.get(name), True))
    long = [text for text in found if len(text) >= SECRET_MIN_CHARS]
    return _Secrets(long) if long else None


class _Secrets:
    """Texts that are looked for in others, however many there are: in time that follows the text that is searched."""

    __slots__ = ("_by_start",)

    def __init__(self, texts: list[str]) -> None:
        # By how they begin, and then by length: a regular expression would try one after the other at each place.
        self._by_start: dict[str, dict[int, set[str]]] = {}
        for text in texts:
            lengths = self._by_start.setdefault(text[:SECRET_MIN_CHARS], {})
            lengths.setdefault(len(text), set()).add(text)

    def are_in(self, text: str) -> bool:
        """Whether any of them is a part of a text."""
        starts = self._by_start
        for at in range(len(text) - SECRET_MIN_CHARS + 1):
            lengths = starts.get(text[at : at + SECRET_MIN_CHARS])
            if lengths is not None and any(text[at : at + length] in same for length, same in lengths.items()):
                return True
        return False


def _root_variables(tree: JsonObject) -> JsonObject:
    value: Any = tree
    for name in ("configuration", "root_module", "variables"):
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def _texts(value: Any, marks: Any) -> Iterator[str]:
    """The texts that marks lead to; where a mark has no value of its shape, those of the whole value."""
    stack = [(value, marks)]
    while stack:
        one, mark = stack.pop()
        if not _any_true(mark):
            continue
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict):
            stack.extend((item, mark.get(key, False) if isinstance(mark, dict) else True) for key, item in one.items())
        elif isinstance(one, list):
            same = isinstance(mark, list)
            stack.extend((item, _at(mark, index, False) if same else True) for index, item in enumerate(one))


def _holding(value: Any, secrets: "_Secrets") -> Any:
    """Marks, in the shape of a value, for the texts in it that hold a secret."""
    if isinstance(value, str):
        return secrets.are_in(value)
    if isinstance(value, dict):
        marks = {key: _holding(item, secrets) for key, item in value.items()}
        return marks if any(marks.values()) else False
    if isinstance(value, list):
        items = [_holding(item, secrets) for item in value]
        return items if any(items) else False
    return False


_NOTHING: Final = object()


class _Masker:
    """Walks both sides at once; pointers of markers are collected on the way."""

    __slots__ = ("changed", "sensitive", "unknown")

    def __init__(self) -> None:
        self.unknown: list[str] = []
        self.sensitive: list[str] = []
        self.changed: list[str] = []

    def pair(self, before: Any, after: Any, secret: Any, unknown: Any, place: str) -> tuple[Any, Any]:
        """Both sides at one place; a side that has nothing there is `_NOTHING`."""
        is_secret, is_unknown = _any_true(secret), _any_true(unknown)
        if not is_secret and not is_unknown:
            return before, after
        marks = [one for one, counts in ((secret, is_secret), (unknown, is_unknown)) if counts]
        sides = [one for one in (before, after) if one is not None and one is not _NOTHING]
        shapes = {type(one) for one in (*marks, *sides)}
        # INVARIANT: below here every mark leads to a value of its own shape; a mark that does not is of all of it.
        if shapes == {dict}:
            keys = dict.fromkeys(key for one in (*sides, *marks) for key in one)
            below = {key: self._below(before, after, secret, unknown, key, f"{place}/{escape(key)}") for key in keys}
            return tuple(  # type: ignore[return-value]  # two sides, two results
                {key: pair[side] for key, pair in below.items() if pair[side] is not _NOTHING} or original
                for side, original in enumerate((before, after))
            )
        if shapes == {list}:
            length = max(len(one) for one in (*sides, *marks))
            items = [self._below(before, after, secret, unknown, at, f"{place}/{at}") for at in range(length)]
            return tuple(  # type: ignore[return-value]  # two sides, two results
                [pair[side] for pair in items if pair[side] is not _NOTHING] or original
                for side, original in enumerate((before, after))
            )
        if is_secret:
            return self._hidden(before, after, place, doubt=is_unknown)
        self.unknown.append(place)
        return before, dict(UNKNOWN)

    def _below(self, before: Any, after: Any, secret: Any, unknown: Any, key: str | int, place: str) -> tuple[Any, Any]:
        """Both sides of one member or item."""
        sides = _at(before, key, _NOTHING), _at(after, key, _NOTHING)
        return self.pair(*sides, _at(secret, key, False), _at(unknown, key, False), place)

    def _hidden(self, before: Any, after: Any, place: str, *, doubt: bool) -> tuple[Any, Any]:
        """Markers in place of a value: whether it differs is all that they say; in `doubt` it does."""
        self.sensitive.append(place)
        if doubt:
            self.unknown.append(place)
        same = not doubt and before is not _NOTHING and after is not _NOTHING and equal(before, after)
        if not same:
            self.changed.append(place)
        hidden = _shown(before, UNCHANGED if same else BEFORE)
        return hidden, {SENSITIVE_KEY: AFTER} if doubt else _shown(after, UNCHANGED if same else AFTER)


def _shown(value: Any, word: str) -> Any:
    # No value at all is no secret, and without it a creation could not be told from an update.
    return value if value is None or value is _NOTHING else {SENSITIVE_KEY: word}


def _any_true(marks: Any) -> bool:
    stack = [marks]
    while stack:
        one = stack.pop()
        if isinstance(one, dict):
            stack.extend(one.values())
        elif isinstance(one, list):
            stack.extend(one)
        elif one not in {False, None}:
            return True
    return False


def _union(one: Any, other: Any) -> Any:
    """Marks of both; where their shapes differ, of everything."""
    if not _any_true(other):
        return one if _any_true(one) else False
    if not _any_true(one):
        return other
    if isinstance(one, dict) and isinstance(other, dict):
        return {key: _union(one.get(key, False), other.get(key, False)) for key in {**one, **other}}
    if isinstance(one, list) and isinstance(other, list):
        return [_union(_at(one, index, False), _at(other, index, False)) for index in range(max(len(one), len(other)))]
    return True


def _at(value: Any, key: str | int, default: Any) -> Any:
    """A member or an item, or the default where there is no such thing."""
    if isinstance(value, dict):
        return value.get(key, default)
    return value[key] if isinstance(value, list) and isinstance(key, int) and key < len(value) else default


def _provisioners(configuration: Any) -> dict[str, list[str]]:
    """The kinds of provisioners by the address of a resource without its keys: what a plan runs beside its changes.

    Does not check: the shape of the configuration; what is not understood there has no provisioner.
    """
    found: dict[str, list[str]] = {}
    root = configuration.get("root_module") if isinstance(configuration, dict) else None
    stack: list[tuple[Any, str, int]] = [(root, "", 0)]
    while stack:
        module, prefix, depth = stack.pop()
        if not isinstance(module, dict):
            continue
        for resource in _list(module.get("resources")):
            if isinstance(resource, dict):
                kinds = {str(one.get("type")) for one in _list(resource.get("provisioners")) if isinstance(one, dict)}
                if kinds:
                    found[f"{prefix}{resource.get('address')}"] = sorted(kinds)
        calls = module.get("module_calls")
        if depth < _MODULES_MAX_DEPTH and isinstance(calls, dict):
            for name, call in calls.items():
                if isinstance(call, dict):
                    stack.append((call.get("module"), f"{prefix}module.{name}.", depth + 1))
    return found


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _pointers(paths: Any, *, pointer: str) -> list[str]:
    """Paths, each a list of names and positions, as JSON pointers."""
    if paths is None:
        return []
    if not isinstance(paths, list):
        raise members.refuse_type(paths, expected="an array", pointer=pointer)
    return ["".join(_steps(path, pointer=f"{pointer}/{position}")) for position, path in enumerate(paths)]


def _steps(path: Any, *, pointer: str) -> Iterator[str]:
    if not isinstance(path, list):
        raise members.refuse_type(path, expected="an array", pointer=pointer)
    for step in path:
        if isinstance(step, bool) or not isinstance(step, str | int):
            raise members.refuse_type(step, expected="a name or a position", pointer=pointer)
        yield f"/{escape(str(step))}"


def _said(about: JsonObject) -> JsonObject:
    return {name: value for name, value in about.items() if value is not None}


def _objects(holder: JsonObject, name: str, *, pointer: str) -> list[JsonObject]:
    """A member that may be missing and is a list of objects."""
    value = holder.get(name)
    where = f"{pointer}/{name}"
    if value is None:
        return []
    if not isinstance(value, list):
        raise members.refuse_type(value, expected="an array of objects", pointer=where)
    for position, one in enumerate(value):
        if not isinstance(one, dict):
            raise members.refuse_type(one, expected="an object", pointer=f"{where}/{position}")
    return value


def _object(holder: JsonObject, name: str, *, pointer: str) -> JsonObject:
    value = holder.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise members.refuse_type(value, expected="an object", pointer=f"{pointer}/{name}")
    return value


def _required(holder: JsonObject, name: str, *, pointer: str) -> JsonObject:
    value = holder.get(name)
    if not isinstance(value, dict):
        raise members.refuse_type(value, expected="an object", pointer=f"{pointer}/{name}")
    return value


def _refusal(detail: str, pointer: str, *, fix: str | None = None) -> FirewallError:
    return FirewallError(Kind.MALFORMED, detail, pointer=pointer, fix=fix)
