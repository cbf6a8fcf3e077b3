"""Every file of the guide for authors is good, or bad where it says so, and every command runs."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "policy-authoring.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language):
    return [text for found, text in BLOCK.findall(PAGE) if found == language]


COMMANDS = [line.removeprefix("$ ") for text in blocks("console") for line in text.splitlines()]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A directory with what the reader has written by the end of the page."""
    here = tmp_path_factory.mktemp("authoring")
    policy, _, tests = blocks("yaml")
    (mutation,) = blocks("json")
    for name, text in (
        ("flags/flags.yaml", policy),
        ("flags.tests/flags.yaml", tests),
        ("flags/everybody.json", mutation),
    ):
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_text(text)
    yield here
    shutil.rmtree(here)


def run(line, here):
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MFW_")}
    line = re.sub(r"^mfw ", f"{sys.executable} -m app ", line)
    return subprocess.run(
        ["bash", "-c", line],
        capture_output=True,
        text=True,
        cwd=here,
        env=environ | {"PYTHONPATH": str(ROOT)},
        timeout=60,
        check=False,
    )


def test_the_commands_in_the_order_of_the_page(checkout):
    assert len(COMMANDS) == 11
    for line in COMMANDS:
        result = run(line, checkout)
        assert result.returncode == 0, (line, result.stdout, result.stderr)
        assert "Traceback" not in result.stderr
    assert (checkout / "results.xml").exists()
    assert "all passed" in (checkout / "coverage.html").read_text()
    assert "allow" in run("mfw policies explain -f flags/everybody.json --policies flags", checkout).stdout.lower()


def test_what_is_shown_is_what_is_printed(checkout, tmp_path):
    (shown,) = blocks("text")
    policy = blocks("yaml")[0]
    assert policy.count("\n      when: ") == 3
    (tmp_path / "flags").mkdir()
    (tmp_path / "flags" / "flags.yaml").write_text(policy.replace("when:", "wen:", 1))
    result = run("mfw policies check flags", tmp_path)
    assert result.returncode == 65
    assert shown in result.stderr


def test_the_anchor_is_refused_as_the_page_says(tmp_path):
    (tmp_path / "t.yaml").write_text(blocks("yaml")[1])
    result = run("mfw policies test t.yaml", tmp_path)
    assert result.returncode == 65
    assert "an anchor is not allowed" in result.stderr


def test_what_the_page_shows_is_laid_out():
    from app.policies.layout import layout

    for text in (blocks("yaml")[0], blocks("yaml")[2]):
        assert layout(text) == text


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)h][^)]*)\)", PAGE))
def test_a_link_leads_somewhere(target):
    assert (ROOT / "docs" / target).exists()
