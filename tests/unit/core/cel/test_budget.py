"""Expressions that blow up end in an error, and early: in time and in memory."""

import datetime as dt
import tracemalloc

import pytest

from app.core.cel import EvaluationError, ExpressionError, ResultType, bind, compile_expression
from app.core.cel.budget import STEPS_MAX, spend, spend_characters
from app.core.cel.values import BudgetError

NOW = dt.datetime(2026, 3, 14, tzinfo=dt.UTC)
CHANGE = {
    "text": "a" * 1_000_000,
    "short": "x" * 1_000,
    "numbers": list(range(20_000)),
    "doubles": [1.5] * 20_000,
    "thousand": [1] * 1_000,
    "lists": [[number] for number in range(5_000)],
    "map": {f"key{number}": number for number in range(10_000)},
    "patterns": [f"(a|b)*c{{0,{number}}}" for number in range(900)],
}
INPUTS = {"subject": {}, "action": {}, "resource": {}, "context": {}, "change": CHANGE}
MEGABYTE = 1 << 20


def doubled(start, times, end):
    """Bind each name to twice the one before it."""
    text = f"cel.bind(x0, {start}, "
    for time in range(times):
        text += f"cel.bind(x{time + 1}, {end.format(f'x{time}')}, "
    return text + f"x{times} != x0" + ")" * (times + 1)


BOMBS = [
    "change.numbers.all(x, change.numbers.all(y, x != y || true))",
    "change.thousand.all(x, change.thousand.exists(y, change.thousand.map(z, z).size() < 0))",
    "change.numbers.all(x, change.map.all(k, v, true))",
    doubled("change.text", 6, "{0} + {0}"),
    doubled("change.numbers", 12, "{0} + {0}"),
    "change.numbers.map(x, change.text + 'a').size() > 0",
    "change.thousand.map(x, change.text.substring(1)).size() > 0",
    "change.thousand.map(x, (change.text + ' ').trim()).size() > 0",
    "change.text.replace('a', change.short) == ''",
    "change.text.replace('', change.short) == ''",
    "change.numbers.map(x, change.short).join(change.short) == ''",
    "change.thousand.map(x, change.text.split('')).size() > 0",
    "change.thousand.map(x, change.text.split('a')).size() > 0",
    "change.thousand.map(x, change.text.reverse()).size() > 0",
    "change.thousand.map(x, change.text.upperAscii() + change.text.lowerAscii()).size() > 0",
    "change.thousand.map(x, strings.quote(change.text)).size() > 0",
    "change.thousand.map(x, base64.decode(base64.encode(bytes(change.text)))).size() > 0",
    "change.thousand.map(x, string(bytes(change.text))).size() > 0",
    "change.thousand.map(x, '%s%s'.format([change.text, change.map])).size() > 0",
    "change.thousand.map(x, '%s'.format([change.lists])).size() > 0",
    "change.thousand.map(x, '%.1000f'.format([1e300])).map(x, x + change.text).size() > 0",
    "change.numbers.all(x, change.text.contains('b') || change.text.indexOf('b') >= 0 || true)",
    "change.numbers.all(x, change.text.startsWith(change.text) && change.text.endsWith(change.text))",
    "change.numbers.all(x, change.text.lastIndexOf('ab') < 0)",
    "(change.text + 'b').lastIndexOf(change.text.substring(500000) + 'b' + change.text.substring(500000)) < 0",
    "change.numbers.all(x, change.text.matches('(a|b|ab)*c') || true)",
    "change.patterns.all(p, 'aaaa'.matches(p) || true)",
    "change.numbers.all(x, regex.extract('a', change.short + string(x)).hasValue() || true)",
    "regex.replace(change.text, '', 'bb') == ''",
    "regex.replace(change.text, 'a', 'bb') == ''",
    "regex.replace(change.text, '(a*)', '" + r"\\1" * 200 + "') == ''",
    "regex.extractAll(change.text, 'a').size() == 0",
    "change.doubles.all(x, x in change.numbers || true)",
    "change.lists.all(x, x in change.lists)",
    "change.numbers.all(x, change.text in [change.text + 'b', change.short] || true)",
    "change.lists.distinct().size() == 0",
    "lists.range(50000).map(x, change.text).distinct().size() == 0",
    "lists.range(50000).map(x, change.text).sort().size() == 0",
    "change.thousand.all(x, change.numbers.sort().size() > 0)",
    "change.thousand.all(x, change.numbers.sortBy(y, -y).size() > 0)",
    "change.thousand.all(x, change.numbers.reverse().slice(1, 19999).size() > 0)",
    "change.thousand.all(x, [change.numbers].flatten().size() > 0)",
    "sets.contains(change.lists, change.lists)",
    "sets.equivalent(change.lists, change.lists)",
    "sets.intersects(change.lists, change.doubles)",
    "change.thousand.all(x, change.map == change.map)",
    "change.thousand.all(x, change.numbers == change.numbers)",
    "change.thousand.all(x, change.numbers.all(y, {change.text: 1}[change.text] == 1))",
    "change.thousand.all(x, change.text.upperAscii().lowerAscii() <= change.text)",
    "change.thousand.all(x, math.greatest(change.numbers) > 0)",
    "lists.range(change.thousand.size() * 1001).size() > 0",
    "lists.range(change.thousand.size()).map(x, lists.range(1000)).flatten().size() > 0",
    "change.numbers.map(x, lists.range(10000)).size() > 0",
    "change.thousand.all(x, change.map.transformMap(k, v, v).size() > 0)",
    "change.numbers.transformMapEntry(i, v, {string(i): v, 'a' + string(i): change.map.map(k, k)}).size() > 0",
    doubled("[[1]]", 18, "[dyn({0}), dyn({0})]").replace("x18 != x0", "x18 == [x17, x17]"),
    doubled("[[1]]", 18, "[dyn({0}), dyn({0})]").replace("x18 != x0", "'%s'.format([x18]) == ''"),
    doubled("[[1]]", 18, "[dyn({0}), dyn({0})]").replace("x18 != x0", "x18.flatten(30).size() == 1"),
]


def explode(text, variables=None):
    program = compile_expression(text, result=ResultType.BOOL, variables=variables or {})
    with pytest.raises(EvaluationError, match=f"the evaluation takes more than {STEPS_MAX} steps"):
        program.evaluate(bind(INPUTS, now=NOW))


@pytest.mark.parametrize("text", BOMBS, ids=lambda text: text[:70])
def test_bombs(text):
    explode(text)


def test_the_memory_of_bombs():
    # Those that produce much; measuring makes Python several times slower.
    produce = ("replace(", "join(", "map(x, (change.text", "+ 'a'", "substring", "split", "range(10000)", "x0 + x0")
    tracemalloc.start()
    try:
        for text in [bomb for bomb in BOMBS if any(part in bomb for part in produce) and "regex" not in bomb]:
            tracemalloc.reset_peak()
            explode(text)
            assert tracemalloc.get_traced_memory()[1] < 120 * MEGABYTE
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "text",
    [
        "change.numbers.all(x, x >= 0) && change.numbers.exists(x, x == 19999)",
        "change.text.matches('^a+$') && change.text.contains('aaa') && change.text.size() == 1000000",
        "change.map.all(k, k.startsWith('key')) && change.numbers.map(x, x * 2).size() == 20000",
        "change.thousand.all(x, ['a', 'b', 'c'].exists(y, y == 'c'))",
        "change.numbers.sort() == change.numbers && change.numbers.distinct().size() == 20000",
        "change.text.replace('a', 'b').upperAscii().startsWith('BB')",
    ],
)
def test_large_inputs_are_no_bombs(text):
    assert compile_expression(text, result=ResultType.BOOL).evaluate(bind(INPUTS, now=NOW)) is True


HUNDRED = "[" + ", ".join(map(str, range(100))) + "]"


def test_lists_that_stand_in_the_expression_are_paid_for_as_well():
    nested = f"{HUNDRED}.all(a, {HUNDRED}.all(b, {HUNDRED}.all(c, {HUNDRED}.all(d, a + b + c + d >= 0))))"
    with pytest.raises(ExpressionError, match="the loop takes more than 1000000 steps, whatever the input"):
        compile_expression(nested, result=ResultType.BOOL)
    explode(f"change.numbers.all(a, {HUNDRED}.all(b, a + b >= 0))")
    explode(f"{HUNDRED}.all(a, change.numbers.all(b, a + b >= 0))")
    explode("change.numbers.all(a, variables.hundred.all(b, a + b >= 0))", {"hundred": HUNDRED})
    with pytest.raises(ExpressionError, match="whatever the input"):
        compile_expression(
            "variables.h.all(a, variables.h.all(b, variables.h.all(c, a + b + c >= 0)))",
            result=ResultType.BOOL,
            variables={"h": HUNDRED},
        )
    honest = f"{HUNDRED}.all(a, {HUNDRED}.exists(b, a == b)) && [0, 1].all(i, v, i == v)"
    assert compile_expression(honest, result=ResultType.BOOL).evaluate(bind(INPUTS, now=NOW)) is True


def test_nothing_absorbs_it():
    text = "true || change.numbers.all(x, change.numbers.all(y, x != y || true))"
    assert compile_expression(text, result=ResultType.BOOL).evaluate(bind(INPUTS, now=NOW)) is True
    text = "change.numbers.all(x, change.numbers.all(y, x != y || true)) || true"
    with pytest.raises(EvaluationError, match="steps"):
        compile_expression(text, result=ResultType.BOOL).evaluate(bind(INPUTS, now=NOW))


def test_it_is_the_same_every_time():
    program = compile_expression(BOMBS[0], result=ResultType.BOOL)
    bindings = bind(INPUTS, now=NOW)
    for _ in range(3):
        with pytest.raises(EvaluationError, match="steps"):
            program.evaluate(bindings)
    # Each evaluation has a budget of its own: an honest one is not made to pay for the others.
    assert compile_expression("change.thousand.all(x, x == 1)", result=ResultType.BOOL).evaluate(bindings) is True


def test_variables_have_a_budget_of_their_own():
    variables = {"bomb": BOMBS[0], "honest": "change.numbers.map(x, x + 1 - 1 + 1 - 1 + 1 - 1).size()"}
    bindings = bind(INPUTS, now=NOW)
    twice = compile_expression(
        "variables.honest == 20000 && variables.honest + variables.honest == 40000",
        result=ResultType.BOOL,
        variables=variables,
    )
    assert twice.evaluate(bindings) is True
    bomb = compile_expression("variables.bomb || true", result=ResultType.BOOL, variables=variables)
    for _ in range(2):
        with pytest.raises(EvaluationError, match="steps"):
            bomb.evaluate(bindings)


def test_spending():
    budget = [10]
    spend(budget, 10)
    spend_characters(budget, 9)
    with pytest.raises(BudgetError):
        spend(budget, 1)
    budget = [1]
    spend_characters(budget, 10)
    with pytest.raises(BudgetError):
        spend_characters(budget, 10)
