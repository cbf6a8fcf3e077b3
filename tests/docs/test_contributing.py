"""The pages for people who change it, release it or report a weakness name what is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "docs/releasing.md")
MAKEFILE = (ROOT / "Makefile").read_text()


def anchors(page: Path) -> set[str]:
    """What a link may name behind `#`: headings as a host makes anchors of them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    page = ROOT / name
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


@pytest.mark.parametrize("name", PAGES)
def test_targets_of_make_exist(name):
    for target in re.findall(r"\bmake ([a-z][a-z-]+)(?=[` \n])", (ROOT / name).read_text()):
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), target


def test_files_that_a_contributor_is_sent_to_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    places = (ROOT, ROOT / "app", ROOT / "tests" / "integration" / "service", ROOT / "helm" / "mutation-firewall")
    named = set(re.findall(r"`([\w.-]+(?:/[\w.-]+)*\.(?:py|md|toml|yaml|tpl))`", text)) - {"tests"}
    named |= set(re.findall(r"`((?:app|tests|docs|alerts|migrations|runbooks)/[\w/.-]+)`", text))
    named = {name for name in named if "NNNN" not in name}
    assert len(named) > 10
    for name in sorted(named):
        found = [
            place / name for place in (*places, ROOT / "helm/mutation-firewall/templates", ROOT / "tests/unit/settings")
        ]
        assert any(path.exists() for path in found), name


def test_a_version_of_the_changelog_is_told_by_its_day_and_the_newest_comes_first():
    text = (ROOT / "CHANGELOG.md").read_text()
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    versions = [re.fullmatch(r"\[(\d+)\.(\d+)\.(\d+)\] - \d{4}-\d\d-\d\d", heading) for heading in headings[1:]]
    numbers = [tuple(map(int, found.groups())) for found in versions if found]
    assert len(numbers) == len(headings) - 1 > 0
    assert numbers == sorted(numbers, reverse=True)
    kinds = set(re.findall(r"^### (.*)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security", "Upgrade notes"}
