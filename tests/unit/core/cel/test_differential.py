"""Every generated expression has the same value here and in Google's C++ engine, or is an error in both.

`MFW_CEL_CASES` sets how many expressions are made. Most are made by `random`, which is ten times as fast and says the
seed of what differs; Hypothesis makes some, and makes those smaller.
"""

import contextlib
import datetime as dt
import os
import random
import re

import pytest
from cel_expr_python import cel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.core.cel import EvaluationError, ExpressionError, ResultType, bind, compile_expression
from app.core.cel.budget import STEPS_MAX
from app.core.cel.checked import read_checked
from app.core.cel.engine import _ENVIRONMENT, CompiledProgram
from app.core.cel.estimate import Sizes, upper_bound
from app.core.cel.failures import FAIL
from tests.seeds import seed

NOW = dt.datetime(2026, 3, 14, 15, 9, 26, 535897, tzinfo=dt.UTC)
CASES = int(os.environ.get("MFW_CEL_CASES", "12000"))
some = settings(max_examples=max(CASES // 25, 1), deadline=None, suppress_health_check=list(HealthCheck))

INPUT = {
    "subject": {"type": "agent", "id": "a-1", "groups": ["x", "y"]},
    "action": {"name": "update"},
    "resource": {"type": "apps/Deployment", "id": "default/web"},
    "context": {},
    "change": {},
}
# fmt: off
ATOMS = [
    None, True, False, 0, 1, 2, -1, 3, 10, 2**53, 2**53 + 1, 2**63 - 1, -(2**63),
    0.0, -0.0, 1.0, 1.5, -2.5, 1e18, 9007199254740992.0, 9223372036854775808.0, 1e-7, 1e300,
    "", "a", "b", "abc", "é😀", "A-b", "1", "-5", "true", "x y", "2024-01-01T00:00:00Z", "1h", "[a-c]+", "(",
]
# fmt: on
KEYS = ["a", "b", "c", "x", "é", "a b"]


def change(pick, depth=3):
    """Make an input; `pick` chooses one of its arguments."""

    def many(make, most):
        return [make() for _ in range(pick(*range(most + 1)))]

    def json(depth):
        match pick(0, 0, 1, 2) if depth > 0 else 0:
            case 0:
                return pick(*ATOMS)
            case 1:
                return many(lambda: json(depth - 1), 4)
            case _:
                return {key: json(depth - 1) for key in many(lambda: pick(*KEYS), 3)}

    def integer():
        return pick(0, 1, 2, 3, -1, -2, -3)

    return {
        "d": json(depth),
        "e": json(depth),
        "i": integer(),
        "s": pick("", "abc", "aXbXc", "é", "b-b"),
        "l": many(integer, 4),
        "t": many(lambda: pick("a", "b", "ab", "é"), 4),
        "m": {key: integer() for key in many(lambda: pick(*KEYS), 4)},
        "o": many(lambda: {key: pick(*ATOMS) for key in many(lambda: pick("a", "b"), 2)}, 3),
    }


# What the engine does wrong, by its error; beside these the generator leaves out:
# - `transformMap` and `transformMapEntry`, which compile and have no function at run time;
# - `regex.replace` with a count above one, which puts an empty match twice at the same place;
# - `optional.of(1)[0]`, which has an error in it, and `hasValue()` of that is true;
# - `lists.range` of a negative number, which ends its evaluation, whatever stands beside it;
# - NUL, at which a text ends for its binding.
DEFECTS = (
    # `'abc'.substring(0, 3)` is an error for it, though `substring(0)` is not.
    "<start> or <end> is greater than <string>.size()",
    # A key that comes twice ends its evaluation, whatever stands beside it: `{1: 1, 1: 1} == {} && false`.
    "duplicate key in map",
    # So does a field of an optional that holds no map: `optional.of(1).a.hasValue() && false`.
    "Applying SELECT to non-message type",
    # It gives up after 10,000 turns of loops.
    "iteration",
)
# `l.exists(x, true) && cel.bind(y, l, y.map(z, z)) == l`: after a loop, a binding that is computed when it is first read
# may find the values of others (`sortBy` binds too). Nothing is compared where that can be the cause.
LOOP = re.compile(
    r"\.(?:all|exists|exists_one|existsOne|map|filter|transformList)\(.*(?:cel\.bind|sortBy)\(", re.DOTALL
)
# The order of a map's keys is nobody's promise, hence neither that of a list that is made of them: of maps that the
# expression writes, nothing is compared; of others, what comes out in every order.
WRITTEN_MAP = re.compile(r"\}\.(?:map|transformList)\(")
# What it accepts and should not, by our error.
LENIENCES = (
    # `int(true)` is 1 for it if the checker does not see the type; it is no conversion of the language definition.
    "no matching overload for `int` applied to `(bool)`",
    # `{1: x, 1u: y}`, one key for the language definition, of which it drops one without a word.
    "duplicate key in a map",
)


def reference(expression, inputs):
    """Evaluate with the engine: a bool, a str, or None for an error."""
    try:
        value = expression.eval(_ENVIRONMENT.Activation({**inputs, "now": NOW}))
        if value.type() == cel.Type.BOOL or value.type() == cel.Type.STRING:
            return value.value(), ""
        return None, str(value.value()) if value.type() == cel.Type.ERROR else str(value.type())
    except (RuntimeError, ValueError) as error:
        return None, str(error)


def ours(program, inputs):
    try:
        return program.evaluate(bind(inputs, now=NOW)), ""
    except EvaluationError as error:
        return None, str(error)


def reordered(inputs):
    """The same inputs, the keys of every map the other way round, and the first of them last."""

    def each(value, order):
        if isinstance(value, dict):
            return {key: each(value[key], order) for key in order(list(value))}
        return [each(one, order) for one in value] if isinstance(value, list) else value

    for order in (lambda keys: keys[::-1], lambda keys: keys[1:] + keys[:1]):
        yield {**inputs, "change": each(inputs["change"], order)}


def check(text, result, changes):
    try:
        program = compile_expression(text, result=result)
    except ExpressionError as error:
        # `!!x` is of the type of `x` for the parser; beside that, what the checker takes the generator must take.
        if "the expression gives" not in str(error):
            with pytest.raises(Exception, match=r"."):
                _ENVIRONMENT.compile(text)
        return
    expression = _ENVIRONMENT.compile(text)
    confused = any(one.search(text) is not None for one in (LOOP, WRITTEN_MAP))
    for made in changes:
        inputs = {**INPUT, "change": made}
        mine, theirs = ours(program, inputs), reference(expression, inputs)
        if mine[0] is not None and any(defect in theirs[1] for defect in DEFECTS):
            continue
        if mine != theirs and (confused or any(ours(program, other) != mine for other in reordered(inputs))):
            continue
        if mine[0] is None and any(lenience in mine[1] for lenience in LENIENCES):
            continue
        if isinstance(theirs[0], str):
            theirs = (theirs[0].replace("-nan", "nan"), "")
        assert (mine[0], type(mine[0])) == (theirs[0], type(theirs[0])), (text, made, mine, theirs)


class Expressions:
    """Writes well-typed expressions of limited depth; `pick` chooses one of its arguments."""

    def __init__(self, pick):
        self.pick = pick
        self.scope = []
        self.count = 0

    def make(self, kind, depth):
        return getattr(self, kind)(depth)

    def fresh(self):
        self.count += 1
        return f"v{self.count}"

    def within(self, name, kind, make):
        self.scope.append((name, kind))
        try:
            return make()
        finally:
            self.scope.pop()

    def named(self, kind):
        return [name for name, known in self.scope if known == kind]

    # Each kind: atoms first, for shrinking goes to the front.
    def dyn(self, depth):
        base = self.pick(
            "change.d",
            "change.e",
            "change",
            "change.o",
            "change.m",
            "dyn(1)",
            "dyn('a')",
            "dyn(1.0)",
            "dyn(2u)",
            "change.d.a",
            *self.named("dyn"),
        )
        if depth <= 0:
            return base
        d = depth - 1
        match self.pick(*range(14)):
            case 0:
                return base
            case 1:
                return f"{base}.{self.pick('a', 'b', 'c', 'd', 'x')}"
            case 2:
                return f"{self.dyn(d)}[{self.pick(repr('a'), '0', '1', '-1', '1.0', '1u', 'true', self.dyn(0))}]"
            case 3:
                return f"{base}.?{self.pick('a', 'd', 'x')}.?{self.pick('a', 'b')}.orValue({self.any(d)})"
            case 4:
                return f"{base}[?{self.pick(repr('a'), repr('d'), '0', '5')}].orValue({self.any(d)})"
            case 5:
                return f"dyn({self.any(d)})"
            case 6:
                return f"({self.bool(d)} ? {self.dyn(d)} : {self.dyn(d)})"
            case 7:
                # No double is divided by zero: the engine writes the sign that its NaN happens to have.
                by = self.pick("2", "0", "-1", "1.5", "3u", "0u")
                return (
                    f"({self.dyn(d)} {self.pick('+', '-', '*', '%')} {self.dyn(d)})"
                    if self.pick(0, 1, 2)
                    else f"({self.dyn(d)} / {by})"
                )
            case 8:
                return f"{self.list(d)}[{self.int(d)}]"
            case 9:
                return f"{self.optional(d)}.value()"
            case 10:
                name = self.fresh()
                value = self.dyn(d)
                return f"cel.bind({name}, {value}, {self.within(name, 'dyn', lambda: self.dyn(d))})"
            case 11:
                return f"math.{self.pick('greatest', 'least')}({self.dyn(d)}, {self.pick(self.int(d), self.double(d), self.uint(d))})"
            case 12:
                return f"{self.listed(d)}.{self.pick('first', 'last')}().orValue({self.any(d)})"
            case _:
                return f"{self.optional(d)}.or({self.optional(d)}).orValue({self.dyn(d)})"

    def listed(self, depth):
        """A list, of numbers for the most part."""
        return self.pick(self.list(depth), self.listdyn(depth), "change.l")

    def any(self, depth):
        return self.make(self.pick("int", "string", "bool", "double", "dyn", "list", "map", "null", "uint"), depth)

    def null(self, depth):
        return "null"

    def optional(self, depth):
        d = depth - 1
        match self.pick(*range(8)) if depth > 0 else self.pick(0, 1):
            case 0:
                return f"change.?{self.pick('d', 'm', 'zz')}.?{self.pick('a', 'b')}"
            case 1:
                return (
                    f"change.{self.pick('l', 't', 'd')}[?{self.pick('0', '3', '-1')}]"
                    if depth < 0
                    else "optional.of(change.d)"
                )
            case 2:
                return f"optional.of({self.any(d)})"
            case 3:
                return f"optional.ofNonZeroValue({self.dyn(d)})"
            case 4:
                return f"{self.optional(d)}.or({self.optional(d)})"
            case 5:
                return f"{self.list(d)}.{self.pick('first', 'last')}()"
            case 6:
                name = self.fresh()
                base = f"optional.of({self.dyn(d)})"
                return f"{base}.optMap({name}, {self.within(name, 'dyn', lambda: self.dyn(d))})"
            case _:
                name = self.fresh()
                base = f"optional.of({self.dyn(d)})"
                return (
                    f"{base}.optFlatMap({name}, {self.within(name, 'dyn', lambda: 'optional.of(' + self.dyn(d) + ')')})"
                )

    def bool(self, depth):
        if depth <= 0:
            return self.pick(
                "true", "false", "change.i == 1", "has(change.d.a)", "change.s == 'abc'", *self.named("bool")
            )
        d = depth - 1
        match self.pick(*range(22)):
            case 0:
                return self.bool(0)
            case 20:
                return f"({self.optional(d)} {self.pick('==', '!=')} {self.optional(d)})"
            case 21:
                return f"{self.optional(d)}{self.pick('.a', '.?a', '[?0]')}.hasValue()"
            case 1 | 2:
                return f"({self.dyn(d)} {self.pick('==', '!=', '<', '<=', '>', '>=')} {self.dyn(d)})"
            case 3:
                return f"({self.dyn(d)} {self.pick('==', '!=', '<', '>=')} {self.pick(self.int(d), self.string(d), self.double(d), self.bool(d))})"
            case 4:
                return f"({self.bool(d)} {self.pick('&&', '||')} {self.bool(d)})"
            case 5:
                return f"({self.bool(d)} {self.pick('&&', '||')} {self.dyn(d)} {self.pick('&&', '||')} {self.bool(d)})"
            case 6:
                return f"!{self.pick(self.bool(d), self.dyn(0))}"
            case 7:
                kind = self.pick("int", "string", "double", "uint", "bool", "bytes", "timestamp", "duration")
                return f"({self.make(kind, d)} {self.pick('==', '!=', '<', '<=', '>', '>=')} {self.make(kind, d)})"
            case 8:
                return f"({self.pick('null', self.dyn(d))} {self.pick('==', '!=')} null)"
            case 9:
                return f"({self.list(d)} {self.pick('==', '!=')} {self.list(d)})"
            case 10:
                return f"({self.map(d)} {self.pick('==', '!=')} {self.pick(self.map(d), 'change.m', 'change.d')})"
            case 11 | 12:
                name = self.fresh()
                over = self.pick("change.l", "change.o", "change.m", "change.d", "change.t", self.list(d), self.map(d))
                macro = self.pick("all", "exists", "exists_one")
                return (
                    f"{over}.{macro}({name}, {self.within(name, 'dyn', lambda: self.pick(self.bool(d), self.dyn(d)))})"
                )
            case 13:
                key, value = self.fresh(), self.fresh()
                over = self.pick("change.l", "change.o", "change.m", "change.d", self.list(d))
                macro = self.pick("all", "exists", "existsOne")
                body = self.within(key, "dyn", lambda: self.within(value, "dyn", lambda: self.bool(d)))
                return f"{over}.{macro}({key}, {value}, {body})"
            case 14:
                return f"({self.any(d)} in {self.pick(self.listdyn(d), 'change.l', 'change.m', 'change.d')})"
            case 15:
                return (
                    f"has({self.dyn(d)}.{self.pick('a', 'b')})" if self.pick(0, 1) else f"{self.optional(d)}.hasValue()"
                )
            case 16:
                return (
                    f"{self.string(d)}.{self.pick('contains', 'startsWith', 'endsWith', 'matches')}({self.string(d)})"
                )
            case 17:
                return f"({self.bool(d)} ? {self.bool(d)} : {self.bool(d)})"
            case 18:
                return f"sets.{self.pick('contains', 'equivalent', 'intersects')}({self.listdyn(d)}, {self.listdyn(d)})"
            case _:
                return f"type({self.any(d)}) == {self.pick('int', 'uint', 'double', 'string', 'bool', 'list', 'map', 'null_type', 'type(' + self.dyn(d) + ')')}"

    def int(self, depth):
        if depth <= 0:
            return self.pick(
                "0",
                "1",
                "2",
                "-1",
                "3",
                "9223372036854775807",
                "(-9223372036854775807 - 1)",
                "int(change.i)",
                "9007199254740993",
            )
        d = depth - 1
        match self.pick(*range(12)):
            case 0:
                return self.int(0)
            case 1 | 2:
                return f"({self.int(d)} {self.pick('+', '-', '*', '/', '%')} {self.pick(self.int(d), self.dyn(d))})"
            case 3:
                return f"size({self.pick(self.string(d), self.list(d), self.map(d), self.bytes(d), self.dyn(d))})"
            case 4:
                return f"int({self.pick(self.string(d), self.double(d), self.uint(d), self.timestamp(d), self.dyn(d))})"
            case 5:
                return f"{self.string(d)}.{self.pick('indexOf', 'lastIndexOf')}({self.string(d)}{self.pick('', ', ' + self.int(d))})"
            case 6:
                zone = self.pick(
                    "",
                    "'Europe/Berlin'",
                    "'America/New_York'",
                    "'+05:30'",
                    "'-00:45'",
                    "'UTC'",
                    "string(change.s)",
                    "'Asia/Kolkata'",
                )
                part = self.pick(
                    "FullYear",
                    "Month",
                    "Date",
                    "DayOfMonth",
                    "DayOfWeek",
                    "DayOfYear",
                    "Hours",
                    "Minutes",
                    "Seconds",
                    "Milliseconds",
                )
                return f"{self.timestamp(d)}.get{part}({zone})"
            case 7:
                return f"{self.duration(d)}.get{self.pick('Hours', 'Minutes', 'Seconds', 'Milliseconds')}()"
            case 8:
                return f"({self.bool(d)} ? {self.int(d)} : {self.int(d)})"
            case 9:
                return f"-({self.pick(self.int(d), self.dyn(d))})"
            case 10:
                return f"math.{self.pick('bitAnd', 'bitOr', 'bitXor', 'bitShiftLeft', 'bitShiftRight')}({self.int(d)}, {self.int(d)})"
            case _:
                return f"math.{self.pick('abs', 'sign', 'bitNot')}({self.int(d)})"

    def uint(self, depth):
        if depth <= 0:
            return self.pick("0u", "1u", "3u", "18446744073709551615u")
        d = depth - 1
        match self.pick(*range(4)):
            case 0:
                return self.uint(0)
            case 1:
                return f"({self.uint(d)} {self.pick('+', '-', '*', '/', '%')} {self.uint(d)})"
            case 2:
                return f"uint({self.pick(self.int(d), self.double(d), self.string(d))})"
            case _:
                return f"math.{self.pick('bitAnd', 'bitOr', 'bitXor')}({self.uint(d)}, {self.uint(d)})"

    def double(self, depth):
        if depth <= 0:
            return self.pick(
                "0.0",
                "1.0",
                "-1.5",
                "2.5",
                "1e300",
                "9007199254740992.0",
                "9223372036854775808.0",
                "0.1",
                "math.sqrt(2.0)",
            )
        d = depth - 1
        match self.pick(*range(5)):
            case 0:
                return self.double(0)
            case 1:
                return f"({self.double(d)} {self.pick('+', '-', '*')} {self.double(d)} / {self.pick('2.0', '-0.3')})"
            case 2:
                return f"double({self.pick(self.int(d), self.string(d), self.uint(d), self.dyn(d))})"
            case 3:
                # `string(math.sqrt(-1.0))` depends on the sign of NaN there.
                return f"math.{self.pick('ceil', 'floor', 'round', 'trunc', 'abs', 'sign')}({self.double(d)})"
            case _:
                return f"-({self.double(d)})"

    def string(self, depth):
        if depth <= 0:
            return self.pick(
                "''",
                "'a'",
                "'abc'",
                "'b'",
                "'é😀'",
                "'X'",
                "string(change.s)",
                "' a\\t'",
                "'[a-z]'",
                "'12'",
                *self.named("string"),
            )
        d = depth - 1
        match self.pick(*range(17)):
            case 0:
                return self.string(0)
            case 16:
                clause = self.pick("%s", "%d", "%f", "%x", "%X", "%o", "%b", "%.2f", "%e", "a%%")
                # No double: `%s` of one has six digits there.
                argument = self.pick(self.int(d), self.uint(d), self.bool(d), self.string(d), self.list(0), self.map(0))
                return f"'{clause}'.format([{argument}])"
            case 1:
                return f"({self.string(d)} + {self.pick(self.string(d), self.dyn(d))})"
            case 2:
                return f"string({self.pick(self.int(d), self.double(d), self.bool(d), self.uint(d), self.bytes(d), self.timestamp(d), self.duration(d), self.dyn(d))})"
            case 3:
                return f"{self.string(d)}.{self.pick('trim', 'lowerAscii', 'upperAscii', 'reverse')}()"
            case 4:
                return (
                    f"{self.string(d)}.replace({self.string(d)}, {self.string(d)}{self.pick('', ', ' + self.int(d))})"
                )
            case 5:
                return f"{self.string(d)}.substring({self.int(d)}{self.pick('', ', ' + self.int(d))})"
            case 6:
                return f"{self.string(d)}.charAt({self.int(d)})"
            case 7:
                return f"{self.strings(d)}.join({self.pick('', self.string(d))})"
            case 8:
                return f"({self.bool(d)} ? {self.string(d)} : {self.string(d)})"
            case 9:
                return f"strings.quote({self.string(d)})"
            case 10:
                return f"base64.encode({self.bytes(d)})"
            case 11:
                pattern = self.pick("'a'", "'[a-z]'", "'(b)|c'", "'x*'", "'^'", "'(.)(.)'", "'é?'")
                by = self.pick("'-'", "'[\\\\0]'", "'\\\\1'", "''", self.string(d))
                return f"regex.replace({self.string(d)}, {pattern}, {by}{self.pick('', ', 1', ', -1')})"
            case 12:
                return f"regex.extract({self.string(d)}, {self.pick(repr('[a-z]+'), repr('(b)'), repr('z'), repr('a(b)?'))}).orValue({self.string(d)})"
            case 13:
                name = self.fresh()
                return f"cel.bind({name}, {self.string(d)}, {self.within(name, 'string', lambda: self.string(d))})"
            case 14:
                return f"{self.strings(d)}[{self.int(d)}]"
            case _:
                return f"string({self.dyn(d)})"

    def strings(self, depth):
        d = depth - 1
        match self.pick(*range(5)) if depth > 0 else 0:
            case 0:
                return self.pick("['a', 'b']", "[string(change.s)]", "['b', 'a', 'b']")
            case 1:
                return f"{self.string(d)}.split({self.string(d)}{self.pick('', ', ' + self.int(d))})"
            case 2:
                return f"{self.strings(d)}.{self.pick('sort', 'distinct', 'reverse')}()"
            case 3:
                return f"regex.extractAll({self.string(d)}, {self.pick(repr('[a-z]'), repr('(b)'), repr('x*'))})"
            case _:
                name = self.fresh()
                return f"{self.strings(d)}.map({name}, {self.within(name, 'string', lambda: self.string(d))})"

    def bytes(self, depth):
        if depth <= 0:
            return self.pick("b'a'", "b''", "b'\\xff'", "b'abc'")
        return self.pick(
            f"bytes({self.string(depth - 1)})",
            f"base64.decode({self.string(depth - 1)})",
            f"({self.bytes(depth - 1)} + {self.bytes(depth - 1)})",
        )

    def timestamp(self, depth):
        if depth <= 0:
            return self.pick(
                "now",
                "timestamp('2024-02-29T23:59:59.999Z')",
                "timestamp('1969-12-31T23:59:59.5Z')",
                "timestamp('2024-03-31T00:59:59+01:00')",
                "timestamp(1700000000)",
            )
        d = depth - 1
        return self.pick(
            self.timestamp(0),
            f"({self.timestamp(d)} {self.pick('+', '-')} {self.duration(d)})",
            f"timestamp({self.dyn(d)})",
        )

    def duration(self, depth):
        if depth <= 0:
            return self.pick(
                "duration('1h')",
                "duration('-1.5s')",
                "duration('24h0m0.000000001s')",
                "duration('0s')",
                "duration('9999h')",
            )
        d = depth - 1
        return self.pick(
            self.duration(0),
            f"({self.duration(d)} {self.pick('+', '-')} {self.duration(d)})",
            f"({self.timestamp(d)} - {self.timestamp(d)})",
            f"duration({self.dyn(d)})",
        )

    def listdyn(self, depth):
        return f"[{self.dyn(depth - 1)}, {self.dyn(depth - 1)}]" if self.pick(0, 1) else self.list(depth)

    def list(self, depth):
        if depth <= 0:
            return self.pick("[]", "[1, 2, 3]", "[1]", "[3, 1, 2, 1]")
        d = depth - 1
        match self.pick(*range(14)):
            case 0:
                return self.list(0)
            case 10:
                return f"[?{self.optional(d)}, {self.pick(self.int(d), self.dyn(d))}]"
            case 11:
                return f"lists.range({self.pick('0', '1', '3')})"
            case 12:
                return f"[[{self.dyn(d)}], [[{self.int(d)}]]].flatten({self.pick('', '0', '1', '2')})"
            case 13:
                key, value = self.fresh(), self.fresh()
                body = self.within(key, "dyn", lambda: self.within(value, "dyn", lambda: self.dyn(d)))
                condition = self.within(key, "dyn", lambda: self.within(value, "dyn", lambda: self.bool(d)))
                over = self.pick("change.l", "change.m", "change.o", self.list(d), self.map(d))
                return f"{over}.transformList({key}, {value}, {condition}, {body})"
            case 1:
                return f"[{self.int(d)}, {self.int(d)}]"
            case 2:
                return f"({self.list(d)} + {self.pick(self.list(d), 'change.l')})"
            case 3:
                name = self.fresh()
                over = self.pick("change.l", "change.d", "change.m", self.list(d))
                return f"{over}.map({name}, {self.within(name, 'dyn', lambda: self.int(d))})"
            case 4:
                name = self.fresh()
                condition = self.within(name, "dyn", lambda: self.bool(d))
                return f"{self.list(d)}.filter({name}, {condition})"
            case 5:
                return f"{self.list(d)}.slice({self.int(d)}, {self.int(d)})"
            case 6:
                return f"{self.list(d)}.{self.pick('sort', 'distinct', 'reverse')}()"
            case 7:
                key, value = self.fresh(), self.fresh()
                body = self.within(key, "dyn", lambda: self.within(value, "dyn", lambda: self.int(d)))
                over = self.pick("change.l", "change.m", "change.d", self.list(d))
                return f"{over}.transformList({key}, {value}, {body})"
            case 8:
                name = self.fresh()
                return f"{self.list(d)}.sortBy({name}, {self.within(name, 'dyn', lambda: self.int(d))})"
            case _:
                return f"[[{self.int(d)}], {self.list(d)}].flatten()"

    def map(self, depth):
        if depth <= 0:
            return self.pick("{}", "{'a': 1}", "{'b': 2, 'a': 1}")
        d = depth - 1
        return self.pick(
            f"{{'a': {self.int(d)}, {self.string(d)}: {self.int(d)}}}",
            f"{{'x': {self.any(d)}}}",
            f"{{{self.pick('1', 'true', self.string(0))}: {self.int(d)}, {self.dyn(d)}: {self.int(d)}}}",
            f"{{?'a': {self.optional(d)}, 'b': {self.dyn(d)}}}",
        )


KINDS = (("bool", ResultType.BOOL), ("string", ResultType.STRING))


def test_many_expressions():
    begin = seed()
    for case in range(CASES):
        choose = random.Random(f"{begin}-{case}")

        def pick(*options, choose=choose):
            return choose.choice(options)

        kind, result = pick(*KINDS)
        text = Expressions(pick).make(kind, pick(0, 1, 2, 3))
        check(text, result, [change(pick) for _ in range(3)])


def size_of(value):
    """Count the characters and the elements of an input, in all."""
    if isinstance(value, dict):
        parts = [*map(size_of, value), *map(size_of, value.values())]
    elif isinstance(value, list):
        parts = [*map(size_of, value)]
    else:
        return (len(value), 0) if isinstance(value, str) else (0, 0)
    return sum(text for text, _ in parts), len(value) + sum(items for _, items in parts)


def test_estimates_hold():
    """What an evaluation spends lies between the least and the most that was told when it was loaded."""
    begin = seed()
    loaded = 0
    for case in range(CASES // 5):
        choose = random.Random(f"{begin}-{case}")

        def pick(*options, choose=choose):
            return choose.choice(options)

        kind, result = pick(*KINDS)
        text = Expressions(pick).make(kind, pick(1, 2, 3, 4))
        try:
            program = compile_expression(text, result=result)
        except ExpressionError:
            continue
        assert isinstance(program, CompiledProgram)
        loaded += 1
        tree = read_checked(_ENVIRONMENT.compile(text).serialize())
        inputs = {**INPUT, "change": change(pick)}
        characters, items = size_of(inputs)
        sizes = Sizes(text=characters, items=items, inner=items, finds=characters + 1, worst=True)
        most = upper_bound(tree.root, {}, sizes)
        bindings, budget = bind(inputs, now=NOW), [STEPS_MAX]
        with contextlib.suppress(EvaluationError, *FAIL):
            program.run(bindings, bindings.inputs, bindings.values, budget)
        spent = STEPS_MAX - budget[0]
        assert program.estimate.least <= spent, (text, inputs, program.estimate)
        assert spent <= most, (text, inputs, most, spent)
    assert loaded > CASES // 10


@some
@given(st.data())
def test_some_expressions(data):
    def pick(*options):
        return data.draw(st.sampled_from(options))

    kind, result = pick(*KINDS)
    text = Expressions(pick).make(kind, pick(0, 1, 2, 3))
    check(text, result, [change(pick)])
