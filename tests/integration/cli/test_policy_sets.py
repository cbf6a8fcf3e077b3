"""`mfw policies` against a service: push, activate, history, rollback, export, and what their exit codes say."""

import json
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
STARTER = ROOT / "policies" / "starter"
FROZEN = """\
apiVersion: mutationfirewall.io/v1
kind: MutationPolicy
metadata: {name: frozen}
spec:
  match: {resources: [{type: policy-set}]}
  variables: [{name: yaml, expression: "'0777'"}]
  rules:
    - name: no
      effect: deny
      message: |
        nothing changes
        until Monday: "yes"
    - {name: never, effect: deny, when: "variables.yaml == '0x1F'", message: "0x1F"}
"""
EXCEPTION = """\
apiVersion: mutationfirewall.io/v1
kind: PolicyException
metadata: {name: frozen}
spec: {owner: o, reason: "a: b", validUntil: "2026-04-01T00:00:00Z", policies: [{name: frozen, rules: ["never"]}]}
"""
HELD = FROZEN.replace("frozen", "held").replace(
    "effect: deny\n      message: |",
    "effect: hold\n      approval: {anyOf: [{group: sre, count: 2}]}\n      message: |",
)


@pytest.fixture(scope="module")
def service(commands):
    with (
        commands.state_directory() as state,
        commands.development(
            state,
            MFW_LIMITS__PER_MINUTE="100000",
            MFW_LIMITS__BURST="10000",
            MFW_POLICIES__SOURCE="database",
        ) as made,
    ):
        yield made


@pytest.fixture
def mfw(commands, service):
    key = commands.run("keys", "create", "admin", "--role", "admin", **service.settings).stdout.strip()

    def run(*arguments):
        # The service asks the database about unknown keys at most once a second.
        while True:
            result = commands.run("policies", *arguments, MFW_URL=service.url, MFW_API_KEY=key)
            if result.returncode != 77 or "not authenticated" not in result.stderr + result.stdout:
                return result

    return run


def test_from_the_first_set_to_the_last(mfw, commands, service, tmp_path):
    frozen, held = tmp_path / "frozen.yaml", tmp_path / "held.yaml"
    frozen.write_text(FROZEN)
    held.write_text(HELD)

    nothing = mfw("rollback", "--reason", "x")
    assert nothing.returncode == 1
    assert "no set before" in nothing.stderr
    pushed = mfw("push", STARTER, "--note", "starter")
    assert pushed.returncode == 0, pushed.stderr
    assert "mfw policies activate sha256:" in pushed.stdout
    starter = json.loads(mfw("push", STARTER, "--json").stdout)
    assert (starter["note"], starter["active"]) == ("starter", False)
    activated = mfw("activate", starter["digest"], "--reason", "the first")
    assert activated.returncode == 0, activated.stderr
    assert "in force" in activated.stdout
    assert "and are in force" in mfw("push", STARTER).stdout

    other = json.loads(mfw("push", *sorted(STARTER.glob("[a-m]*.yaml")), "--json").stdout)
    made = json.loads(mfw("activate", other["digest"], "-r", "fewer", "--json").stdout)
    assert (made["sequence"], made["previous"]) == (2, starter["digest"])
    back = mfw("rollback", "--reason", "too few")
    assert back.returncode == 0, back.stderr
    history = json.loads(mfw("history", "--json").stdout)["items"]
    assert [one["digest"] for one in history] == [starter["digest"], other["digest"], starter["digest"]]
    assert "too few" in mfw("history", "--limit", "1").stdout

    digest = json.loads(mfw("push", held, "--json").stdout)["digest"]
    assert mfw("activate", digest, "--reason", "x").returncode == 0
    judged = mfw("activate", starter["digest"], "--reason", "x")
    assert judged.returncode == 11
    assert "holds" in judged.stderr
    assert "nothing changes" in judged.stderr
    error = json.loads(mfw("rollback", "--reason", "x", "--json").stdout)["error"]
    assert error["decision"] == "hold"

    # The way out: with the database's credentials, past the set in force.
    digest = json.loads(mfw("push", frozen, "--json").stdout)["digest"]
    forced = commands.run("policies", "force", digest, "--reason", "x", "--json", **service.settings)
    assert json.loads(forced.stdout)["digest"] == digest
    while json.loads(mfw("activate", digest, "--reason", "x", "--json").stdout).get("sequence") is None:
        pass  # the service has not heard of it yet, and says so
    assert mfw("rollback", "--reason", "x").returncode == 10
    forced = commands.run(
        "policies", "force", starter["digest"], "--reason", "a lock without a key", **service.settings
    )
    assert forced.returncode == 0, forced.stderr
    assert "unjudged" in forced.stdout
    missing = commands.run("policies", "force", "sha256:" + "0" * 64, "--reason", "x", **service.settings)
    assert missing.returncode == 1


def test_what_is_exported_is_what_was_pushed(mfw, tmp_path):
    both = tmp_path / "in"
    both.mkdir()
    shutil.copytree(STARTER, both, dirs_exist_ok=True)
    (both / "frozen.yaml").write_text(FROZEN)
    # Of the same name as a policy.
    (both / "exception.yaml").write_text(EXCEPTION)
    digest = json.loads(mfw("push", both, "--json").stdout)["digest"]
    result = mfw("export", digest, "-o", tmp_path / "deep" / "out")
    assert result.returncode == 0, result.stderr
    assert len(list((tmp_path / "deep" / "out").glob("frozen*.yaml"))) == 2
    text = (tmp_path / "deep" / "out" / "frozen.yaml").read_text()
    assert "message: |" in text
    assert json.loads(mfw("push", tmp_path / "deep" / "out", "--json").stdout)["digest"] == digest
    again = mfw("export", digest, "-o", tmp_path / "deep" / "out")
    assert again.returncode == 66
    assert "not empty" in again.stderr
    as_json = json.loads(mfw("export", digest, "-o", tmp_path / "more", "--json").stdout)
    assert sorted(as_json["files"]) == sorted(path.name for path in (tmp_path / "more").iterdir())
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_what_cannot_be(mfw, tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text(FROZEN.replace("rules", "ruels"))
    result = mfw("push", bad)
    assert result.returncode == 65
    assert f"{bad}:5:" in result.stderr.replace("\n", "")
    assert json.loads(mfw("push", bad, "--json").stdout)["error"]["problems"]
    assert mfw("push", tmp_path, STARTER).returncode == 2
    assert mfw("push", tmp_path / "none").returncode == 65
    assert mfw("activate", "latest", "--reason", "x").returncode == 2
    assert mfw("activate", "sha256:" + "0" * 64, "--reason", "x").returncode == 1
    assert mfw("export", "sha256:" + "0" * 64, "-o", tmp_path / "x").returncode == 1
    assert mfw("activate", "sha256:" + "0" * 64, "--reason", "").returncode == 65
