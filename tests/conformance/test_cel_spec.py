"""The published conformance cases of CEL, where a copy of them is given: `MFW_CEL_SPEC` names the folder.

The folder is `tests/simple/testdata` of the specification's repository, or of its Go module `cel.dev/expr`. The cases are
not part of this repository; `language.yaml` beside the unit tests has what they are about in our own words. Without the
folder only the reader of their format is tested. What is out of scope is counted and said: messages of Protocol
Buffers, for every value here is JSON, and expressions that are evaluated without the check that no policy is spared.
"""

import datetime as dt
import importlib.util
import math
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cel_expr_python import cel

from app.core.cel import ExpressionError
from app.core.cel.bindings import RequestBindings
from app.core.cel.budget import STEPS_MAX
from app.core.cel.checked import read_checked
from app.core.cel.engine import _EXTENSIONS
from app.core.cel.failures import FAIL
from app.core.cel.generate import Name, UnsupportedError, generate
from app.core.cel.operators import make_map
from app.core.cel.values import MixedMap, Optional, TypeValue, UInt
from app.core.cel.variables import check_shape

FOLDER = os.environ.get("MFW_CEL_SPEC", "")
FILES = sorted(Path(FOLDER).glob("*.textproto")) if FOLDER else []
if not FILES:
    # Not skipped one by one, which CI forbids: without the cases nothing is collected, and the header says so.
    pytest.skip("`MFW_CEL_SPEC` does not name a folder of published cases", allow_module_level=True)

_spec = importlib.util.spec_from_file_location("textproto", Path(__file__).with_name("textproto.py"))
assert _spec is not None
assert _spec.loader is not None
textproto = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(textproto)

# Whole files about what no JSON value is, or about what the parser of a policy does not accept.
OUT_OF_SCOPE = {
    "proto2": "messages",
    "proto3": "messages",
    "proto2_ext": "messages",
    "enums": "messages",
    "wrappers": "messages",
    "dynamic": "messages",
    "unknowns": "partial evaluation",
    "block_ext": "`cel.block`, which only an optimiser writes",
}
MESSAGES = re.compile(
    r"TestAllTypes|NestedTestAllTypes|google\.protobuf\.(?!Timestamp\b|Duration\b)|google\.protobuf\.\w+\s*\{|GlobalEnum|proto\.(?:has|get)Ext|cel\.expr\."
)
MISSING_VALUE = object()

# What differs although it is in scope, with the reason.
CONTROL = (
    "the expression has a control character in it, which no policy may have; written as an escape it is as published"
)
EXCEPTIONS = dict.fromkeys(
    (
        "comparisons/gt_literal/gt_bytes_one",
        "comparisons/gt_literal/gt_bytes_one_to_empty",
        "comparisons/gt_literal/not_gt_bytes_sorting",
        "comparisons/lte_literal/lte_bytes_empty",
        "comparisons/lte_literal/not_lte_bytes_length",
        "comparisons/gte_literal/gte_bytes_to_empty",
        "comparisons/gte_literal/not_gte_bytes_empty_to_nonempty",
        "comparisons/gte_literal/gte_bytes_samelength",
        "comparisons/bound/bytes_gt_left_false",
    ),
    CONTROL,
)


class Case(NamedTuple):
    file: str
    section: str
    name: str
    body: dict[str, Any]

    @property
    def expression(self):
        return self.body["expr"][0].decode()

    def __str__(self):
        return f"{self.file}/{self.section}/{self.name}"


def cases(file):
    parsed = textproto.parse(file.read_text(encoding="utf-8"))
    for section in parsed.get("section", []):
        for body in section.get("test", []):
            yield Case(file.stem, section["name"][0].decode(), body["name"][0].decode(), body)


def value_of(message):
    """Turn a `cel.expr.Value` into a value of ours; MISSING_VALUE where it is no JSON value."""
    if not message:
        return MISSING_VALUE
    ((kind, (value,)),) = message.items()
    match kind:
        case "null_value":
            return None
        case "bool_value":
            return value == "true"
        case "int64_value":
            return int(value)
        case "uint64_value":
            return UInt(value)
        case "double_value":
            return float(value)
        case "string_value":
            return value.decode()
        case "bytes_value":
            return value
        case "type_value":
            return TypeValue(value.decode())
        case "list_value":
            return [value_of(element) for element in value.get("values", [])]
        case "map_value":
            entries = value.get("entries", [])
            return make_map([(value_of(e["key"][0]), value_of(e["value"][0])) for e in entries])
        case _:
            return MISSING_VALUE


def in_scope(value):
    if isinstance(value, list):
        return all(map(in_scope, value))
    if isinstance(value, dict | MixedMap):
        return all(in_scope(inner) for _, inner in value.items())
    return value is not MISSING_VALUE


def same(a, b):
    if type(a) is float and type(b) is float:
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    if isinstance(a, dict | MixedMap) and isinstance(b, dict | MixedMap):
        return len(a) == len(b) and all(same(inner, b.get(key, MISSING_VALUE)) for key, inner in a.items())
    if type(a) is not type(b):
        return False
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, Optional):
        return bool(a.present == b.present) and same(a.value, b.value)
    return bool(a == b)


def scope_of(case):
    """Say why a case is out of scope; empty if it is in scope."""
    body = case.body
    if case.file in OUT_OF_SCOPE:
        return OUT_OF_SCOPE[case.file]
    text = case.expression + (body["container"][0].decode() if "container" in body else "") * (case.file != "namespace")
    if MESSAGES.search(text):
        return "messages"
    if any("function" in declared for declared in body.get("type_env", [])):
        return "functions of one's own"
    if "unknown" in body or "any_unknowns" in body:
        return "partial evaluation"
    bound = [entry["value"][0] for entry in body.get("bindings", [])]
    wanted = [*body.get("value", []), *(r["result"][0] for r in body.get("typed_result", []) if "result" in r)]
    values = [value_of(one["value"][0]) if "value" in one else MISSING_VALUE for one in bound]
    if not all(in_scope(value) for value in [*values, *map(value_of, wanted)]):
        return "messages"
    return ""


def run(case):
    """Evaluate one case: its value, or None and the text of its error."""
    names = [declared["name"][0].decode() for declared in case.body.get("type_env", [])]
    bound = {e["key"][0].decode(): value_of(e["value"][0]["value"][0]) for e in case.body.get("bindings", [])}
    lines = [f"- name: {name}" for name in _EXTENSIONS]
    if "container" in case.body:
        lines.append(f"container: {case.body['container'][0].decode()}")
    config = cel.NewEnvConfigFromYaml("extensions:\n" + "\n".join(lines))
    declared = dict.fromkeys([*names, *bound], cel.Type.DYN)
    check_shape(case.expression)
    tree = read_checked(cel.NewEnv(config=config, variables=declared).compile(case.expression).serialize())
    if "check_only" in case.body:
        return MISSING_VALUE
    generated = generate(tree, {name: Name(f"i[{name!r}]") for name in declared})
    return generated.run(RequestBindings(bound, dt.datetime(2026, 3, 14, tzinfo=dt.UTC)), bound, {}, [STEPS_MAX])


UNCHECKED = "refused by the type checker, which the case leaves out"


def outcome(case):
    """Give what is wrong with a case; empty if it is as published, `UNCHECKED` if no policy could be written so."""
    body = case.body
    fails = "eval_error" in body or "any_eval_errors" in body
    try:
        found = run(case)
    except (*FAIL, ExpressionError, UnsupportedError) as error:
        return "" if fails else f"{type(error).__name__}: {error}"
    except Exception as error:  # noqa: BLE001 - the engine's checker knows only one kind of error
        if fails:
            return ""
        return UNCHECKED if "disable_check" in body else f"not checked: {str(error).splitlines()[0]}"
    if found is MISSING_VALUE:
        return ""
    if fails:
        return f"gave {found!r}, not an error"
    wanted = [*body.get("value", []), *(r["result"][0] for r in body.get("typed_result", []) if "result" in r)]
    expected = value_of(wanted[0]) if wanted else True
    return "" if same(found, expected) else f"gave {found!r}, not {expected!r}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_published_cases(file):
    counts: Counter[str] = Counter()
    wrong: dict[str, str] = {}
    for case in cases(file):
        reason = scope_of(case)
        text = "" if reason else outcome(case)
        counts[reason or (text if text == UNCHECKED else "in scope")] += 1
        if text and text != UNCHECKED:
            wrong[f"{case}: {case.expression}"] = text
    unknown = {name: text for name, text in wrong.items() if name.split(": ", 1)[0] not in EXCEPTIONS}
    total = counts["in scope"]
    # Said with `pytest -rP`.
    print(  # noqa: T201 - the figure is what people run this for
        f"{file.stem}: {total - len(wrong)} of {total} as published; out of scope: {dict(counts - Counter({'in scope': total}))}"
    )
    assert not unknown, "\n".join(f"{name}\n    {text}" for name, text in unknown.items())


def test_the_reader_of_the_format():
    text = """
    # a comment
    name: "a\\n" 'b\\x41\\101\\u00e9'
    section { name: "s" test: { expr: '"x"' value { int64_value: -5 } } test { bindings: { key: "k" value <value: { double_value: 1.5e3 }> } } }
    numbers: [1, 0x1F, 010, -inf, nan, 1.5f]
    word: NULL_VALUE
    any { [type.googleapis.com/a.b.C] { x: true } }
    """
    found = textproto.parse(text)
    assert found["name"] == ["a\nbAAé".encode()]
    (section,) = found["section"]
    assert [set(one) for one in section["test"]] == [{"expr", "value"}, {"bindings"}]
    assert value_of(section["test"][0]["value"][0]) == -5
    assert value_of(section["test"][1]["bindings"][0]["value"][0]["value"][0]) == 1500.0
    *numbers, nan, last = found["numbers"]
    assert numbers == [1, 31, 8, -math.inf]
    assert math.isnan(nan)
    assert last == 1.5
    assert found["word"] == ["NULL_VALUE"]
    assert found["any"] == [{"[type.googleapis.com/a.b.C]": [{"x": ["true"]}]}]
    for broken in ("a {", "a: }", "a: @", "1: 2", "a: 1 }"):
        with pytest.raises(ValueError, match=r"."):
            textproto.parse(broken)


def test_values_that_are_not_json_are_out_of_scope():
    assert value_of({"object_value": [{}]}) is MISSING_VALUE
    assert not in_scope([value_of({"object_value": [{}]})])
    assert in_scope({"a": [1]})
    assert same([math.nan, {"a": 1}], [math.nan, {"a": 1}])
    assert not same(1, 1.0)
    assert not same(0.0, -0.0)
