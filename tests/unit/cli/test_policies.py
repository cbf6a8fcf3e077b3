"""`mfw policies ...` for authors: what is written where, and with which exit code."""

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli import app
from app.cli.exits import ExitCode
from app.policies.kinds import KINDS

ROOT = Path(__file__).resolve().parents[3]
STARTER = ROOT / "policies" / "starter"
EXAMPLE = ROOT / "examples" / "hold-k8s-deployment-scaled-far.json"
POLICY = """\
apiVersion: mutationfirewall.io/v1
kind: MutationPolicy
metadata: {name: sizes}
spec:
  match: {resources: [{type: box}]}
  rules:
    - {name: small, effect: allow, when: "change.after.size <= 2"}
    - {name: huge, effect: deny, when: "change.after.size > 2", message: "no such [bold]box[/bold]"}
"""
TEST = """\
apiVersion: mutationfirewall.io/v1
kind: PolicyTest
metadata: {name: t}
spec:
  policies: policies
  cases:
    - name: small
      file: m.json
      expect: {decision: allow}
"""
MUTATION = {
    "subject": {"type": "agent", "id": "a"},
    "action": {"name": "update"},
    "resource": {"type": "box", "id": "b"},
    "change": {"after": {"size": 1, "token": "t0ps3cret"}},
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("MFW_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "sizes.yaml").write_text(POLICY)
    (tmp_path / "t.yaml").write_text(TEST)
    (tmp_path / "m.json").write_text(json.dumps(MUTATION))
    return tmp_path


def run(*arguments, stdin=None):
    return CliRunner().invoke(app, ["policies", *[str(argument) for argument in arguments]], input=stdin)


@pytest.mark.parametrize("command", ["check", "fmt", "test", "explain", "bench", "diff", "schema"])
def test_help_teaches(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "Example" in result.output


class TestCheck:
    def test_an_error_has_a_caret(self, here):
        (here / "policies" / "sizes.yaml").write_text(POLICY.replace("rules:", "ruels:"))
        result = run("check", "policies")
        assert result.exit_code == ExitCode.BAD_DATA
        assert "policies/sizes.yaml:6:3: error: spec.ruels: unknown member `ruels`" in result.stderr
        assert "  6 |   ruels:\n    |   ^~~~~\n    = did you mean `rules`?" in result.stderr
        assert "refused with 2 errors" in result.stderr

    def test_a_warning_refuses_only_when_asked_to(self, here):
        (here / "policies" / "sizes.yaml").write_text(POLICY.replace("change.after.size <= 2", "false"))
        assert run("check", "policies").exit_code == 0
        assert "[dead-rule]" in run("check", "policies").stderr
        result = run("check", "policies", "--strict")
        assert result.exit_code == ExitCode.BAD_DATA
        assert "0 errors and 1 warning" in result.stderr

    def test_what_each_expression_may_cost(self, here):
        text = POLICY.replace("change.after.size <= 2", "change.l.all(x, x > 2)")
        (here / "policies" / "sizes.yaml").write_text(text)
        result = run("check", "policies", "--cost")
        assert result.exit_code == 0
        assert "least" in result.stdout
        assert "400" in result.stdout
        assert "over 1,000,000" in result.stdout
        assert "lists of 100 elements" in result.stdout.replace("\n", " ")
        costs = json.loads(run("check", "policies", "--cost", "--json").stdout)["costs"]
        assert costs[0]["estimate"]["usual"] == 400
        assert costs[0]["part"] == "when"
        assert "costs" not in json.loads(run("check", "policies", "--json").stdout)

    def test_nothing_costs_anything(self, here):
        result = run("check", "policies", "--cost")
        assert result.exit_code == 0
        assert "nothing" in result.stdout
        assert "least" not in result.stdout

    def test_formats_for_machines(self, here):
        (here / "policies" / "sizes.yaml").write_text(POLICY.replace("change.after.size <= 2", "false"))
        assert run("check", "policies", "--format", "github").stdout.startswith(
            "::warning file=policies/sizes.yaml,line=7"
        )
        log = json.loads(run("check", "policies", "--format", "sarif").stdout)
        assert log["runs"][0]["results"][0]["ruleId"] == "dead-rule"
        (found,) = json.loads(run("check", "policies", "--json").stdout)["diagnostics"]
        assert (found["code"], found["severity"]) == ("dead-rule", "warning")

    def test_what_could_steer_a_terminal_is_made_visible(self, here):
        (here / "policies" / "sizes.yaml").write_text(POLICY.replace("spec:", "spec:\n  x: 1 # \u202e", 1))
        assert "\u202e" not in run("check", "policies").stderr


class TestTest:
    def test_all_is_well(self, here):
        result = run("test", "t.yaml", "-v", "--coverage", "--junit", "j.xml", "--coverage-html", "c.html")
        assert result.exit_code == 0, result.output
        assert "1 case: 1 passed, 0 failed" in result.output
        assert "1 of 2 rules covered" not in result.output
        assert "never spoke" in result.output
        assert "clauses that are not covered" in result.output
        assert "0 of 2 clauses covered, 50 % of what they can say" in result.output
        assert "<testsuite " in (here / "j.xml").read_text()
        assert (here / "c.html").read_text().startswith("<!doctype html>")

    def test_a_failure_is_told_and_fails(self, here):
        (here / "t.yaml").write_text(TEST.replace("allow}", "hold}"))
        result = run("test", "t.yaml")
        assert result.exit_code == ExitCode.FAILED
        assert "expected `hold`, got `allow`" in result.output
        answer = json.loads(run("test", "t.yaml", "--json", "--coverage").stdout)
        assert (answer["ok"], answer["failed"], len(answer["coverage"][0]["rules"])) == (False, 1, 2)
        (clause, *_) = answer["coverage"][0]["clauses"]
        assert (clause["path"], clause["line"], clause["column"]) == ("rules[0].when", 7, 43)

    def test_too_little_coverage_fails(self):
        result = run("test", "t.yaml", "--coverage-min", "100")
        assert result.exit_code == ExitCode.FAILED
        assert "100 % is asked for" in result.stderr

    def test_some_cases_under_other_policies(self, here):
        assert run("test", "t.yaml", "-k", "small").exit_code == 0
        assert run("test", "t.yaml", "-k", "nothing").exit_code == ExitCode.NO_INPUT
        assert run("test", "t.yaml", "--policies", STARTER).exit_code == ExitCode.FAILED

    def test_a_test_that_is_none(self, here):
        (here / "t.yaml").write_text(TEST.replace("expect", "expected"))
        result = run("test", "t.yaml")
        assert result.exit_code == ExitCode.BAD_DATA
        assert "did you mean `expect`?" in result.stderr
        assert "the tests are refused" in result.stderr
        assert json.loads(run("test", "t.yaml", "--json").stdout)["error"]["problems"]

    def test_a_file_that_cannot_be_written(self):
        assert run("test", "t.yaml", "--junit", "none/j.xml").exit_code == ExitCode.NO_INPUT

    def test_the_starter_policies_are_covered(self):
        assert run("test", ROOT / "policies" / "starter.tests", "--coverage-min", "100").exit_code == 0

    def test_the_example_policies_are_covered(self):
        examples = ROOT / "policies" / "examples"
        assert run("check", "--strict", "--now", "2026-03-11T12:00:00Z", examples).exit_code == 0
        assert run("test", ROOT / "policies" / "examples.tests", "--coverage-min", "100").exit_code == 0
        over = run("check", "--strict", "--now", "2026-12-11T12:00:00Z", examples)
        assert over.exit_code == ExitCode.BAD_DATA
        assert "the exception is over and does nothing [expired]" in over.stderr
        assert json.loads(run("check", "--json", "--now", "2026-03-11T12:00:00Z", examples).stdout)["exceptions"] == 1
        assert "1 exception" in run("check", "--now", "2026-03-11T12:00:00Z", examples).stdout

    def test_the_example_policies_are_explained(self, here):
        (here / "m.json").write_text(
            json.dumps(
                {
                    "subject": {"type": "agent", "id": "migrator"},
                    "action": {"name": "update"},
                    "resource": {
                        "type": "apps/Deployment",
                        "id": "old/x",
                        "properties": {"labels": {"app.kubernetes.io/part-of": "shop"}},
                    },
                    "change": {"before": {"spec": {"replicas": 3}}, "after": {"spec": {"replicas": 2}}},
                    "context": {"ticket": "4711"},
                }
            )
        )
        arguments = ["-f", "m.json", "--policies", ROOT / "policies" / "examples", "--now"]
        shown = run("explain", *arguments, "2026-03-14T12:00:00Z")
        assert "migration-4711  lifts shop-deployments/weekend" in shown.output
        assert "(lifted by migration-4711)" in shown.output
        answer = json.loads(run("explain", *arguments, "2026-03-14T12:00:00Z", "--json").stdout)
        assert answer["exceptions"][0]["lifts"] == ["shop-deployments/weekend"]
        assert answer["reasons"][1]["exception"] == "migration-4711"
        wednesday = run("explain", *arguments, "2026-03-11T12:00:00Z")
        assert "migration-4711  has nothing to lift" in wednesday.output
        assert "`0 18 * * 5` Europe/Berlin: open until 2026-03-16T07:00:00Z" in shown.output
        assert "`0 18 * * 5` Europe/Berlin: not open" in wednesday.output
        assert "obligation rollback/replicas = 3  by shop-deployments/replicas-alone" in wednesday.output
        assert answer["obligations"][0]["key"] == "audit/level"
        assert answer["policies"][2]["rules"][4]["freeze"].endswith("open until 2026-03-16T07:00:00Z")
        after = run("explain", *arguments, "2026-05-01T12:00:00Z", "--all")
        assert "migration-4711  does not match: validUntil" in after.output
        (here / "m.json").write_text((here / "m.json").read_text().replace("4711", "0815"))
        assert "lifts nothing: a condition is not true" in run("explain", *arguments, "2026-03-14T12:00:00Z").output


class TestFmt:
    def test_check_diff_and_write(self, here):
        file = here / "policies" / "sizes.yaml"
        file.write_text(POLICY.replace("  match", "  match  "))
        assert run("fmt", "--check", "policies").exit_code == ExitCode.FAILED
        result = run("fmt", "--diff", file)
        assert "-  match  :" in result.output
        assert file.read_text() != POLICY
        assert run("fmt", "policies").exit_code == 0
        assert file.read_text() == POLICY
        assert run("fmt", "--check", "policies").exit_code == 0

    def test_from_standard_input(self):
        assert run("fmt", "-", stdin="a:   1\n").stdout == "a: 1\n"
        assert run("fmt", "-", stdin="a: [").exit_code == ExitCode.BAD_DATA
        assert run("fmt", "-", stdin=b"\xff").exit_code == ExitCode.BAD_DATA

    def test_what_cannot_be_laid_out_stays(self, here):
        file = here / "policies" / "bad.yaml"
        for content in (b"a: [\n", b"\xff"):
            file.write_bytes(content)
            assert run("fmt", file).exit_code == ExitCode.BAD_DATA
            assert file.read_bytes() == content
        assert run("fmt", "nowhere").exit_code == ExitCode.NO_INPUT


class TestExplainAndBench:
    def test_a_tree(self):
        result = run("explain", "-f", "m.json", "--policies", "policies")
        assert result.exit_code == 0
        for words in ("ALLOW", "policy sizes  matches", "rule small  true  allow", "change.after.size 1", "so allow"):
            assert words in result.output

    def test_all_policies_and_json(self):
        few, many = (run("explain", "-f", EXAMPLE, "--policies", STARTER, *more) for more in ((), ("--all",)))
        assert "more policies do not match" in few.output
        assert "does not match: resources" in many.output
        answer = json.loads(run("explain", "-f", "m.json", "--policies", "policies", "--json").stdout)
        assert answer["policies"][0]["rules"][0]["clauses"] == [
            {
                "text": "change.after.size <= 2",
                "line": 1,
                "column": 1,
                "outcome": "true",
                "values": {"change.after.size": 1},
            }
        ]

    def test_what_each_clause_saw(self, here):
        more = "change.after.size > 2 || change.after.names.exists(n, n.x == 1) || subject.id == 'b'"
        (here / "policies" / "sizes.yaml").write_text(POLICY.replace("change.after.size <= 2", more))
        output = run("explain", "-f", "m.json", "--policies", "policies").output
        for words in (
            "! change.after.size > 2 ||",
            "✗ change.after.size > 2",
            "! change.after.names.exists(n, n.x == 1)",
            "change.after.names absent",
            "· n.x == 1",
            "✗ subject.id == 'b'",
        ):
            assert words in output

    def test_bench(self):
        result = run("bench", "-f", "m.json", "--policies", "policies", "--rounds", "2")
        assert result.exit_code == 0
        assert "huge" in result.output
        assert "a whole decision" in result.output
        assert (
            len(
                json.loads(run("bench", "-f", "m.json", "--policies", "policies", "--rounds", "1", "--json").stdout)[
                    "costs"
                ]
            )
            == 2
        )

    @pytest.mark.parametrize("command", ["explain", "bench"])
    def test_bad_input(self, here, command):
        (here / "bad.json").write_text("{}")
        assert run(command, "-f", "bad.json", "--policies", "policies").exit_code == ExitCode.BAD_DATA
        assert run(command, "-f", "none.json", "--policies", "policies").exit_code == ExitCode.NO_INPUT
        assert run(command, "-f", "m.json", "--policies", "none").exit_code == ExitCode.BAD_DATA
        assert run(command, "-f", "m.json", "--policies", "policies", "--now", "noon").exit_code == ExitCode.USAGE


class TestDiff:
    def test_the_same(self):
        result = run("diff", "policies", "policies", "--exit-code", "-f", "m.json")
        assert result.exit_code == 0
        assert "the policies mean the same" in result.output
        assert "0 of 1 mutations are decided differently" in result.output

    def test_a_difference(self, here):
        (here / "new").mkdir()
        text = POLICY.replace("<= 2", "< 1").replace("> 2", ">= 1")
        (here / "new" / "a.yaml").write_text(text + "---\n" + POLICY.replace("sizes", "more"))
        result = run("diff", "policies", "new", "-f", "m.json", "--exit-code", "--now", "2026-03-13T12:00:00Z")
        assert result.exit_code == ExitCode.FAILED
        for words in (
            "+ policy more",
            "~ policy sizes",
            "~ rules.small when",
            "- change.after.size <= 2",
            "m.json: allow -> deny",
        ):
            assert words in result.output
        assert run("diff", "policies", "new").exit_code == 0
        answer = json.loads(run("diff", "policies", "new", "--json", "-f", "m.json").stdout)
        assert answer["decisions"][0]["after"]["decision"] == "deny"


class TestSchema:
    def test_one_all_and_files(self, here):
        assert json.loads(run("schema", "MutationPolicy").stdout)["title"] == "MutationPolicy"
        assert set(json.loads(run("schema").stdout)) == set(KINDS)
        assert run("schema", "--write", ".").exit_code == 0
        assert (here / "policy-test.json").exists()

    def test_no_such_kind(self):
        result = run("schema", "MutationPolice")
        assert result.exit_code == ExitCode.USAGE
        assert "did you mean `MutationPolicy`?" in result.stderr
        assert run("schema", "--write", "nowhere").exit_code == ExitCode.NO_INPUT
