"""docs/security.md: every test that it names is there, and every threat has one."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[^`]+)`", PAGE)))
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| | ")]


@cache
def defined(file: str) -> frozenset[str]:
    """The tests of a file, and its classes, as pytest names them."""
    found: set[str] = set()
    for node in ast.parse((ROOT / file).read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found.add(node.name)
            found |= {
                f"{node.name}::{inner.name}"
                for inner in node.body
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef)
            }
    return frozenset(name for name in found if name.rpartition("::")[2].startswith(("test_", "Test")))


@pytest.mark.parametrize("named", NAMED)
def test_a_test_that_is_named_exists(named):
    file, _, test = named.partition("::")
    assert (ROOT / file).is_file(), file
    assert test in defined(file)


@pytest.mark.parametrize("row", [row for row in ROWS if "Defect | Where" not in row], ids=lambda row: row[:60])
def test_every_row_has_a_proof(row):
    *_, proof, _ = row.split("|")
    assert re.fullmatch(r" (`tests/[^` ]+::[^` ]+` ?)+", proof)


def test_every_surface_has_all_six_kinds():
    for section in PAGE.split("### ")[1:]:
        title, _, table = section.partition("\n")
        table = table.split("## ")[0]
        missing = set("STRIDE") - set(re.findall(r"^\| ([STRIDE]) \|", table, re.MULTILINE))
        assert not missing, (title, missing)
