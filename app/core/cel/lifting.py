"""What a condition needs in order not to be false, read off its tree: `path == constant`, `path in [constants]`.

What is not there is an error in CEL, not false, unless `.?` or `has` guard it. A part that can run out of budget ends
the evaluation whatever comes after it, so nothing is lifted from behind it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from app.core.cel.checked import Call, Constant, Identifier, ListLiteral, Node, Select
from app.core.cel.needs import Key, Lifted, Need, Needs, Path, both, either, key_of
from app.core.cel.program import INPUT_NAMES

# A double compares with an integer exactly only below this; larger numbers are not lifted.
_EXACT = 1 << 53
# Step 4 has seen to it that these are there: texts, and maps that can be empty.
_TEXTS: frozenset[Path] = frozenset(
    {("subject", "type"), ("subject", "id"), ("action", "name"), ("resource", "type"), ("resource", "id")}
)
_MAPS: frozenset[Path] = frozenset(
    {*((name,) for name in INPUT_NAMES), *((name, "properties") for name in ("subject", "action", "resource"))}
)
# `object` and `oldObject` of Kubernetes, null where nothing is there: of null no field can be read either.
_OTHER_NAMES: Final[dict[str, Path]] = {"object": ("change", "after"), "oldObject": ("change", "before")}
_PLAIN_NAMES: Final = {*INPUT_NAMES, *_OTHER_NAMES, "now"}
# They look at a value, whatever it is, and walk over nothing.
_CHEAP = frozenset({"_&&_", "_||_", "!_", "_?_:_", "size", "type", "dyn"})
_COMPARISONS = frozenset({"_==_", "_!=_", "_<_", "_<=_", "_>_", "_>=_"})


def lift(root: Node, variables: Mapping[str, Node]) -> Lifted:
    """Read off a condition what it needs; `variables` has the trees of those it reads, by the checker's name."""
    return _Lifter(variables).lifted(root)


class _Lifter:
    def __init__(self, variables: Mapping[str, Node]) -> None:
        self._variables = variables
        # By identity: a variable that is read a hundred times by one that is read a hundred times is looked at once.
        self._bounded_before: dict[int, bool] = {}
        self._needs_before: dict[int, Needs] = {}
        self._sure_before: dict[int, bool] = {}

    def lifted(self, root: Node) -> Lifted:
        needs = {path: need for path, need in self._needs(root).items() if need.constants is not None}
        return Lifted(needs, self._sure_truth(root))

    # --- needs ------------------------------------------------------------------------------------------------------

    def _needs(self, node: Node) -> Needs:
        node = self._seen(node)
        found = self._needs_before.get(id(node))
        if found is None:
            found = self._needs_before[id(node)] = self._needs_of(node)
        return found

    def _needs_of(self, node: Node) -> Needs:
        match node:
            case Call(function="_&&_", arguments=(a, b)):
                # Where `b` is false the whole is, though `a` fails; but not if `a` ends the evaluation.
                return both(self._needs(a), self._needs(b)) if self._bounded(a) else self._needs(a)
            case Call(function="_||_", arguments=(a, b)):
                return either(self._needs(a), self._needs(b))
            case Call(function="_==_", arguments=(a, b)):
                return self._one_of(a, (b,)) or self._one_of(b, (a,))
            case Call(function="@in", arguments=(item, collection)):
                choices = self._seen(collection)
                if isinstance(choices, ListLiteral) and not choices.optional:
                    return self._one_of(item, choices.elements)
            case Select(operand=operand, field=field, test_only=True):
                path = self._path(operand)
                if path is not None:
                    return {(*path, field): Need(None, missing=True)}
            case _:
                pass
        return {}

    def _one_of(self, value: Node, choices: Sequence[Node]) -> Needs:
        """Give the need of `value == choice || ...`."""
        constants: set[Key] = set()
        for choice in choices:
            seen = self._seen(choice)
            key = key_of(seen.value) if isinstance(seen, Constant) else None
            if key is None or (not isinstance(key, str | tuple) and abs(key) >= _EXACT):
                return {}
            constants.add(key)
        path = self._path(value)
        if path is not None:
            return {path: Need(frozenset(constants), missing=False)}
        path, default = self._with_default(value)
        if path is not None:
            return {path: Need(frozenset(constants), missing=key_of(default) not in constants)}
        return {}

    def _seen(self, node: Node) -> Node:
        """Look through the name of a variable."""
        while isinstance(node, Identifier):
            found = self._variables.get(node.name.removeprefix("."))
            if found is None:
                return node
            node = found
        return node

    def _path(self, node: Node) -> Path | None:
        """Read `input.a.b` or `input.a['b']`."""
        match self._seen(node):
            case Identifier(name=name):
                name = name.removeprefix(".")
                return (name,) if name in INPUT_NAMES else _OTHER_NAMES.get(name)
            case (
                Select(operand=operand, field=field, test_only=False)
                | Call(function="_[_]", arguments=(operand, Constant(value=str() as field)))
            ):
                before = self._path(operand)
                return None if before is None else (*before, field)
            case _:
                return None

    def _with_default(self, node: Node) -> tuple[Path | None, Any]:
        """Read `input.a.?b.orValue(constant)`."""
        match self._seen(node):
            case Call(function="orValue", arguments=(chain, Constant(value=default))):
                return self._optional_path(chain), default
            case _:
                return None, None

    def _optional_path(self, node: Node) -> Path | None:
        """Read `input.a.?b.c`: what comes after the first question mark is as optional as it."""
        match self._seen(node):
            case Call(function="_?._" | "_[?_]", arguments=(operand, Constant(value=str() as field))):
                before = self._path(operand) or self._optional_path(operand)
            case Select(operand=operand, field=field, test_only=False):
                before = self._optional_path(operand)
            case _:
                return None
        return None if before is None else (*before, field)

    # --- what cannot happen -----------------------------------------------------------------------------------------

    def _bounded(self, node: Node) -> bool:
        """Tell whether a part can fail only as CEL's `&&` absorbs it: it never runs out of budget, whatever the input.

        INVARIANT: in doubt it can.
        """
        node = self._seen(node)
        found = self._bounded_before.get(id(node))
        if found is None:
            found = self._bounded_before[id(node)] = self._is_bounded(node)
        return found

    def _is_bounded(self, node: Node) -> bool:
        match node:
            case Constant():
                return True
            case Identifier(name=name):
                return name.removeprefix(".") in _PLAIN_NAMES
            case Select(operand=operand):
                return self._bounded(operand)
            case Call(function=function, arguments=(a, b)) if function in _COMPARISONS:
                scalar = isinstance(self._seen(a), Constant) or isinstance(self._seen(b), Constant)
                return scalar and self._bounded(a) and self._bounded(b)
            case Call(function="@in", arguments=(item, collection)):
                return self._is_literal(collection) and self._bounded(item)
            case Call(function="_[_]" | "_?._" | "_[?_]", arguments=(operand, Constant(value=str()))):
                return self._bounded(operand)
            case Call(function="orValue", arguments=(chain, Constant())):
                return self._bounded(chain)
            case Call(function=function, arguments=arguments) if function in _CHEAP:
                return all(self._bounded(argument) for argument in arguments)
            case _:
                return False

    def _is_literal(self, node: Node) -> bool:
        seen = self._seen(node)
        return (
            isinstance(seen, ListLiteral)
            and not seen.optional
            and all(isinstance(element, Constant) for element in seen.elements)
        )

    def _sure_truth(self, node: Node) -> bool:
        """Tell whether a condition is true or false for every input."""
        node = self._seen(node)
        found = self._sure_before.get(id(node))
        if found is None:
            found = self._sure_before[id(node)] = self._is_sure_truth(node)
        return found

    def _is_sure_truth(self, node: Node) -> bool:
        match node:
            case Constant(value=value):
                return isinstance(value, bool)
            case Call(function="_&&_" | "_||_" | "!_", arguments=arguments):
                return all(self._sure_truth(argument) for argument in arguments)
            case Call(function="_==_" | "_!=_", arguments=(a, b)):
                scalar = isinstance(self._seen(a), Constant) or isinstance(self._seen(b), Constant)
                return scalar and self._sure(a) and self._sure(b)
            case Call(function="@in", arguments=(item, collection)):
                return self._is_literal(collection) and self._sure(item)
            case Select(operand=operand, test_only=True):
                return self._path(operand) in _MAPS
            case _:
                return False

    def _sure(self, node: Node) -> bool:
        """Tell whether a part has a value for every input."""
        seen = self._seen(node)
        path, _ = self._with_default(seen)
        return isinstance(seen, Constant) or self._path(seen) in _TEXTS or (path is not None and path[:-1] in _MAPS)
