"""Which clause decides, and what is told of it: a corpus, and that a trace says what the evaluation said."""

import datetime as dt
import dis
from pathlib import Path
from types import CodeType

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from app.core.cel import Bindings, EvaluationError, ExpressionError, ResultType, bind, compile_expression, conjuncts
from app.core.cel.clauses import LABEL_MAX_CHARS, TEXT_MAX_CHARS, Trace, deciding_clause
from app.core.cel.instrument import FALSE, TRUE, Form
from app.core.cel.paths import VALUE_MAX_CHARS
from app.core.types import Outcome

NOW = dt.datetime(2026, 3, 14, tzinfo=dt.UTC)
HERE = Path(__file__).parent
CASES = YAML(typ="safe", pure=True).load(HERE / "clauses.yaml")
LANGUAGE = [
    case if isinstance(case, str) else case["expr"]
    for group in YAML(typ="safe", pure=True).load(HERE / "language.yaml")
    for case in group["cases"]
]
VARIABLES = {
    "growth": "change.after.spec.replicas - change.before.spec.replicas",
    "large": "variables.growth > 2 || false",
    "small": "!variables.large",
    "broken": "change.before.spec.nothing + 1",
    "fails": "variables.broken > 1 && true",
    "containers": "change.after.spec.containers",
    "trusted": "['r/', 'k8s/']",
    "maybe": "change.after.?spec.?replicas",
    "none": "change.after.?nothing",
    "pw": "change.after.spec.password",
    "through": "variables.pw + '!'",
    "has_pw": "has(change.after.spec.password)",
    "data": "change.other.data.a + 0",
}
CHANGE = {
    "before": {"spec": {"replicas": 3}},
    "after": {
        "kind": "Deployment",
        "metadata": {"labels": {"app.kubernetes.io/name": "shop"}},
        "spec": {
            "replicas": 9,
            "password": "hunter2",
            "containers": [
                {
                    "name": "a",
                    "image": "r/a:1",
                    "env": [{"name": "LEVEL", "value": "info"}, {"name": "DB_PASSWORD", "value": "hunter2"}],
                },
                {"name": "b", "image": "evil/b:latest", "ports": [{"hostPort": 0}, {"hostPort": 80}]},
            ],
        },
    },
    "paths": ["/spec/replicas"],
    "long": "x" * 100,
    "none": None,
    "half": 0.5,
    "yes": True,
    "empty": [],
    "many": dict.fromkeys("abcdefghi", 1),
    "tokens": {"abc": "def"},
    "secret": {"kind": "Secret", "type": "Opaque", "data": {"a": "hunter2"}},
    "other": {"kind": "ConfigMap", "data": {"a": 1}},
    "patch": [{"op": "add", "path": "/spec/password", "value": "hunter2"}],
    "a b": 3,
    "é": 1,
    "x": 1,
}


def inputs(resource_type="apps/Deployment", change=CHANGE):
    return {
        "subject": {"type": "agent", "id": "s", "properties": {}},
        "action": {"name": "update", "properties": {}},
        "resource": {"type": resource_type, "id": "prod/x", "properties": {}},
        "context": {},
        "change": change,
    }


def program(text, result=ResultType.BOOL, variables=VARIABLES):
    return compile_expression(text, result=result, variables=variables)


def said(text, bindings):
    """Evaluate, and give the value and the text of the failure."""
    try:
        return text.evaluate(bindings), None
    except EvaluationError as error:
        return None, str(error)


def trace(text, change=CHANGE, **rest):
    one, bindings = program(text, **rest), bind(inputs(change=change), now=NOW)
    said(one, bindings)
    return one.trace(bindings)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["when"][:70])
def test_the_corpus(case):
    one, bindings = program(case["when"]), bind(inputs(case.get("resource", "apps/Deployment")), now=NOW)
    value, failure = said(one, bindings)
    traced = one.trace(bindings)
    assert (traced.value, traced.error) == (value, failure)
    found = traced.clause("when", budget=[100_000])
    place = f"{found.line}:{found.column}"
    assert [found.path, place, found.outcome.value, found.text, dict(found.values)] == case["clause"]
    if value is True or failure is not None:
        assert deciding_clause(one, bindings, path="when", failure=failure, budget=[100_000]) == found
    assert "hunter2" not in orjson.dumps(found.values).decode()


@pytest.mark.parametrize("text", LANGUAGE, ids=lambda text: text[:60])
def test_a_trace_says_what_the_evaluation_says(text):
    change = {
        **CHANGE,
        "s": "abc",
        "i": 1,
        "one": 1.0,
        "d": 1.5,
        "zero": 0,
        "big": 2**63 - 1,
        "l": [1, 2],
        "t": ["a", "b"],
        "e": [],
        "m": {"x": 1, "n": None},
        "o": [{"a": 1}, {}],
    }
    try:
        one = program(text, variables={})
    except ExpressionError:
        return
    bindings = bind(inputs(change=change), now=NOW)
    value, failure = said(one, bindings)
    traced = one.trace(bindings)
    assert (traced.value, traced.error) == (value, failure)
    orjson.dumps(traced.clause("when", budget=[100_000]))
    for site in traced.sites:
        assert text[site.start : site.end].strip() == text[site.start : site.end] != ""


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("change.yes == true", ["change.yes == true"]),
        ("change.yes && change.x == 1 && true", ["change.yes", "change.x == 1", "true"]),
        ("(change.yes && (change.x == 1)) && true", ["change.yes", "change.x == 1", "true"]),
        ("change.yes || change.x == 1 && true", ["change.yes || change.x == 1 && true"]),
        ("change.yes ? true : change.x == 1 && true", ["change.yes ? true : change.x == 1 && true"]),
        ("change.?yes.orValue(true) && '&&' == change.s", ["change.?yes.orValue(true)", "'&&' == change.s"]),
        ("[true && false].exists(x, x) && (1) == (2)", ["[true && false].exists(x, x)", "(1) == (2)"]),
        ("change.yes && !(change.yes && true) && -1 < 2", ["change.yes", "!(change.yes && true)", "-1 < 2"]),
    ],
)
def test_conjuncts(text, parts):
    assert list(conjuncts(program(text).source)) == parts


class TestSites:
    def test_each_part_has_a_place_and_an_outcome(self):
        traced = trace("action.name == 'x' || !variables.large || subject.id == 's' || has(change.nothing)")
        seen = [(one.site.form, one.site.text, one.outcome) for one in traced.sites_seen()]
        assert seen == [
            (Form.OR, traced.sites[0].text, Outcome.TRUE),
            (Form.PART, "action.name == 'x'", Outcome.FALSE),
            (Form.NOT, "!variables.large", Outcome.FALSE),
            (Form.VARIABLE, "variables.large", Outcome.TRUE),
            (Form.PART, "subject.id == 's'", Outcome.TRUE),
            (Form.PART, "has(change.nothing)", None),
        ]
        assert traced.outcome is Outcome.TRUE
        assert [dict(one.values) for one in traced.sites_seen()[1:3]] == [
            {"action.name": "update"},
            {"variables.large": True},
        ]

    def test_the_bits_are_of_all_turns(self):
        traced = trace("change.after.spec.containers.exists(c, c.name == 'b')")
        assert traced.seen == [TRUE, TRUE | FALSE]

    def test_a_failure_is_seen(self):
        traced = trace("change.after.spec.containers.all(c, c.ports.size() > 0) || change.nothing == 2")
        assert traced.outcome is Outcome.ERROR
        assert [one.outcome for one in traced.sites_seen()] == [Outcome.ERROR] * 4
        assert traced.sites_seen()[2].values == {"change.after.spec.containers[0].ports": "absent"}

    def test_the_first_failure_and_the_last_turn_are_kept(self):
        traced = trace("change.after.spec.containers.exists(c, c.env.size() == 2 && c.env[5] == 1)")
        assert traced.clause("when", budget=[1000]).text == "c.env[5] == 1"
        bounded = trace("change.after.all(x, true)", change={"after": list(range(1000))})
        assert len(bounded._root.last[0].last) == 1

    def test_a_text_is_one_part_that_is_no_bool(self):
        traced = trace("'adds ' + (variables.growth > 1 ? 'many' : 'one')", result=ResultType.STRING)
        assert traced.value == "adds many"
        assert [(site.boolean, site.text) for site in traced.sites] == [
            (False, "'adds ' + (variables.growth > 1 ? 'many' : 'one')"),
            (True, "variables.growth > 1"),
        ]

    def test_what_reads_nothing_is_constant(self):
        traced = trace("true && size('a') == 1 && [1].all(x, x == 1) && variables.trusted.size() == 2 && has(change.a)")
        assert [site.constant for site in traced.sites] == [False, True, True, True, False, True, False]

    def test_a_part_that_gives_no_bool_has_failed(self):
        traced = trace("change.x && change.yes || change.after.kind")
        assert traced.outcome is Outcome.ERROR
        found = traced.clause("when", budget=[1000])
        assert (found.text, found.outcome, found.values) == ("change.x", Outcome.ERROR, {"change.x": 1})


class TestLimits:
    def test_long_texts_keys_and_values_are_cut(self):
        key = "k" * 500
        traced = trace(
            f"change['{key}'] == 'x' || {' || '.join(['change.yes'] * 30)}", change={key: "v" * 500, "yes": False}
        )
        found = traced.clause("when", budget=[1000])
        assert (len(found.text), found.text[-1]) == (TEXT_MAX_CHARS, "…")
        (label, value), *_ = found.values.items()
        assert len(label) <= LABEL_MAX_CHARS
        assert len(value) == VALUE_MAX_CHARS

    def test_what_costs_too_much_has_failed(self):
        one, bindings = program("change.after.all(x, x > 0)"), bind(inputs(change={"after": [1] * 1000}), now=NOW)
        traced = one.trace(bindings, budget=[100])
        assert traced.error == "the evaluation takes more than 1000000 steps"
        found = deciding_clause(one, bindings, path="when", failure=None, budget=[100])
        assert (found.text, found.values) == ("change.after.all(x, x > 0)", {})

    def test_a_variable_that_costs_too_much_is_named_but_not_gone_into(self):
        change = {"after": [1] * 1000}
        variables = {"all": "change.after.all(x, x > 0) && change.after.all(x, x > 0)"}
        one, bindings = program("variables.all", variables=variables), bind(inputs(change=change), now=NOW)
        assert one.evaluate(bindings) is True
        found = one.trace(bindings, budget=[100]).clause("when", budget=[100])
        assert (found.path, found.text, found.values) == ("when", "variables.all", {"variables.all": True})

    def test_a_variable_of_another_list_is_named(self):
        found = trace("variables.large").clause("when", budget=[1000], variables=("other",))
        assert (found.path, found.text) == ("variables.large", "variables.growth > 2")

    def test_values_bound_elsewhere_are_refused(self):
        class Others:
            inputs = inputs()
            now = NOW

        others: Bindings = Others()
        with pytest.raises(EvaluationError, match="bound for another engine"):
            program("true").trace(others)

    def test_a_defect_of_the_evaluator_is_no_more_than_an_error(self):
        one = program("action.name == 'update'")
        bindings = bind({}, now=NOW)
        assert one.trace(bindings).error == said(one, bindings)[1]


def test_what_another_rule_read_does_not_show():
    text = "(change.yes ? variables.growth : variables.large ? 1 : 2) == 6"
    alone, after = bind(inputs(), now=NOW), bind(inputs(), now=NOW)
    program("variables.large || variables.broken == 1").evaluate(after)
    program("variables.fails || true").evaluate(after)
    clauses = [program(text).trace(one).clause("when", budget=[1000]) for one in (alone, after)]
    assert clauses[0] == clauses[1]
    assert clauses[0].values == {"change.yes": True, "variables.growth": 6}


def inspect(code: CodeType) -> None:
    for instruction in dis.get_instructions(code):
        if "ATTR" in instruction.opname or "METHOD" in instruction.opname:
            assert instruction.argval == "append"
        assert "IMPORT" not in instruction.opname
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            inspect(constant)


@pytest.mark.parametrize("text", LANGUAGE, ids=lambda text: text[:60])
def test_the_function_with_notes_reaches_nothing(text):
    try:
        one = program(text, variables={})
    except ExpressionError:
        return
    run = one.source.instrumented().run
    assert run.__globals__["__builtins__"] == {}
    inspect(run.__code__)


def test_the_function_with_notes_is_made_once():
    one = program("variables.large && change.after.spec.containers.exists(c, c.name == 'b')")
    assert one.source.instrumented() is one.source.instrumented()


@given(st.text(max_size=60))
def test_no_value_breaks_a_clause(text):
    traced = trace("change.t[change.k] == 1 || change.t.exists(k, change.t[k] == 2)", change={"t": {text: 2}, "k": "a"})
    orjson.dumps(traced.clause("when", budget=[1000]).values, option=orjson.OPT_NON_STR_KEYS)


def test_the_trace_is_a_type_of_its_own():
    assert isinstance(trace("true"), Trace)
