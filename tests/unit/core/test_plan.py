"""Plans: real ones as the program wrote them, what of them leaves the machine, and what is no plan."""

import copy
import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core import strict_json
from app.core.normalise import normalise
from app.core.plan import PREFIX, SECRET_MIN_CHARS, SENSITIVE_KEY, UNKNOWN, Plan, read_plan
from app.core.types import Mutation
from app.errors import FirewallError, Kind

PLANS = Path(__file__).parents[2] / "vectors" / "plans"


def plan(name: str) -> dict[str, Any]:
    tree: dict[str, Any] = strict_json.parse((PLANS / f"{name}.json").read_bytes()).tree
    return tree


def minimal(change: dict[str, Any], **members: Any) -> dict[str, Any]:
    one = {"address": "x_y.z", "type": "x_y", "name": "z", "mode": "managed", "change": change, **members}
    return {"format_version": "1.2", "resource_changes": [one]}


def only(tree):
    (change,) = read_plan(tree).changes
    return change


REAL = {one.address: one for one in read_plan(plan("change")).changes}


def test_every_change_of_a_real_plan():
    assert {address: one.action for address, one in REAL.items()} == {
        "data.terraform_remote_state.other": "read",
        "terraform_data.credentials": "update",
        "terraform_data.dropped": "delete",
        'terraform_data.each["a/b"]': "update",
        'terraform_data.each["c~d"]': "update",
        'terraform_data.each["e\\"f"]': "update",
        "terraform_data.forgotten": "forget",
        "terraform_data.imported": "import",
        "terraform_data.late": "create",
        "terraform_data.new_name": "move",
        "terraform_data.replaced": "replace",
        "terraform_data.replaced_first": "replace",
        "terraform_data.scaled": "update",
        "terraform_data.whole": "update",
        "module.shop.terraform_data.hook[0]": "create",
        "module.shop.terraform_data.service": "update",
        "output.late": "create",
        "output.password": "update",
        "output.region": "update",
    }
    assert read_plan(plan("change")).unchanged == 1
    assert {one.action for one in read_plan(plan("first")).changes} == {"create"}
    assert {one.action for one in read_plan(plan("destroy")).changes} == {"delete"}


def test_no_secret_of_a_real_plan_leaves():
    tree = plan("change")
    assert "not-a-secret" in json.dumps(tree["resource_changes"])
    for name in ("first", "change", "destroy"):
        assert "not-a-secret" not in repr(read_plan(plan(name)))


def test_a_secret_that_differs_is_told_from_one_that_does_not():
    one = REAL["terraform_data.credentials"]
    assert one.change["before"]["input"]["password"] == {SENSITIVE_KEY: "before"}
    assert one.change["after"]["input"]["password"] == {SENSITIVE_KEY: "after"}
    assert one.change["after"]["input"]["port"] == {SENSITIVE_KEY: "unchanged"}
    assert one.context["sensitive_changed"] == ["/input/password", "/output"]
    paths = normalise(Mutation({}, {"name": "u"}, {}, one.change, {})).inputs["change"]["paths"]
    assert any(path.startswith("/input/password") for path in paths)
    assert not any(path.startswith("/input/port") for path in paths)


def test_what_is_not_known_is_marked_and_never_null():
    one = REAL["terraform_data.late"]
    assert one.change["after"]["input"] == {"known": "yes", "list": ["first", UNKNOWN], "id": UNKNOWN}
    assert one.context["unknown"] == ["/id", "/input/id", "/input/list/1", "/output"]
    assert REAL["output.late"].change == {"before": None, "after": UNKNOWN}


def test_what_is_told_about_a_change():
    replaced = REAL["terraform_data.replaced"]
    assert replaced.action_properties == {
        "actions": ["delete", "create"],
        "reason": "replace_because_cannot_update",
        "replace_paths": ["/triggers_replace"],
    }
    assert REAL["terraform_data.replaced_first"].action_properties["actions"] == ["create", "delete"]
    assert REAL["terraform_data.new_name"].action_properties["previous_address"] == "terraform_data.old_name"
    assert "importing" in REAL["terraform_data.imported"].action_properties
    hook = REAL["module.shop.terraform_data.hook[0]"]
    assert hook.context["provisioners"] == ["local-exec"]
    assert hook.properties["module_address"] == "module.shop"
    assert hook.properties["index"] == 0
    assert "provisioners" not in REAL["module.shop.terraform_data.service"].context
    assert hook.type == "terraform/terraform_data"


def test_a_whole_side_that_is_sensitive():
    one = only(minimal({"actions": ["update"], "before": {"a": 1}, "after": {"a": 2}, "after_sensitive": True}))
    assert one.change == {"before": {SENSITIVE_KEY: "before"}, "after": {SENSITIVE_KEY: "after"}}
    assert one.context["sensitive"] == [""]


def test_a_mark_on_one_side_hides_both():
    change = {"actions": ["update"], "before": {"a": "one"}, "after": {"a": "two"}, "before_sensitive": {"a": True}}
    assert only(minimal(change)).change["after"] == {"a": {SENSITIVE_KEY: "after"}}


def test_a_secret_that_appears_and_goes():
    change = {"actions": ["update"], "before": {"a": None}, "after": {"a": "x"}, "after_sensitive": {"a": True}}
    one = only(minimal(change))
    assert one.change == {"before": {"a": None}, "after": {"a": {SENSITIVE_KEY: "after"}}}
    assert one.context["sensitive_changed"] == ["/a"]
    change = {
        "actions": ["update"],
        "before": {"l": ["x", "y"]},
        "after": {"l": ["x"]},
        "before_sensitive": {"l": [False, True]},
    }
    assert only(minimal(change)).change == {"before": {"l": ["x", {SENSITIVE_KEY: "before"}]}, "after": {"l": ["x"]}}


def test_a_secret_that_is_not_known_yet():
    change = {
        "actions": ["update"],
        "before": {"a": "old"},
        "after": {},
        "after_unknown": {"a": True},
        "after_sensitive": {"a": True},
    }
    one = only(minimal(change))
    assert one.change == {"before": {"a": {SENSITIVE_KEY: "before"}}, "after": {"a": {SENSITIVE_KEY: "after"}}}
    assert one.context["unknown"] == one.context["sensitive"] == one.context["sensitive_changed"] == ["/a"]


@pytest.mark.parametrize(
    "marks",
    [
        {"before_sensitive": {"a": {"b": True}}},
        {"before_sensitive": {"a": [True]}, "after_sensitive": {"a": {"b": True}}},
        {"after_sensitive": {"a": "true"}},
        {"after_sensitive": [True]},
        {"after_sensitive": {"a": {"b": True}}, "after_unknown": {"a": [True]}},
    ],
)
def test_marks_of_another_shape_hide_everything(marks):
    change = {"actions": ["update"], "before": {"a": ["hidden"]}, "after": {"a": ["as well"]}, **marks}
    assert "hidden" not in repr(only(minimal(change)))
    assert "as well" not in repr(only(minimal(change)))


def test_unknown_of_another_shape_is_all_unknown():
    change = {"actions": ["update"], "before": {"a": 1}, "after": {"a": "x"}, "after_unknown": {"a": [True]}}
    assert only(minimal(change)).change == {"before": {"a": 1}, "after": {"a": UNKNOWN}}


def test_what_nothing_was_known_of_is_made_of_markers():
    change = {"actions": ["create"], "before": None, "after": None, "after_unknown": {"id": True, "l": [True, False]}}
    assert only(minimal(change)).change["after"] == {"id": UNKNOWN, "l": [UNKNOWN]}


def test_a_secret_is_found_where_it_is_not_marked():
    secret = "s" * SECRET_MIN_CHARS
    tree = minimal(
        {
            "actions": ["create"],
            "before": None,
            "after": {"password": secret, "dsn": [f"postgres://app:{secret}@db"], "user": "app", "port": 5432},
            "after_sensitive": {"password": True, "user": True, "port": True},
        }
    )
    tree["output_changes"] = {"dsn": {"actions": ["create"], "before": None, "after": {"url": f"x{secret}"}}}
    tree["output_changes"]["user"] = {"actions": ["create"], "before": None, "after": "app"}
    assert secret not in repr(read_plan(tree))
    # Too short to be looked for.
    assert read_plan(tree).changes[2].change["after"] == "app"


def test_a_secret_of_a_variable_is_found():
    tree = minimal({"actions": ["create"], "before": None, "after": {"a": ["x", "of-the-variable"], "b": 1}})
    tree["variables"] = {"v": {"value": "of-the-variable"}, "w": {"value": "x"}}
    tree["configuration"] = {
        "root_module": {"variables": {"v": {"sensitive": True}, "w": {}, "u": {"sensitive": True}}}
    }
    assert only(tree).change["after"] == {"a": ["x", {SENSITIVE_KEY: "after"}], "b": 1}


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text("ab", min_size=1, max_size=12), min_size=1, max_size=5), st.text("ab", max_size=30))
def test_whatever_the_secrets_the_search_finds_what_a_naive_one_does(secrets, text):
    change = {"actions": ["create"], "before": None, "after": {"s": secrets, "t": text}, "after_sensitive": {"s": True}}
    hidden = only(minimal(change)).change["after"]["t"] != text
    assert hidden is any(secret in text for secret in secrets if len(secret) >= SECRET_MIN_CHARS)


def test_thousands_of_secrets_are_looked_for_in_one_go():
    secrets = [f"secret-number-{number}" for number in range(5_000)]
    text = "secret-number-" * 20_000
    change = {"actions": ["create"], "before": None, "after": {"s": secrets, "t": text}, "after_sensitive": {"s": True}}
    begun = time.process_time()
    assert only(minimal(change)).change["after"]["t"] == text
    # One after the other it would take minutes.
    assert time.process_time() - begun < 20


def test_actions_beside_the_resources():
    tree = {
        "format_version": "1.2",
        "planned_values": {},
        "action_invocations": [
            {
                "address": "action.aws_lambda_invoke.warm",
                "type": "aws_lambda_invoke",
                "name": "warm",
                "config_values": {"function": "warm", "payload": "secret-payload"},
                "config_sensitive": {"payload": True},
                "config_unknown": {"qualifier": True},
                "lifecycle_action_trigger": {"action_trigger_event": "AfterCreate"},
            },
            {"address": "action.x_y.z", "type": "x_y"},
        ],
    }
    one, other = read_plan(tree).changes
    assert (one.action, one.type, one.properties["mode"]) == ("invoke", "terraform/aws_lambda_invoke", "action")
    assert one.change["after"] == {"function": "warm", "payload": {SENSITIVE_KEY: "after"}, "qualifier": UNKNOWN}
    assert one.action_properties == {"trigger": {"action_trigger_event": "AfterCreate"}}
    assert other.change == {"before": None, "after": {}}


def test_drift_is_told():
    tree = minimal({"actions": ["update"], "before": {"a": 1}, "after": {"a": 2}}, deposed="0a1b2c3d")
    tree["resource_drift"] = [{"address": "x_y.z"}]
    assert only(tree).context["drifted"] is True
    assert only(tree).properties["deposed"] == "0a1b2c3d"


def test_outputs_that_stay_are_left_out():
    tree = minimal({"actions": ["no-op"], "before": 1, "after": 1})
    tree["output_changes"] = {"a": {"actions": ["no-op"], "before": 1, "after": 1}}
    assert read_plan(tree) == Plan((), 1)


@pytest.mark.parametrize("version", ["2.0", "0.2", "1", "1.x", " 1.0", "1.0\n", 1, None, ""])
def test_another_format_is_refused(version):
    with pytest.raises(FirewallError) as refused:
        read_plan({**plan("first"), "format_version": version})
    assert refused.value.pointer == "/format_version"


@pytest.mark.parametrize(
    ("members", "pointer"),
    [
        ({"errored": True}, "/errored"),
        ({"errored": "no"}, "/errored"),
        ({"complete": False}, "/complete"),
        ({"deferred_changes": [{}]}, "/complete"),
        ({"deferred_action_invocations": [{}]}, "/complete"),
        ({"applyable": False}, "/applyable"),
        ({"resource_changes": {}}, "/resource_changes"),
        ({"resource_changes": [1]}, "/resource_changes/0"),
        ({"resource_changes": [{}]}, "/resource_changes/0/address"),
        ({"resource_changes": [{"address": "a"}]}, "/resource_changes/0/change"),
        ({"output_changes": []}, "/output_changes"),
        ({"output_changes": {"a/b": 1}}, "/output_changes/a~1b"),
        ({"action_invocations": [{"address": "a", "type": "../x"}]}, "/action_invocations/0/type"),
        ({"resource_drift": 1}, "/resource_drift"),
    ],
)
def test_what_is_no_whole_plan_is_refused(members, pointer):
    with pytest.raises(FirewallError) as refused:
        read_plan({**plan("first"), **members})
    assert refused.value.kind is Kind.MALFORMED
    assert refused.value.pointer == pointer


@pytest.mark.parametrize(
    ("member", "value", "pointer"),
    [
        ("actions", ["delete", "update"], "actions"),
        ("actions", [], "actions"),
        ("actions", "create", "actions"),
        ("actions", [1], "actions"),
        ("replace_paths", {}, "replace_paths"),
        ("replace_paths", ["a"], "replace_paths/0"),
        ("replace_paths", [[True]], "replace_paths/0"),
        ("after", None, ""),
    ],
)
def test_a_change_that_cannot_be_read_is_refused(member, value, pointer):
    change = {"actions": ["create"], "before": None, "after": {}, member: value}
    with pytest.raises(FirewallError) as refused:
        read_plan(minimal(change))
    assert refused.value.pointer == f"/resource_changes/0/change/{pointer}".rstrip("/")


@pytest.mark.parametrize("kind", ["Plan", "Output", "a/b", "x y", "", "é"])
def test_a_type_that_could_be_taken_for_another_is_refused(kind):
    with pytest.raises(FirewallError) as refused:
        read_plan(minimal({"actions": ["create"], "before": None, "after": {}}, type=kind))
    assert refused.value.pointer == "/resource_changes/0/type"


@pytest.mark.parametrize("tree", [[], None, 1, {}, {"format_version": "1.0", "values": {}}])
def test_what_is_no_plan_at_all(tree):
    with pytest.raises(FirewallError):
        read_plan(tree)


def test_states_and_errors_of_the_real_program():
    for name in ("state", "errored"):
        with pytest.raises(FirewallError):
            read_plan(plan(name))


def test_a_configuration_that_cannot_be_read_has_no_provisioners():
    nested: dict[str, Any] = {"resources": [1, {"provisioners": 1, "address": "a"}], "module_calls": {"m": 1, "n": {}}}
    deep: dict[str, Any] = {}
    for _ in range(100):
        deep = {"module_calls": {"m": {"module": deep}}}
    modules: list[Any] = [nested, deep, [], {"module_calls": []}]
    for module in modules:
        tree = minimal({"actions": ["create"], "before": None, "after": {}})
        tree["configuration"] = {"root_module": module}
        assert "provisioners" not in only(tree).context


def test_the_key_of_an_instance_is_no_part_of_its_configuration():
    tree = minimal(
        {"actions": ["create"], "before": None, "after": {}}, address='module.a["]"].module.b[3].x_y.z["k\\"]"]'
    )
    module = {"resources": [{"address": "x_y.z", "provisioners": [{"type": "remote-exec"}, {"type": "file"}, 1]}]}
    tree["configuration"] = {
        "root_module": {"module_calls": {"a": {"module": {"module_calls": {"b": {"module": module}}}}}}
    }
    assert only(tree).context["provisioners"] == ["file", "remote-exec"]


SECRET = "the-secret-of-this-plan"
scalars = st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["", "a", SECRET, f"x{SECRET}y"])
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab/~"), inner, max_size=3)
)
marks = st.recursive(
    st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab/~"), inner, max_size=3),
)


def _reached(value, mark):
    """What a naive reader of the marks would hide."""
    if mark is True:
        return [value]
    if isinstance(mark, dict) and isinstance(value, dict):
        return [one for key, inner in mark.items() if key in value for one in _reached(value[key], inner)]
    if isinstance(mark, list) and isinstance(value, list):
        return [one for item, inner in zip(value, mark, strict=False) for one in _reached(item, inner)]
    return []


@settings(max_examples=300, deadline=None)
@given(before=values, after=values, before_sensitive=marks, after_sensitive=marks, after_unknown=marks)
def test_whatever_the_marks_nothing_marked_leaves(before, after, before_sensitive, after_sensitive, after_unknown):
    change = {
        "actions": ["update"],
        "before": before,
        "after": after,
        "before_sensitive": before_sensitive,
        "after_sensitive": after_sensitive,
        "after_unknown": after_unknown,
    }
    sent = copy.deepcopy(change)
    try:
        made = only(minimal(change))
    except FirewallError:
        return
    assert change == sent
    hidden = [*_reached(before, before_sensitive), *_reached(after, after_sensitive)]
    if any(SECRET in json.dumps(one) for one in hidden):
        assert SECRET not in json.dumps(made.change)
    strict_json.parse(json.dumps(made.change).encode())


@st.composite
def _broken(draw):
    """A real plan with one value in it replaced or taken out."""
    tree = copy.deepcopy(plan(draw(st.sampled_from(["first", "change"]))))
    node: Any = tree
    key: Any = draw(st.sampled_from(sorted(tree)))
    for _ in range(draw(st.integers(0, 7))):
        below = node[key]
        if not below or not isinstance(below, dict | list):
            break
        node, key = below, draw(st.sampled_from(sorted(below) if isinstance(below, dict) else list(range(len(below)))))
    if draw(st.booleans()):
        del node[key]
    else:
        node[key] = draw(values)
    return tree


@settings(max_examples=300, deadline=None)
@given(_broken())
def test_a_broken_plan_is_read_or_refused(tree):
    try:
        made = read_plan(tree)
    except FirewallError:
        return
    for one in made.changes:
        assert one.type.startswith(PREFIX)
        strict_json.parse(json.dumps([one.change, one.context, one.properties, one.action_properties]).encode())
