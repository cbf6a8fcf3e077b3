"""JSON Patch (RFC 6902): what a patch makes of a document, and which members it speaks of."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, assert_never

import orjson

from app.core import members, pointer
from app.core.comparison import Difference, equal
from app.core.strict_json import MAX_DEPTH
from app.core.types import Json
from app.errors import FirewallError, Kind

# An insertion at the front of an array moves the whole array: operations times size is what a patch can cost.
MAX_OPERATIONS = 2_000
# `copy` is the one operation that makes a document larger than what was sent; repeated, it doubles.
MAX_COPIED_BYTES = 1024 * 1024

_POINTER = "/change/patch"


class Op(StrEnum):
    """The six operations of RFC 6902 section 4."""

    ADD = "add"
    REMOVE = "remove"
    REPLACE = "replace"
    MOVE = "move"
    COPY = "copy"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of checked shape: `where` is its own pointer in the request, `origin` is `from` in RFC 6902."""

    where: str
    op: Op
    path: str
    tokens: list[str]
    origin: str = ""
    origin_tokens: list[str] | None = None
    value: Any = None


def parse(patch: Any) -> list[Operation]:
    """Check the shape of a JSON Patch document.

    Members that an operation does not define are ignored, as RFC 6902 section 4 demands.

    Raises: FirewallError(MALFORMED) with a pointer below /change/patch.
    """
    if not isinstance(patch, list):
        raise members.refuse_type(patch, expected="an array of operations (RFC 6902)", pointer=_POINTER)
    if not patch:
        raise FirewallError(Kind.MALFORMED, "the patch is empty", pointer=_POINTER, fix="send at least one operation")
    if len(patch) > MAX_OPERATIONS:
        raise FirewallError(
            Kind.MALFORMED, f"more than {MAX_OPERATIONS} operations", pointer=_POINTER, fix="split the change"
        )
    return [_operation(item, where=f"{_POINTER}/{position}") for position, item in enumerate(patch)]


def _operation(item: Any, *, where: str) -> Operation:
    if not isinstance(item, dict):
        raise members.refuse_type(item, expected="an object with `op` and `path`", pointer=where)
    name = members.text(item, "op", pointer=where)
    try:
        op = Op(name)
    except ValueError:
        raise FirewallError(
            Kind.MALFORMED,
            f"unknown operation `{name[:80]}`",
            pointer=f"{where}/op",
            fix=f"use one of {members.listed(Op)}",
        ) from None
    path, tokens = _location(item, "path", where=where)
    match op:
        case Op.ADD | Op.REPLACE | Op.TEST:
            if "value" not in item:
                raise FirewallError(
                    Kind.MALFORMED, f"`{op}` without a value", pointer=f"{where}/value", fix="add `value`"
                )
            return Operation(where, op, path, tokens, value=item["value"])
        case Op.MOVE | Op.COPY:
            origin, origin_tokens = _location(item, "from", where=where)
            # RFC 6902 section 4.4; a `-` cannot name an existing element, so equal tokens mean equal places.
            if op is Op.MOVE and len(tokens) > len(origin_tokens) and tokens[: len(origin_tokens)] == origin_tokens:
                raise FirewallError(Kind.MALFORMED, "a value cannot move into itself", pointer=f"{where}/path")
            return Operation(where, op, path, tokens, origin=origin, origin_tokens=origin_tokens)
        case Op.REMOVE:
            return Operation(where, op, path, tokens)
        case _:  # pragma: no cover
            assert_never(op)


def _location(item: dict[str, Any], name: str, *, where: str) -> tuple[str, list[str]]:
    """Take a member that is a JSON pointer."""
    if name not in item:
        raise FirewallError(Kind.MALFORMED, f"`{name}` is missing", pointer=f"{where}/{name}", fix="add a json pointer")
    value = item[name]
    if not isinstance(value, str):
        raise members.refuse_type(value, expected="a json pointer", pointer=f"{where}/{name}")
    try:
        return value, pointer.split(value)
    except pointer.PointerError as error:
        raise FirewallError(Kind.MALFORMED, str(error), pointer=f"{where}/{name}") from None


def named(operations: list[Operation]) -> Difference:
    """Tell which members a patch speaks of, when there is no document to apply it to.

    An append to an array keeps its index `-`. What is replaced is in `paths` alone; `test` changes nothing.
    """
    changed: set[str] = set()
    added: set[str] = set()
    removed: set[str] = set()
    for operation in operations:
        match operation.op:
            case Op.ADD | Op.COPY:
                added.add(operation.path)
            case Op.REMOVE:
                removed.add(operation.path)
            case Op.REPLACE:
                changed.add(operation.path)
            case Op.MOVE:
                removed.add(operation.origin)
                added.add(operation.path)
            case Op.TEST:
                pass
            case _:  # pragma: no cover
                assert_never(operation.op)
    return Difference(sorted(changed | added | removed), sorted(added), sorted(removed))


def apply(operations: list[Operation], *, before: Json) -> Json:
    """Apply a patch to a document and return the new one; neither is changed, and they share nothing that can be.

    Raises: FirewallError(MALFORMED) with the pointer of the operation that cannot be applied: a location that does not
    exist, a `test` that fails, a result nested deeper than `MAX_DEPTH`, more than `MAX_COPIED_BYTES` copied.
    """
    # One list around the document makes the root an element like any other.
    holder: list[Any] = [_clone(before)]
    copied = 0
    for operation in operations:
        try:
            match operation.op:
                case Op.ADD:
                    _add(holder, operation.tokens, _clone(operation.value))
                case Op.REPLACE:
                    _replace(holder, operation.tokens, _clone(operation.value))
                case Op.REMOVE:
                    _remove(holder, operation.tokens)
                case Op.TEST:
                    _test(holder, operation)
                case Op.MOVE:
                    tokens = operation.origin_tokens or []
                    value = _find(holder, tokens)
                    if operation.path != operation.origin:
                        _remove(holder, tokens)
                        _add(holder, operation.tokens, value)
                case Op.COPY:
                    text = orjson.dumps(_find(holder, operation.origin_tokens or []))
                    copied += len(text)
                    _refuse_growth(copied)
                    _add(holder, operation.tokens, orjson.loads(text))
                case _:  # pragma: no cover
                    assert_never(operation.op)
        except pointer.PointerError as error:
            raise FirewallError(
                Kind.MALFORMED,
                f"`{operation.op}` cannot be applied to before: {error}",
                pointer=operation.where,
                fix="send the state that the patch was made for as `before`",
            ) from None
        except orjson.JSONEncodeError:
            raise _too_deep(operation.where) from None
    if _deeper_than(holder[0], MAX_DEPTH):
        raise _too_deep(_POINTER)
    result: Json = holder[0]
    return result


def _refuse_growth(copied: int) -> None:
    if copied > MAX_COPIED_BYTES:
        raise pointer.PointerError(f"the copies are larger than {MAX_COPIED_BYTES} bytes together")


def _too_deep(where: str) -> FirewallError:
    return FirewallError(
        Kind.MALFORMED,
        f"the patch nests more than {MAX_DEPTH} objects and arrays",
        pointer=where,
        fix="flatten the document",
    )


def _clone(value: Any) -> Any:
    """A copy that shares nothing that can change; scalars are what they are."""
    return orjson.loads(orjson.dumps(value)) if isinstance(value, dict | list) else value


def _find(holder: list[Any], tokens: list[str]) -> Any:
    node = holder[0]
    for token in tokens:
        node = pointer.step(node, token)
    return node


def _parent(holder: list[Any], tokens: list[str]) -> tuple[Any, str]:
    """The container that holds, or is to hold, what the tokens name, and its key in there."""
    return (_find(holder, tokens[:-1]), tokens[-1]) if tokens else (holder, "0")


def _add(holder: list[Any], tokens: list[str], value: Any) -> None:
    if not tokens:
        holder[0] = value
        return
    parent, token = _parent(holder, tokens)
    if isinstance(parent, dict):
        parent[token] = value
    elif isinstance(parent, list):
        # RFC 6902 section 4.1: `-` and the length itself both mean the end.
        parent.insert(len(parent) if token == "-" else pointer.index(token, length=len(parent) + 1), value)  # noqa: S105
    else:
        raise pointer.PointerError("its parent is neither an object nor an array")


def _replace(holder: list[Any], tokens: list[str], value: Any) -> None:
    parent, token = _parent(holder, tokens)
    pointer.step(parent, token)
    parent[token if isinstance(parent, dict) else int(token)] = value


def _remove(holder: list[Any], tokens: list[str]) -> None:
    if not tokens:
        raise pointer.PointerError("the whole document cannot be removed; ask for the action `delete`")
    parent, token = _parent(holder, tokens)
    pointer.step(parent, token)
    del parent[token if isinstance(parent, dict) else int(token)]


def _test(holder: list[Any], operation: Operation) -> None:
    if not equal(operation.value, _find(holder, operation.tokens)):
        raise pointer.PointerError("the value there is another one")


def _deeper_than(tree: Any, limit: int) -> bool:
    """Whether more than `limit` objects and arrays are nested, without recursion."""
    level = _containers([tree])
    for _ in range(limit):
        level = [child for node in level for child in _containers(node.values() if isinstance(node, dict) else node)]
    return bool(level)


def _containers(values: Iterable[Any]) -> list[Any]:
    return [value for value in values if isinstance(value, dict | list)]
