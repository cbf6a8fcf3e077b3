"""The pages that are made from the code say what the code says."""

import subprocess
import sys
from pathlib import Path

import pytest

from app.policies.kinds import KINDS
from app.policies.schema import file_name

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("page", "command"), [("configuration.md", ["config", "reference"]), ("cli.md", ["commands"])])
def test_a_generated_page_is_true(page, command):
    made = subprocess.run([sys.executable, "-m", "app", *command], capture_output=True, text=True, cwd=ROOT, check=True)
    kept = (ROOT / "docs" / page).read_text()
    assert made.stdout == kept, f"write it anew: mfw {' '.join(command)} > docs/{page}"


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_schema_is_true(kind):
    command = [sys.executable, "-m", "app", "policies", "schema", kind]
    made = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    kept = (ROOT / "docs" / "schemas" / file_name(kind)).read_text()
    assert made.stdout == kept, "write them anew: mfw policies schema --write docs/schemas"
