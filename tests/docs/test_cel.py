"""`docs/cel.md` has every function there is, no other, and its examples are true."""

import datetime as dt
import re
from pathlib import Path

import pytest

from app.core.cel import INPUT_NAMES, ResultType, bind, compile_expression
from app.core.cel.functions import FUNCTIONS
from app.core.cel.kubernetes import authorizer
from app.core.cel.kubernetes.signatures import MERGED, SIGNATURES
from app.core.types import JsonObject

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "cel.md").read_text(encoding="utf-8")
# What the parser makes of a macro or an operator; people write it otherwise.
WRITTEN = {"math.@max": "math.greatest", "math.@min": "math.least", "@sortByAssociatedKeys": "sortBy"}
KIND = re.compile(r"\b(?:int|uint|double|bool|duration|timestamp|string|bytes)\b")
EXAMPLES = PAGE.partition("```cel\n")[2].partition("```")[0]


def documented():
    """Give the signatures of the page's table: those of lists of any type are written once."""
    return set(re.findall(r"`([^`]+ -> [^`]+)`", PAGE))


def declared():
    lists = {KIND.sub("T", each) if each.startswith("list(") else each for each in SIGNATURES}
    lists = {each.replace("-> T", "-> bool") if "isSorted" in each else each for each in lists}
    return lists | {f"list(T).{name}(T) -> int" for name in MERGED}


def test_every_signature_is_on_the_page_and_no_other():
    assert documented() == declared()


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if not name.startswith(("_", "-", "!", "@in"))])
def test_every_function_is_on_the_page(name):
    assert f"{WRITTEN.get(name, name).partition('/')[0]}(" in PAGE


@pytest.mark.parametrize("text", EXAMPLES.splitlines())
def test_every_example_is_true(text):
    inputs: JsonObject = {name: {} for name in INPUT_NAMES}
    now = dt.datetime(2026, 3, 14, tzinfo=dt.UTC)
    assert compile_expression(text, result=ResultType.BOOL).evaluate(bind(inputs, now=now)) is True


def test_the_price_of_a_check_is_the_one_on_the_page():
    assert f"costs {authorizer.CHECK_STEPS:,} steps" in PAGE
