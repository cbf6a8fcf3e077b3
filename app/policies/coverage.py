"""Which boolean parts of the expressions of policies were seen true, and which false, in the cases of their tests."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from app.core.cel import FALSE, TRUE, CompiledProgram, Program, Site, Source, Trace
from app.core.index import PolicyException
from app.policies.admission import PolicyDocument
from app.policies.load import Checked, Document
from app.policies.reader import Reader
from app.policies.trace import ExceptionTrace, admission_expressions, expressions, variables, variables_among
from app.policies.tree import Mapping as Object
from app.policies.tree import Node, Scalar, Sequence


@dataclass(frozen=True, slots=True)
class ClauseCoverage:
    """One boolean part of an expression, where it stands in its file, and the bits of what it was seen to say."""

    policy: str
    path: str
    file: str
    line: int
    column: int
    site: Site
    seen_bits: int

    @property
    def wanted(self) -> int:
        """How many outcomes there are to see: a part that reads nothing has one."""
        return 0 if not self.site.boolean else 1 if self.site.constant else 2

    @property
    def seen(self) -> int:
        """How many of them were seen."""
        return min(bool(self.seen_bits & TRUE) + bool(self.seen_bits & FALSE), self.wanted)

    @property
    def missing(self) -> str:
        """What no case shows, in words; empty if nothing is."""
        if self.seen == self.wanted:
            return ""
        if not self.seen_bits:
            return "never reached"
        return "never false" if self.seen_bits & TRUE else "never true"


@dataclass(frozen=True, slots=True)
class ExpressionCoverage:
    """One expression, by its path in `spec`, with its parts: the whole first, then in the order of the text."""

    policy: str
    path: str
    text: str
    clauses: tuple[ClauseCoverage, ...]


def clause_percent(clauses: Iterable[ClauseCoverage]) -> float:
    """Give the share of wanted outcomes that were seen, in percent with one digit, never rounded up."""
    listed = list(clauses)
    wanted = sum(clause.wanted for clause in listed)
    return sum(clause.seen for clause in listed) * 1000 // wanted / 10 if wanted else 100.0


@dataclass(slots=True)
class Seen:
    """What the parts of every expression of a set have said so far; parts that were never reached have no entry."""

    bits: dict[tuple[str, str], list[int]] = field(default_factory=dict)

    def add(self, policy: str, asked: Mapping[str, Trace]) -> None:
        """Note what the expressions of a policy said for one more case."""
        for path, trace in asked.items():
            known = self.bits.setdefault((policy, path), [0] * len(trace.seen))
            for number, bits in enumerate(trace.seen):
                known[number] |= bits

    def add_exception(self, exception: ExceptionTrace) -> None:
        """Note what the conditions of an exception said for one more case."""
        asked = {
            f"matchConditions[{position}].expression": said.trace
            for position, (_, said) in enumerate(exception.conditions)
            if said.trace is not None
        }
        self.add(_exception_name(exception.exception), asked)

    def coverage(self, checked: Checked) -> tuple[ExpressionCoverage, ...]:
        """Give every expression of every policy and exception, sorted by name, variables first."""
        found = [one for document in checked.documents for one in self._document(document, checked.sources)]
        return tuple(sorted(found, key=lambda one: one.policy))

    def _document(self, document: Document, sources: Mapping[str, str]) -> Iterator[ExpressionCoverage]:
        policy, exception = document.policy, document.exception
        programs: Iterable[tuple[str, Program]] = ()
        declared: dict[str, Source] = {}
        name = ""
        if policy is not None:
            name, programs = policy.name, expressions(policy)
            declared = {path: one.source for path, one in variables(policy).items()}
        elif isinstance(document.admission, PolicyDocument):
            admission = document.admission
            name, programs = admission.name, list(admission_expressions(admission))
            declared = {path: one.source for path, one in variables_among(programs).items()}
        elif exception is not None:
            name = _exception_name(exception)
            programs = [(f"matchConditions[{i}].expression", one.program) for i, one in enumerate(exception.conditions)]
        reader = Reader(document.file, text=sources.get(document.file, ""))
        every = {path: one.source for path, one in programs if isinstance(one, CompiledProgram)}
        for path, source in {**declared, **every}.items():
            bits = self.bits.get((name, path))
            node = _at(document.root, path)
            yield ExpressionCoverage(
                name,
                path,
                source.text,
                tuple(
                    ClauseCoverage(
                        name,
                        path,
                        document.file,
                        *_place(node, site, reader),
                        site,
                        bits[site.number] if bits is not None else 0,
                    )
                    for site in source.instrumented().sites
                ),
            )


def _exception_name(exception: PolicyException) -> str:
    """Name an exception as no policy is named."""
    return f"exception {exception.name}"


def _place(node: Node | None, site: Site, reader: Reader) -> tuple[int, int]:
    """Find a part in its file: where it starts if the writing of the text allows it, else where the text does."""
    if not isinstance(node, Scalar):
        return 0, 0
    return reader.place_in(node, line=site.line, column=site.column) or (node.line, node.column)


def _at(root: Node, path: str) -> Node | None:
    """Find a member of `spec` by its path, such as `rules[0].when`."""
    node: Node | None = root.items.get("spec") if isinstance(root, Object) else None
    for part in path.split("."):
        name, _, position = part.removesuffix("]").partition("[")
        node = node.items.get(name) if isinstance(node, Object) else None
        if position:
            node = node.items[int(position)] if isinstance(node, Sequence) else None
    return node
