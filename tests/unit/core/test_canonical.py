"""RFC 8785: its own vectors, and the fast path against the exact one and against a naive third."""

import json
import math
import struct
from collections.abc import Callable
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal, localcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.core import canonical as module
from app.core.canonical import canonical, digest, number
from app.errors import FirewallError, Kind

_VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "canonical.json").read_text("utf-8"))
_TEXT = st.text(st.characters(codec="utf-8"), max_size=6)
_KEYS = st.one_of(st.sampled_from(["\ue000", "\uffff", "\U00010000", "\U0001f600", "a", "", "\x7f", "\x1f"]), _TEXT)
_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([2**32 - 1, 2**32, 2**53, 2**53 + 1, 203, 207, -(2**63)]),
    _KEYS,
)
_WITH_FLOATS = st.one_of(_SCALARS, st.floats(allow_nan=False, allow_infinity=False))


def _trees(leaves: Any) -> Any:
    return st.recursive(
        leaves,
        lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(_KEYS, inner, max_size=5)),
        max_leaves=20,
    )


def _es6(value: float) -> str:
    """ECMA-262 Number::toString by its steps and note 2: as few digits as will do, the closest, then the even ones."""
    if value == 0:
        return "0"
    if value < 0:
        return "-" + _es6(-value)
    exact = Decimal(value)  # exactly, whatever the context
    same: list[Decimal] = []
    for precision in range(1, 18):
        step = Decimal((0, (1,), exact.adjusted() - precision + 1))
        with localcontext(prec=2000):
            near = {exact.quantize(step, rounding) for rounding in (ROUND_FLOOR, ROUND_CEILING)}
        same = [candidate for candidate in near if float(candidate) == value]
        if same:
            break
    with localcontext(prec=2000):
        nearest = min(same, key=lambda candidate: (abs(candidate - exact), candidate.as_tuple().digits[-1] % 2))
    digits, exponent = "".join(map(str, nearest.as_tuple().digits)), nearest.adjusted()
    digits = digits.rstrip("0")
    k, n = len(digits), exponent + 1
    if k <= n <= 21:
        return digits + "0" * (n - k)
    if 0 < n <= 21:
        return digits[:n] + "." + digits[n:]
    if -6 < n <= 0:
        return "0." + "0" * -n + digits
    sign = "+" if n > 0 else "-"
    return f"{digits[0]}{'.' + digits[1:] if k > 1 else ''}e{sign}{abs(n - 1)}"


def _naive(value: Any) -> str:
    """The canonical text by recursion, each rule in the plainest way."""
    match value:
        case None | bool():
            return json.dumps(value)
        case int():
            return str(value)
        case float():
            return str(int(value)) if value.is_integer() and -(2**63) <= value < 2**63 else _es6(value)
        case str():
            return json.dumps(value, ensure_ascii=False)
        case list():
            return "[" + ",".join(map(_naive, value)) + "]"
        case _:
            keys = sorted(
                value, key=lambda key: [unit for (unit,) in struct.iter_unpack(">H", key.encode("utf-16-be"))]
            )
            return "{" + ",".join(f"{_naive(key)}:{_naive(value[key])}" for key in keys) + "}"


@pytest.mark.parametrize("vector", _VECTORS["numbers"], ids=lambda vector: vector["ieee754"])
def test_the_number_vectors_of_rfc_8785_appendix_b(vector):
    (value,) = struct.unpack(">d", bytes.fromhex(vector["ieee754"]))
    assert number(value) == vector["text"]
    assert _es6(value) == vector["text"]


@pytest.mark.parametrize("vector", _VECTORS["documents"], ids=lambda vector: vector["name"])
def test_documents(vector):
    value = json.loads(vector["json"])
    assert canonical(value).decode() == vector["canonical"]
    assert digest(value) == vector["digest"]


@given(st.floats(allow_nan=False, allow_infinity=False))
@example(5e-324)
@example(1.7976931348623157e308)
@example(1e21)
@example(1e-7)
@example(-0.0)
@example(2.0**63)
@example(-(2.0**63))
@example(2.0**62)
@example(2.0**-24)
@example(9.5367431640625e-7)
@example(1e-5)
@example(123456789.125)
def test_numbers_are_those_of_ecmascript_outside_int64_and_exact_within(value):
    expected = _es6(value)
    if value.is_integer() and -(2**63) <= value < 2**63:
        expected = str(int(value))
        if abs(value) <= 2**53:
            assert expected == _es6(value)
    assert number(value) == expected
    assert float(number(value)) == value


@given(_trees(_WITH_FLOATS))
def test_canonical_is_what_the_naive_writer_writes(tree):
    assert canonical(tree).decode() == _naive(tree)


@given(_trees(_SCALARS))
@example({"\U00010000": 1, "\ue000": 2})
@example({'\x00\x1f\x7f"\\/\u2028': 1})
def test_the_fast_path_agrees_with_the_exact_one(tree):
    assert canonical(tree) == module._exact(tree)


@given(_trees(_WITH_FLOATS), _trees(_WITH_FLOATS))
@example(4611686018427388000, 2.0**62)
@example(9007199254740993, 9007199254740992.0)
@example(2**63 - 1, 2.0**63)
def test_one_text_means_one_value(one, other):
    if canonical(one) == canonical(other):
        assert _values(one) == _values(other)


def _values(tree: Any) -> Any:
    """The tree with booleans that no number equals."""
    if isinstance(tree, bool):
        return ("bool", tree)
    if isinstance(tree, dict):
        return {key: _values(value) for key, value in tree.items()}
    return [_values(value) for value in tree] if isinstance(tree, list) else tree


@given(_trees(_WITH_FLOATS), st.randoms(use_true_random=False))
def test_the_order_of_members_does_not_matter(tree, random):
    def shuffled(node: Any) -> Any:
        if isinstance(node, dict):
            items = list(node.items())
            random.shuffle(items)
            return {key: shuffled(value) for key, value in items}
        return [shuffled(value) for value in node] if isinstance(node, list) else node

    assert canonical(shuffled(tree)) == canonical(tree)


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, [203, 2**63], [203, -(2**63) - 1], {"a": [203, 2.0**70], "b": b""}, [-math.inf], 2**63, -(2**63) - 1, [2**64], 10**400, "\ud800", {"\udfff": 1}, [1.5, "\ud800"], {1: 2}, {1: 2.5}, b"x", [1.5, b"x"], {1.5, 2}],
)  # fmt: skip
def test_what_is_not_json_is_refused(value):
    with pytest.raises(FirewallError) as caught:
        canonical(value)
    assert caught.value.kind is Kind.MALFORMED


def test_a_value_too_deep_for_recursion_is_written():
    tree: Any = 1.5
    for _ in range(100_000):
        tree = [tree]
    assert canonical(tree) == b"[" * 100_000 + b"1.5" + b"]" * 100_000


def test_tuples_are_arrays_in_both_paths():
    write: list[Callable[[Any], bytes]] = [canonical, module._exact]
    assert {function((1, (2, 3))) for function in write} == {b"[1,[2,3]]"}


def test_numbers_that_look_like_tags_take_the_fast_path():
    tree = {"a": [203, 207, 2**40, {"b": ["ˈ", "ω"]}]}
    assert canonical(tree) == module._exact(tree)
    assert module._is_plain(tree)
    assert not module._is_plain([1, [203.5]])
    assert not module._is_plain([2**63])
