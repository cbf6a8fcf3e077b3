"""docs/client.md: its links lead somewhere, and its examples are Python (tests/integration/client runs them)."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "client.md").read_text()


def test_the_examples_are_python():
    for text in re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE):
        ast.parse(text)


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)h][^)]*)\)", PAGE))
def test_a_link_leads_somewhere(target):
    assert (ROOT / "docs" / target).exists()
