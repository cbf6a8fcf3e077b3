"""Which part of an expression decided, and what it saw: read off one evaluation of its instrumented function.

The rule, from the whole inwards:

- `a && b` that is true: all of it. That is false: the first operand that is false. `||` the other way round.
- `!a`: whatever decided `a`. `a ? b : c`: the one chosen, or `a` where that is a constant.
- `exists` that is true, `all` that is false: the predicate for the element that decided it; else the whole loop.
- a variable of the policy on its own: whatever decided the variable, in the variable's own text.
- an expression that failed: the innermost part that did.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, assert_never

from app.core.cel import operators
from app.core.cel.bindings import RequestBindings, Variable
from app.core.cel.budget import STEPS_MAX, Budget
from app.core.cel.conversions import to_string
from app.core.cel.failures import FAIL, said
from app.core.cel.generate import Name
from app.core.cel.instrument import (
    VARIABLES,
    Form,
    Instrumented,
    Moment,
    Site,
    Source,
    secrets_in,
    source_of,
    variables_of,
)
from app.core.cel.paths import VALUE_MAX_CHARS, Local, Path, Role, cut, labelled
from app.core.cel.program import INPUT_NAMES, Bindings, EvaluationError, Program
from app.core.cel.spans import unfolded
from app.core.cel.tokens import position
from app.core.cel.values import Duration, MixedMap, Opaque, Optional, Timestamp, TypeValue, UInt, type_name
from app.core.masking import MASK, SECRET_DATA, about_secrets, hides, hides_by_neighbour, is_secret, masked
from app.core.types import Clause, Json, Outcome

# As much as a person reads in one line; the whole is in the policy set.
TEXT_MAX_CHARS = 200
VALUES_MAX = 8
# A path can have keys of the data in it.
LABEL_MAX_CHARS = 200
# What a value is where there is none.
ABSENT = "absent"
# All that is spent on the clauses of one decision, a tenth of what one expression may cost.
CLAUSE_STEPS_MAX = 100_000

_MISSING = operators.MISSING


def deciding_clause(
    program: Program, bindings: Bindings, *, path: str, failure: str | None, budget: Budget, holds: bool = True
) -> Clause:
    """Say why a condition is true (or false, as `holds` says), or why it failed with the text `failure`. Never raises.

    A trace that costs too much, or says something else than the condition did, is not believed: the clause is then the
    whole condition, and nothing that it saw.
    """
    try:
        trace = program.trace(bindings, budget=budget)
        if trace.error == failure and (failure is not None or trace.value is holds):
            return trace.clause(path, budget=budget)
    except Exception:  # noqa: BLE001, S110 - the effect stands without its explanation
        pass
    text = program.text
    line, column = position(text, len(text) - len(text.lstrip()))
    outcome = Outcome.ERROR if failure is not None else Outcome.TRUE if holds else Outcome.FALSE
    return Clause(path, cut(unfolded(text.strip()), TEXT_MAX_CHARS), line, column, outcome, {})


def traced(source: Source, bindings: Bindings, *, budget: Budget | None = None) -> "Trace":
    """Evaluate an expression with notes; see `Program.trace`."""
    if not isinstance(bindings, RequestBindings):
        raise EvaluationError("the values were bound for another engine")
    return Trace(source, bindings, [STEPS_MAX] if budget is None else budget)


@dataclass(frozen=True, slots=True)
class SeenSite:
    """One boolean part of an expression, what it said and what it saw; no outcome where it was not reached.

    Of a part in a loop, both are of the last element, or of the first that failed.
    """

    site: Site
    outcome: Outcome | None
    values: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class SeenVariable:
    """One variable that was evaluated: its value, masked and cut short, or the text of its failure."""

    name: str
    value: Json
    error: str | None


class Trace:
    """One evaluation, with what each boolean part of the expression said.

    `value` and `error` are those of the whole; `seen` has for each site the bits of what it said, over all elements of
    the loops that it stands in.
    """

    __slots__ = ("_bindings", "_instrumented", "_read", "_root", "_secret_data", "_source", "error", "seen", "value")

    def __init__(self, source: Source, bindings: RequestBindings, budget: Budget) -> None:
        """Evaluate.

        Raises:
            UnsupportedError: the function with the notes is too deep for Python, where the one without is not.
        """
        self._source = source
        self._bindings = bindings
        self._instrumented: Instrumented = source.instrumented()
        self._secret_data: bool | None = None
        self.seen = [0] * len(self._instrumented.sites)
        self._root = Moment(-1, None, (), self.seen)
        self.value: Any = None
        self.error: str | None = None
        read = _Read(bindings.values)
        self._read = read.variables
        try:
            self.value = self._instrumented.run(bindings, bindings.inputs, read, budget, self._root)
        except EvaluationError as error:
            self.error = str(error)
        except FAIL as error:
            self.error = str(EvaluationError(said(error)))
        except Exception as error:  # noqa: BLE001 - as when it is evaluated
            self.error = f"`{type(error).__name__}`"

    @property
    def sites(self) -> tuple[Site, ...]:
        """The boolean parts of the expression; the first is the whole."""
        return self._instrumented.sites

    @property
    def outcome(self) -> Outcome:
        """What the whole said."""
        return Outcome.ERROR if self.error is not None else Outcome.TRUE if self.value is True else Outcome.FALSE

    def clause(self, path: str, *, budget: Budget, variables: tuple[str, ...] | None = None) -> Clause:
        """Say which part decided; `path` is where the expression stands, `variables` are all of its policy."""
        known = self._source.variables if variables is None else variables
        top, deciding = self._why(self._root.last[0])
        name = self._variable_behind(top)
        if name is not None:
            inner = self._clause_of(name, budget, known)
            if inner is not None:
                return inner
        values: dict[str, Json] = {}
        for moment in deciding:
            self._collect(values, moment)
        site = self.sites[top.number]
        return Clause(path, cut(site.text, TEXT_MAX_CHARS), site.line, site.column, self._outcome(top), values)

    def sites_seen(self) -> tuple[SeenSite, ...]:
        """Give every boolean part with what it said and saw, in more words than a clause: lists and maps are JSON."""
        found: dict[int, Moment] = {}
        todo = [self._root]
        while todo:
            for one in _below(todo.pop()):
                found[one.number] = one
                todo.append(one)
        return tuple(self._seen(site, found.get(site.number)) for site in self.sites)

    def _seen(self, site: Site, moment: Moment | None) -> SeenSite:
        if moment is None:
            return SeenSite(site, None, {})
        values: dict[str, Json] = {}
        self._collect(values, moment, wide=True)
        return SeenSite(site, self._outcome(moment), values)

    def variables_evaluated(self) -> frozenset[Source]:
        """Give the sources of the variables that have a value, or have failed."""
        known = self._bindings.values.keys() | self._bindings.failures.keys()
        return frozenset(
            source
            for scoped in variables_of(self._source).values()
            if scoped.variable in known and (source := source_of(scoped)) is not None
        )

    def variables_seen(self) -> tuple[SeenVariable, ...]:
        """Give every variable of the policy that was evaluated for this expression, or for another one before it."""
        seen: list[SeenVariable] = []
        for name, scoped in variables_of(self._source).items():
            failure = self._bindings.failures.get(scoped.variable)
            if failure is not None:
                seen.append(SeenVariable(name, None, str(failure[0](failure[1]))))
            elif scoped.variable in self._bindings.values:
                found = self._variable(f"{VARIABLES}{name}", scoped)
                seen.append(SeenVariable(name, self._shown(found, wide=True), None))
        return tuple(seen)

    # --- which part -------------------------------------------------------------------------------------------------

    def _outcome(self, moment: Moment) -> Outcome:
        if moment.number == 0:
            return self.outcome
        return Outcome.TRUE if moment.value is True else Outcome.FALSE if moment.value is False else Outcome.ERROR

    def _why(self, moment: Moment) -> tuple[Moment, list[Moment]]:
        """Give the part that decided, and the parts of it whose values say why."""
        site = self.sites[moment.number]
        if not (moment.value is True or moment.value is False):
            failed = next((one for one in _below(moment) if not isinstance(one.value, bool)), None)
            return (moment, [moment]) if failed is None else self._why(failed)
        below = [moment.last[number] for number in site.below if number in moment.last]
        chosen: Moment | None = None
        match site.form:
            case Form.AND | Form.OR:
                chosen = next((one for one in below if one.value is (site.form is Form.OR)), None)
                if chosen is None:
                    return moment, [leaf for one in below for leaf in self._why(one)[1]]
            case Form.EXISTS | Form.ALL:
                # The one that decided is the last that was asked; where none did, it is the loop as a whole.
                chosen = next((one for one in below if one.value is (site.form is Form.EXISTS)), None)
                chosen = chosen if chosen is not None and moment.value is chosen.value else None
            case Form.CHOICE:
                chosen = next((one for one in reversed(below) if not self.sites[one.number].constant), None)
            case Form.NOT | Form.BIND:
                chosen = next(iter(below), None)
            case Form.VARIABLE | Form.PART:
                pass
            case _:
                assert_never(site.form)
        # In a loop, or after a condition, a constant says less than what it stands in.
        dull = site.form not in {Form.AND, Form.OR}
        if chosen is None or (dull and self.sites[chosen.number].constant):
            return moment, [moment]
        return self._why(chosen)

    def _variable_behind(self, top: Moment) -> str | None:
        """Give the variable that a part consists of, or whose failure it failed with."""
        site = self.sites[top.number]
        if site.form is Form.VARIABLE and isinstance(top.value, bool):
            return site.reads[0].root
        if self._outcome(top) is not Outcome.ERROR:
            return None
        for path in site.reads:
            name = self._source.scope.get(path.root) if path.local is None else None
            if name is not None and name.variable in self._read and name.variable in self._bindings.failures:
                return path.root
        return None

    def _clause_of(self, name: str, budget: Budget, variables: tuple[str, ...]) -> Clause | None:
        """Go into a variable; None if it does not say again what it has said."""
        scoped = self._source.scope[name]
        source = source_of(scoped)
        if source is None:
            return None
        inner = Trace(source, self._bindings, budget)
        failure = self._bindings.failures.get(scoped.variable)
        value = self._bindings.values.get(scoped.variable)
        if inner.error != (None if failure is None else str(failure[0](failure[1]))) or inner.value is not value:
            return None
        plain = name.removeprefix(VARIABLES)
        path = f"variables[{variables.index(plain)}].expression" if plain in variables else name
        clause = inner.clause(path, budget=budget, variables=variables)
        if failure is not None:
            return clause
        values = {name: value, **clause.values}
        return replace(clause, values={key: values[key] for key in list(values)[:VALUES_MAX]})

    # --- what it saw ------------------------------------------------------------------------------------------------

    def _collect(self, values: dict[str, Json], moment: Moment, *, wide: bool = False) -> None:
        for path in self.sites[moment.number].reads:
            if len(values) >= VALUES_MAX:
                return
            found = self._found(path, moment)
            if found is not None:
                values.setdefault(cut(found.label, LABEL_MAX_CHARS), self._shown(found, wide=wide))

    def _shown(self, found: "_Found", *, wide: bool) -> Json:
        # What was computed and is true or false, or is not there at all, tells nothing that the outcome does not.
        if found.secret or (found.derived and not isinstance(found.value, bool) and found.value is not _MISSING):
            return MASK
        if wide and isinstance(found.value, list | dict):
            text = json.dumps(masked(found.value, data=self._about_secrets()), ensure_ascii=False, default=shown)
            return cut(text, VALUE_MAX_CHARS)
        return shown(found.value)

    def _found(self, path: Path, moment: Moment | None) -> "_Found | None":
        """Follow a path at the time of a moment; None for one that starts at a name whose value was not kept."""
        found = self._local(path.local, moment) if path.local is not None else self._root_of(path.root)
        if found is None:
            return None
        label, value, secret, derived = found
        for step in path.steps:
            key: Any = step
            if isinstance(step, Path):
                inner = self._found(step, moment)
                key = inner.value if inner is not None else _MISSING
                if not isinstance(key, str | int) or isinstance(key, bool):
                    return _Found(label, value, secret, derived)
                # A key that came with the data is as secret as what it leads to, and as where it was read.
                hidden = secret or (inner is not None and (inner.secret or inner.derived))
                label = labelled(label, MASK if hidden else key)
            elif not path.fixed or path.local is not None:
                label = labelled(label, step)
            if isinstance(key, str) and not secret:
                secret = (
                    is_secret(key)
                    or (key in SECRET_DATA and self._about_secrets())
                    or (isinstance(value, dict) and hides_by_neighbour(value, key))
                )
            value = _member(value, key)
        return _Found(path.label if path.fixed and path.local is None else label, value, secret, derived)

    def _root_of(self, name: str) -> "_Found | None":
        if name in INPUT_NAMES:
            return _Found(name, self._bindings.inputs[name])
        scoped = self._source.scope[name]
        # INVARIANT: what another rule has read on the way says nothing here, so that a replay shows the same.
        if scoped.variable not in self._read or scoped.variable not in self._bindings.values:
            return None
        return self._variable(name, scoped)

    def _variable(self, name: str, scoped: Name) -> "_Found":
        value = _inside(self._bindings.values[scoped.variable])
        source = source_of(scoped)
        if source is None:
            return _Found(name, value)
        named, data = source.secrets()
        secret = is_secret(name.removeprefix(VARIABLES))
        return _Found(name, value, secret, named or (data and self._about_secrets()))

    def _local(self, local: Local, moment: Moment | None) -> "_Found | None":
        """Find the value of a local name, and where it comes from if that can be said."""
        while moment is not None and (moment.number < 0 or local not in self.sites[moment.number].captured):
            moment = moment.parent
        if moment is None:
            return None  # bound inside of a part, by a loop whose turns were not noted
        site = self.sites[moment.number]
        at = site.captured.index(local)
        value = moment.locals[at]
        if at in site.lazy:
            value = value[1] if value[0] == "value" else _MISSING
        value = _inside(value)
        origin = self._instrumented.reader.origin(local)
        whole = self._found(origin, moment.parent) if origin is not None else None
        if whole is None or whole.value is _MISSING:
            named, data = secrets_in(self._instrumented.reader, local.origin, self._source.scope)
            return _Found(local.name, value, is_secret(local.name), named or (data and self._about_secrets()))
        label, container, secret, derived = whole
        match local.role:
            case Role.BOUND:
                return _Found(label, value, secret, derived)
            case Role.ELEMENT if isinstance(container, list):
                position = next((i for i, one in enumerate(container) if one is value), -1)
                return _Found(f"{label}[{position}]" if position >= 0 else local.name, value, secret, derived)
            case Role.VALUE:
                key = _key_of(container, value)
                if key is None:
                    return _Found(local.name, value, secret, derived)
                hidden = secret or hides(container, key)
                return _Found(labelled(label, MASK if secret else key), value, hidden, derived)
            case Role.ELEMENT | Role.KEY:
                return _Found(local.name, value, secret, derived)
            case _:
                assert_never(local.role)

    def _about_secrets(self) -> bool:
        if self._secret_data is None:
            self._secret_data = about_secrets(self._bindings.inputs)
        return self._secret_data


class _Read:
    """The values of variables, for one evaluation, with a note of which were asked for."""

    __slots__ = ("_values", "variables")

    def __init__(self, values: Mapping[Variable, Any]) -> None:
        self._values = values
        self.variables: set[Variable] = set()

    def __contains__(self, variable: Variable) -> bool:
        self.variables.add(variable)
        return variable in self._values

    def __getitem__(self, variable: Variable) -> Any:
        return self._values[variable]


class _Found(NamedTuple):
    """A value with the path that leads to it.

    `secret` by a name on that path, `derived` where it was computed from something with such a name.
    """

    label: str
    value: Any
    secret: bool = False
    derived: bool = False


def shown(value: Any) -> Json:
    """Write a value small: JSON's scalars as they are, texts cut, everything else as a short text."""
    match value:
        case None | bool():
            return value
        case UInt():
            return int(value)
        case float():
            return value if math.isfinite(value) else str(value)
        case int():
            return value
        case str():
            return cut(value, VALUE_MAX_CHARS)
        case list():
            return f"[{len(value)} item{'s' * (len(value) != 1)}]"
        case dict() | MixedMap():
            return f"{{{len(value)} member{'s' * (len(value) != 1)}}}"
        case bytes():
            return f"<{len(value)} byte{'s' * (len(value) != 1)}>"
        case Timestamp() | Duration():
            return to_string(value, [STEPS_MAX])
        case TypeValue(name=name):
            return name
        case Opaque():
            return cut(value.shown(), VALUE_MAX_CHARS)
        case _:
            return ABSENT if value is _MISSING else f"<{type_name(value)}>"


def _below(moment: Moment) -> list[Moment]:
    """Give what was evaluated right below, the first that failed before the last, in the order of the text."""
    found = {**moment.last, **moment.failed}
    return [found[number] for number in sorted(found)]


def _inside(value: Any) -> Any:
    """Look into an optional."""
    while isinstance(value, Optional):
        value = value.value if value.present else _MISSING
    return value


def _member(value: Any, key: str | int) -> Any:
    match value:
        case dict() | MixedMap():
            return _inside(value.get(key, _MISSING))
        case list() if isinstance(key, int) and 0 <= key < len(value):
            return _inside(value[key])
        case _:
            return _MISSING


def _key_of(container: Any, value: Any) -> str | int | None:
    """Find the key or the position of an element that is known by identity."""
    pairs: Iterable[tuple[Any, Any]] = ()
    match container:
        case dict() | MixedMap():
            pairs = container.items()
        case list():
            pairs = enumerate(container)
    return next((key for key, one in pairs if one is value and isinstance(key, str | int)), None)
