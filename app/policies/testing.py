"""Run PolicyTest suites: each case through the core as the service would, and what every rule said on the way."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from operator import contains
from os.path import normpath
from pathlib import Path
from time import perf_counter

from app.core.admission.policy import AdmissionPolicy
from app.core.canonical import canonical
from app.core.cel import AUTHORIZED, CompiledProgram, Program, RequestBindings, bind
from app.core.decide import decide
from app.core.index import CompiledPolicySet, Rule
from app.core.normalise import normalise
from app.core.record_masks import mask
from app.core.types import Effect, JsonObject, Obligation, Outcome, Reason, Verdict
from app.errors import FirewallError
from app.policies.authorizing import StatedAnswers
from app.policies.budgets import unknown_budgets
from app.policies.coverage import ClauseCoverage, ExpressionCoverage, Seen, clause_percent
from app.policies.diagnostics import PolicyErrors
from app.policies.load import Checked, check_directory
from app.policies.suite import Case, Suite, with_counts
from app.policies.trace import trace, trace_admission, trace_exceptions


@dataclass(frozen=True, slots=True)
class Result:
    """One case and what came of it; it passed if `failures` is empty."""

    suite: Suite
    case: Case
    verdict: Verdict | None
    failures: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class RuleCoverage:
    """What the condition of one rule, or one validation of an admission policy, said over all cases.

    `text` is the condition, None for a rule without one. `constant` is for what speaks always: it need not be silent.
    `speaking` is what the condition says when the rule speaks: a validation is false then.
    """

    policy: str
    rule: str
    effect: Effect
    text: str | None
    constant: bool
    said: Mapping[Outcome, int]
    speaking: Outcome = Outcome.TRUE

    @property
    def silent(self) -> Outcome:
        """What the condition says when the rule is silent."""
        return Outcome.FALSE if self.speaking is Outcome.TRUE else Outcome.TRUE

    @property
    def wanted(self) -> int:
        """How many outcomes there are to see."""
        return 1 if self.constant else 2

    @property
    def seen(self) -> int:
        """How many of them were seen."""
        return bool(self.said[self.speaking]) + (not self.constant and bool(self.said[self.silent]))

    @property
    def missing(self) -> str:
        """What no case shows, in words; empty if nothing is."""
        words = []
        if not self.said[self.speaking]:
            words.append("never spoke")
        if not self.constant and not self.said[self.silent]:
            words.append("never was silent")
        return ", ".join(words)


@dataclass(frozen=True, slots=True)
class Coverage:
    """The coverage of one directory of policies: of its rules, and of the parts of all its expressions."""

    directory: Path
    rules: tuple[RuleCoverage, ...]
    expressions: tuple[ExpressionCoverage, ...] = ()

    @property
    def percent(self) -> float:
        """The share of the outcomes of rules that were seen; rounded down, so that 100 is all."""
        return percent(self.rules)

    @property
    def clauses(self) -> tuple[ClauseCoverage, ...]:
        """Every boolean part of every expression."""
        return tuple(clause for one in self.expressions for clause in one.clauses if clause.wanted)

    @property
    def clause_percent(self) -> float:
        """The share of the outcomes of their parts."""
        return clause_percent(self.clauses)


def percent(rules: Iterable[RuleCoverage]) -> float:
    """Give the share of wanted outcomes that were seen, in percent with one digit, never rounded up."""
    listed = list(rules)
    wanted = sum(rule.wanted for rule in listed)
    return sum(rule.seen for rule in listed) * 1000 // wanted / 10 if wanted else 100.0


@dataclass(frozen=True, slots=True)
class Run:
    """All results, and the coverage of every directory that was asked."""

    results: tuple[Result, ...]
    coverage: tuple[Coverage, ...]

    @property
    def failed(self) -> tuple[Result, ...]:
        """The cases that did not answer as expected."""
        return tuple(result for result in self.results if result.failures)


def run(suites: Iterable[Suite], *, policies: Path | None = None) -> Run:
    """Ask every case of every suite; `policies` replaces the directories that the suites name.

    Raises:
        PolicyErrors: a directory of policies does not load.
    """
    under: dict[Path, _Directory] = {}
    results: list[Result] = []
    suites = tuple(suites)
    authorized = {
        (policies or suite.policies).resolve()
        for suite in suites
        if any(case.answers is not None for case in suite.cases)
    }
    for suite in suites:
        directory = policies or suite.policies
        key = directory.resolve()
        if key not in under:
            under[key] = _Directory(Path(normpath(directory)), AUTHORIZED if key in authorized else frozenset())
        results += [under[key].ask(suite, case) for case in suite.cases]
    return Run(tuple(results), tuple(directory.coverage() for directory in under.values()))


@dataclass(slots=True)
class _Directory:
    """One directory of policies, which may read what `also` names, and the count of what its rules said."""

    path: Path
    also: frozenset[str]
    checked: Checked = field(init=False)
    policy_set: CompiledPolicySet = field(init=False)
    said: dict[tuple[str, str], dict[Outcome, int]] = field(init=False)
    seen: Seen = field(init=False, default_factory=Seen)

    def __post_init__(self) -> None:
        self.checked = check_directory(self.path, also=self.also)
        if self.checked.policy_set is None:
            raise PolicyErrors(self.checked.diagnostics)
        self.policy_set = self.checked.policy_set
        self.said = {(policy.name, rule.name): dict.fromkeys(Outcome, 0) for policy, rule in self.policy_set.rules}
        for admission in self._admission.values():
            self.said |= {(admission.policy, one.name): dict.fromkeys(Outcome, 0) for one in admission.validations}

    @property
    def _admission(self) -> dict[str, AdmissionPolicy]:
        """The admission policies by name, each with one of its bindings: their expressions are the same."""
        return {one.policy: one for one in self.policy_set.policies if isinstance(one, AdmissionPolicy)}

    def ask(self, suite: Suite, case: Case) -> Result:
        start = perf_counter()
        try:
            normalised = normalise(case.mutation)
        except FirewallError as error:
            return Result(suite, case, None, (f"the mutation is refused: {error}",), perf_counter() - start)
        if unknown := unknown_budgets(case.budgets, self.policy_set):
            names = ", ".join(f"`{name}`" for name in unknown)
            return Result(suite, case, None, (f"budgets: there is no budget {names}",), perf_counter() - start)
        authorizer = StatedAnswers(normalised.inputs, case.answers or {}) if self.also else None
        verdict = decide(self.policy_set, normalised, case.now, case.budgets, authorizer=authorizer)
        bindings = bind(normalised.inputs, now=case.now, authorizer=authorizer)
        for exception in trace_exceptions(self.policy_set, bindings):
            self.seen.add_exception(exception)
        for policy in trace(self.policy_set, bindings):
            self.seen.add(policy.policy.name, policy.asked)
            for rule, said in policy.rules:
                self.said[policy.policy.name, rule.name][said.outcome] += 1
        for admission in trace_admission(self.policy_set, bindings):
            for evaluation in admission.evaluations:
                self.seen.add(admission.policy.policy, evaluation.asked)
                for validation, said in evaluation.validations:
                    self.said[admission.policy.policy, validation.name][said.outcome] += 1
        failures = [*_failures(case, verdict), *_mask_failures(case, self.policy_set, bindings)]
        return Result(suite, case, verdict, tuple(failures), perf_counter() - start)

    def coverage(self) -> Coverage:
        rules = [
            RuleCoverage(
                policy.name,
                rule.name,
                rule.effect,
                rule.when.text if rule.when is not None else None,
                _speaks_always(rule, said := self.said[policy.name, rule.name]),
                said,
            )
            for policy, rule in self.policy_set.rules
        ]
        rules += [
            RuleCoverage(
                admission.policy,
                validation.name,
                Effect.DENY,
                validation.program.text,
                _reads_nothing(validation.program) and not self.said[admission.policy, validation.name][Outcome.TRUE],
                self.said[admission.policy, validation.name],
                Outcome.FALSE,
            )
            for admission in self._admission.values()
            for validation in admission.validations
        ]
        rules.sort(key=lambda rule: rule.policy)
        return Coverage(self.path, tuple(rules), self.seen.coverage(self.checked))


def _speaks_always(rule: Rule, said: Mapping[Outcome, int]) -> bool:
    """Tell whether a rule has no condition, or one that reads nothing and was never false."""
    if rule.window is not None or rule.when is None:
        return rule.window is None
    return _reads_nothing(rule.when) and not said[Outcome.FALSE]


def _reads_nothing(program: Program) -> bool:
    return isinstance(program, CompiledProgram) and program.source.instrumented().sites[0].constant


def _failures(case: Case, verdict: Verdict) -> Iterable[str]:
    """Give every difference from what is expected, in words."""
    expect = case.expect
    if verdict.effect is not expect.decision:
        yield f"decision: expected `{expect.decision}`, got `{verdict.effect}` by {_spoken(verdict.reasons)}"
    if expect.reasons is not None and not _same_reasons(expect.reasons, verdict.reasons):
        wanted = ", ".join(_wanted(reason) for reason in expect.reasons)
        yield f"reasons: expected {wanted}; got {_spoken(verdict.reasons)}"
    if expect.message is not None and not any(expect.message in reason.message for reason in verdict.reasons):
        yield f"message: expected `{expect.message}` in one of {_spoken(verdict.reasons)}"
    if expect.approval is not None:
        yield from _approval_failures(expect.approval, verdict)
    if expect.obligations is not None and not _same_obligations(expect.obligations, verdict.obligations):
        wanted = _listed(expect.obligations)
        yield f"obligations: expected {wanted}; got {_listed(asdict(one) for one in verdict.obligations)}"
    if expect.warnings is not None and not _same_warnings(expect.warnings, verdict.warnings):
        yield f"warnings: expected {_texts(expect.warnings)}; got {_texts(verdict.warnings)}"
    if expect.annotations is not None and expect.annotations != dict(verdict.annotations):
        yield f"annotations: expected {_pairs(expect.annotations)}; got {_pairs(verdict.annotations)}"
    lifting = {reason.exception for reason in verdict.reasons if reason.exception is not None}
    if expect.exceptions is not None and expect.exceptions != lifting:
        yield f"exceptions: expected {_quoted(expect.exceptions)}; got {_quoted(lifting)}"


def _mask_failures(case: Case, policy_set: CompiledPolicySet, bindings: RequestBindings) -> Iterable[str]:
    """Give the difference between what is hidden and what is expected to be."""
    if (expected := case.expect.masked) is None:
        return
    masked = mask(policy_set.masks, case.mutation, bindings, commit=lambda _, __: "")
    hidden = {one.pointer for one in masked.hidden} if masked is not None else set()
    if expected != hidden:
        yield f"masked: expected {_quoted(expected)}; got {_quoted(hidden)}"


def _same_obligations(expected: tuple[JsonObject, ...], obligations: tuple[Obligation, ...]) -> bool:
    return len(expected) == len(obligations) and all(
        canonical({name: getattr(one, name) for name in wanted}) == canonical(wanted)
        for wanted, one in zip(expected, obligations, strict=True)
    )


def _same_warnings(expected: tuple[str, ...], warnings: tuple[str, ...]) -> bool:
    return len(expected) == len(warnings) and all(map(contains, warnings, expected))


def _texts(texts: Iterable[str]) -> str:
    return ", ".join(f"“{text}”" for text in texts) or "none"


def _pairs(annotations: Mapping[str, str]) -> str:
    return ", ".join(f"`{key}` “{value}”" for key, value in sorted(annotations.items())) or "none"


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names)) or "none"


def _listed(obligations: Iterable[JsonObject]) -> str:
    return ", ".join(f"`{canonical(one).decode()}`" for one in obligations) or "none"


def _same_reasons(expected: tuple[JsonObject, ...], reasons: tuple[Reason, ...]) -> bool:
    return len(expected) == len(reasons) and all(
        (wanted["policy"], wanted["rule"], wanted["mode"]) == (reason.policy, reason.rule, reason.mode)
        and wanted.get("exception") == reason.exception
        and wanted.get("binding", reason.binding) == reason.binding
        and wanted.get("effect", reason.effect) == reason.effect
        and wanted.get("message", "") in reason.message
        for wanted, reason in zip(expected, reasons, strict=True)
    )


def _wanted(reason: JsonObject) -> str:
    more = [f"{name} `{reason[name]}`" for name in ("effect", "message") if name in reason]
    shadow = ["shadow"] if reason["mode"] == "shadow" else []
    lifted = [f"lifted by `{reason['exception']}`"] if "exception" in reason else []
    notes = ", ".join(more + shadow + lifted)
    return f"{reason['policy']}/{reason['rule']}" + (f" ({notes})" if notes else "")


def _spoken(reasons: Iterable[Reason]) -> str:
    return ", ".join(
        f"{reason.policy}/{reason.rule}"
        + (" (shadow)" if reason.mode == "shadow" else "")
        + (f" (lifted by `{reason.exception}`)" if reason.exception is not None else "")
        + f" “{reason.message}”"
        for reason in reasons
    )


def _approval_failures(expected: JsonObject, verdict: Verdict) -> Iterable[str]:
    if verdict.approval is None:
        yield f"approval: expected one, but the decision is `{verdict.effect}`"
        return
    for name, wanted in expected.items():
        found = with_counts(verdict.approval.get(name))
        if found != wanted:
            yield f"approval.{name}: expected `{wanted}`, got `{found}`"
