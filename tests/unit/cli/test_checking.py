"""`mfw check ...` at the terminal, deciding in this process: what is asked, how it is answered, and the exit code."""

import json
from pathlib import Path

import jsonschema
import pytest
from typer.testing import CliRunner

from app.cli import app
from app.cli.checking.asking import BATCH_BYTES_MAX, BATCH_MAX, BATCH_VALUES_MAX, Answered, Asked, batches
from app.cli.checking.results import MARKDOWN_ROWS_MAX, Report, escaped, to_json, to_markdown, to_sarif, word_of
from app.cli.output import Refused
from app.core.types import Effect
from tests.corpus.cases import STARTER

VECTORS = Path(__file__).parents[2] / "vectors"
PLANS = VECTORS / "plans"
SARIF = json.loads((VECTORS / "sarif-schema-2.1.0.json").read_text())
LOCAL = ["--subject", "agent:infra-agent", "--local", "--policies", str(STARTER)]
ALLOWING = """\
apiVersion: mutationfirewall.io/v1
kind: MutationPolicy
metadata: {name: everything}
spec: {rules: [{name: allowed, effect: allow, when: "action.name != 'update' || !('/input/password' in context.?terraform.?sensitive_changed.orValue([]))"}]}
"""


def run(*arguments, stdin=None):
    return CliRunner().invoke(app, ["check", *map(str, arguments)], input=stdin)


def check_plan(name, *arguments, stdin=None):
    return run("terraform", PLANS / f"{name}.json" if name != "-" else "-", *LOCAL, *arguments, stdin=stdin)


@pytest.fixture
def allowing(tmp_path):
    directory = tmp_path / "policies"
    directory.mkdir()
    (directory / "policy.yaml").write_text(ALLOWING)
    return ["--subject", "agent:a", "--local", "--policies", str(directory)]


def test_a_plan_by_the_starter_policies():
    result = check_plan("change", "--format", "json", "--stack", "shop", "--property", "environment=production")
    assert result.exit_code == 11, result.output
    report = json.loads(result.stdout)
    assert report["verdict"] == "hold"
    assert report["summary"] == {"allow": 0, "hold": 18, "deny": 0, "refused": 0, "waits": 1}
    by_name = {one["name"]: one for one in report["results"]}
    read = by_name["data.terraform_remote_state.other"]
    assert (read["outcome"], read["decision"], read["recorded"]) == ("waits", "deny", False)
    assert read["resource"] == {
        "type": "terraform/terraform_remote_state",
        "id": "shop/data.terraform_remote_state.other",
    }
    assert by_name["module.shop.terraform_data.hook[0]"]["reasons"][1]["rule"] == "runs-a-program"
    assert report["notes"] == ["resources that stay as they are: 1"]


def test_a_plan_that_is_allowed(allowing):
    result = run("terraform", PLANS / "first.json", *allowing)
    assert result.exit_code == 0, result.output
    assert "ALLOW" in result.stdout
    assert "not recorded" in result.stdout


def test_one_change_that_is_denied_stops_all(allowing):
    result = run("terraform", PLANS / "change.json", *allowing)
    assert result.exit_code == 10
    assert "DENY  plan: 1 deny, 18 waits" in result.stdout


def test_a_plan_that_changes_nothing(allowing):
    tree = {"format_version": "1.2", "planned_values": {}}
    result = run("terraform", "-", *allowing, stdin=json.dumps(tree))
    assert result.exit_code == 0
    assert "ALLOW  plan: nothing to ask about" in result.stdout


def test_the_table_shows_every_change_and_why():
    result = check_plan("change")
    assert result.exit_code == 11
    assert "HOLD" in result.stdout
    assert "terraform-change/destroys: delete of terraform_data.dropped" in result.stdout
    assert "not-a-secret" not in result.stdout


def test_the_same_from_standard_input():
    text = (PLANS / "change.json").read_text()
    assert check_plan("-", "--format", "json", stdin=text).stdout == check_plan("change", "--format", "json").stdout


def test_sarif_is_what_its_schema_says():
    result = check_plan("change", "--format", "sarif")
    assert result.exit_code == 11
    log = json.loads(result.stdout)
    jsonschema.Draft4Validator(SARIF).validate(log)
    (made,) = log["runs"]
    assert {one["ruleId"] for one in made["results"]} == {
        "terraform-change/destroys",
        "terraform-change/runs-a-program",
        "terraform-change/anything-else",
    }
    for one in made["results"]:
        assert made["tool"]["driver"]["rules"][one["ruleIndex"]]["id"] == one["ruleId"]
        assert one["level"] == "warning"
    dropped = next(one for one in made["results"] if "dropped" in one["message"]["text"])
    assert dropped["locations"][0]["logicalLocations"][0]["fullyQualifiedName"] == "terraform_data.dropped"
    assert dropped["locations"][0]["physicalLocation"]["artifactLocation"]["uri"].endswith("plans/change.json")


def test_markdown_for_a_pull_request():
    result = check_plan("change", "--format", "markdown")
    assert result.exit_code == 11
    assert result.stdout.startswith("### Mutation Firewall: hold\n")
    assert "| **hold** | delete | terraform&#95;data.dropped |" in result.stdout


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("", 65, "the body is empty"),
        ("{", 65, "json"),
        ('{"format_version": "1.0", "format_version": "1.0"}', 65, "format_version"),
        ('{"format_version": "2.0"}', 65, "1.x"),
        ("[" * 100 + "]" * 100, 65, "nested"),
    ],
)
def test_what_is_no_plan(text, code, says):
    result = check_plan("-", "--format", "json", stdin=text)
    assert result.exit_code == code
    assert says in json.loads(result.stdout)["error"]["detail"]


def test_a_plan_with_errors_or_of_a_state():
    assert check_plan("errored").exit_code == 65
    assert check_plan("state").exit_code == 65


def test_a_file_that_is_not_there():
    assert run("terraform", "/nonexistent", *LOCAL).exit_code == 66
    assert run("terraform", "a\0b", *LOCAL).exit_code == 66


def test_a_plan_that_is_too_long(monkeypatch):
    monkeypatch.setattr("app.cli.checking.terraform.PLAN_BYTES_MAX", 10)
    result = check_plan("change")
    assert result.exit_code == 65
    assert "longer than 10 bytes" in result.stderr


def test_an_id_that_no_service_takes_is_refused_and_stops_all(allowing):
    tree = json.loads((PLANS / "first.json").read_text())
    tree["resource_changes"][0]["address"] = "a" * 600
    result = run("terraform", "-", *allowing, "--format", "json", stdin=json.dumps(tree))
    assert result.exit_code == 65
    report = json.loads(result.stdout)
    assert report["summary"]["refused"] == 1
    assert report["summary"]["allow"] == 0
    assert "longer than 512" in report["results"][0]["detail"]
    for form in ("table", "markdown", "sarif"):
        result = run("terraform", "-", *allowing, "--format", form, stdin=json.dumps(tree))
        assert result.exit_code == 65
        assert "512" in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["--subject", "agent"],
        ["--subject", ":a"],
        ["--subject", "agent:"],
        ["--property", "x"],
        ["--property", "=x"],
        ["--context", "a=1", "--context", "a=2"],
    ],
)
def test_a_command_line_that_says_nothing(arguments):
    assert run("terraform", PLANS / "change.json", *LOCAL, *arguments).exit_code == 2


def test_policies_go_with_local():
    subject = ["--subject", "agent:a"]
    assert run("terraform", PLANS / "change.json", *subject, "--local").exit_code == 2
    assert run("terraform", PLANS / "change.json", *subject, "--policies", STARTER).exit_code == 2
    assert run("terraform", PLANS / "change.json", *subject, "--budget", "a/b=1").exit_code == 2


def asked(name="a", **mutation) -> Asked:
    return Asked(name, "update", {"resource": {"type": "t", "id": name}, **mutation})


def test_batches_are_as_large_as_a_service_takes():
    assert [len(batch) for batch in batches([asked()] * (BATCH_MAX + 1))] == [BATCH_MAX, 1]
    large = asked(change="x" * (BATCH_BYTES_MAX // 2))
    assert [len(batch) for batch in batches([large] * 3)] == [1, 1, 1]
    many = asked(change=list(range(BATCH_VALUES_MAX // 2)))
    assert [len(batch) for batch in batches([many] * 3)] == [1, 1, 1]
    assert list(batches([])) == []
    with pytest.raises(Refused):
        list(batches([asked(change="x" * BATCH_BYTES_MAX)]))


def answered(word: str, *, name="a", message="why") -> Answered:
    if word == "refused":
        return Answered(asked(name), None, {"title": "malformed", "detail": message})
    rule = {"policy": "p", "rule": "r", "effect": word, "message": message}
    if word == "waits":
        rule = {"policy": "mutation-firewall", "rule": "batch-not-allowed", "effect": "deny", "message": message}
    return Answered(asked(name), Effect("deny" if word == "waits" else word), {"reasons": [rule], "ledger_index": 7})


@pytest.mark.parametrize(
    ("words", "verdict", "code"),
    [
        ([], "allow", 0),
        (["allow"], "allow", 0),
        (["allow", "hold"], "hold", 11),
        (["waits", "hold"], "hold", 11),
        (["hold", "refused", "waits"], "refused", 65),
        (["refused", "deny", "hold"], "deny", 10),
        (["waits"], "deny", 10),
    ],
)
def test_the_verdict_over_all(words, verdict, code):
    report = Report("x", [answered(word) for word in words])
    assert [word_of(one) for one in report.answers] == words
    assert (report.verdict, report.exit_code) == (verdict, code)
    jsonschema.Draft4Validator(SARIF).validate(to_sarif(report))


def test_texts_of_others_are_no_markup():
    hostile = "|<img src=x> [a](https://evil) @team #1 `x` \x1b[31m \u202e www.evil.com *b* _c_ \n next"
    shown = escaped(hostile)
    for mark in ("|", "<", "[", "]", "@", "`", "\x1b", "\u202e", "*", "_", "\n", "://", "www."):
        assert mark not in shown
    report = Report("x", [answered("deny", name=hostile, message=hostile)], [hostile])
    rows = [line for line in to_markdown(report).splitlines() if line.startswith("| **")]
    assert [line.count("|") for line in rows] == [6]
    (result,) = to_sarif(report)["runs"][0]["results"]
    assert "\x1b" not in result["message"]["text"]
    assert "\u202e" not in result["message"]["text"]


def test_a_long_table_is_cut_and_says_so():
    report = Report("x", [answered("allow")] * MARKDOWN_ROWS_MAX + [answered("deny", message="x" * 1000)])
    text = to_markdown(report)
    assert text.count("\n| **") == MARKDOWN_ROWS_MAX
    assert "1 more are not shown" in text
    assert "| **deny** |" in text
    assert "x" * 501 not in text


def test_shadows_and_lifted_rules_stand_in_no_row():
    reasons = [
        {"policy": "p", "rule": "r", "effect": "allow", "message": "m"},
        {"policy": "p", "rule": "s", "effect": "deny", "message": "m", "mode": "shadow"},
        {"policy": "p", "rule": "t", "effect": "deny", "message": "m", "exception": "e"},
        {"policy": "p", "rule": "u", "effect": "hold", "message": "m"},
    ]
    report = Report("x", [Answered(asked(), Effect.ALLOW, {"reasons": reasons})])
    assert "p/r" in to_markdown(report)
    assert not any(rule in to_markdown(report) for rule in ("p/s", "p/t", "p/u"))
    assert to_json(report)["results"][0]["reasons"] == reasons
