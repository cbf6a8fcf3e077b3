"""Which patterns match all that others match, and which have nothing in common; in doubt neither is said."""

from dataclasses import replace

from app.core.glob import Glob
from app.core.index import EntityPattern, LabelPattern, Match, PropertyPattern


def match_covers(wide: Match, narrow: Match) -> bool:
    """Tell whether `wide` takes in whatever `narrow` takes in, exclusions of `narrow` apart; False in doubt."""
    if wide.exclude:
        return False
    if wide.actions and not narrow.actions:
        return any(glob.text == "*" for glob in wide.actions) and match_covers(replace(wide, actions=()), narrow)
    return (
        all(any(covers(one, other) for one in wide.actions) for other in narrow.actions if wide.actions)
        and _list_covers(wide.subjects, narrow.subjects)
        and _list_covers(wide.resources, narrow.resources)
    )


def _list_covers(wide: tuple[EntityPattern, ...], narrow: tuple[EntityPattern, ...]) -> bool:
    if not wide:
        return True
    # Without a list everything is meant: an entry that says nothing.
    return all(any(entity_covers(one, other) for one in wide) for other in narrow or (EntityPattern(),))


def entity_covers(wide: EntityPattern, narrow: EntityPattern) -> bool:
    """Tell whether an entry fits whatever another one fits; False in doubt."""
    for outer, inner in ((wide.type, narrow.type), (wide.id, narrow.id)):
        if outer is not None and outer.text != "*" and (inner is None or not covers(outer, inner)):
            return False
    return all(any(_property_covers(outer, inner) for inner in narrow.properties) for outer in wide.properties) and all(
        any(_label_covers(outer, inner) for inner in narrow.labels) for outer in wide.labels
    )


def _property_covers(wide: PropertyPattern, narrow: PropertyPattern) -> bool:
    if wide.name != narrow.name:
        return False
    if wide.glob is None or narrow.glob is None:
        # For Python, true is 1.
        return wide.glob is narrow.glob and repr(wide.value) == repr(narrow.value)
    return covers(wide.glob, narrow.glob)


def _label_covers(wide: LabelPattern, narrow: LabelPattern) -> bool:
    return wide.key == narrow.key and covers(wide.glob, narrow.glob)


def covers(wide: Glob, narrow: Glob) -> bool:
    """Tell whether a pattern matches whatever another one matches; False in doubt."""
    if wide.text in {"*", narrow.text}:
        return True
    if narrow.literal is not None:
        return wide.matches(narrow.literal)
    # `apps/*` covers `apps/Dep*`: a star at the end alone, after the same beginning.
    return (
        wide.text.endswith("*")
        and "?" not in wide.text
        and wide.text.count("*") == 1
        and (narrow.text.startswith(wide.text[:-1]))
    )


def impossible(pattern: EntityPattern) -> bool:
    """Tell whether an entry can fit nothing: its labels want an object where a property wants something else."""
    return bool(pattern.labels) and any(wanted.name == "labels" for wanted in pattern.properties)


def disjoint(one: Match, other: Match) -> bool:
    """Tell whether no mutation fits both; False in doubt."""
    if one.actions and other.actions and all(_apart(a, b) for a in one.actions for b in other.actions):
        return True
    return any(
        first and second and all(_entities_apart(a, b) for a in first for b in second)
        for first, second in ((one.subjects, other.subjects), (one.resources, other.resources))
    )


def _entities_apart(one: EntityPattern, other: EntityPattern) -> bool:
    return any(
        first is not None and second is not None and _apart(first, second)
        for first, second in ((one.type, other.type), (one.id, other.id))
    )


def _apart(one: Glob, other: Glob) -> bool:
    if one.literal is not None:
        return not other.matches(one.literal)
    return other.literal is not None and not one.matches(other.literal)
