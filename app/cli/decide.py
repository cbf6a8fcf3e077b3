"""`mfw decide`: one mutation to a service, or through the core in this process."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from app.cli.client import call
from app.cli.exits import ExitCode, of_effect
from app.cli.output import Refused, console, plain, table, write_json
from app.core.types import Effect

# The service's own limit is 1 MiB unless its owner raised it, up to this.
MUTATION_BYTES_MAX: Final = 16_777_216

STYLES: Final = {Effect.ALLOW: "bold green", Effect.DENY: "bold red", Effect.HOLD: "bold yellow"}


def run_decide(
    file: str,
    *,
    url: str,
    api_key: str | None,
    timeout: float,
    policies: Path | None,
    used: Sequence[str] = (),
    as_json: bool,
) -> ExitCode:
    """Decide, show the answer, and give the exit code that says the effect.

    `policies` names a directory to decide by in this process, with `used` of its budgets; None asks the service at
    `url`. Raises `FirewallError`
    and `Refused`.
    """
    body = read_mutation(file)
    if policies is not None:
        answer, raw = decide_here(body, policies=policies, used=used), None
    else:
        raw = ask(body, url=url, api_key=api_key, timeout=timeout)
        answer = _decision(raw, url=url)
    effect = Effect(answer["decision"])
    if not as_json:
        _show(answer, effect)
    elif raw is not None:
        # As it came: a receipt that is checked later must not have been through a parser.
        sys.stdout.write(raw.decode() + "\n")
    else:
        write_json(answer)
    return of_effect(effect)


def read_mutation(file: str) -> bytes:
    """The bytes of a file, or of standard input for `-`."""
    try:
        if file == "-":
            body = sys.stdin.buffer.read(MUTATION_BYTES_MAX + 1)
        else:
            with Path(file).open("rb") as source:
                body = source.read(MUTATION_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a file name"
        raise Refused(
            ExitCode.NO_INPUT,
            f"cannot read `{file}`: {reason.lower()}",
            fix="name a JSON file, or `-` for standard input",
        ) from error
    if len(body) > MUTATION_BYTES_MAX:
        raise Refused(ExitCode.BAD_DATA, f"the mutation is longer than {MUTATION_BYTES_MAX} bytes")
    return body


def decide_here(body: bytes, *, policies: Path, used: Sequence[str] = ()) -> dict[str, Any]:
    """Steps 1 and 4 to 8 in this process; the answer has no id and no ledger index, because nothing is recorded."""
    from dataclasses import asdict
    from datetime import UTC, datetime

    from app.cli.budgets import read_used
    from app.core import strict_json
    from app.core.budgets import to_answer
    from app.core.decide import decide
    from app.core.normalise import normalise
    from app.core.reasons import reason_members
    from app.policies.load import load_directory
    from app.surfaces.native.wire import mutation_from_wire

    policy_set = load_directory(policies)
    normalised = normalise(mutation_from_wire(strict_json.parse(body).tree))
    now = datetime.now(UTC)
    verdict = decide(policy_set, normalised, now, read_used(used, policy_set=policy_set))
    budgets = to_answer(verdict.budgets)
    return {
        "recorded": False,
        "decision": verdict.effect.value,
        "reasons": [reason_members(reason) for reason in verdict.reasons],
        "policy_set": policy_set.digest,
        "mutation_digest": normalised.digest,
        "decided_at": now.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        **({"approval": dict(verdict.approval)} if verdict.approval is not None else {}),
        **({"budgets": budgets} if budgets else {}),
        **({"obligations": [asdict(one) for one in verdict.obligations]} if verdict.obligations else {}),
        **({"warnings": list(verdict.warnings)} if verdict.warnings else {}),
        **({"annotations": dict(verdict.annotations)} if verdict.annotations else {}),
    }


def ask(body: bytes, *, url: str, api_key: str | None, timeout: float) -> bytes:
    """POST a mutation to a service and give the body of its 200. Raises `Refused`."""
    return call("/v1/decisions", url=url, api_key=api_key, timeout=timeout, body=body, what="mutation")


def _decision(raw: bytes, *, url: str) -> dict[str, Any]:
    """The answer of a 200, checked to be a whole decision."""
    from app.client.answers import decision
    from app.client.problems import ProblemError

    try:
        decision(raw, request_id=None)
    except ProblemError:
        raise Refused(
            ExitCode.BAD_DATA, f"what answers at `{url}` is no mutation firewall", fix="check --url"
        ) from None
    answer: dict[str, Any] = json.loads(raw)
    return answer


def _clause_lines(clause: object) -> list[str]:
    """Say which clause decided and what it saw; nothing for an answer that has none in the form known here."""
    match clause:
        case {"path": path, "text": text, "line": line, "column": column, "outcome": outcome, "values": dict(values)}:
            place = f" ({path} {line}:{column})" if line else f" ({path})"
            seen = [f"  {name} = {json.dumps(value, ensure_ascii=False)}" for name, value in values.items()]
            return [f"{outcome}: {text}{place}" if line else f"{text}{place}", *seen]
        case _:
            return []


def _show(answer: Mapping[str, Any], effect: Effect) -> None:
    from rich.text import Text

    out = console()
    out.print(Text(effect.value.upper(), style=STYLES[effect]))
    reasons = table("effect", "policy", "rule", "message")
    for reason in answer["reasons"]:
        shadow = " (shadow)" if reason.get("mode") == "shadow" else ""
        binding = f"\n(binding {reason['binding']})" if reason.get("binding") else ""
        if reason.get("exception"):
            shadow += f" (lifted by {reason['exception']})"
        reasons.add_row(
            *(
                plain(text)
                for text in (
                    f"{reason['effect']}{shadow}",
                    f"{reason['policy']}{binding}",
                    reason["rule"],
                    "\n".join([reason["message"], *_clause_lines(reason.get("clause"))]),
                )
            )
        )
    out.print(reasons)
    if answer.get("obligations"):
        obligations = table("obligation", "value", "by")
        for one in answer["obligations"]:
            by = f"{one['policy']}/{one['rule']}"
            obligations.add_row(plain(one["key"]), plain(json.dumps(one["value"])), plain(by))
        out.print(obligations)
    for title in ("warnings", "annotations"):
        if answer.get(title):
            out.print(Text(title, style="bold"))
            notes = answer[title] if title == "warnings" else [f"{k}: {v}" for k, v in answer[title].items()]
            for note in notes:
                out.print(plain(note))
    facts = table("", "")
    facts.show_header = False
    if answer.get("approval"):
        facts.add_row("approval", plain(json.dumps(answer["approval"])))
    for budget in answer.get("budgets", ()):
        used = f"{budget['used']} of {budget['limit']} used in {budget['window']}"
        facts.add_row("budget", plain(f"{budget['policy']}/{budget['budget']}: {used}"))
    for member, words in (
        ("id", "decision"),
        ("ledger_index", "ledger index"),
        ("receipt_hash", "receipt"),
        ("policy_set", "policy set"),
        ("mutation_digest", "mutation"),
        ("decided_at", "decided at"),
    ):
        if answer.get(member) is not None:
            facts.add_row(words, plain(answer[member]))
    out.print(facts)
    if answer.get("recorded") is False:
        out.print(Text("not recorded: decided in this process, there is no ledger entry behind it", style="yellow"))
