"""The cases of the starter policies for agents' tools are what the firewall makes of calls."""

import datetime as dt
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from app.core.decide import RULE_ERROR, decide
from app.core.normalise import normalise
from app.core.tool_calls import read_tool_call
from app.core.types import Effect
from app.policies.load import load_directory
from tests.corpus.calls import call_of
from tests.corpus.cases import NOW, STARTER, load, mutation

CASES = [(case, body) for case in load() if (body := call_of(case)) is not None]


@pytest.mark.parametrize(("case", "body"), CASES, ids=[case.name for case, _ in CASES])
def test_a_case_is_a_part_of_the_call_that_it_names(case, body):
    call = read_tool_call(
        body["name"],
        body["arguments"],
        hints=body.get("annotations"),
        server=body.get("server"),
        cwd=body.get("cwd"),
    )
    parts = [
        {"action": part.action, "resource": part.resource, "change": part.change, "context": part.context}
        for part in call.parts
    ]
    asked = mutation(case.mutation)
    assert {
        "action": asked.action,
        "resource": asked.resource,
        "change": asked.change,
        "context": asked.context,
    } in parts
    command = case.mutation["context"].get("command")
    assert command is None or command in case.name


LINES = Path(__file__).parent
REFUSED = (LINES / "refused_lines.txt").read_text().splitlines()
EVERY = [case["line"] for case in YAML(typ="safe").load((LINES / "command_lines.yaml").read_text())]
POLICY_SET = load_directory(STARTER)
INSTANT = dt.datetime.fromisoformat(NOW)


def verdicts(line, **more):
    call = read_tool_call("Bash", {"command": line, **more}, cwd="/srv/app")
    subject = {"type": "agent", "id": "coder", "properties": {}}
    return [decide(POLICY_SET, normalise(part.mutation(subject)), INSTANT) for part in call.parts]


@pytest.mark.parametrize("line", REFUSED)
def test_no_agent_does_this_unasked(line):
    assert any(verdict.effect is not Effect.ALLOW for verdict in verdicts(line))


@pytest.mark.parametrize("line", [*EVERY, *REFUSED], ids=lambda line: line[:60].encode("unicode_escape").decode())
def test_what_tool_calls_become_is_what_the_policies_read(line):
    """No rule fails for want of a member: what a command line becomes, and what policies expect, fit."""
    for verdict in verdicts(line):
        assert not [reason for reason in verdict.reasons if RULE_ERROR in reason.message], line


def test_a_plan_of_terraform_is_asked_for_where_a_command_line_would_destroy():
    (verdict,) = verdicts("terraform destroy -auto-approve")
    assert [(reason.policy, reason.rule) for reason in verdict.reasons] == [
        ("agent-infrastructure", "terraform-destroys")
    ]


def test_out_of_the_sandbox_is_asked_about():
    assert [verdict.effect for verdict in verdicts("ls")] == [Effect.ALLOW]
    assert [verdict.effect for verdict in verdicts("ls", dangerouslyDisableSandbox=True)] == [Effect.HOLD]
    assert [verdict.effect for verdict in verdicts("ls", timeout=5, description="x")] == [Effect.ALLOW]


@pytest.mark.parametrize("cwd", ["/", "/etc", "/etc/cron.d", "/usr/bin", "/root", "/home/me", "/var/spool/cron"])
def test_an_agent_makes_no_workspace_of_a_folder_of_the_system_by_going_there(cwd):
    call = read_tool_call("Write", {"file_path": f"{cwd}/x", "content": "y"}, cwd=cwd)
    subject = {"type": "agent", "id": "coder", "properties": {}}
    (verdict,) = [decide(POLICY_SET, normalise(part.mutation(subject)), INSTANT) for part in call.parts]
    assert verdict.effect is not Effect.ALLOW


def test_there_are_such_cases():
    assert len(CASES) > 200
