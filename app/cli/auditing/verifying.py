"""`mfw ledger verify`: an export, a public key, and what was kept from before."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from app.cli.auditing.progress import progress
from app.cli.exits import ExitCode
from app.cli.output import Refused, console, plain, table, write_json
from app.core.notes import VerifierKey
from app.errors import FirewallError, Kind
from app.ledger.exported import Export
from app.ledger.files import read_file, write_file
from app.ledger.findings import NOTES, Finding
from app.ledger.verify import Trust, Verified, read_saved, verify

_KEYS_BYTES_MAX = 64 * 1024


def run_verify(
    directory: Path,
    *,
    keys: Sequence[str],
    unsafe_no_key: bool,
    witnesses: Sequence[str],
    origin: str | None,
    since: Sequence[Path],
    report: Path | None,
    as_json: bool,
) -> ExitCode:
    """Verify and report. Raises `FirewallError` and `Refused`."""
    if unsafe_no_key == bool(keys):
        raise Refused(
            ExitCode.USAGE,
            "a log is verified with a key, and --unsafe-no-key is for a log that nobody signs",
            fix="give --key, and get the key from where the log publishes it, not from the export",
        )
    trust = Trust(read_keys(keys), read_keys(witnesses), origin)
    saved = [read_saved(path, trust=trust) for path in since]
    export = Export.open(directory)
    began = time.monotonic()
    with progress("verifying", total=export.manifest.size) as bar:
        verified = verify(export, trust=trust, saved=saved, advanced=bar.more)
    told = to_json(verified, seconds=time.monotonic() - began)
    if report is not None:
        import orjson

        write_file(report, orjson.dumps(told, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    if as_json:
        write_json(told)
    else:
        _show(verified, seconds=told["seconds"])
    return ExitCode.OK if verified.untouched else ExitCode.FAILED


def read_keys(texts: Iterable[str]) -> tuple[VerifierKey, ...]:
    """Keys as they are written, or files with one on each line. Raises FirewallError (MALFORMED, NOT_FOUND)."""
    found: list[VerifierKey] = []
    for text in texts:
        try:
            found.append(VerifierKey.parse(text))
        except FirewallError as error:
            content = read_file(Path(text), max_bytes=_KEYS_BYTES_MAX)
            if content is None:
                raise FirewallError(
                    Kind.MALFORMED,
                    f"`{text[:120]}` is no key, and no file: {error.detail}",
                    fix="write `NAME+ID+BASE64`, or the path of a file with such a line",
                ) from error
            lines = content.decode("utf-8", "replace").splitlines()
            found += [VerifierKey.parse(line.strip()) for line in lines if line.strip()]
    return tuple(found)


def to_json(verified: Verified, *, seconds: float) -> dict[str, Any]:
    """The report as JSON."""
    findings = verified.findings
    return {
        "ok": verified.untouched,
        "size": verified.size,
        "records": verified.records,
        "root": verified.root.hex(),
        "origin": verified.origin,
        "signers": list(verified.signers),
        "witnesses": list(verified.witnesses),
        "checkpoints_compared": verified.saved,
        "counts": {code.value: count for code, count in sorted(findings.counts.items())},
        "findings": [_finding(one) for one in findings.listed],
        "seconds": round(seconds, 3),
    }


def _finding(one: Finding) -> dict[str, Any]:
    return {
        "code": one.code.value,
        "index": one.index,
        "detail": one.detail,
        "expected": one.expected,
        "found": one.found,
        "fix": one.fix,
        "note": one.code in NOTES,
    }


def _show(verified: Verified, *, seconds: float) -> None:
    from rich.text import Text

    out = console()
    findings = verified.findings
    if findings.listed:
        listing = table("entry", "code", "what", "expected", "found", title="what was found, the first entry first")
        for one in findings.listed:
            cells = ("" if one.index is None else one.index, one.code.value, one.detail, one.expected, one.found)
            listing.add_row(*(plain(cell) for cell in cells))
        out.print(listing)
        fixes = table("code", "how many", "what to do")
        for code, count in sorted(findings.counts.items()):
            fixes.add_row(code.value, str(count), next(one.fix for one in findings.listed if one.code is code))
        out.print(fixes)
    by = f"signed by {', '.join(verified.signers)}" if verified.signers else "signed by nobody that was named"
    cosigned = f", cosigned by {', '.join(verified.witnesses)}" if verified.witnesses else ""
    word, style = ("untouched", "bold green") if verified.untouched else ("not untouched", "bold red")
    rate = verified.size / seconds if seconds else 0.0
    # Whoever takes the records out of an export can say that it never had any.
    entries = "entries" if verified.records else "receipts, and no records,"
    out.print(
        Text(f"{verified.size} {entries} of {plain(verified.origin or 'a log without a name')}: {word}", style=style),
        f"({plain(by)}{plain(cosigned)}; compared with {verified.saved} from before; {seconds:.1f} s, {rate:.0f}/s)",
    )
