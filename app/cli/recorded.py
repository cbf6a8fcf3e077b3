"""`mfw decisions` and `mfw ledger proof|erase`: what a service recorded, over HTTP."""

from base64 import b64decode
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode
from uuid import UUID

from app.cli.client import Service
from app.cli.exits import ExitCode
from app.cli.output import Refused, console, plain, table, write_json
from app.core.merkle import leaf_hash, verify_inclusion
from app.core.notes import Checkpoint, LogProof, VerifierKey, open_checkpoint, parse_note
from app.policies.durations import check_duration, seconds

DECISIONS: Final = "/v1/decisions"
ENTRIES: Final = "/v1/ledger/entries"
ERASURES: Final = "/v1/ledger/erasures"
# Of a page; the service's own limit.
PAGE: Final = 200


def run_show(decision_id: UUID, *, service: Service, as_json: bool) -> None:
    """Show one decision. Raises `Refused`."""
    read = service.ask(f"{DECISIONS}/{decision_id}")
    if as_json:
        write_json(read)
        return
    sent = _members(read, "record", "input")
    who, what = _members(sent, "subject"), _members(sent, "resource")
    said = {
        "decision": read.get("decision"),
        "by": f"{read.get('policy')} / {read.get('rule')} ({read.get('mode')})",
        "subject": f"{who.get('type')}:{who.get('id')}" if who else None,
        "action": _members(sent, "action").get("name"),
        "resource": f"{what.get('type')}:{what.get('id')}" if what else None,
        "asked by": _members(read, "record", "principal").get("id"),
        "rationale": _members(read, "record").get("rationale"),
        "decided at": read.get("decided_at"),
        "policy set": read.get("policy_set"),
        "mutation": read.get("mutation_digest"),
        "ledger": f"entry {read.get('ledger_index')}, leaf {read.get('receipt_hash')}",
        "record": _state(read),
    }
    facts = table("", str(read.get("id")))
    for name, value in said.items():
        if value is not None:
            facts.add_row(name, plain(value))
    console().print(facts)
    reasons = read.get("reasons")
    if isinstance(reasons, list) and reasons:
        listing = table("effect", "policy", "rule", "mode", "message")
        for one in reasons:
            listing.add_row(*(plain(one.get(name, "")) for name in ("effect", "policy", "rule", "mode", "message")))
        console().print(listing)


def run_list(
    filters: Mapping[str, str],
    *,
    since: str | None,
    until: str | None,
    limit: int,
    service: Service,
    as_json: bool,
) -> None:
    """List what fits, page after page. Raises `Refused`."""
    times = {"since": since, "until": until}
    asked = {**filters, **{name: _moment(text, name) for name, text in times.items() if text is not None}}
    found: list[Any] = []
    cursor: dict[str, str] = {}
    page: dict[str, Any] = {}
    while len(found) < limit:
        page = service.ask(f"{DECISIONS}?{urlencode({**asked, **cursor, 'limit': min(PAGE, limit - len(found))})}")
        found += page.get("items", [])
        if not page.get("next"):
            break
        cursor = {"cursor": str(page["next"])}
    if as_json:
        write_json({"items": found, **({"next": page["next"]} if page.get("next") else {}), "indexed": page["indexed"]})
        return
    if not found:
        console().print("no decision fits")
        return
    listing = table("recorded", "decision", "subject", "action", "resource", "policy / rule", "id")
    for one in found:
        cells = (
            one["recorded_at"][:19],
            one["decision"] + (" (shadow)" if one["mode"] == "shadow" else ""),
            _entity(one["subject"]),
            one["action"],
            _entity(one["resource"]),
            f"{one['policy']} / {one['rule']}",
            one["id"],
        )
        listing.add_row(*map(plain, cells))
    console().print(listing)
    if page.get("next"):
        console(stderr=True).print(f"there are more: --limit, or --until {found[-1]['recorded_at']}")


def run_proof(
    index: int, *, size: int | None, key: str | None, out: Path | None, service: Service, as_json: bool
) -> None:
    """Fetch a proof and verify it here. Raises `Refused`, and FirewallError (MALFORMED) for one that does not hold."""
    query = "" if size is None else f"?{urlencode({'size': size})}"
    proof = service.ask(f"{ENTRIES}/{index}/proof{query}")
    entry = service.ask(f"{ENTRIES}/{index}")
    try:
        receipt = b64decode(entry["bytes"]["receipt"])
        root, hashes = b64decode(proof["root"]), [b64decode(one) for one in proof["hashes"]]
        count = int(proof["size"])
        note = proof.get("checkpoint")
    except (KeyError, TypeError, ValueError):
        raise Refused(ExitCode.BAD_DATA, "the service gave no proof that can be read", fix="check --url") from None
    verify_inclusion(index, count, leaf_hash(receipt), hashes, root)
    signer = _check_note(note, key=key, size=count, root=root)
    if out is not None:
        if note is None:
            raise Refused(
                ExitCode.FAILED,
                f"no checkpoint of {count} entries is kept, to be written with it",
                fix="leave out --size",
            )
        out.write_bytes(LogProof(index, tuple(hashes), parse_note(note.encode())).serialise())
    if as_json:
        write_json(proof | {"signed_by": signer})
        return
    console().print(plain(f"entry {index} is in the tree of {count} entries: {entry.get('kind')} {entry.get('id')}"))
    console().print(f"root {root.hex()}")
    if signer is not None:
        console().print(plain(f"the checkpoint is signed by {signer}"))
    elif note is not None:
        console().print("the checkpoint's signature is not verified: give --key")


def run_erase(entry_id: UUID, *, reason: str, service: Service, as_json: bool) -> None:
    """Erase a record. Raises `Refused`."""
    done = service.ask(ERASURES, {"id": str(entry_id), "reason": reason})
    if as_json:
        write_json(done)
        return
    erasure = _members(done, "erasure")
    console().print(
        plain(
            f"the record of entry {done.get('ledger_index')} was erased at {erasure.get('at')} by {erasure.get('by')}: "
            f"{erasure.get('reason')}"
        )
    )
    console().print(plain(f"entry {erasure.get('ledger_index')} of the ledger says so"))


def _check_note(note: object, *, key: str | None, size: int, root: bytes) -> str | None:
    """Who signed the checkpoint of a proof, None where no key was given.

    Raises `Refused`, and FirewallError (MALFORMED) for a signature that does not hold.
    """
    if not isinstance(note, str):
        if key is not None:
            raise Refused(ExitCode.FAILED, "no checkpoint of this size is kept, to verify with --key")
        return None
    if key is None:
        checkpoint, signer = Checkpoint.parse(parse_note(note.encode()).text), None
    else:
        opened = open_checkpoint(note.encode(), keys=[_verifier(key)])
        checkpoint, signer = opened.checkpoint, opened.signers[0].name
    if (checkpoint.size, checkpoint.root) != (size, root):
        raise Refused(ExitCode.BAD_DATA, "the checkpoint is of another tree than the proof")
    return signer


def _verifier(text: str) -> VerifierKey:
    """A verifier key, or the one in a file."""
    path = Path(text)
    try:
        if path.is_file():
            text = path.read_text()
    except (OSError, ValueError):
        raise Refused(ExitCode.NO_INPUT, f"`{text}` cannot be read") from None
    return VerifierKey.parse(text.strip())


def _moment(text: str, name: str) -> str:
    """A time as the service takes it; a duration is so long ago. Raises `Refused`."""
    try:
        check_duration(text)
    except ValueError:
        pass
    else:
        return (datetime.now(UTC) - timedelta(seconds=seconds(text))).isoformat()
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise Refused(
            ExitCode.USAGE,
            f"--{name} `{text}` is no time",
            fix="write it as `2026-01-31T09:30:00Z`, or how long ago as `24h`",
        )
    return moment.isoformat()


def _members(value: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    """An object deep in an answer; an empty one where it is not there, or masked."""
    found: Any = value
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def _state(read: Mapping[str, Any]) -> str:
    erasure = _members(read, "erasure")
    state = str(read.get("record_state"))
    return f"{state} at {erasure['at']} by {erasure['by']}: {erasure['reason']}" if erasure else state


def _entity(one: Mapping[str, Any]) -> str:
    return f"{one['type']}:{one['id']}"
