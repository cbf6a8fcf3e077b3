"""The coverage of policies as one page of HTML that needs nothing else: no script, no font, no network."""

from collections.abc import Iterable
from html import escape
from itertools import groupby

from app.core.types import Outcome
from app.policies.coverage import ClauseCoverage, ExpressionCoverage, clause_percent
from app.policies.testing import Coverage, Result, RuleCoverage, percent

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --good: #1a7f37; --bad: #cf222e; --part: #9a6700; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; } td, th { border-top: 1px solid var(--line); padding: .35rem .6rem; }
td { vertical-align: top; } th { text-align: left; } td.number, th.number { text-align: right; }
code { font: 13px/1.4 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
.good { color: var(--good); } .bad { color: var(--bad); } .part { color: var(--part); }
meter { width: 8rem; vertical-align: middle; }
pre { font: 13px/1.5 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; margin: .2rem 0 .8rem; }
pre .good { background: #1a7f3722; } pre .part { background: #9a670033; } pre .bad { background: #cf222e33; }
""".strip()


def coverage_page(coverage: Iterable[Coverage], *, results: Iterable[Result]) -> str:
    """Write the page. Everything that comes from policies and tests is escaped."""
    listed, answers = list(coverage), list(results)
    failed = sum(bool(result.failures) for result in answers)
    verdict = f"{len(answers)} cases, {failed} failed" if failed else f"{len(answers)} cases, all passed"
    body = "".join(_directory(one) for one in listed)
    return (
        "<!doctype html>\n"
        '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Policy coverage</title><style>{_STYLE}</style></head><body>\n"
        f'<h1>Policy coverage</h1><p class="{"bad" if failed else "good"}">{verdict}</p>\n'
        f"{body}{_failures(answers)}</body></html>\n"
    )


def _directory(coverage: Coverage) -> str:
    meters = f"rules {_meter(coverage.percent)}, clauses {_meter(coverage.clause_percent)}"
    parts = [f"<h2>{escape(str(coverage.directory))}: {meters}</h2>\n"]
    texts = {name: list(group) for name, group in groupby(coverage.expressions, key=lambda one: one.policy)}
    for name, group in groupby(coverage.rules, key=lambda rule: rule.policy):
        rules = list(group)
        parts.append(
            f'<h2 id="{escape(name)}">{escape(name)} {_meter(percent(rules))}</h2>\n<table><thead><tr><th>rule</th>'
            '<th>effect</th><th>when</th><th class="number">true</th><th class="number">false</th>'
            '<th class="number">error</th><th></th></tr></thead><tbody>\n'
        )
        parts += [_rule(rule) for rule in rules]
        parts.append("</tbody></table>\n")
        parts += [_expression(one) for one in texts.pop(name, [])]
    for name, expressions in texts.items():
        parts.append(f"<h2>{escape(name)}</h2>\n")
        parts += [_expression(one) for one in expressions]
    return "".join(parts)


def _rule(coverage: RuleCoverage) -> str:
    style = "good" if coverage.seen == coverage.wanted else "part" if coverage.seen else "bad"
    when = escape(coverage.text) if coverage.text is not None else "always"
    counts = "".join(f'<td class="number">{coverage.said[outcome]}</td>' for outcome in Outcome)
    return (
        f'<tr><td class="{style}">{escape(coverage.rule)}</td><td>{coverage.effect}</td><td><code>{when}</code></td>'
        f'{counts}<td class="{style}">{coverage.missing or "covered"}</td></tr>\n'
    )


def _expression(coverage: ExpressionCoverage) -> str:
    """Write an expression with every part in the colour of its coverage, and beneath it what is missing."""
    # Each character belongs to the smallest part that it stands in.
    owners: list[ClauseCoverage | None] = [None] * len(coverage.text)
    for clause in sorted(coverage.clauses, key=lambda one: one.site.start - one.site.end):
        owners[clause.site.start : clause.site.end] = [clause] * (clause.site.end - clause.site.start)
    written = ""
    for owner, group in groupby(zip(owners, coverage.text, strict=True), key=lambda pair: pair[0]):
        text = escape("".join(character for _, character in group))
        style = _style(owner)
        written += f'<span class="{style}" title="{_title(owner)}">{text}</span>' if style else text
    lacking = "".join(
        f"<li>{clause.line}:{clause.column} <code>{escape(clause.site.text)}</code> "
        f'<span class="{_style(clause)}">{clause.missing}</span></li>\n'
        for clause in coverage.clauses
        if clause.missing
    )
    where = f"{escape(coverage.path)} {_meter(clause_percent(coverage.clauses))}"
    return f"<div>{where}<pre>{written}</pre>{f'<ul>{lacking}</ul>' if lacking else ''}</div>\n"


def _style(clause: ClauseCoverage | None) -> str:
    if clause is None or not clause.wanted:
        return ""
    return "good" if not clause.missing else "part" if clause.seen else "bad"


def _title(clause: ClauseCoverage | None) -> str:
    return "" if clause is None else clause.missing or "covered"


def _meter(value: float) -> str:
    return f'<meter min="0" max="100" value="{value:g}"></meter> {value:g} %'


def _failures(results: list[Result]) -> str:
    rows = [
        f"<tr><td>{escape(str(result.suite.file))}:{result.case.line}</td><td>{escape(result.case.name)}</td>"
        f"<td>{'<br>'.join(escape(failure) for failure in result.failures)}</td></tr>\n"
        for result in results
        if result.failures
    ]
    if not rows:
        return ""
    return f'<h2 class="bad">Failed</h2>\n<table><tbody>\n{"".join(rows)}</tbody></table>\n'
