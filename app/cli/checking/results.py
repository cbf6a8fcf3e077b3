"""What became of the changes that were checked: as a table, as Markdown, as JSON, as SARIF; and the exit code."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, assert_never
from urllib.parse import quote

from app.cli.checking.asking import Answered
from app.cli.checking.formats import Format
from app.cli.exits import ExitCode, of_effect
from app.core.batch import BATCH_NOT_ALLOWED
from app.core.decide import FIREWALL
from app.core.types import Effect, JsonObject

REFUSED: Final = "refused"
# What would have been allowed alone, and waits for the rest of its batch.
WAITS: Final = "waits"

# A comment of a pull request holds 65,536 characters; a longer table is cut, and says so.
MARKDOWN_ROWS_MAX: Final = 200
MESSAGE_CHARS_MAX: Final = 500
SARIF_PLACES_MAX: Final = 100

SARIF_SCHEMA: Final = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"

_STYLES: Final = {"allow": "bold green", "deny": "bold red", "hold": "bold yellow", REFUSED: "bold red", WAITS: "dim"}


@dataclass(frozen=True, slots=True)
class Report:
    """All answers to one check. `about` says what was checked; `notes` are what people should know beside."""

    about: str
    answers: Sequence[Answered]
    notes: Sequence[str] = ()

    @property
    def verdict(self) -> str:
        """One word for all: deny, refused, hold or allow, the first of these that anything says."""
        words = {word_of(one) for one in self.answers}
        for word in ("deny", REFUSED, "hold"):
            if word in words:
                return word
        # INVARIANT: nothing waits unless something else is not allowed; if it does all the same, that is no allow.
        return "deny" if WAITS in words else "allow"

    @property
    def exit_code(self) -> ExitCode:
        """0 only where everything is allowed."""
        verdict = self.verdict
        return ExitCode.BAD_DATA if verdict == REFUSED else of_effect(Effect(verdict))

    def counts(self) -> dict[str, int]:
        """How many answers say which word."""
        counts = dict.fromkeys(("allow", "hold", "deny", REFUSED, WAITS), 0)
        for one in self.answers:
            counts[word_of(one)] += 1
        return counts


def word_of(answered: Answered) -> str:
    """The word for one answer."""
    if answered.effect is None:
        return REFUSED
    first = answered.members["reasons"][0]
    if answered.effect is Effect.DENY and (first["policy"], first["rule"]) == (FIREWALL, BATCH_NOT_ALLOWED):
        return WAITS
    return answered.effect.value


def write(report: Report, form: Format) -> ExitCode:
    """Write the report to standard output and give the exit code."""
    import sys

    match form:
        case Format.TABLE:
            _show(report)
        case Format.MARKDOWN:
            sys.stdout.write(to_markdown(report))
        case Format.JSON:
            sys.stdout.write(json.dumps(to_json(report), indent=2) + "\n")
        case Format.SARIF:
            sys.stdout.write(json.dumps(to_sarif(report), indent=2) + "\n")
        case _:
            assert_never(form)
    return report.exit_code


def to_json(report: Report) -> JsonObject:
    """The report for machines: each answer as the service gave it, and what it is about."""
    return {
        "verdict": report.verdict,
        "about": report.about,
        "summary": report.counts(),
        "notes": list(report.notes),
        "results": [
            {
                "name": one.asked.name,
                "action": one.asked.action,
                "resource": {name: one.asked.mutation["resource"][name] for name in ("type", "id")},
                "outcome": word_of(one),
                **one.members,
            }
            for one in report.answers
        ],
    }


def _reasons(answered: Answered) -> list[tuple[str, str]]:
    """Who says what, policy and rule first; without what does not count, or is not why."""
    if answered.effect is None:
        members = answered.members
        where = f" at `{members['pointer']}`" if members.get("pointer") else ""
        fix = f"; {members['fix']}" if members.get("fix") else ""
        return [("", f"{members.get('detail') or members.get('title', 'no decision')}{where}{fix}")]
    reasons = answered.members["reasons"]
    return [
        (f"{reason['policy']}/{reason['rule']}", str(reason["message"]))
        for reason in (reasons[:1] if word_of(answered) == WAITS else reasons)
        if reason.get("mode") != "shadow"
        and not reason.get("exception")
        and (reason["effect"] == answered.effect.value or answered.effect is Effect.DENY)
    ]


def _show(report: Report) -> None:
    from rich.text import Text

    from app.cli.output import console, plain, table

    out = console()
    rows = table("", "action", "change", "because")
    for one in report.answers:
        word = word_of(one)
        because = "\n".join(f"{rule}: {message}" if rule else message for rule, message in _reasons(one))
        rows.add_row(Text(word, style=_STYLES[word]), plain(one.asked.action), plain(one.asked.name), plain(because))
    if report.answers:
        out.print(rows)
    for note in report.notes:
        out.print(plain(note))
    out.print(Text.assemble((report.verdict.upper(), _STYLES[report.verdict]), f"  {plain(_summary(report))}"))
    if any(one.members.get("recorded") is False for one in report.answers):
        out.print(Text("not recorded: decided in this process, there is no ledger entry behind it", style="yellow"))


def _summary(report: Report) -> str:
    counts = report.counts()
    told = [f"{count} {word}" for word, count in counts.items() if count]
    return f"{report.about}: {', '.join(told) if told else 'nothing to ask about'}"


def to_markdown(report: Report) -> str:
    """The report as a comment of a pull request; no text of others becomes markup, a link or a mention."""
    lines = [f"### Mutation Firewall: {report.verdict}", "", escaped(_summary(report)), ""]
    if report.answers:
        lines += ["| | Action | Change | Because | Ledger |", "|---|---|---|---|---|"]
    # What stands in the way comes first: a table may be cut.
    order = ("deny", REFUSED, "hold", WAITS, "allow")
    for one in sorted(report.answers, key=lambda one: order.index(word_of(one)))[:MARKDOWN_ROWS_MAX]:
        because = "<br>".join(
            (f"{escaped(rule)}: " if rule else "") + escaped(message) for rule, message in _reasons(one)
        )
        index = one.members.get("ledger_index")
        cells = (f"**{word_of(one)}**", escaped(one.asked.action), escaped(one.asked.name), because)
        lines.append(f"| {' | '.join(cells)} | {'' if index is None else index} |")
    if len(report.answers) > MARKDOWN_ROWS_MAX:
        lines += ["", f"{len(report.answers) - MARKDOWN_ROWS_MAX} more are not shown."]
    for note in report.notes:
        lines += ["", escaped(note)]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Text of others for a cell of Markdown: visible, on one line, without any markup."""
    from app.cli.output import plain

    cut = text if len(text) <= MESSAGE_CHARS_MAX else text[:MESSAGE_CHARS_MAX] + " ..."
    shown = plain(cut).replace("\n", " ")
    # Numeric references are text to every renderer, where a backslash is not (`@` would still mention somebody).
    return (
        "".join(
            character
            if character.isalnum() or character in " .,:;'()=+-/?%" or not character.isascii()
            else f"&#{ord(character)};"
            for character in shown
        )
        .replace("://", "&#58;//")
        .replace("www.", "www&#46;")
    )


def to_sarif(report: Report) -> JsonObject:
    """SARIF 2.1.0: one result for each rule that keeps a change from being made. What is allowed has none."""
    rules: dict[str, JsonObject] = {}
    results: list[JsonObject] = []
    for one in report.answers:
        word = word_of(one)
        if word in {"allow", WAITS}:
            continue
        for rule, message in _reasons(one):
            rule_id = rule or "mutation-firewall/not-decided"
            rules.setdefault(rule_id, {"id": rule_id, "shortDescription": {"text": rule_id}})
            results.append(_sarif_result(one, rule_id, message, position=list(rules).index(rule_id), word=word))
    driver = {"name": "Mutation Firewall", "rules": list(rules.values())}
    return {
        "$schema": SARIF_SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": driver},
                "results": results,
                "columnKind": "unicodeCodePoints",
                "properties": {"verdict": report.verdict, "summary": report.counts(), "about": report.about},
            }
        ],
    }


def _sarif_result(answered: Answered, rule_id: str, message: str, *, position: int, word: str) -> JsonObject:
    from app.cli.output import plain

    asked = answered.asked
    location: JsonObject = {"logicalLocations": [{"fullyQualifiedName": asked.name, "kind": "resource"}]}
    if asked.places:
        location["physicalLocation"] = _physical(asked.places[0])
    others = [{"physicalLocation": _physical(place)} for place in asked.places[1:SARIF_PLACES_MAX]]
    members: Mapping[str, Any] = answered.members
    told = ("id", "ledger_index", "receipt_hash", "mutation_digest", "policy_set")
    return {
        "ruleId": rule_id,
        "ruleIndex": position,
        "level": "warning" if word == "hold" else "error",
        "message": {"text": plain(f"{asked.action} {asked.name}: {message}")},
        "locations": [location],
        **({"relatedLocations": others} if others else {}),
        # What code scanning tells two runs apart by: the same change, held by the same rule, is the same finding.
        "partialFingerprints": {"change/v1": f"{asked.mutation['resource']['type']}:{asked.name}:{rule_id}"},
        "properties": {"outcome": word, **{name: members[name] for name in told if name in members}},
    }


def _physical(place: str) -> JsonObject:
    return {"artifactLocation": {"uri": quote(place)}, "region": {"startLine": 1}}
