"""The pages that are made from the code say what the code says."""

import subprocess
import sys
from pathlib import Path

import pytest

from app.policies.custom_resources import RESOURCES
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


def test_the_custom_resource_definitions_are_true(tmp_path):
    command = [sys.executable, "-m", "app", "policies", "crds", "--write", str(tmp_path)]
    subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    for resource in RESOURCES:
        kept = (ROOT / "k8s" / "crds" / f"{resource.plural}.yaml").read_text()
        made = (tmp_path / f"{resource.plural}.yaml").read_text()
        assert made == kept, "write them anew: mfw policies crds --write k8s/crds"
