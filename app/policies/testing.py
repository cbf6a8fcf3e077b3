"""Run PolicyTest suites: each case through the core as the service would, and what every rule said on the way."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from os.path import normpath
from pathlib import Path
from time import perf_counter

from app.core.canonical import canonical
from app.core.cel import bind
from app.core.decide import decide
from app.core.index import CompiledPolicySet, Policy, Rule
from app.core.normalise import normalise
from app.core.types import JsonObject, Obligation, Reason, Verdict
from app.errors import FirewallError
from app.policies.budgets import unknown_budgets
from app.policies.diagnostics import PolicyErrors
from app.policies.document import declared_variables
from app.policies.expressions import constant
from app.policies.load import Checked, check_directory
from app.policies.suite import Case, Suite, with_counts
from app.policies.trace import Outcome, trace


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
    """What one rule said over all cases. `constant` is for a rule that speaks always: it need not be silent."""

    policy: Policy
    rule: Rule
    constant: bool
    said: Mapping[Outcome, int]

    @property
    def wanted(self) -> int:
        """How many outcomes there are to see."""
        return 1 if self.constant else 2

    @property
    def seen(self) -> int:
        """How many of them were seen."""
        return bool(self.said[Outcome.TRUE]) + (not self.constant and bool(self.said[Outcome.FALSE]))

    @property
    def missing(self) -> str:
        """What no case shows, in words; empty if nothing is."""
        words = []
        if not self.said[Outcome.TRUE]:
            words.append("never spoke")
        if not self.constant and not self.said[Outcome.FALSE]:
            words.append("never was silent")
        return ", ".join(words)


@dataclass(frozen=True, slots=True)
class Coverage:
    """The coverage of one directory of policies."""

    directory: Path
    rules: tuple[RuleCoverage, ...]

    @property
    def percent(self) -> float:
        """The share of the outcomes that were seen; rounded down, so that 100 is all."""
        return percent(self.rules)


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
    for suite in suites:
        directory = policies or suite.policies
        key = directory.resolve()
        if key not in under:
            under[key] = _Directory(Path(normpath(directory)))
        results += [under[key].ask(suite, case) for case in suite.cases]
    return Run(tuple(results), tuple(directory.coverage() for directory in under.values()))


@dataclass(slots=True)
class _Directory:
    """One directory of policies, and the count of what its rules said."""

    path: Path
    checked: Checked = field(init=False)
    policy_set: CompiledPolicySet = field(init=False)
    said: dict[tuple[str, str], dict[Outcome, int]] = field(init=False)

    def __post_init__(self) -> None:
        self.checked = check_directory(self.path)
        if self.checked.policy_set is None:
            raise PolicyErrors(self.checked.diagnostics)
        self.policy_set = self.checked.policy_set
        self.said = {(policy.name, rule.name): dict.fromkeys(Outcome, 0) for policy, rule in self.policy_set.rules}

    def ask(self, suite: Suite, case: Case) -> Result:
        start = perf_counter()
        try:
            normalised = normalise(case.mutation)
        except FirewallError as error:
            return Result(suite, case, None, (f"the mutation is refused: {error}",), perf_counter() - start)
        if unknown := unknown_budgets(case.budgets, self.policy_set):
            names = ", ".join(f"`{name}`" for name in unknown)
            return Result(suite, case, None, (f"budgets: there is no budget {names}",), perf_counter() - start)
        verdict = decide(self.policy_set, normalised, case.now, case.budgets)
        for policy in trace(self.policy_set, bind(normalised.inputs, now=case.now)):
            for rule, said in policy.rules:
                self.said[policy.policy.name, rule.name][said.outcome] += 1
        return Result(suite, case, verdict, tuple(_failures(case, verdict)), perf_counter() - start)

    def coverage(self) -> Coverage:
        texts = {
            document.policy.name: declared_variables(document.root)
            for document in self.checked.documents
            if document.policy is not None
        }
        return Coverage(
            self.path,
            tuple(
                RuleCoverage(
                    policy,
                    rule,
                    rule.window is None and (rule.when is None or constant(rule.when.text, texts[policy.name]) is True),
                    self.said[policy.name, rule.name],
                )
                for policy, rule in self.policy_set.rules
            ),
        )


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


def _same_obligations(expected: tuple[JsonObject, ...], obligations: tuple[Obligation, ...]) -> bool:
    return len(expected) == len(obligations) and all(
        canonical({name: getattr(one, name) for name in wanted}) == canonical(wanted)
        for wanted, one in zip(expected, obligations, strict=True)
    )


def _listed(obligations: Iterable[JsonObject]) -> str:
    return ", ".join(f"`{canonical(one).decode()}`" for one in obligations) or "none"


def _same_reasons(expected: tuple[JsonObject, ...], reasons: tuple[Reason, ...]) -> bool:
    return len(expected) == len(reasons) and all(
        (wanted["policy"], wanted["rule"], wanted["mode"]) == (reason.policy, reason.rule, reason.mode)
        and wanted.get("effect", reason.effect) == reason.effect
        and wanted.get("message", "") in reason.message
        for wanted, reason in zip(expected, reasons, strict=True)
    )


def _wanted(reason: JsonObject) -> str:
    more = [f"{name} `{reason[name]}`" for name in ("effect", "message") if name in reason]
    shadow = ["shadow"] if reason["mode"] == "shadow" else []
    notes = ", ".join(more + shadow)
    return f"{reason['policy']}/{reason['rule']}" + (f" ({notes})" if notes else "")


def _spoken(reasons: Iterable[Reason]) -> str:
    return ", ".join(
        f"{reason.policy}/{reason.rule}" + (" (shadow)" if reason.mode == "shadow" else "") + f" “{reason.message}”"
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
