"""What expressions are said to cost, before anything is evaluated. That it holds is tested in `test_differential.py`."""

import pytest

from app.core.cel import NOTHING_LIFTED, Estimate, ExpressionError, ResultType, compile_expression, estimate_of
from app.core.cel.estimate import UNKNOWN, USUAL, Extent

HUNDRED = "[" + ", ".join(map(str, range(100))) + "]"


def estimate(text, **variables):
    return estimate_of(compile_expression(text, result=ResultType.BOOL, variables=variables))


@pytest.mark.parametrize(
    "text",
    [
        "change.after.spec.replicas == 3 && has(change.after.spec.name)",
        "change.before == null || change.l[0] > 2 ? true : resource.id == 'a'",
        "resource.type in ['a', 'b'] && change.i + 1 > 2 && action.name != 'x'",
        "cel.bind(x, change.i, x > 1 && x < 3)",
        "now > timestamp('2024-01-01T00:00:00Z') && now.getHours('Europe/Berlin') < 8",
        "math.abs(change.i) > 1 && change.?a.orValue(1) == 1",
    ],
)
def test_what_looks_at_members_costs_nothing(text):
    found = estimate(text)
    assert found.least == 0
    assert found.usual <= 101  # a list that stands there, and a name, are walked over
    assert found.usual <= found.most


@pytest.mark.parametrize(
    ("text", "usual"),
    [
        ("change.l.all(x, x > 0)", 100 * 4),
        ("change.l.all(x, change.l.exists(y, y.name == x.name))", 100 * (6 + 100 * (7 + 10))),
        ("change.s.contains('a')", 10),
        ("change.s.startsWith('a')", 0),
        ("change.s.matches('a+')", 40),
        ("change.a == change.b", 10),
        # A list in an element of a list is shorter than a list.
        ("change.l.all(x, x.n.exists(y, y.name == x.name))", 100 * (6 + 10 * (7 + 10))),
        ("[1, 2, 3].all(x, x > 0)", 3 * 4),
        ("[1, 2].all(x, [1, 2, 3].all(y, x > y))", None),
        ("change.l.sort() == change.l.distinct()", None),
        ("sets.contains(change.l, ['a'])", None),
        ("change.s.split(',').map(x, x.trim()).join('-').size() > 1", None),
        ("'%s'.format([change.s]) == 'x'", None),
        ("regex.replace(change.s, 'a', 'b').size() > regex.extractAll(change.s, 'b').size()", None),
        ("change.m.transformMap(k, v, k + v).size() > 1", None),
        ("change.m.transformMapEntry(k, v, {k: v}).size() > 1", None),
        ("[[1], [2]].flatten() == [1, 2]", None),
        ("math.greatest(change.l) > 1 && lists.range(change.i).size() > 1", None),
        ("change.s in change.l && base64.encode(bytes(change.s)).reverse() == ''", None),
    ],
)
def test_the_usual_cost(text, usual):
    found = estimate(text)
    assert found.least <= found.usual <= found.most
    assert 0 <= found.usual < 1_000_000
    if usual is not None:
        assert found.usual == usual


def test_what_multiplies_is_told():
    assert estimate("change.l.all(x, change.l.all(y, change.l.all(z, x + y > z)))").usual > 1_000_000
    doubled = "change.s"
    for _ in range(9):
        doubled = f"({doubled} + {doubled})"
    assert estimate(f"{doubled}.contains('a')").usual > 50_000
    assert estimate("change.l.all(x, change.l == change.l)").most > 1_000_000_000


@pytest.mark.parametrize(
    ("text", "least"),
    [
        ("[1, 2, 3].all(x, x > 0)", 3 * 4),
        (f"{HUNDRED}.all(x, {HUNDRED}.all(y, x > y))", 100 * 505),
        ("lists.range(500).size() > 0", 500),
        ("lists.range(500).map(x, lists.range(10)).size() > 0", 500 + 500 * 4 + 500 * 10),
        ("lists.range(500).map(x, lists.range(change.i)).size() > 0", 500 + 500 * 6),
        ("lists.range(500).size() > 0 && lists.range(900).size() > 0", 500),
        ("lists.range(500).size() > 0 || change.a", 500),
        ("change.a || lists.range(500).size() > 0", 0),
        ("change.i / 0 == 1 || lists.range(500).size() > 0", 0),
        ("change.l + lists.range(500) == []", 0),
        ("true ? lists.range(500) == [] : lists.range(400) == []", 400),
        ("change.a ? lists.range(500) == [] : lists.range(400) == []", 0),
        ("change.l.all(x, x in lists.range(500))", 0),
        ("{'a': 1, 'b': 2}.all(k, k == 'a')", 2 * 4),
        ("{'a': 1, 'a': 2}.all(k, k == 'a')", 0),
        ("cel.bind(x, lists.range(500), true)", 0),
        ("cel.bind(x, change.i, lists.range(500) == [x])", 500),
        ("{'a': lists.range(500)}.a.size() == 500", 500),
        ("optional.of(lists.range(500)).orValue([]).size() == 500", 500),
        ("[lists.range(500), change.l, lists.range(500)] == []", 500),
    ],
)
def test_the_least_is_certain(text, least):
    assert estimate(text).least == least


@pytest.mark.parametrize(
    "text",
    [
        "lists.range(1000001).size() > 0",
        "lists.range(1000).map(x, lists.range(1000)).size() > 0 && change.a",
        "lists.range(600000).map(x, x + 1).size() > 1",
        "optional.of(lists.range(1000001)).hasValue()",
    ],
)
def test_what_is_certain_to_cost_too_much_is_refused(text):
    with pytest.raises(ExpressionError, match="whatever the input") as caught:
        compile_expression(text, result=ResultType.BOOL)
    assert caught.value.problems[0].fix == "make the lists and texts that stand in it shorter"


def test_what_is_only_likely_to_cost_too_much_is_not():
    # Only the first turn of `all` is certain: nobody knows here that it is true.
    found = estimate("lists.range(2000).all(x, lists.range(2000).all(y, x + y > 0))")
    assert found.least < 1_000_000 < found.usual


def test_what_is_known_when_it_is_loaded_costs_as_if_it_stood_there():
    assert estimate("change.s.matches(variables.p)", p="'a+'") == estimate("change.s.matches('a+')")
    assert estimate("change.s.matches(change.p)").usual > 2_000
    assert estimate("change.s == variables.p", p="'a+'").most == 0
    assert estimate("change.l == variables.p", p="[1, 2, 3]").most >= 6
    # The name of a loop's variable hides nothing: it has another one.
    assert estimate("change.l.all(p, change.s.matches(p))", p="'a+'").usual > 200_000


def test_a_variable_pays_for_itself():
    many = "change.l.map(x, change.l.map(y, x + y))"
    assert estimate("variables.many.size() > 1", many=many).most == 0
    assert estimate("variables.many.all(x, x > 1)", many=HUNDRED).most == estimate(f"{HUNDRED}.all(x, x > 1)").most


def test_what_is_not_known_may_cost_everything():
    class Another:
        text = "true"
        lifted = NOTHING_LIFTED

        def evaluate(self, bindings):
            return True

        def trace(self, bindings, *, budget=None):
            raise NotImplementedError

    assert estimate_of(Another()) == UNKNOWN


def test_extents_of_one_or_the_other():
    some = Extent(items=3, element=Extent(text=5))
    assert some.joined(Extent(text=9)) == Extent(9, 3, Extent(text=5))
    assert Extent(text=9).joined(some) == Extent(9, 3, Extent(text=5))
    assert some.joined(Extent(items=2, element=Extent(text=7))) == Extent(0, 3, Extent(text=7))
    # Of a part of the input all is counted together, and so it is of what may be one.
    assert some.joined(Extent(text=4, items=2)) == Extent(text=15, items=3)
    assert Extent(text=4, items=20).joined(some) == Extent(text=15, items=20)
    assert USUAL.items == 100
    assert Estimate(1, 2, 3).most == 3
