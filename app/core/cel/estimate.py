"""What an expression may cost, told from its checked form when it is loaded, in the steps that its evaluation counts.

Three numbers: the least it costs whatever the input is, what it usually costs, and the most. Least is what is certain:
work on lists and texts that stand in the expression, before anything of the input can fail or decide. Usual and most
assume how long a list or a text is that nobody knows yet: `USUAL` what a reader of policies has in mind, `MOST` what a
request of a megabyte, or an evaluation within its budget, can bring forth. They are upper bounds under these sizes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, assert_never

from app.core.cel.budget import CHARACTERS_PER_STEP, STEPS_MAX
from app.core.cel.checked import (
    Call,
    Comprehension,
    Constant,
    Identifier,
    ListLiteral,
    MapLiteral,
    MessageLiteral,
    Node,
    Select,
)
from app.core.cel.functions import FUNCTIONS

# Nested loops multiply; beyond this nobody reads the digits.
_ENOUGH = 10**12
# The longest text of a number, a timestamp or a duration: a double written out, with the precision `format` allows.
_SCALAR_MAX_CHARS = 1_400
# As in `patterns`: a match of UTF-8, compiling what comes out of data, one match whose place is asked for.
_MATCH_PER_CHARACTER = 4
_UTF8_MAX_BYTES = 4
_COMPILATION = 2_000
_FOUND = 20
_COMPARISON = 2


@dataclass(frozen=True, slots=True)
class Sizes:
    """How long what comes out of a request is taken to be: a text, a list, and a list in an element of a list.

    `finds` is how often a part is found in a text.
    With `worst`, what is not known is the most expensive that it can be, and not what one expects.
    """

    text: int
    items: int
    inner: int
    finds: int
    worst: bool


# A name, a label, a line; the files of a change, the containers of each of a hundred pods.
USUAL = Sizes(text=100, items=100, inner=10, finds=10, worst=False)
# The body of a request has a megabyte; what an expression makes itself is paid for at ten characters a step.
_PRODUCED = CHARACTERS_PER_STEP * STEPS_MAX + (1 << 20)
MOST = Sizes(text=_PRODUCED, items=_PRODUCED, inner=_PRODUCED, finds=_PRODUCED, worst=True)


@dataclass(frozen=True, slots=True)
class Estimate:
    """Steps: for any input, for inputs as `USUAL` has them, and for the worst that can come."""

    least: int
    usual: int
    most: int


UNKNOWN = Estimate(0, STEPS_MAX, STEPS_MAX)


@dataclass(frozen=True, slots=True)
class Extent:
    """How large a value can be: characters if it is a text, elements if it is a list or a map.

    Without `element`, the elements are parts of the input, and `text` and `items` count all that is in it together.
    """

    text: int = 0
    items: int = 0
    element: "Extent | None" = None

    def joined(self, other: "Extent") -> "Extent":
        """Give the extent of what is one or the other."""
        if self.element is not None and other.element is not None:
            element = self.element.joined(other.element)
            return Extent(max(self.text, other.text), max(self.items, other.items), element)
        # One without elements says nothing of them; of a part of the input, everything is counted together.
        if self.items == 0 or other.items == 0:
            kept = self.element if self.items else other.element
            return Extent(max(self.text, other.text), max(self.items, other.items), kept)
        return Extent(max(self.all_text(), other.all_text()), max(self.all_items(), other.all_items()))

    def all_text(self) -> int:
        """Give the characters of all that is in it."""
        return self.text if self.element is None else self.text + self.items * self.element.all_text()

    def all_items(self) -> int:
        """Give the elements of all that is in it."""
        return self.items if self.element is None else self.items * (1 + self.element.all_items())

    def comparison(self) -> int:
        """Give the steps of comparing it with another."""
        own = self.text // CHARACTERS_PER_STEP + _COMPARISON * self.items
        return own if self.element is None else own + self.items * self.element.comparison()

    def characters(self) -> int:
        """Give the characters of its text, as `format` writes it."""
        own = self.text + 40 * self.items + _SCALAR_MAX_CHARS
        return own if self.element is None else own + self.items * self.element.characters()


SCALAR = Extent()


def estimate(root: Node, constants: Mapping[str, Any]) -> Estimate:
    """Estimate one expression; the variables that it reads are paid for by themselves.

    `constants` has the variables whose values are known already, by the name the checker knows them under.
    """
    usual, most = (upper_bound(root, constants, sizes) for sizes in (USUAL, MOST))
    least = min(_least(root, lambda node: fixed_length(node, constants, ())), _ENOUGH)
    return Estimate(least, max(usual, least), max(most, least))


def upper_bound(root: Node, constants: Mapping[str, Any], sizes: Sizes) -> int:
    """Give what an expression costs at most where nothing of the input is longer than `sizes` has it."""
    return min(_Bound(sizes, constants).value(root)[0], _ENOUGH)


def fixed_length(node: Node, constants: Mapping[str, Any], local: "tuple[str, ...] | Mapping[str, Any]") -> int | None:
    """Give the length of a list that stands in the expression, or in a variable that is a constant."""
    match node:
        case ListLiteral(elements=elements):
            return len(elements)
        case Identifier(name=name) if name not in local:
            found = constants.get(name.removeprefix("."))
            return len(found) if isinstance(found, list) else None
        case _:
            return None


def weight(node: Node, length: Callable[[Node], int | None]) -> int:
    """Count the nodes that one turn of a loop evaluates; loops in it that can be long pay for themselves.

    `length` is `fixed_length`, as far as the caller knows constants.
    """
    match node:
        case Constant():
            return 0
        case Identifier() | MessageLiteral():
            return 1
        case Select(operand=operand):
            return 1 + weight(operand, length)
        case Call(arguments=arguments):
            return 1 + sum(weight(argument, length) for argument in arguments)
        case ListLiteral(elements=elements):
            return 1 + sum(weight(element, length) for element in elements)
        case MapLiteral(entries=entries):
            return 1 + sum(weight(entry.key, length) + weight(entry.value, length) for entry in entries)
        case Comprehension(over=over, initial=initial, step=step, result=result):
            turns = length(over) or 0
            around = weight(over, length) + weight(initial, length) + weight(result, length)
            return 1 + around + turns * weight(step, length)
        case _:
            assert_never(node)


# --- the least ------------------------------------------------------------------------------------------------------


def _least(node: Node, length: Callable[[Node], int | None], *, inside: bool = False) -> int:
    """Give what is paid whatever the input is: what is evaluated first, up to where something can fail."""
    match node:
        case Call(function="_&&_" | "_||_" | "orValue" | "or"):
            return _least(node.arguments[0], length, inside=inside)
        case Call(function="_?_:_", arguments=(condition, *branches)):
            certain = 0 if _may_fail(condition) else min(_least(branch, length, inside=inside) for branch in branches)
            return _least(condition, length, inside=inside) + certain
        case Call(function="lists.range", arguments=(Constant(value=int() as count),)):
            return max(count, 0)
        case Call(arguments=arguments):
            return _least_of(arguments, length, inside=inside)
        case Select(operand=operand):
            return _least(operand, length, inside=inside)
        case ListLiteral(elements=elements):
            return _least_of(elements, length, inside=inside)
        case MapLiteral(entries=entries):
            return _least_of(
                tuple(part for entry in entries for part in (entry.key, entry.value)), length, inside=inside
            )
        case Comprehension() if is_bind(node):
            # The value is computed when it is first read, if ever.
            return _least(node.result, length, inside=inside)
        case Comprehension():
            before = _least(node.over, length, inside=inside)
            turns = 0 if _may_fail(node.over) else _certain_length(node.over, length)
            if turns == 0:
                return before
            # All turns are paid for at the start; of what they do, the first is certain, all are if nothing stops them.
            steps = _least(_first_of(node.step), length, inside=True)
            repeated = turns if _collects(node) and not _may_fail(_first_of(node.step)) else 1
            # A list that stands in a loop is paid for with what stands around it.
            own = 0 if inside and length(node.over) is not None else turns * weight(node.step, length)
            return before + own + repeated * steps
        case _:
            return 0


def _least_of(nodes: tuple[Node, ...], length: Callable[[Node], int | None], *, inside: bool) -> int:
    total = 0
    for node in nodes:
        total += _least(node, length, inside=inside)
        if _may_fail(node):
            break
    return total


def _certain_length(node: Node, length: Callable[[Node], int | None]) -> int:
    match node:
        case ListLiteral(elements=elements, optional=optional):
            return len(elements) - len(optional)
        case MapLiteral(entries=entries):
            return sum(not entry.optional for entry in entries)
        case Call(function="lists.range", arguments=(Constant(value=int() as count),)):
            return max(count, 0)
        case _:
            return length(node) or 0


def _first_of(step: Node) -> Node:
    """Give what a turn of a loop evaluates first: not the accumulator that stands before it."""
    match step:
        case Call(function="_&&_" | "_||_", arguments=(Identifier(), predicate)):
            return predicate
        case Call(function="_+_" | "cel.@mapInsert", arguments=(Identifier(), item, *_)):
            return item
        case _:
            return step


def _collects(node: Comprehension) -> bool:
    """Tell whether every turn is taken: `map`, not `all`."""
    return isinstance(node.step, Call) and node.step.function in {"_+_", "cel.@mapInsert"}


def _may_fail(node: Node) -> bool:
    """Tell whether an evaluation may end here, so that what comes after is not certain to be paid. True in doubt."""
    match node:
        case Constant():
            return False
        case Call(function="lists.range", arguments=(Constant(value=int() as count),)):
            return count < 0
        case ListLiteral(elements=elements, optional=optional):
            return bool(optional) or any(map(_may_fail, elements))
        case MapLiteral(entries=entries):
            keys = {entry.key.value for entry in entries if isinstance(entry.key, Constant)}
            values = any(entry.optional or _may_fail(entry.value) for entry in entries)
            return values or len(keys) != len(entries) or not all(isinstance(key, str) for key in keys)
        case Comprehension():
            return is_bind(node) or _may_fail(node.over) or _may_fail(_first_of(node.step))
        case _:
            return True


def is_bind(node: Comprehension) -> bool:
    """Tell whether a loop is none: `cel.bind`."""
    return (
        isinstance(node.condition, Constant)
        and node.condition.value is False
        and isinstance(node.step, Identifier)
        and node.step.name == node.accumulator
    )


# --- the most -------------------------------------------------------------------------------------------------------


class _Bound:
    """Walks over a tree and gives, for each node, its cost and its extent under the assumed sizes."""

    def __init__(self, sizes: Sizes, constants: Mapping[str, Any]) -> None:
        self._sizes = sizes
        self._constants = constants
        self._any = Extent(sizes.text, sizes.items)
        self._local: dict[str, Extent] = {}
        self._loops = 0

    def value(self, node: Node) -> tuple[int, Extent]:
        match node:
            case Constant():
                return 0, _extent_of(node.value)
            case Identifier(name=name):
                known = self._local.get(name)
                if known is not None:
                    return 0, known
                constant = self._constants.get(name.removeprefix("."))
                return 0, self._any if constant is None else _extent_of(constant)
            case Select(operand=operand, test_only=test_only):
                cost, extent = self.value(operand)
                return cost, SCALAR if test_only else self._element(extent)
            case ListLiteral(elements=elements):
                return self._collection(elements)
            case MapLiteral(entries=entries):
                cost, extent = self._collection(tuple(part for entry in entries for part in (entry.key, entry.value)))
                return cost, Extent(items=len(entries), element=extent.element)
            case Comprehension():
                return self._bind(node) if is_bind(node) else self._loop(node)
            case Call():
                return self._call(node)
            case MessageLiteral():
                return 0, self._any
            case _:
                assert_never(node)

    def _element(self, extent: Extent) -> Extent:
        # A part of what is counted together is not larger.
        return extent if extent.element is None else extent.element

    def _turn(self, over: Extent) -> Extent:
        """Give the extent of what one turn of a loop sees."""
        if over.element is not None:
            return over.element
        return Extent(over.text, min(over.items, self._sizes.inner))

    def _collection(self, nodes: tuple[Node, ...]) -> tuple[int, Extent]:
        cost, element = 0, SCALAR
        for node in nodes:
            more, extent = self.value(node)
            cost += more
            element = element.joined(extent)
        return cost, Extent(items=len(nodes), element=element)

    def _bind(self, node: Comprehension) -> tuple[int, Extent]:
        before, bound = self.value(node.initial)
        cost, extent = self._within({node.accumulator: bound}, node.result)
        return before + cost, extent

    def _within(self, names: Mapping[str, Extent], node: Node) -> tuple[int, Extent]:
        shadowed = self._local
        self._local = {**shadowed, **names}
        found = self.value(node)
        self._local = shadowed
        return found

    def _loop(self, node: Comprehension) -> tuple[int, Extent]:
        cost, over = self.value(node.over)
        fixed = self._fixed(node.over)
        turns = over.items
        element = self._turn(over)
        names = {node.variable: element}
        if node.second_variable:
            # The first is an index, or a key, which is no longer than the largest of them.
            names[node.second_variable] = element
        if fixed is None or not self._loops:
            cost += turns * weight(node.step, self._fixed)
        shadowed = self._local
        self._local = {**shadowed, **names, node.accumulator: SCALAR}
        self._loops += 1
        more, result = self._step(node.step, turns)
        self._loops -= 1
        self._local = shadowed
        return min(cost + turns * more, _ENOUGH), result

    def _step(self, step: Node, turns: int) -> tuple[int, Extent]:
        match step:
            case Call(function="_?_:_", arguments=(predicate, inner, _)):
                cost, _ = self.value(predicate)
                more, result = self._step(inner, turns)
                return cost + more, result
            case Call(function="_+_", arguments=(Identifier(), ListLiteral(elements=(item,)))):
                cost, extent = self.value(item)
                return cost, Extent(items=turns, element=extent)
            case Call(function="cel.@mapInsert", arguments=(Identifier(), key, value)):
                cost, extent = self._collection((key, value))
                return cost, Extent(items=turns, element=extent.element)
            case Call(function="cel.@mapInsert", arguments=(Identifier(), entries)):
                cost, extent = self.value(entries)
                return cost + extent.items, Extent(items=turns * extent.items, element=self._element(extent))
            case _:
                return self.value(step)[0], SCALAR

    def _fixed(self, node: Node) -> int | None:
        return fixed_length(node, self._constants, self._local)

    def _call(self, node: Call) -> tuple[int, Extent]:
        cost, extents = 0, []
        for argument in node.arguments:
            more, extent = self.value(argument)
            cost += more
            extents.append(extent)
        charge, result = self._charged(node, extents)
        return min(cost + charge, _ENOUGH), result

    def _charged(self, node: Call, of: list[Extent]) -> tuple[int, Extent]:
        """Give what a function takes from the budget beside its arguments, and the extent of its result."""
        first = of[0] if of else SCALAR
        last = of[-1] if of else SCALAR
        finds = min(self._sizes.finds, first.text + 1)
        match node.function:
            case "_&&_" | "_||_" | "!_" | "hasValue" | "size" | "type" | "int" | "uint" | "double" | "bool":
                return 0, SCALAR
            case "_?_:_":
                return 0, of[1].joined(of[2])
            case "orValue" | "or":
                return 0, first.joined(last)
            case "dyn" | "value" | "optional.of" | "optional.ofNonZeroValue":
                return 0, first
            case "_?._" | "first" | "last":
                return 0, self._element(first)
            case "_[_]" | "_[?_]":
                return last.text // CHARACTERS_PER_STEP, self._element(first)
            case "_==_" | "_!=_":
                return self._equality(node, of), SCALAR
            case "_<_" | "_<=_" | "_>_" | "_>=_":
                return min(first.text, last.text) // CHARACTERS_PER_STEP, SCALAR
            case "@in":
                return self._membership(node, of), SCALAR
            case "_+_":
                text, items = first.text + last.text, first.items + last.items
                if min(first.text + first.items, last.text + last.items) == 0 and _is_number(node):
                    return 0, SCALAR
                joined = first.joined(last)
                return max(text, items) // CHARACTERS_PER_STEP, Extent(text, items, joined.element)
            case "contains":
                return first.text // CHARACTERS_PER_STEP, SCALAR
            case "startsWith" | "endsWith":
                return last.text // CHARACTERS_PER_STEP, SCALAR
            case "indexOf" | "lastIndexOf":
                # Of a text, or of a list, each element of which is compared.
                found = first.text * (1 + of[1].text // 100) // CHARACTERS_PER_STEP
                return found + first.items * (_COMPARISON + self._compared(self._element(first))), SCALAR
            case "matches":
                return self._matching(node, first), SCALAR
            case "string" | "bytes" | "base64.encode" | "base64.decode" | "strings.quote":
                return first.text // CHARACTERS_PER_STEP, Extent(max(_UTF8_MAX_BYTES * first.text, _SCALAR_MAX_CHARS))
            case "substring" | "trim" | "lowerAscii" | "upperAscii" | "charAt":
                return first.text // CHARACTERS_PER_STEP, Extent(first.text)
            case "reverse" | "slice":
                return max(first.text, first.items) // CHARACTERS_PER_STEP, first
            case "split":
                parts = first.text + 1 if self._sizes.worst else finds
                return first.text // CHARACTERS_PER_STEP + first.text + 1, Extent(
                    items=parts, element=Extent(first.text)
                )
            case "join":
                between = last.text if len(of) > 1 else 0
                text = first.items * (between + self._element(first).text)
                return text // CHARACTERS_PER_STEP, Extent(text)
            case "replace":
                text = first.text + finds * of[2].text
                return (first.text + text) // CHARACTERS_PER_STEP, Extent(text)
            case "format":
                text = first.text + last.characters()
                return 2 * text // CHARACTERS_PER_STEP, Extent(text)
            case "regex.extract":
                return self._matching(node, first) + _FOUND, Extent(first.text)
            case "regex.extractAll":
                cost = self._matching(node, first) + _FOUND * finds
                return cost, Extent(items=finds, element=Extent(first.text))
            case "regex.replace":
                # A group of the pattern can be as long as the text, and be written as often as the replacement is long.
                text = first.text + finds * of[2].text * (1 + first.text)
                return self._matching(node, first) + _FOUND * finds + text // CHARACTERS_PER_STEP, Extent(text)
            case "lists.range":
                count = node.arguments[0]
                literal = count.value if isinstance(count, Constant) and type(count.value) is int else None
                turns = self._sizes.items if literal is None else max(literal, 0)
                return turns, Extent(items=turns, element=SCALAR)
            case "flatten":
                return self._flattened(first)
            case "sort" | "@sortByAssociatedKeys":
                rounds = first.items.bit_length()
                keys = self._element(last).text * first.items * rounds // CHARACTERS_PER_STEP
                return first.items * rounds + keys, first
            case "distinct":
                element = self._element(first)
                each = first.items * element.comparison() if element.items and self._sizes.worst else 0
                return first.items * (1 + element.text // CHARACTERS_PER_STEP + each), first
            case "sets.contains" | "sets.equivalent" | "sets.intersects":
                return 2 * first.items * self._looked_for(self._element(first), last), SCALAR
            case "math.@max" | "math.@min":
                return max(first.items, len(of)), SCALAR
            case name:
                return self._unknown(name, of)

    def _unknown(self, name: str, of: list[Extent]) -> tuple[int, Extent]:
        """A function that is not estimated above, of a library: ten characters a step, or the whole budget at worst."""
        known = FUNCTIONS.get(f"{name}/{len(of)}") or FUNCTIONS.get(name)
        if known is not None and not known.budget:
            return 0, self._any
        if self._sizes.worst:
            return STEPS_MAX, self._any
        return sum(map(self._compared, of)), self._any

    def _equality(self, node: Call, of: list[Extent]) -> int:
        # A list is compared element by element, also one that is known.
        constants = [self._known(argument) and not one.items for argument, one in zip(node.arguments, of, strict=True)]
        if any(constants) and not all(constants):
            return 0
        steps = [self._compared(extent) for extent in of]
        return min(steps) if any(constants) else max(steps)

    def _compared(self, extent: Extent) -> int:
        """Give the steps of a comparison: what is not known is usually a name, and at worst a document."""
        usual = extent.element is None and not self._sizes.worst
        return extent.text // CHARACTERS_PER_STEP if usual else extent.comparison()

    def _membership(self, node: Call, of: list[Extent]) -> int:
        """`item in list`, or a key in a map."""
        item, collection = of
        if isinstance(node.arguments[1], ListLiteral) and all(
            isinstance(element, Constant) for element in node.arguments[1].elements
        ):
            return collection.items * (1 + item.text // CHARACTERS_PER_STEP) if item.items else collection.items
        return self._looked_for(item, collection) + item.text // CHARACTERS_PER_STEP

    def _looked_for(self, item: Extent, collection: Extent) -> int:
        texts = collection.items * (1 + item.text // 100) // CHARACTERS_PER_STEP
        compared = collection.items * item.comparison() if item.items and self._sizes.worst else 0
        return 1 + collection.items + texts + compared

    def _matching(self, node: Call, text: Extent) -> int:
        pattern = node.arguments[1]
        compiling = 0 if self._known(pattern) else _COMPILATION + self._sizes.text
        per_character = _MATCH_PER_CHARACTER * (_UTF8_MAX_BYTES if self._sizes.worst else 1)
        return compiling + text.text * per_character // CHARACTERS_PER_STEP

    def _known(self, node: Node) -> bool:
        """Tell whether a value is known when the expression is loaded."""
        match node:
            case Constant():
                return True
            case Identifier(name=name):
                return name not in self._local and name.removeprefix(".") in self._constants
            case _:
                return False

    def _flattened(self, extent: Extent) -> tuple[int, Extent]:
        element = self._element(extent)
        items = extent.items * max(element.items, 1)
        # Each level is gone over once, and those of the input end where the document does.
        return 33 * (items + extent.items), Extent(items=items, element=element.joined(self._element(element)))


def _extent_of(value: Any) -> Extent:
    """Give the extent of a value that is known."""
    match value:
        case str() | bytes():
            return Extent(text=len(value))
        case list():
            element = SCALAR
            for item in value:
                element = element.joined(_extent_of(item))
            return Extent(items=len(value), element=element)
        case dict():
            return _extent_of([*value.keys(), *value.values()])
        case _:
            return SCALAR


def _is_number(node: Call) -> bool:
    """Tell whether one operand of a sum is a number that stands there, so that the other is one or it fails."""
    return any(
        isinstance(argument, Constant) and type(argument.value) not in {str, bytes} for argument in node.arguments
    )
