"""The runbooks: one page for each alert, in one form, with commands that work when they are pasted."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from app.cli import app
from app.cli.state import database_file
from tests.alerts.rules import ALERTS

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "runbooks"
PAGES = {page.stem: page.read_text() for page in sorted(FOLDER.glob("*.md"))}
# Those of alerts have the alerts' names; pages of operations have names in small letters.
OF_ALERTS = {name for name in PAGES if name[0].isupper() and name != "README"}
SECTIONS = ["## Meaning", "## Impact", "## Diagnosis", "## Mitigation"]
# Asked of the service or of the database alone: nothing about a cluster would help.
SAME_EVERYWHERE = {
    "DatabaseSlowQueries",
    "KillSwitchOn",
    "LedgerAppendFailing",
    "SearchIndexLagging",
    "WitnessContradiction",
    "WitnessesMissing",
}
FENCE = re.compile(r"^```(\S*)[ ]?(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands(*kinds: str) -> list[tuple[str, str]]:
    """The page and the line of each command in blocks of these kinds: "" runs here, the others need something more.

    `cluster` runs in tests/kubernetes/test_installed.py, `node` needs a kubelet, `elsewhere` an operator or a file of others.
    """
    return [
        (name, line.removeprefix("$ "))
        for name, text in PAGES.items()
        for language, kind, block in FENCE.findall(text)
        if language == "console" and kind in kinds
        for line in block.splitlines()
    ]


HERE = dict.fromkeys(line for _, line in commands(""))


def test_each_alert_has_its_page_and_each_page_its_alert():
    assert {alert["alert"] for alert in ALERTS} == OF_ALERTS


@pytest.mark.parametrize("name", sorted(OF_ALERTS))
def test_pages_of_alerts_have_one_form(name):
    text = PAGES[name]
    assert text.startswith(f"# {name}\n")
    assert re.findall(r"^## .*$", text, re.MULTILINE) == SECTIONS
    sections = re.split(r"^## .*$", text, flags=re.MULTILINE)[1:]
    assert all(len(section.split()) >= 5 for section in sections)
    # How it ends, what makes it worse, and who else is to know: the last lines, where somebody in a hurry looks.
    ends = re.findall(r"^\*\*(It is over when|Do not|Call for help)\*\* (.+)$", sections[-1], re.MULTILINE)
    assert [name for name, _ in ends] == ["It is over when", "Do not", "Call for help"]
    assert all(len(said.split()) >= 3 and said.endswith((".", ")")) for _, said in ends)
    kinds = {kind for _, kind, _ in FENCE.findall(text)}
    # For whoever runs a plain process, and for whoever has a cluster.
    assert kinds & {"", "host"}, "say what to type without a cluster"
    assert kinds & {"cluster", "node"} or name in SAME_EVERYWHERE


def test_the_index_names_every_page_of_operations():
    linked = set(re.findall(r"\]\(([a-z-]+)\.md\)", PAGES["README"]))
    assert linked == set(PAGES) - OF_ALERTS - {"README"}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    for target in re.findall(r"\]\(([^)#]+)\)", PAGES[name]):
        assert (FOLDER / target).exists(), target
    for mentioned in re.findall(r"\b((?:docs|bench|policies|examples|helm)/[\w/.-]*\w)", PAGES[name]):
        if not mentioned.startswith("helm/"):
            assert (ROOT / mentioned).exists(), mentioned


@pytest.mark.parametrize(("name", "line"), commands("", "cluster", "node", "elsewhere", "host"))
def test_every_command_can_be_read(name, line):
    assert subprocess.run(["bash", "-n", "-c", line], capture_output=True, check=False).returncode == 0
    for words in re.findall(r"\bmfw ((?:[a-z-]+ ?)+)", line):
        assert known(words.split()), f"there is no `mfw {words}`"
    for setting in re.findall(r"\bMFW_[A-Z_]+", line):
        assert setting in SETTINGS, setting


@pytest.mark.parametrize(("name", "line"), commands("cluster", "node"))
def test_what_is_typed_for_a_cluster_says_enough(name, line):
    # Values that are new in this release are missing in those of the one before, and the chart's schema wants them all.
    assert "--reuse-values" not in line
    # One replica of several tells nothing of the others, and of a Job's pod that failed first there is but the backup.
    assert "logs deploy/" not in line
    assert "component=migration" not in line or " logs " not in line or "--all-containers" in line
    # One container that has not started would end it before the others are read, and their order is any.
    if " logs -l " in line:
        assert "--prefix" in line
        assert "--ignore-errors" in line
        # One pod comes after the other: the last lines would be those of one alone.
        assert "| tail" not in line or ("--timestamps" in line and "| sort -k2 | tail" in line)


@pytest.mark.parametrize("name", PAGES)
def test_settings_that_are_named_exist(name):
    for setting in re.findall(r"\bMFW_[A-Z]+__[A-Z_]+", PAGES[name]):
        assert setting in SETTINGS, setting


SETTINGS = set(re.findall(r"`(MFW_[A-Z_]+)`", (ROOT / "docs" / "configuration.md").read_text())) | {
    "MFW_URL",
    "MFW_API_KEY",
}


def known(words: list[str]) -> bool:
    """Whether the command has such a command; what follows it is arguments."""
    at = typer.main.get_command(app)
    for word in words:
        below = getattr(at, "commands", None)
        if below is None:
            return True
        if word not in below:
            return False
        at = below[word]
    return not hasattr(at, "commands")


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Iterator[dict[str, str]]:
    """A service of this checkout, and what somebody who works on it has set."""
    from tests.integration.cli.conftest import development, state_directory

    bin_directory = tmp_path_factory.mktemp("bin")
    mfw = bin_directory / "mfw"
    mfw.write_text(f'#!/bin/sh\nexec {sys.executable} -m app "$@"\n')
    python = bin_directory / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    for program in (mfw, python):
        program.chmod(0o755)
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MFW_")}
    with state_directory() as state, development(state) as service:
        yield plain | {
            "PATH": f"{bin_directory}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "METRICS": service.metrics_url,
            "MFW_ENVIRONMENT": "development",
            "MFW_DATABASE__URL": database_file(state).read_text().strip(),
            **service.settings,
        }


@pytest.mark.parametrize("line", HERE)
def test_commands_work_when_pasted(line, environment):
    def pasted() -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["bash", "-o", "pipefail", "-c", line],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=environment,
            timeout=120,
            check=False,
        )

    done, deadline = pasted(), time.monotonic() + 60
    # A component that has not answered within two seconds is not well; on a busy machine it is a moment later.
    while line == "mfw health" and done.returncode == 1 and time.monotonic() < deadline:
        done = pasted()
    # `grep` finds nothing where all is well, and says so by 1.
    allowed = {0, 1} if "| grep" in line else {0}
    assert done.returncode in allowed, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "error" not in done.stderr.lower()
