"""`mfw kubernetes webhook-config` at the terminal."""

import base64
import json

import pytest
from typer.testing import CliRunner

from app.cli import app
from tests.corpus.cases import STARTER

COMMAND = ["kubernetes", "webhook-config", "--policies", str(STARTER)]


def run(*arguments):
    return CliRunner().invoke(app, [*COMMAND, *arguments])


def test_a_service_and_its_authority(tmp_path):
    certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    (tmp_path / "ca.crt").write_text(certificate)
    result = run("--ca-file", str(tmp_path / "ca.crt"), "--service", "security/mfw:8443", "--json")
    assert result.exit_code == 0, result.output
    changes, guard = json.loads(result.stdout)["webhooks"]
    assert changes["clientConfig"] == guard["clientConfig"]
    assert changes["clientConfig"]["service"] == {
        "namespace": "security",
        "name": "mfw",
        "path": "/kubernetes/v1/validate",
        "port": 8443,
    }
    assert base64.b64decode(changes["clientConfig"]["caBundle"]).decode() == certificate
    assert "security" in changes["namespaceSelector"]["matchExpressions"][0]["values"]


def test_yaml_without_aliases():
    result = run("--url", "https://firewall.example.com/", "--agent", "namespace=agents", "--exempt-namespace", "ci")
    assert result.exit_code == 0, result.output
    assert "kind: ValidatingWebhookConfiguration" in result.stdout
    assert "https://firewall.example.com/kubernetes/v1/validate" in result.stdout
    assert "&id" not in result.stdout
    assert "- ci" in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["--url", "http://firewall.example.com"],
        ["--url", "https://a@firewall.example.com"],
        ["--service", "mfw"],
        ["--agent", "agents"],
        ["--ca-file", "/nonexistent/ca.crt"],
        ["--ca-file", str(STARTER / "kubernetes.yaml")],
    ],
)
def test_what_makes_no_configuration(arguments):
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""


WALL = ["kubernetes", "backstop", "--policies", str(STARTER), "--agent", "namespace=agents"]


def test_a_wall(tmp_path):
    report = tmp_path / "report.json"
    result = CliRunner().invoke(app, [*WALL, "--environment", "*=production", "--report", str(report)])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("# left out: ")
    assert "\n# left out: agent-memory: it is about nothing that an API server changes\n" in result.stdout
    assert result.stdout.count("\nkind: ValidatingAdmissionPolicy\n") == result.stdout.count("\n---\n") // 2 + 1
    assert "&id" not in result.stdout
    assert "left out: k8s-deployment/large-scale: people may lift a hold" in result.stderr
    found = json.loads(report.read_text())
    assert {"policy": "k8s-deployment", "rule": "to-zero"} in found["rules"]
    assert len(found["leftOut"]) == result.stderr.count("left out: ") == result.stdout.count("# left out: ")


def test_a_wall_as_json():
    result = CliRunner().invoke(app, [*WALL, "--service", "security/mfw", "--holds", "--json"])
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout)
    assert made["kind"] == "List"
    text = json.dumps(made["items"])
    assert '"security"' in text
    assert "rule `two-people`" in text


@pytest.mark.parametrize(
    "arguments",
    [
        ["--agent", "agents"],
        ["--environment", "production"],
        ["--service", "mfw"],
        ["--name", "Not A Name"],
        ["--report", "/dev/null/report.json"],
    ],
)
def test_what_makes_no_wall(arguments):
    result = CliRunner().invoke(app, [*WALL, *arguments])
    assert result.exit_code == 2, result.output
    assert result.stdout == ""


def test_policies_that_do_not_load_make_no_wall(tmp_path):
    (tmp_path / "p.yaml").write_text("a: b\n")
    result = CliRunner().invoke(app, ["kubernetes", "backstop", "--policies", str(tmp_path)])
    assert result.exit_code not in {0, 2}
    assert result.stdout == ""


def test_a_wall_cannot_look_at_labels():
    result = CliRunner().invoke(app, [*WALL, "--agent", "label=example.com/agent=*"])
    assert result.exit_code == 2
    assert "sees their names alone" in result.stderr
