"""The corpus through `mfw check`: what the examples say is what the commands answer."""

import json

import pytest
from typer.testing import CliRunner

from app.cli import app
from tests.corpus.cases import EXAMPLES, STARTER

CODES = {"allow": 0, "deny": 10, "hold": 11}
EXAMPLE = {file.stem: json.loads(file.read_text()) for file in sorted(EXAMPLES.glob("*.json"))}


def named(member):
    return [name for name, example in EXAMPLE.items() if member(example)]


def check(command, example, text, *more):
    """Ask with the parties of an example."""
    subject, resource = example["subject"], example["resource"]
    properties = [f"--property={name}={value}" for name, value in resource.get("properties", {}).items()]
    party = ["--subject", f"{subject['type']}:{subject['id']}", *properties]
    where = ["--local", "--policies", str(STARTER), "--format", "json"]
    return CliRunner().invoke(app, ["check", command, "-", *party, *where, *more], input=text)


@pytest.mark.parametrize("name", named(lambda one: "diff" in one["change"]))
def test_diffs(name):
    example = EXAMPLE[name]
    result = check("diff", example, example["change"]["diff"], "--id", example["resource"]["id"])
    assert result.exit_code == CODES[name.split("-")[0]], result.output


@pytest.mark.parametrize("name", named(lambda one: set(one["change"]) == {"manifest"}))
def test_manifests(name):
    example = EXAMPLE[name]
    result = check("manifest", example, json.dumps(example["change"]["manifest"]), "--id", example["resource"]["id"])
    assert result.exit_code == CODES[name.split("-")[0]], result.output


@pytest.mark.parametrize("name", named(lambda one: one["resource"]["type"] == "terraform/Plan"))
def test_whole_plans_and_their_changes_are_judged_alike(name):
    example = EXAMPLE[name]
    result = check("terraform", example, json.dumps(example["change"]["after"]), "--stack", example["resource"]["id"])
    assert result.exit_code == CODES[name.split("-")[0]], result.output


def test_there_is_something_of_each():
    assert len(named(lambda one: "diff" in one["change"])) >= 4
    assert len(named(lambda one: set(one["change"]) == {"manifest"})) >= 3
    assert len(named(lambda one: one["resource"]["type"] == "terraform/Plan")) >= 3
