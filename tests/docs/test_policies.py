"""What docs/policies.md shows loads: whole documents as they are, parts of a policy inside one."""

import re
import textwrap
from pathlib import Path

import pytest

from app.policies.layout import layout
from app.policies.load import check_text
from app.policies.shape import EXCEPTION_KIND, SPEC

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "policies.md").read_text()
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
HEAD = "apiVersion: mutationfirewall.io/v1\nkind: MutationPolicy\nmetadata: {name: p}\nspec:\n"
# What the parts take from the first document of the page.
VARIABLES = '  variables:       [{name: growth, expression: "change.after.spec.replicas"}]\n'
DOCUMENTS = [block for block in BLOCKS if block.startswith("apiVersion")]
PARTS = [block for block in BLOCKS if block.split(":", 1)[0] in SPEC.known]


def test_the_page_shows_documents_and_parts():
    assert len(DOCUMENTS) >= 2
    assert len(PARTS) >= 2


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.split(":", 1)[0])
def test_a_part_loads_in_a_policy(part):
    rules = "" if part.startswith("rules:") else "  rules: [{name: any, effect: allow, when: 'variables.growth < 3'}]\n"
    checked = check_text(HEAD + VARIABLES + rules + textwrap.indent(part, "  "), name="p.yaml")
    assert checked.policy_set is not None, [str(one) for one in checked.diagnostics]


def test_the_documents_load_together():
    exceptions = [one for one in DOCUMENTS if f"kind: {EXCEPTION_KIND}" in one]
    assert exceptions
    checked = check_text("---\n".join([DOCUMENTS[0], *exceptions]), name="p.yaml")
    assert checked.policy_set is not None, [str(one) for one in checked.diagnostics]
    assert checked.diagnostics == ()
    for one in exceptions:
        assert layout(one)


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)h#][^)#]*)(?:#[^)]*)?\)", PAGE))
def test_a_link_leads_somewhere(target):
    assert (ROOT / "docs" / target).exists()
