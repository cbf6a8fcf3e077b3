"""What of a mutation is not kept: values are taken out of it before its record is written, and never change a decision.

A mask is part of the policy set, so that what a record lacks follows from what it names. It points at values with JSON
pointers, or with an expression that gives pointers. What it takes out is `***` in the record, which lists each place;
with `hash` the place has a salted commitment, by which whoever still has the value can show that it was this one.

Doubt hides: a condition that fails counts as true, and pointers that fail, or are too many, hide everything that may
hold data (`DOUBTED`).
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from hmac import digest as hmac_digest
from typing import Any, Final, NamedTuple

import orjson

from app.core import pointer
from app.core.cel import Program, RequestBindings
from app.core.cel.conversions import double_text
from app.core.index import Condition, Match
from app.core.masking import MASK
from app.core.types import Json, JsonObject, Mutation

# One member, whatever its name; and any number of members, none included.
ANY_MEMBER: Final = "*"
ANY_DEPTH: Final = "**"
# The members of a mutation that have values to hide.
PARTS: Final = ("subject", "action", "resource", "change", "context")
RATIONALE: Final = "rationale"
# Whose members are hidden, with the rationale, where nobody can tell what should be.
DOUBTED: Final = ("change", "context")

# Values that one record may have hidden: beyond it the list of their places would be longer than what is left.
PLACES_MAX: Final = 1_000
# Shorter texts stand in other words by chance, so they are only looked for as words.
_WORD_MAX_CHARS: Final = 3
# Hidden characters that messages are searched for: beyond it the messages themselves are hidden.
_SEARCHED_MAX_CHARS: Final = 16_384
# What ends a text that was cut short.
_CUT: Final = "…"

# As long as the hash.
SALT_BYTES: Final = 32
SALT_PREFIX: Final = b"mutationfirewall.io/mask-salt/v1\x00"
COMMITMENT_PREFIX: Final = b"mutationfirewall.io/masked/v1\x00"


class MaskAction(StrEnum):
    """What is kept of a value: nothing, or a commitment."""

    ERASE = "erase"
    HASH = "hash"


@dataclass(frozen=True, slots=True)
class Hiding:
    """Which values: those at `pattern`, tokens of a JSON pointer or `ANY_MEMBER` and `ANY_DEPTH`, or at `pointers`, an
    expression that gives a list of JSON pointers.
    """

    action: MaskAction
    pattern: tuple[str, ...] = ()
    pointers: Program | None = None


@dataclass(frozen=True, slots=True)
class RecordMask:
    """One compiled mask: for mutations that match, and whose conditions are not false, it hides values."""

    name: str
    hidings: tuple[Hiding, ...]
    match: Match = field(default_factory=Match)
    conditions: tuple[Condition, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)

    def concerns(self, bindings: RequestBindings) -> bool:
        """Tell whether it hides anything of this mutation; a condition that fails does not keep it from doing so."""
        if not self.match.matches(bindings.inputs):
            return False
        for condition in self.conditions:
            try:
                if condition.program.evaluate(bindings) is False:
                    return False
            except Exception:  # noqa: BLE001, S112 - whatever goes wrong, what may be a secret is hidden
                continue
        return True


class Hidden(NamedTuple):
    """A value that is not in the record: where it stood, which mask took it, and its commitment if it has one."""

    pointer: str
    mask: str
    commitment: str | None


@dataclass(frozen=True, slots=True)
class Masked:
    """A mutation as its record has it, what is hidden in it, and the hidden texts that no message may repeat.

    `texts` is None where there are too many to look for; `found` finds them.
    """

    mutation: Mutation
    hidden: tuple[Hidden, ...]
    texts: tuple[str, ...] | None
    found: "re.Pattern[str]"

    def said(self, value: Any) -> Any:
        """Give a JSON value, such as a message, without what is hidden: `***` stands for each."""
        if self.texts is None:
            return _nothing(value)
        return _without(value, self.texts, self.found) if self.texts else value


# Gives the commitment to a value at a place. Replay gives those of the record, for it has no key.
Commit = Callable[[str, Json], str]


def commitments(key: bytes, identifier: str) -> Commit:
    """Commit to the values of one record. Does not check: that nobody else has the key."""

    def commit(place: str, value: Json) -> str:
        return commitment(salt_of(key, identifier, place), value)

    return commit


def salt_of(key: bytes, identifier: str, place: str) -> bytes:
    """The salt of one value, 32 bytes: whoever is given it can check this value, and guess at no other.

    `identifier` is the decision's; it and a pointer have no NUL, so no two places have one salt.
    """
    return hmac_digest(key, SALT_PREFIX + identifier.encode() + b"\x00" + place.encode(), "sha256")


def commitment(salt: bytes, value: Json) -> str:
    """What a record holds of a hidden value: "sha256:" and 64 hex digits.

    Of the JSON that records are written in: keys sorted, and 1.0 is not 1.
    """
    return "sha256:" + sha256(COMMITMENT_PREFIX + salt + orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()


def mask(masks: Iterable[RecordMask], mutation: Mutation, bindings: RequestBindings, commit: Commit) -> Masked | None:
    """Take out of a mutation what the masks hide; None where they hide nothing. Never raises, and changes no input."""
    tree: JsonObject = {part: getattr(mutation, part) for part in PARTS}
    tree[RATIONALE] = mutation.rationale
    places: dict[tuple[str, ...], tuple[str, MaskAction]] = {}
    for one in masks:
        if one.concerns(bindings):
            _mark(one, tree, bindings, places)
    if not places:
        return None
    outermost = _outermost(places)
    texts: set[str] = set()
    hidden: list[Hidden] = []
    for tokens in sorted(outermost):
        name, action = outermost[tokens]
        place = "".join("/" + pointer.escape(token) for token in tokens)
        value = _at(tree, tokens)
        hidden.append(Hidden(place, name, commit(place, value) if action is MaskAction.HASH else None))
        texts.update(_scalars(value))
    masked = _replaced(tree, [*outermost])
    searched = _searched(texts)
    return Masked(
        mutation._replace(**{part: masked[part] for part in PARTS}, rationale=masked[RATIONALE]),
        tuple(hidden),
        searched,
        _finder(searched or ()),
    )


def _mark(
    one: RecordMask,
    tree: JsonObject,
    bindings: RequestBindings,
    places: dict[tuple[str, ...], tuple[str, MaskAction]],
) -> None:
    """Note every place that a mask hides; one that two of them hide is erased if either erases it."""
    found: dict[tuple[str, ...], MaskAction] = {}
    try:
        for hiding in one.hidings:
            for tokens in _places(hiding, tree, bindings):
                if found.get(tokens) is not MaskAction.ERASE:
                    found[tokens] = hiding.action
    except Exception:  # noqa: BLE001 - whatever goes wrong, what may be a secret is hidden
        found = _everything(tree)
    if len(found) > PLACES_MAX:
        found = _everything(tree)
    for tokens, action in found.items():
        if tokens not in places or action is MaskAction.ERASE:
            places[tokens] = (one.name, action)


def _everything(tree: JsonObject) -> dict[tuple[str, ...], MaskAction]:
    """Every place that may hold data."""
    places = [(part, name) for part in DOUBTED for name in tree[part]]
    return dict.fromkeys([*places, *([(RATIONALE,)] if tree[RATIONALE] is not None else [])], MaskAction.ERASE)


class _DoubtError(Exception):
    """Nobody can tell what is to be hidden."""


def _places(hiding: Hiding, tree: JsonObject, bindings: RequestBindings) -> Iterator[tuple[str, ...]]:
    if hiding.pointers is None:
        yield from _matching(tree, hiding.pattern)
        return
    pointers = hiding.pointers.evaluate(bindings)
    if not isinstance(pointers, list):
        raise _DoubtError
    for text in pointers:
        if not isinstance(text, str):
            raise _DoubtError
        tokens = tuple(pointer.split(text))
        if not may_be_hidden(tokens):
            raise _DoubtError
        # What is not there need not be hidden: `change.paths` has what is only in `before` or in `after`.
        yield from _literal(tree, tokens)


def may_be_hidden(tokens: Sequence[str]) -> bool:
    """Tell whether a place is one that a mask can hide: a member of a part, at least, or the rationale."""
    if not tokens:
        return False
    if tokens[0] == RATIONALE:
        return len(tokens) == 1
    return tokens[0] in PARTS and len(tokens) > 1


def _literal(tree: Json, tokens: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The place itself if it is there, with an array's index as it is written in pointers."""
    node: Any = tree
    for token in tokens:
        try:
            node = pointer.step(node, token)
        except pointer.PointerError:
            return
    if node is not None:
        yield tokens


def _matching(tree: JsonObject, pattern: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Every place in the tree that a pattern fits."""
    seen: set[tuple[tuple[str, ...], int]] = set()
    open_places: list[tuple[tuple[str, ...], Any, int]] = [((), tree, 0)]
    while open_places:
        tokens, node, at = open_places.pop()
        if (tokens, at) in seen:
            continue
        seen.add((tokens, at))
        if at == len(pattern):
            if node is not None and may_be_hidden(tokens):
                yield tokens
            continue
        wanted = pattern[at]
        if wanted == ANY_DEPTH:
            open_places.append((tokens, node, at + 1))
            open_places += [((*tokens, name), item, at) for name, item in _members(node)]
        elif wanted == ANY_MEMBER:
            open_places += [((*tokens, name), item, at + 1) for name, item in _members(node)]
        else:
            try:
                open_places.append(((*tokens, wanted), pointer.step(node, wanted), at + 1))
            except pointer.PointerError:
                continue


def _members(node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        yield from node.items()
    elif isinstance(node, list):
        for position, item in enumerate(node):
            yield str(position), item


def _outermost(
    places: Mapping[tuple[str, ...], tuple[str, MaskAction]],
) -> dict[tuple[str, ...], tuple[str, MaskAction]]:
    """Leave out places inside others; around one that is erased nothing is committed to, for that would keep it."""
    kept: dict[tuple[str, ...], tuple[str, MaskAction]] = {}
    for tokens in sorted(places, key=len):
        name, action = places[tokens]
        around = next((tokens[:length] for length in range(1, len(tokens)) if tokens[:length] in kept), None)
        if around is None:
            kept[tokens] = (name, action)
        elif action is MaskAction.ERASE:
            kept[around] = (kept[around][0], MaskAction.ERASE)
    return kept


def _at(tree: Any, tokens: tuple[str, ...]) -> Any:
    for token in tokens:
        tree = pointer.step(tree, token)
    return tree


def _replaced(node: Any, places: Sequence[tuple[str, ...]]) -> Any:
    """A copy of what leads to the places, with `***` at each; the rest is shared."""
    if () in places:
        return MASK
    below: dict[str, list[tuple[str, ...]]] = {}
    for tokens in places:
        below.setdefault(tokens[0], []).append(tokens[1:])
    if isinstance(node, list):
        return [_replaced(item, below[str(at)]) if str(at) in below else item for at, item in enumerate(node)]
    return {name: _replaced(item, below[name]) if name in below else item for name, item in node.items()}


def _scalars(value: Any) -> Iterator[str]:
    """Every text and number in a value, as a message of one line would have it."""
    if isinstance(value, dict):
        for item in value.values():
            yield from _scalars(item)
    elif isinstance(value, list):
        for item in value:
            yield from _scalars(item)
    elif isinstance(value, str):
        yield from _printable(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from _written(value)


def _written(value: float) -> set[str]:
    """How a number may stand in a message: CEL writes 1.0 as 1, and a million that became a double as 1e+06."""
    # Integers are within int64, so each is near some double.
    return {str(value), double_text(float(value)), *([str(int(value))] if float(value).is_integer() else [])}


def _printable(text: str) -> Iterator[str]:
    """The lines of a text as they stand in a message, where what is not printable is a blank."""
    lines = "".join(c if c.isprintable() else "\n" for c in text).split("\n")
    yield from (part for line in lines if (part := line.strip()))


def _searched(texts: set[str]) -> tuple[str, ...] | None:
    """The texts to look for, the longest first, so that none is left over around a shorter one."""
    if sum(map(len, texts)) > _SEARCHED_MAX_CHARS:
        return None
    return tuple(sorted(texts, key=lambda text: (-len(text), text)))


def _finder(texts: tuple[str, ...]) -> "re.Pattern[str]":
    return re.compile(
        "|".join(
            rf"(?<!\w){re.escape(text)}(?!\w)" if len(text) <= _WORD_MAX_CHARS else re.escape(text) for text in texts
        )
    )


def _without(value: Any, texts: tuple[str, ...], found: "re.Pattern[str]") -> Any:
    if isinstance(value, str):
        return found.sub(MASK, _without_beginning(value, texts))
    if isinstance(value, Mapping):
        return {name: _without(item, texts, found) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without(item, texts, found) for item in value]
    if isinstance(value, int | float) and not isinstance(value, bool) and any(map(found.fullmatch, _written(value))):
        return MASK
    return value


def _without_beginning(text: str, texts: tuple[str, ...]) -> str:
    """A text that was cut short may end with the beginning of what is hidden."""
    if not text.endswith(_CUT):
        return text
    head = text[: -len(_CUT)]
    for hidden in texts:
        for length in range(min(len(hidden) - 1, len(head)), _WORD_MAX_CHARS, -1):
            if head.endswith(hidden[:length]):
                return head[:-length] + MASK + _CUT
    return text


def _nothing(value: Any) -> Any:
    """The shape of a value."""
    if isinstance(value, Mapping):
        return {name: _nothing(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_nothing(item) for item in value]
    return value if value is None or isinstance(value, bool) else MASK
