"""`mfw policies test`: cases in YAML against policies, in this process, with what they cover."""

from collections.abc import Sequence
from pathlib import Path

from app.cli.authoring.check import count, show
from app.cli.exits import ExitCode
from app.cli.output import Refused, complain, console, plain, table, write_json
from app.core.cel import FALSE, TRUE
from app.core.types import Outcome
from app.policies.coverage_page import coverage_page
from app.policies.diagnostics import PolicyErrors
from app.policies.junit import junit
from app.policies.suite import read_suites
from app.policies.testing import Coverage, Result, Run, run
from app.surfaces.native.wire import mutation_from_wire


def run_test(
    paths: Sequence[Path],
    *,
    policies: Path | None,
    only: str | None,
    coverage: bool,
    coverage_html: Path | None,
    coverage_min: float | None,
    junit_file: Path | None,
    verbose: bool,
    as_json: bool,
) -> ExitCode:
    """Run the cases and show what failed; `only` keeps the cases whose name has that text."""
    found = _run(paths, policies=policies, only=only, as_json=as_json)
    if junit_file is not None:
        _write(junit_file, junit(found.results))
    if coverage_html is not None:
        _write(coverage_html, coverage_page(found.coverage, results=found.results).encode())
    lowest = min((min(one.percent, one.clause_percent) for one in found.coverage), default=100.0)
    short = coverage_min is not None and lowest < coverage_min
    if as_json:
        _json(found, coverage=coverage)
    else:
        _show(found, verbose=verbose)
        if coverage:
            _show_coverage(found.coverage)
        if short:
            complain(f"the cases cover {lowest:g} % of what clauses can say, and {coverage_min:g} % is asked for")
    return ExitCode.FAILED if found.failed or short else ExitCode.OK


def _run(paths: Sequence[Path], *, policies: Path | None, only: str | None, as_json: bool) -> Run:
    try:
        suites = read_suites(paths, parse=mutation_from_wire)
        if only is not None:
            kept = [(suite, tuple(case for case in suite.cases if only in case.name)) for suite in suites]
            if not any(cases for _, cases in kept):
                raise Refused(ExitCode.NO_INPUT, f"no case has `{only}` in its name", fix="leave out --only")
            suites = tuple(type(suite)(suite.name, suite.file, suite.policies, cases) for suite, cases in kept if cases)
        return run(suites, policies=policies)
    except PolicyErrors as error:
        if not as_json:
            show(error.diagnostics, directory=Path(), sources=_sources(error))
        raise


def _sources(error: PolicyErrors) -> dict[str, str]:
    """The texts of the files that findings are about, for their lines."""
    found: dict[str, str] = {}
    for name in {one.file for one in error.diagnostics if one.file and one.line}:
        try:
            found[name] = Path(name).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError):
            continue
    return found


def _write(file: Path, content: bytes) -> None:
    try:
        file.write_bytes(content)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise Refused(
            ExitCode.NO_INPUT, f"cannot write `{file}`: {reason}", fix="name a file that can be written"
        ) from error


def _show(found: Run, *, verbose: bool) -> None:
    from rich.text import Text

    out = console()
    for result in found.results:
        if not result.failures and not verbose:
            continue
        word, style = ("FAILED", "bold red") if result.failures else ("ok", "green")
        place = f"{result.suite.file}:{result.case.line}"
        out.print(Text.assemble((f"{word:6}", style), f"  {plain(result.case.name)}  ", (plain(place), "dim")))
        for failure in result.failures:
            out.print(Text(f"        {plain(failure)}"))
    failed, every = len(found.failed), len(found.results)
    seconds = sum(result.seconds for result in found.results)
    words = f"{count(every, 'case', 'cases')}: {every - failed} passed, {failed} failed in {seconds:.2f} s"
    out.print(Text(words, style="bold red" if failed else "bold green"))


def _show_coverage(coverage: Sequence[Coverage]) -> None:
    from rich.text import Text

    out = console()
    for one in coverage:
        listing = table("policy", "rule", "true", "false", "error", "", title=f"coverage of {one.directory}")
        for rule in one.rules:
            numbers = [str(rule.said[outcome]) for outcome in Outcome]
            style = "green" if rule.seen == rule.wanted else "yellow" if rule.seen else "red"
            listing.add_row(rule.policy, rule.rule, *numbers, Text(rule.missing or "covered", style=style))
        out.print(listing)
        covered = sum(rule.seen == rule.wanted for rule in one.rules)
        out.print(
            f"{covered} of {count(len(one.rules), 'rule', 'rules')} covered, {one.percent:g} % of what they can say"
        )
        missing = [clause for clause in one.clauses if clause.missing]
        if missing:
            lacking = table("where", "policy", "expression", "clause", "", title="clauses that are not covered")
            for clause in missing:
                place = plain(f"{one.directory / clause.file}:{clause.line}:{clause.column}")
                style = "yellow" if clause.seen else "red"
                lacking.add_row(
                    place, clause.policy, clause.path, plain(clause.site.text), Text(clause.missing, style=style)
                )
            out.print(lacking)
        covered = len(one.clauses) - len(missing)
        words = count(len(one.clauses), "clause", "clauses")
        out.print(f"{covered} of {words} covered, {one.clause_percent:g} % of what they can say")


def _json(found: Run, *, coverage: bool) -> None:
    covered = {"coverage": [_coverage_json(one) for one in found.coverage]} if coverage else {}
    write_json(
        {
            "ok": not found.failed,
            "passed": len(found.results) - len(found.failed),
            "failed": len(found.failed),
            "cases": [_result_json(result) for result in found.results],
            **covered,
        }
    )


def _result_json(result: Result) -> dict[str, object]:
    return {
        "suite": result.suite.name,
        "file": str(result.suite.file),
        "line": result.case.line,
        "name": result.case.name,
        "ok": not result.failures,
        "failures": list(result.failures),
        "decision": result.verdict.effect.value if result.verdict is not None else None,
    }


def _coverage_json(coverage: Coverage) -> dict[str, object]:
    return {
        "policies": str(coverage.directory),
        "percent": coverage.percent,
        "rules": [
            {
                "policy": rule.policy,
                "rule": rule.rule,
                **{outcome.value: rule.said[outcome] for outcome in Outcome},
                "covered": rule.seen == rule.wanted,
            }
            for rule in coverage.rules
        ],
        "clause_percent": coverage.clause_percent,
        "clauses": [
            {
                "policy": clause.policy,
                "path": clause.path,
                "file": clause.file,
                "line": clause.line,
                "column": clause.column,
                "text": clause.site.text,
                "true": bool(clause.seen_bits & TRUE),
                "false": bool(clause.seen_bits & FALSE),
                "covered": clause.seen == clause.wanted,
            }
            for clause in coverage.clauses
        ],
    }
