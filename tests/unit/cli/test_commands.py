"""The commands that need neither a service nor a database."""

import json
import os
from importlib.metadata import version
from pathlib import Path

import pytest
import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from app.cli import app
from app.cli.exits import ExitCode
from app.core.notes import SignerKey
from app.settings import variables

ROOT = Path(__file__).resolve().parents[3]
STARTER = ROOT / "policies" / "starter"
POLICY = """\
apiVersion: mutationfirewall.io/v1
kind: MutationPolicy
metadata: {name: sizes}
spec:
  match: {resources: [{type: box}]}
  rules:
    - {name: small, effect: allow, when: "change.after.size <= 2"}
    - name: large
      effect: hold
      when: "change.after.size > 2 && change.after.size < 100"
      message: "a large box"
      approval: {anyOf: [{group: owners, count: 1}]}
    - {name: huge, effect: deny, when: "change.after.size >= 100", message: "no such [bold]box[/bold]"}
"""


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith("MFW_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def policies(tmp_path):
    directory = tmp_path / "policies"
    directory.mkdir()
    (directory / "sizes.yaml").write_text(POLICY)
    return directory


def mutation(size):
    return json.dumps(
        {
            "subject": {"type": "agent", "id": "a"},
            "action": {"name": "update"},
            "resource": {"type": "box", "id": "b"},
            "change": {"after": {"size": size}},
        }
    )


def run(*arguments, stdin=None):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)


class TestRoot:
    def test_version(self):
        result = run("--version")
        assert result.exit_code == 0
        assert result.output == f"mutation-firewall {version('mutation-firewall')}\n"

    def test_every_number_has_two_limits(self):
        # One that has the lower one alone may be infinite, or no number.
        def numbers(command):
            for below in getattr(command, "commands", {}).values():
                yield from numbers(below)
            yield from ((command.name, one) for one in command.params if one.type_descriptor.annotation is float)

        found = list(numbers(typer.main.get_command(app)))
        assert len(found) > 10
        assert [(name, one.name) for name, one in found if one.min is None or one.max is None] == []
        refused = run("ledger", "replay", "--max-lag-seconds", "nan")
        assert refused.exit_code == ExitCode.USAGE
        assert "--max-lag-seconds" in refused.output

    @pytest.mark.parametrize(
        "command",
        [[], ["dev"], ["serve"], ["decide"], ["policies", "check"], ["config", "check"], ["config", "reference"]]
        + [["tokens", "rotate"], ["witness", "keygen"], ["witness", "serve"]]
        + [["ledger", word] for word in ("partitions", "archive", "unarchive")]
        + [["integrity", "check"], ["check", "terraform"], ["check", "diff"], ["check", "manifest"]]
        + [["hook", "claude-code"]]
        + [["backup", word] for word in ("create", "list", "verify", "restore")]
        + [["keys", word] for word in ("create", "list", "rotate", "revoke", "generate")],
    )
    def test_help_teaches(self, command):
        result = run(*command, "--help")
        assert result.exit_code == 0
        assert command == [] or "Example" in result.output
        # Square brackets would be taken for markup and vanish.
        assert " ." not in result.output

    @pytest.mark.parametrize(
        "arguments", [["nonsense"], ["decide"], ["decide", "-f"], ["decide", "--colour"], ["dev", "--port", "x"]]
    )
    def test_a_command_line_that_cannot_be_understood(self, arguments):
        assert run(*arguments).exit_code == ExitCode.USAGE


class TestConfig:
    def test_check_tells_everything_that_is_missing(self):
        result = run("config", "check")
        assert result.exit_code == ExitCode.BAD_SETTINGS
        assert "MFW_DATABASE__URL" in result.stderr
        assert "MFW_ERROR_TRACKING" in result.stderr
        assert "MFW_LEDGER__SIGNING_KEY" in result.stderr
        assert "4 settings are wrong" in result.stderr

    def test_check_shows_the_settings_in_force_without_secrets(self, monkeypatch):
        secret = "rT7pw2Kx9QzLm4VbN8sY"
        monkeypatch.setenv("MFW_DATABASE__URL", f"postgresql://u:{secret}@localhost/x?sslmode=require")
        monkeypatch.setenv("MFW_POLICIES__DIRECTORY", "/policies")
        monkeypatch.setenv("MFW_LIMITS__BURST", "77")
        monkeypatch.setenv("MFW_ERROR_TRACKING", "logs")
        monkeypatch.setenv("MFW_LEDGER__ORIGIN", "firewall.example.com/ledger")
        key = SignerKey.of("firewall.example.com/ledger", Ed25519PrivateKey.generate()).text
        monkeypatch.setenv("MFW_LEDGER__SIGNING_KEY", key)
        result = run("config", "check")
        assert result.exit_code == 0
        assert secret not in result.output
        assert "PRIVATE+KEY" not in result.output
        assert "********" in result.output
        assert "MFW_LIMITS__BURST" in result.output
        assert "77" in result.output
        assert "advice: MFW_DATABASE__URL" in result.output

    def test_check_for_a_machine(self, monkeypatch):
        monkeypatch.setenv("MFW_ENVIRONMENT", "development")
        good = run("config", "check", "--json")
        answer = json.loads(good.output)
        assert good.exit_code == 0
        assert answer["ok"] is True
        assert answer["settings"]["MFW_DATABASE__EMBEDDED"] == "true"
        monkeypatch.setenv("MFW_HTTP__PROT", "8080")
        bad = run("config", "check", "--json")
        assert bad.exit_code == ExitCode.BAD_SETTINGS
        (problem,) = json.loads(bad.output)["problems"]
        assert problem == {
            "variable": "MFW_HTTP__PROT",
            "detail": "there is no such setting",
            "fix": "did you mean MFW_HTTP__PORT?",
        }

    def test_reference(self):
        result = run("config", "reference")
        assert result.exit_code == 0
        assert all(f"`{variable.name}`" in result.output for variable in variables())
        assert [row["name"] for row in json.loads(run("config", "reference", "--json").output)] == [
            variable.name for variable in variables()
        ]


class TestPolicies:
    def test_good(self, policies):
        result = run("policies", "check", policies)
        assert result.exit_code == 0
        assert result.output.startswith("1 policy, 3 rules\npolicy set sha256:")
        answer = json.loads(run("policies", "check", policies, "--json").output)
        assert answer["ok"] is True
        assert answer["rules"] == 3

    def test_everything_that_is_wrong_with_its_place(self, policies):
        (policies / "bad.yaml").write_text(POLICY.replace("sizes", "typo").replace("rules:", "ruels:"))
        (policies / "worse.yaml").write_text(POLICY.replace("sizes", "cel").replace("<= 2", "<= ("))
        result = run("policies", "check", policies)
        assert result.exit_code == ExitCode.BAD_DATA
        assert "bad.yaml:" in result.stderr
        assert "worse.yaml:" in result.stderr
        answer = json.loads(run("policies", "check", policies, "--json").output)
        assert answer["ok"] is False
        assert {found["file"] for found in answer["diagnostics"]} == {"bad.yaml", "worse.yaml"}

    def test_an_empty_directory_is_refused(self, tmp_path):
        result = run("policies", "check", tmp_path)
        assert result.exit_code == ExitCode.BAD_DATA
        assert "an empty set is refused" in result.stderr

    def test_a_directory_that_is_not_there(self, tmp_path):
        result = run("policies", "check", tmp_path / "nowhere")
        assert result.exit_code == ExitCode.BAD_DATA
        assert "cannot be read" in result.stderr

    def test_the_starter_policies_are_good(self):
        assert run("policies", "check", STARTER).exit_code == 0


class TestDecideHere:
    @pytest.mark.parametrize(("size", "code", "word"), [(1, 0, "ALLOW"), (5, 11, "HOLD"), (200, 10, "DENY")])
    def test_the_exit_code_is_the_decision(self, policies, tmp_path, size, code, word):
        file = tmp_path / "mutation.json"
        file.write_text(mutation(size))
        result = run("decide", "-f", file, "--local", "--policies", policies)
        assert result.exit_code == code, result.output
        assert result.output.startswith(word)
        assert "not recorded" in result.output

    def test_from_standard_input_for_a_machine(self, policies):
        result = run("decide", "-f", "-", "--local", "--policies", policies, "--json", stdin=mutation(5))
        answer = json.loads(result.output)
        assert result.exit_code == ExitCode.HOLD
        assert answer["recorded"] is False
        assert answer["decision"] == "hold"
        assert answer["approval"]["anyOf"][0]["group"] == "owners"
        assert answer["reasons"][0]["rule"] == "large"
        assert answer["decided_at"].endswith("Z")
        assert "ledger_index" not in answer

    def test_markup_in_a_message_is_text(self, policies):
        result = run("decide", "-f", "-", "--local", "--policies", policies, stdin=mutation(200))
        assert "no such [bold]box[/bold]" in result.output

    @pytest.mark.parametrize(
        "body",
        [
            "",
            "{",
            "[]",
            '{"a": 1, "a": 2}',
            '{"subject": "\\u0000"}',
            '{"n": 18446744073709551616}',
            "[" * 500 + "]" * 500,
            "{}",
        ],
    )
    def test_what_is_no_mutation(self, policies, body):
        result = run("decide", "-f", "-", "--local", "--policies", policies, "--json", stdin=body)
        assert result.exit_code == ExitCode.BAD_DATA
        assert json.loads(result.output)["error"]["kind"] == "malformed"

    @pytest.mark.parametrize("name", ["nowhere.json", ".", "a\0b"])
    def test_a_file_that_cannot_be_read(self, policies, name):
        result = run("decide", "-f", name, "--local", "--policies", policies)
        assert result.exit_code == ExitCode.NO_INPUT
        assert "cannot read" in result.stderr

    def test_local_and_policies_go_together(self, policies):
        assert run("decide", "-f", "-", "--local", stdin="{}").exit_code == ExitCode.USAGE
        assert run("decide", "-f", "-", "--policies", policies, stdin="{}").exit_code == ExitCode.USAGE


class TestAddress:
    @pytest.mark.parametrize(
        "url",
        [
            "",
            "localhost:8080",
            "ftp://x",
            "file:///etc/passwd",
            "http://",
            "http://a:b",
            "http://a b",
            "http://ä",
            "http://[::1",
        ],
    )
    def test_what_is_no_address(self, url):
        result = run("decide", "-f", "-", "--url", url, stdin="{}")
        assert result.exit_code == ExitCode.USAGE
        assert "is no address" in result.stderr

    @pytest.mark.parametrize("key", ["mfw_ä", "mfw_a b", "mfw_a\r\nX: y"])
    def test_what_is_no_key(self, key):
        result = run("decide", "-f", "-", "--api-key", key, stdin="{}")
        assert result.exit_code == ExitCode.NOT_PERMITTED
        assert key not in result.stderr


class TestServe:
    def test_every_reason_not_to_start(self, monkeypatch):
        monkeypatch.setenv("MFW_POLICIES__SOURCE", "directory")
        result = run("serve")
        assert result.exit_code == ExitCode.BAD_SETTINGS
        assert "MFW_DATABASE__URL" in result.stderr
        assert "MFW_POLICIES__DIRECTORY" in result.stderr

    def test_it_never_starts_a_database(self, monkeypatch):
        monkeypatch.setenv("MFW_ENVIRONMENT", "development")
        result = run("serve")
        assert result.exit_code == ExitCode.BAD_SETTINGS
        assert "PostgreSQL of yours" in result.stderr

    def test_it_reads_the_policies_first(self, monkeypatch, tmp_path):
        monkeypatch.setenv("MFW_ENVIRONMENT", "development")
        monkeypatch.setenv("MFW_DATABASE__URL", "postgresql://u:p@localhost/x")
        monkeypatch.setenv("MFW_POLICIES__DIRECTORY", str(tmp_path))
        result = run("serve")
        assert result.exit_code == ExitCode.BAD_DATA
        assert "there are no policies" in result.stderr


class TestDev:
    def test_it_is_not_for_production(self, monkeypatch):
        monkeypatch.setenv("MFW_ENVIRONMENT", "production")
        result = run("dev")
        assert result.exit_code == ExitCode.BAD_SETTINGS
        assert "mfw serve" in result.stderr

    def test_wrong_settings_are_said_at_once(self, monkeypatch):
        monkeypatch.setenv("MFW_HTTP__PROT", "1")
        monkeypatch.setenv("MFW_LOGGING__LEVEL", "loud")
        result = run("dev")
        assert result.exit_code == ExitCode.BAD_SETTINGS
        assert "MFW_HTTP__PROT" in result.stderr
        assert "MFW_LOGGING__LEVEL" in result.stderr


class TestKeys:
    def test_no_database(self, monkeypatch, tmp_path):
        monkeypatch.setenv("MFW_STATE_DIR", str(tmp_path))
        result = run("keys", "list")
        assert result.exit_code == ExitCode.BAD_SETTINGS
        assert "mfw dev" in result.stderr
        assert not list(tmp_path.iterdir())

    def test_an_id_that_is_none(self):
        assert run("keys", "revoke", "12").exit_code == ExitCode.USAGE


BUDGETED = """\
apiVersion: mutationfirewall.io/v1
kind: MutationPolicy
metadata: {name: limits}
spec:
  match: {resources: [{type: box}]}
  rules: [{name: yes, effect: allow}]
  budgets:
    - {name: an-hour, per: subject, limit: 20, window: 1h, message: slow down}
    - {name: kinds, per: subject, distinct: "string(change.after.size)", limit: 3, window: 24h}
"""


class TestBudgets:
    @pytest.fixture
    def limits(self, tmp_path):
        (tmp_path / "limits").mkdir()
        (tmp_path / "limits" / "limits.yaml").write_text(BUDGETED)
        return tmp_path / "limits"

    @pytest.mark.parametrize(
        ("used", "code"),
        [
            ([], 0),
            (["limits/an-hour=19"], 0),
            (["limits/an-hour=20"], 10),
            (["limits/kinds=3"], 10),
            (["limits/kinds=3,seen"], 0),
            (["limits/kinds=3,seen", "limits/an-hour=21"], 10),
        ],
    )
    def test_what_is_used_is_what_is_said(self, limits, used, code):
        options = [part for one in used for part in ("--budget", one)]
        result = run("decide", "-f", "-", "--local", "--policies", limits, *options, stdin=mutation(1))
        assert result.exit_code == code, result.output
        assert "limits/an-hour: " in result.output

    def test_for_a_machine(self, limits):
        arguments = ("--policies", limits, "--budget", "limits/an-hour=20", "--json")
        answer = json.loads(run("decide", "-f", "-", "--local", *arguments, stdin=mutation(1)).output)
        assert answer["budgets"] == [
            {"policy": "limits", "budget": "an-hour", "used": 20, "limit": 20, "window": "1h"},
            {"policy": "limits", "budget": "kinds", "used": 0, "limit": 3, "window": "24h"},
        ]
        assert answer["reasons"][0]["message"] == "slow down (20 of 20 used in 1h)"

    @pytest.mark.parametrize(
        ("used", "words"),
        [("limits=3", "does not say how much"), ("limits/an-hour=-1", "does not say"), ("limits/hour=1", "no budget")],
    )
    def test_what_cannot_be_meant(self, limits, used, words):
        result = run("decide", "-f", "-", "--local", "--policies", limits, "--budget", used, stdin=mutation(1))
        assert result.exit_code == ExitCode.USAGE
        assert words in result.stderr

    def test_a_service_counts_for_itself(self):
        result = run("decide", "-f", "-", "--budget", "limits/an-hour=1", stdin=mutation(1))
        assert result.exit_code == ExitCode.USAGE

    def test_explain_shows_them(self, limits, tmp_path):
        (tmp_path / "m.json").write_text(mutation(1))
        arguments = ("-f", tmp_path / "m.json", "--policies", limits, "--budget", "limits/an-hour=20")
        result = run("policies", "explain", *arguments)
        assert result.exit_code == 0, result.output
        assert "budget limits/an-hour  20 of 20 used in 1h" in result.output
        assert "1 allow, 1 used up; deny > hold > allow, so deny" in result.output
        answer = json.loads(run("policies", "explain", *arguments, "--json").output)
        assert answer["decision"] == "deny"
        assert [one["used"] for one in answer["budgets"]] == [20, 0]

    def test_a_policy_that_only_limits_is_not_silent(self, limits, tmp_path):
        file = limits / "limits.yaml"
        file.write_text(file.read_text().replace("  rules: [{name: yes, effect: allow}]\n", "  mode: shadow\n"))
        (tmp_path / "m.json").write_text(mutation(1))
        result = run("policies", "explain", "-f", tmp_path / "m.json", "--policies", limits)
        assert "silenced" not in result.output
        assert "0 of 20 used in 1h  shadow: decides nothing" in result.output
