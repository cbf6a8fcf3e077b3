"""Kubernetes' libraries, case by case: `kubernetes/*.yaml`, and what no expression can say."""

import contextlib
import datetime as dt
import time
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from app.core.cel import EvaluationError, ExpressionError, ResultType, bind, check_variable, compile_expression
from app.core.cel.clauses import shown
from app.core.cel.functions import FUNCTIONS
from app.core.cel.kubernetes import addresses, authorizer, formats, quantities, signatures, urls, versions
from app.core.cel.kubernetes.authorizer import Answer, Attributes, RecordedAnswers
from app.core.cel.values import CelError, type_name

DIRECTORY = Path(__file__).with_name("kubernetes")
CHANGE = {
    "word": "word",
    "number": 1,
    "nothing": None,
    "map": {"a": 1},
    "empty": [],
    "ints": [3, 1, 2],
    "doubles": [1.5, 2.5],
    "words": ["a", "b"],
    "objects": [{"n": 1}, {"n": 2}],
    "memory": "1Gi",
    "limits": ["512Mi", "1G"],
    "address": "10.1.2.3",
    "network": "10.0.0.0/8",
    "url": "https://registry.example.com:5000/v2/?n=1",
    "version": "1.28.4-rc.1",
    "format": "labelValue",
    "long63": "a" * 63,
    "pattern": "^w.",
    "bad": "(",
    "key": "a/b",
}
INPUTS = {"subject": {}, "action": {}, "resource": {}, "context": {}, "change": CHANGE}
NOW = dt.datetime(2026, 3, 14, 15, 9, 26, tzinfo=dt.UTC)


class Answers:
    """May the requester do it? See the head of `authorizer.yaml`."""

    def __init__(self):
        self.asked = []

    def request_resource(self):
        return Attributes(group="apps", resource="deployments", namespace="default", name="web")

    def authorize(self, attributes):
        self.asked.append(attributes)
        match attributes.verb:
            case "fail":
                return Answer(allowed=False, error="out of order")
            case "both":
                return Answer(allowed=True, error="both")
            case "raise":
                raise ZeroDivisionError
            case verb:
                return Answer(self.allows(attributes, verb), self.reason(attributes))

    def allows(self, asked, verb):
        if asked.service_account is not None:
            return asked.namespace == asked.service_account[0]
        return verb == "get" or (verb == "update" and asked.namespace == "default")

    def reason(self, asked):
        account = f"{':'.join(asked.service_account)} " if asked.service_account else ""
        if asked.path:
            return f"{account}{asked.path} {asked.verb}"
        said = f"{asked.group}/{asked.resource}/{asked.subresource} {asked.namespace}/{asked.name} {asked.verb}"
        return f"{account}{said} {asked.field_selector} {asked.label_selector}".strip()


def cases():
    for file in sorted(DIRECTORY.glob("*.yaml")):
        for group in YAML(typ="safe", pure=True).load(file.read_text(encoding="utf-8")):
            for case in group["cases"]:
                expr, error = (case, None) if isinstance(case, str) else (case["expr"], case["error"])
                yield pytest.param(file.stem, expr, error, id=f"{file.stem}: {expr[:70]}")


CASES = list(cases())


def evaluate(text, *, variables=None, also=frozenset(), answers=None, change=CHANGE):
    program = compile_expression(text, result=ResultType.BOOL, variables=variables, also=also)
    return program.evaluate(bind({**INPUTS, "change": change}, now=NOW, authorizer=answers))


@pytest.mark.parametrize(("library", "expr", "error"), CASES)
def test_case(library, expr, error):
    also = frozenset({"authorizer"}) if library == "authorizer" else frozenset()
    if error is None:
        assert evaluate(expr, also=also, answers=Answers()) is True
        return
    with pytest.raises((ExpressionError, EvaluationError)) as caught:
        evaluate(expr, also=also, answers=Answers())
    assert error in str(caught.value)


def test_the_corpus_is_read():
    assert len(CASES) > 250


# --- what the checker knows ------------------------------------------------------------------------------------------


def test_each_signature_has_its_function():
    declared = {function["name"] for function in signatures.declarations()["functions"]}
    assert declared <= set(FUNCTIONS)
    assert set(signatures.MERGED) <= set(FUNCTIONS)


def test_each_format_is_declared():
    assert {f"format.{name}() -> Format" for name in formats.FORMATS} <= set(signatures.SIGNATURES)
    assert sum(signature.startswith("format.") for signature in signatures.SIGNATURES) == len(formats.FORMATS) + 1


def test_a_signature_that_is_none_is_refused():
    with pytest.raises(ValueError, match="is no signature"):
        signatures._overload("quantity(string): Quantity")


@pytest.mark.parametrize(
    "text",
    [
        "change.ints.sum // the sum\n () == 6",
        "change.ints\n.sum\t() == 6",
        "type(change.number) != net . IP",
    ],
)
def test_blanks_and_comments_hide_no_function(text):
    assert evaluate(text) is True


# --- variables -------------------------------------------------------------------------------------------------------

VARIABLES = {
    "memory": "quantity(change.memory)",
    "fixed": "quantity('2Gi')",
    "network": "cidr(change.network)",
    "address": "ip('10.0.0.1')",
    "all": "change.limits.map(l, quantity(l))",
    "maybe": "change.?memory",
    "kind": "type(change.number)",
    "checked": "format.labelValue().validate(change.word)",
}


@pytest.mark.parametrize(
    "text",
    [
        "variables.memory.isLessThan(variables.fixed)",
        "variables.fixed == quantity('2048Mi') && variables.memory != variables.fixed",
        "variables.network.containsIP(variables.address) && string(variables.address) == '10.0.0.1'",
        "variables.all.exists(q, q == quantity('512Mi'))",
        "variables.maybe.hasValue() && variables.maybe.value() == '1Gi' && variables.maybe.orValue('') == '1Gi'",
        "variables.kind == int",
        "!variables.checked.hasValue()",
    ],
)
def test_variables_of_any_type(text):
    assert evaluate(text, variables=VARIABLES) is True


def test_a_variable_keeps_its_type_for_the_checker():
    with pytest.raises(ExpressionError, match="no matching overload for `containsIP`"):
        compile_expression("variables.memory.containsIP('::')", result=ResultType.BOOL, variables=VARIABLES)


@pytest.mark.parametrize(
    ("text", "fix"),
    [("quantity('1')", ".asInteger()"), ("[ip('::')]", "string(...)"), ("{'a': url('/')}", ".getHost()")],
)
def test_what_leaves_as_json_is_none_of_these(text, fix):
    with pytest.raises(ExpressionError, match="which JSON does not have") as caught:
        compile_expression(text, result=ResultType.JSON)
    assert fix in (caught.value.problems[0].fix or "")


# --- constants -------------------------------------------------------------------------------------------------------


def test_a_value_of_constants_is_made_when_the_expression_is_loaded(monkeypatch):
    program = compile_expression(
        "quantity('1Gi').compareTo(variables.q) == 0 && cidr('10.0.0.0/8').ip() == ip('10.0.0.0')",
        result=ResultType.BOOL,
        variables={"q": "quantity('1024Mi')"},
    )
    monkeypatch.setattr(quantities, "parse", None)
    assert program.evaluate(bind(INPUTS, now=NOW)) is True


def test_a_constant_that_is_wrong_is_refused_at_its_place():
    with pytest.raises(ExpressionError) as caught:
        compile_expression("change.number == 1 &&\n  quantity('1Q') == quantity('1')", result=ResultType.BOOL)
    (problem,) = caught.value.problems
    assert (problem.line, problem.column) == (2, 11)
    assert problem.fix == "mend it; `quantity('1Q')` would always fail"


def test_a_constant_of_a_wrong_type_is_left_to_evaluation():
    # `dyn` hides from the checker what is certain: the error is then one of the evaluation, or of the load.
    with pytest.raises((ExpressionError, EvaluationError), match="no matching overload for `quantity`"):
        evaluate("quantity(dyn(1)) == quantity('1')")


# --- the authorizer --------------------------------------------------------------------------------------------------

ALSO = frozenset({"authorizer"})


@pytest.mark.parametrize("text", ["authorizer.path('/').check('get').allowed()", "has(authorizer.requestResource.x)"])
def test_without_an_authorizer_it_is_refused_when_loaded(text):
    with pytest.raises(ExpressionError) as caught:
        compile_expression(f"true ||\n {text}", result=ResultType.BOOL)
    (problem,) = caught.value.problems
    assert problem.line == 2


def test_the_refusal_says_what_to_do():
    with pytest.raises(ExpressionError) as caught:
        compile_expression("authorizer.requestResource.check('get').allowed()", result=ResultType.BOOL)
    (problem,) = caught.value.problems
    assert problem.message == "`authorizer.requestResource` cannot be read here: nothing answers its checks"
    assert problem.fix == "test who asks: `subject`, or in an admission policy `request.userInfo`"


def test_a_variable_that_reads_it_is_refused_too():
    variables = {"may": "authorizer.path('/').check('get').allowed()"}
    with pytest.raises(ExpressionError, match="nothing answers its checks"):
        check_variable("may", variables=variables)
    check_variable("may", variables=variables, also=ALSO)
    assert evaluate("variables.may", variables=variables, also=ALSO, answers=Answers()) is True
    with pytest.raises(ExpressionError, match="nothing answers its checks"):
        compile_expression("variables.may", result=ResultType.BOOL, variables=variables)


def test_bindings_without_an_authorizer_are_an_error():
    with pytest.raises(EvaluationError, match="no authorizer answers for this request"):
        evaluate("authorizer.path('/').check('get').allowed()", also=ALSO)


def test_each_question_is_asked_once_and_its_answer_is_kept():
    answers = Answers()
    text = "authorizer.path('/a').check('get').allowed() && !authorizer.requestResource.check('create').allowed()"
    program = compile_expression(text, result=ResultType.BOOL, also=ALSO)
    bindings = bind(INPUTS, now=NOW, authorizer=answers)
    assert program.evaluate(bindings) is True
    assert program.evaluate(bindings) is True
    assert answers.asked == list(bindings.answers)
    assert [attributes.verb for attributes in answers.asked] == ["get", "create"]
    # What was answered is enough to decide again, and everything else is an error that allows nothing.
    recorded = RecordedAnswers(answers.request_resource(), dict(bindings.answers))
    again = bind(INPUTS, now=NOW, authorizer=recorded)
    assert program.evaluate(again) is True
    assert again.answers == bindings.answers
    other = "authorizer.path('/b').check('get').errored() && !authorizer.path('/c').check('get').allowed()"
    assert evaluate(other, also=ALSO, answers=recorded) is True


def test_a_long_error_is_cut():
    class Verbose(Answers):
        def authorize(self, attributes):
            return Answer(allowed=False, error="x" * 10_000)

    bindings = bind(INPUTS, now=NOW, authorizer=Verbose())
    program = compile_expression("authorizer.path('/').check('get').errored()", result=ResultType.BOOL, also=ALSO)
    assert program.evaluate(bindings) is True
    assert [len(answer.error) for answer in bindings.answers.values()] == [200]


# --- values ----------------------------------------------------------------------------------------------------------


def test_equal_values_are_equal_whatever_their_form():
    assert quantities.parse("1k") == quantities.parse("1000") != quantities.parse("1001")
    assert quantities.parse("1") != 1
    assert versions.parse("1.0.0+a") == versions.parse("1.0.0")
    assert versions.parse("1.0.0") != "1.0.0"
    assert urls.parse("HTTP://h/a b") == urls.parse("http://h/a%20b")
    assert urls.parse("/") != "/"


@pytest.mark.parametrize(
    "text",
    [
        "https://u:p@example.com:80/a%2Fb?q=1#f",
        "http://[fe80::1]/",
        "mailto:a@example.com?subject=x",
        "/a?b",
        "/a?",
        "http://h",
        "http://u%40@h/",
    ],
)
def test_a_url_in_its_normal_form_is_written_as_it_is(text):
    assert urls.parse(text).written() == text.encode()


def test_opaque_values_have_the_names_of_kubernetes():
    decision = authorizer.Decision(Answer(allowed=True))
    assert type_name(decision) == "kubernetes.authorization.Decision"
    assert decision.text() is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (quantities.parse("1.5Gi"), "1610612736"),
        (quantities.parse("-1500m"), "-1.5"),
        (quantities.parse("5k"), "5000"),
        (quantities.parse("0"), "0"),
        (quantities.parse("1e999"), "<kubernetes.Quantity>"),
        (quantities.parse("9" * 100), "<kubernetes.Quantity>"),
        (versions.parse("1.2.3-rc.1+b"), "1.2.3-rc.1"),
        (versions.parse("1.2.3"), "1.2.3"),
        (addresses.parse_cidr("10.0.0.1/8"), "10.0.0.1/8"),
        # It may have a password in it.
        (urls.parse("https://u:p@h/"), "<kubernetes.URL>"),
    ],
)
def test_what_a_person_who_asks_why_is_shown(value, text):
    assert shown(value) == text


# --- hostile input ---------------------------------------------------------------------------------------------------

MEGABYTE = 1_000_000
CALLS = {
    "quantity": "isQuantity(change.t)",
    "quantity sum": "quantity(change.t).add(quantity('1')).sub(quantity(change.t)) == quantity('1')",
    "ip": "isIP(change.t)",
    "canonical": "ip.isCanonical(change.t)",
    "cidr": "isCIDR(change.t)",
    "url": "isURL(change.t)",
    "url parts": "url('http://h/' + change.t).getQuery().size() == 0 && url('/' + change.t).getEscapedPath() == ''",
    "host": "isURL('http://' + change.t + '/')",
    "query": "url('/?' + change.t).getQuery().size() == 1",
    "semver": "isSemver(change.t) || isSemver('1.2.3-' + change.t, true)",
    "find": "change.t.find('(a|b|ab)*c') == '' && change.t.findAll('').size() == 0",
    "formats": "['dns1123Label', 'dns1123Subdomain', 'dns1035Label', 'qualifiedName', 'labelValue', 'uri', 'uuid', 'byte', 'date', 'datetime'].exists(n, !format.named(n).value().validate(change.t).hasValue())",
    "escape": "jsonpatch.escapeKey(change.t) == ''",
    "index": "[change.t, change.t].indexOf(change.t) == 1 && [change.t].lastIndexOf(change.t) == 1",
}
TEXTS = {
    "nines": "9" * MEGABYTE,
    "a thousand nines": "9" * 1_000,
    "exponent": "1e999999999",
    "small exponent": "1e-999999999",
    "dots": "." * MEGABYTE,
    "colons": ":" * MEGABYTE,
    "letters": "a" * MEGABYTE,
    "dashes": "a" + "-" * MEGABYTE,
    "labels": "a-." * (MEGABYTE // 3),
    "escapes": "%41" * (MEGABYTE // 3),
    "settings": "a=1&" * (MEGABYTE // 4),
    "brackets": "[" * MEGABYTE,
    "tildes": "~/" * (MEGABYTE // 2),
    "zeros": "0" * MEGABYTE + "1",
    "slashes": "/" * MEGABYTE,
    "beyond": "é" * MEGABYTE,
    "T": "2021-01-01" + "T" * MEGABYTE,
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_work_is_bounded_with_hostile_texts(call):
    program = compile_expression(call, result=ResultType.BOOL)
    for name, text in TEXTS.items():
        bindings = bind({**INPUTS, "change": {"t": text}}, now=NOW)
        start = time.process_time()
        with contextlib.suppress(EvaluationError):
            program.evaluate(bindings)
        # Ten times what it takes, on a machine that has other things to do.
        assert time.process_time() - start < 2, name


@pytest.mark.parametrize(
    "text", ["9" * 1_001, "1" * 900 + "e1999" + "0" * 99, "1e2001e", "12345678901234567890e2001", "." * 1_001]
)
def test_a_quantity_without_bounds_is_none(text):
    with pytest.raises(CelError):
        quantities.parse(text)


def test_a_sum_without_bounds_is_refused():
    total = quantities.parse("9" * 1_000)
    step = quantities.parse("1e1900")
    for _ in range(50):
        total = quantities.plus(total, step)
    with pytest.raises(CelError, match="more than 2000 digits"):
        quantities.plus(total, quantities.parse("1e5000"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e33", 1e32 * 10.0),
        ("15e-5", 15 * 1e-5),
        ("-1e-400", -1e-9),
        ("1e309", float("inf")),
        ("9" * 400, float("inf")),
    ],
)
def test_floats_are_made_as_go_makes_them(text, value):
    assert quantities.as_approximate_float(quantities.parse(text)) == value


def test_a_power_of_ten_that_is_no_double_is_zero():
    assert quantities.as_approximate_float(quantities.Quantity(1, -400, small=True)) == 0.0
    assert quantities.as_approximate_float(quantities.Quantity(10**400, 0, small=False)) == float("inf")
    assert quantities.as_approximate_float(quantities.Quantity(-(10**400), -1, small=False)) == float("-inf")
