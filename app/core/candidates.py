"""The index: of many things with needs, those whose needs a mutation can meet, without looking at the others.

It is a tree of dictionaries made once for a set. At each node the path that discriminates best among the things there
has a branch: the value found at that path leads to those that need it. Things that need nothing of that path go to
another branch of the same node, or are always candidates; nothing is repeated for the sake of things that differ.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

from app.core.cel import Key, Needs, Path, key_of
from app.core.types import JsonObject

# A thing is in the tree once for each constant it can do with, and for each combination of those of several paths.
_COPIES_MAX = 64
# Step 4 has seen to it that these are there, and that the properties are a map: no need to prepare for anything else.
_THERE: Final = {
    *((entity, member) for entity in ("subject", "resource") for member in ("type", "id")),
    ("action", "name"),
}
_PROPERTIES: Final = {(entity, "properties") for entity in ("subject", "action", "resource")}
# A branch costs about as much as asking half a policy; what it saves is an estimate.
_SAVING_MIN = 1.0
# Each branch of a node is looked at for each mutation.
_BRANCHES_MAX = 16

# What is remembered of names altogether, in candidates, and in characters of eight to one. Names come from requests.
_REMEMBERED_MAX = 100_000

T = TypeVar("T")
# Subject type, action and resource type: most things have patterns for them, and they come again and again.
Names = tuple[str, str, str]
_NAMED: Final[frozenset[Path]] = frozenset({("subject", "type"), ("action", "name"), ("resource", "type")})


class Matcher(Protocol):
    """The part of a thing that tells whether a mutation fits."""

    def matches(self, inputs: JsonObject) -> bool:
        """Tell whether a mutation fits; `inputs` is `NormalisedMutation.inputs`."""
        ...

    def fits_names(self, names: Names) -> bool:
        """Tell whether a mutation with these names can fit."""
        ...

    def settled(self, met: frozenset[Path], named: frozenset[Path] = frozenset()) -> bool:
        """Tell whether a mutation that meets the needs at `met`, and whose names at `named` can fit, is certain to."""
        ...


class Indexed(NamedTuple, Generic[T]):
    """One thing, what must hold in order that it is asked, and how it tells what fits."""

    item: T
    needs: Needs
    matcher: Matcher


class _Entry(NamedTuple, Generic[T]):
    """A candidate; `rank` is its place among all, `test` is left to be done unless it is None."""

    rank: int
    item: T
    test: Callable[[JsonObject], bool] | None


@dataclass(frozen=True, slots=True, eq=False)
class _Branch(Generic[T]):
    """Where the value at `path` leads: by its key, if it is missing from its map, if there is no such map."""

    path: Path
    by_key: Mapping[Key, "_Node[T]"]
    missing: "_Node[T]"
    nowhere: "_Node[T]"


@dataclass(frozen=True, slots=True, eq=False)
class _Node(Generic[T]):
    """`tested`: at least one of `always` has a test, with the needs at `met` met."""

    always: tuple[_Entry[T], ...]
    branches: tuple[_Branch[T], ...]
    tested: bool
    met: frozenset[Path]


class Candidates(Generic[T]):
    """Things in a fixed order, and which of them fit a mutation."""

    __slots__ = ("_remembered", "_root", "_size", "_things")

    def __init__(self, things: Iterable[Indexed[T]]) -> None:
        self._things = tuple(things)
        self._root = _Builder(self._things).root()
        self._remembered: dict[tuple[_Node[T], Names], tuple[_Entry[T], ...]] = {}
        self._size = 0

    def select(self, inputs: JsonObject) -> tuple[T, ...]:
        """Give those that match and whose needs are met, in their order; `inputs` is `NormalisedMutation.inputs`."""
        names = (inputs["subject"]["type"], inputs["action"]["name"], inputs["resource"]["type"])
        node = self._root
        found = self._named(node, names)
        branches = node.branches
        if branches:
            groups = [found] if found else []
            self._walk(branches, inputs, names, groups)
            found = groups[0] if len(groups) == 1 else tuple(sorted([entry for group in groups for entry in group]))
        return tuple([item for _, item, test in found if test is None or test(inputs)])

    def _walk(
        self, branches: tuple[_Branch[T], ...], inputs: JsonObject, names: Names, groups: list[tuple[_Entry[T], ...]]
    ) -> None:
        for branch in branches:
            value: Any = inputs
            try:
                for field in branch.path:
                    value = value[field]
            except (KeyError, TypeError):
                node = branch.missing if _is_missing(inputs, branch.path) else branch.nowhere
            else:
                key = value if type(value) is str else key_of(value)
                known = branch.by_key.get(key) if key is not None else None
                if known is None:
                    continue
                node = known
            if node.always:
                groups.append(self._named(node, names))
            if node.branches:
                self._walk(node.branches, inputs, names, groups)

    def _named(self, node: _Node[T], names: Names) -> tuple[_Entry[T], ...]:
        """Give what is always a candidate at a node, without what the names leave out."""
        if not node.tested:
            return node.always
        known = self._remembered.get((node, names))
        if known is None:
            known = tuple(
                _Entry(rank, item, None if self._things[rank].matcher.settled(node.met, _NAMED) else test)
                for rank, item, test in node.always
                if test is None or self._things[rank].matcher.fits_names(names)
            )
            size = 8 + len(known) + sum(map(len, names)) // 8
            if self._size + size > _REMEMBERED_MAX:
                self._remembered.clear()
                self._size = 0
            if size <= _REMEMBERED_MAX:
                self._remembered[node, names] = known
                self._size += size
        return known


def _is_missing(inputs: JsonObject, path: Path) -> bool:
    """Tell whether all is there but the last field."""
    value: Any = inputs
    for field in path[:-1]:
        if type(value) is not dict or field not in value:
            return False
        value = value[field]
    return type(value) is dict and path[-1] not in value


class _Member(NamedTuple):
    """A thing on its way through the tree, by its rank, and how often it is in the tree at least."""

    rank: int
    copies: int


class _Builder(Generic[T]):
    def __init__(self, things: Sequence[Indexed[T]]) -> None:
        self._things = things
        self._nodes: dict[tuple[tuple[_Member, ...], frozenset[Path], frozenset[Path]], _Node[T]] = {}
        self._entries: dict[tuple[int, bool], _Entry[T]] = {}

    def root(self) -> _Node[T]:
        return self._node(tuple(_Member(rank, 1) for rank in range(len(self._things))), frozenset(), frozenset())

    def _node(self, members: tuple[_Member, ...], seen: frozenset[Path], met: frozenset[Path]) -> _Node[T]:
        """Make a node; `seen` are the paths that were looked at on the way, `met` those whose needs are met."""
        known = self._nodes.get((members, seen, met))
        if known is not None:
            return known
        branches: list[_Branch[T]] = []
        rest, open_seen = members, seen
        while len(branches) < _BRANCHES_MAX and (path := self._best(rest, open_seen)) is not None:
            taken = [member for member in rest if self._copies(member, path)]
            rest = tuple(member for member in rest if not self._copies(member, path))
            open_seen |= {path}
            branches.append(self._branch(taken, path, open_seen, met))
        node = self._nodes[members, seen, met] = replace(self._leaf(rest, met), branches=tuple(branches))
        return node

    def _branch(self, members: list[_Member], path: Path, seen: frozenset[Path], met: frozenset[Path]) -> _Branch[T]:
        by_key: dict[Key, list[_Member]] = defaultdict(list)
        for rank, copies in members:
            member = _Member(rank, copies * self._copies(_Member(rank, 1), path))
            for key in self._constants(rank, path):
                by_key[key].append(member)
        without = tuple(member for member in members if not self._things[member.rank].needs[path].missing)
        absent = self._leaf if path in _THERE else lambda found, met: self._node(found, seen, met)
        return _Branch(
            path,
            {key: self._node(tuple(found), seen, met | {path}) for key, found in by_key.items()},
            absent(without, met),
            (self._leaf if _is_certain(path) else absent)(tuple(members), met),
        )

    def _leaf(self, members: tuple[_Member, ...], met: frozenset[Path]) -> _Node[T]:
        entries = tuple(self._entry(member.rank, met) for member in members)
        return _Node(entries, (), any(entry.test is not None for entry in entries), met)

    def _entry(self, rank: int, met: frozenset[Path]) -> _Entry[T]:
        thing = self._things[rank]
        settled = thing.matcher.settled(met)
        entry = self._entries.get((rank, settled))
        if entry is None:
            entry = self._entries[rank, settled] = _Entry(rank, thing.item, None if settled else thing.matcher.matches)
        return entry

    def _best(self, members: Sequence[_Member], seen: frozenset[Path]) -> Path | None:
        """Give the path at which a value leaves out the most, None if no path is worth a look."""
        things: dict[Path, int] = defaultdict(int)
        places: dict[Path, int] = defaultdict(int)
        keys: dict[Path, set[Key]] = defaultdict(set)
        for member in members:
            for path in self._things[member.rank].needs:
                if path not in seen and self._copies(member, path):
                    constants = self._constants(member.rank, path)
                    things[path] += 1
                    places[path] += len(constants)
                    keys[path] |= constants
        # As if every constant, and "something else", were equally likely.
        savings = {path: things[path] - places[path] / (len(keys[path]) + 1) for path in things}
        best = max(savings, key=lambda path: (savings[path], path), default=None)
        return best if best is not None and savings[best] >= _SAVING_MIN else None

    def _copies(self, member: _Member, path: Path) -> int:
        """Give how often it is in a branch at this path, 0 if it needs nothing of it or is in the tree too often."""
        need = self._things[member.rank].needs.get(path)
        if need is None or need.constants is None:
            return 0
        elsewhere = 0 if path in _THERE else (not need.missing) + (not _is_certain(path))
        copies = max(len(need.constants) + elsewhere, 1)
        return copies if member.copies * copies <= _COPIES_MAX else 0

    def _constants(self, rank: int, path: Path) -> frozenset[Key]:
        return self._things[rank].needs[path].constants or frozenset()


def _is_certain(path: Path) -> bool:
    """Tell whether the map that has the last field is always there."""
    return path in _THERE or (
        len(path) == 3 and path[1] == "properties" and path[0] in {"subject", "resource", "action"}
    )
