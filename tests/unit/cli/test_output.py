"""What is written: nothing from outside may steer a terminal, and every failure ends in a code."""

import json

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from app.cli.exits import ExitCode
from app.cli.output import Refused, plain, reporting
from app.errors import FirewallError, Kind
from app.policies.diagnostics import Diagnostic, PolicyErrors
from app.settings import SettingsError, SettingsProblem


def fail(error, *, as_json=False):
    with pytest.raises(typer.Exit) as caught, reporting(as_json=as_json):
        raise error
    return caught.value.exit_code


@given(st.text())
def test_nothing_steers_a_terminal(text):
    assert all(character.isprintable() or character == "\n" for character in plain(text))
    plain(text).encode()


def test_escape_sequences_are_shown():
    assert plain("\x1b[31mred\x07\u202e") == "\\x1b[31mred\\x07\\u202e"


def test_a_refusal_for_a_person(capsys):
    assert fail(Refused(ExitCode.NO_INPUT, "cannot read `x`", fix="name a file")) == ExitCode.NO_INPUT
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "error: cannot read `x`\nfix:   name a file\n"


def test_a_refusal_for_a_machine(capsys):
    error = FirewallError(Kind.MALFORMED, "member `subject` is missing", pointer="/subject", fix="send it")
    assert fail(error, as_json=True) == ExitCode.BAD_DATA
    shown = capsys.readouterr()
    assert shown.err == ""
    assert json.loads(shown.out) == {
        "error": {"detail": "member `subject` is missing at `/subject`", "fix": "send it", "kind": "malformed"}
    }


def test_every_settings_problem_is_a_row(capsys):
    problems = [SettingsProblem("MFW_A", "is wrong", "set it"), SettingsProblem("MFW_B", "is odd", "unset it")]
    assert fail(SettingsError(problems)) == ExitCode.BAD_SETTINGS
    shown = capsys.readouterr().err
    for text in ("MFW_A", "is wrong", "set it", "MFW_B", "is odd", "unset it", "error: 2 settings are wrong"):
        assert text in shown


def test_one_settings_problem(capsys):
    fail(SettingsError([SettingsProblem("MFW_A", "is wrong", "set it")]))
    assert "error: 1 setting is wrong" in capsys.readouterr().err


def test_every_diagnostic_reaches_a_machine(capsys):
    found = Diagnostic(file="a.yaml", line=3, column=5, path="spec", message="is odd")
    assert fail(PolicyErrors([found]), as_json=True) == ExitCode.BAD_DATA
    (problem,) = json.loads(capsys.readouterr().out)["error"]["problems"]
    assert problem["file"] == "a.yaml"
    assert problem["severity"] == "error"


def test_a_policy_error_for_a_person_is_not_taken_for_settings(capsys):
    fail(PolicyErrors([Diagnostic(file="a.yaml", line=3, column=5, path="spec", message="is odd")]))
    assert "a.yaml:3:5" in capsys.readouterr().err


def test_success_passes_through():
    with reporting():
        pass
