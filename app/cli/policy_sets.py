"""`mfw policies push`, `activate`, `history`, `rollback`, `export`: policy sets of a service."""

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from io import StringIO
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from app.cli.authoring.check import show
from app.cli.client import Service
from app.cli.exits import ExitCode
from app.cli.output import Refused, console, plain, table, write_json
from app.core import dsse
from app.core.canonical import canonical
from app.core.dsse import Envelope
from app.errors import FirewallError
from app.policies.diagnostics import INVALID, Diagnostic, PolicyErrors, Severity
from app.policies.load import Checked, check_directory, check_files

PATH: Final = "/v1/policy-sets"
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
# What a policy may be called, and so what is safe as the name of a file.
_NAME: Final = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")


def run_push(
    paths: Sequence[Path], *, service: Service, note: str | None, signature: Path | None = None, as_json: bool
) -> None:
    """Check files here, with their places, then store them and their signatures there.

    Raises `PolicyErrors`, `Refused`.
    """
    checked = _checked(paths)
    directory = paths[0] if len(paths) == 1 and paths[0].is_dir() else Path()
    if checked.policy_set is None:
        if not as_json:
            show(checked.diagnostics, directory=directory, sources=checked.sources)
        raise PolicyErrors(checked.diagnostics)
    envelopes = _signatures(
        signature, directory=paths[0] if len(paths) == 1 else None, digest=checked.policy_set.digest
    )
    head = b'{"documents":' + checked.content
    body = head + (b"}" if note is None else b',"note":' + json.dumps(note).encode() + b"}")
    try:
        answer = service.ask(PATH, body)
    except Refused as error:
        # The service may be another release than this command.
        if not as_json:
            found = [_diagnostic(one) for one in error.extra.get("errors", ()) if isinstance(one, dict)]
            show(found, directory=Path(), sources={})
        raise
    # Without signers there, only who named a file wants to hear that it is of no use.
    known = answer.get("signatures", {})
    if signature is not None or known.get("signed") or known.get("missing"):
        for one in envelopes:
            signed = service.ask(f"{PATH}/{_text(answer, 'digest')}/signatures", dsse.tree_of(one))
            known = {member: signed[member] for member in known if member in signed}
        answer["signatures"] = known
    if as_json:
        write_json(answer | {"diagnostics": [asdict(one) for one in checked.diagnostics]})
        return
    show(checked.diagnostics, directory=directory, sources=checked.sources)
    out = console()
    out.print(plain(f"{_text(answer, 'policies')} policies, {_text(answer, 'rules')} rules are stored as"))
    out.print(plain(_text(answer, "digest")))
    if names := [_text(one, "name") for one in _listed(known, "signed")]:
        out.print(plain(f"signed by {', '.join(names)}"))
    if answer.get("active") is True:
        out.print("and are in force")
    elif known.get("enough") is False:
        names = [_text(one, "name") for one in _listed(known, "missing")]
        out.print(plain(f"not signed by {', '.join(names)}; {_text(known, 'required')} signatures are required"))
        where = paths[0] if len(paths) == 1 and paths[0].is_dir() else "DIR"
        out.print(plain(f"next: mfw policies sign {where} --key FILE, and push again"))
    else:
        out.print(plain(f"next: mfw policies activate {_text(answer, 'digest')} --reason '...'"))


def _signatures(file: Path | None, *, directory: Path | None, digest: str) -> tuple[Envelope, ...]:
    """The envelopes to send: of the file that was named, else of the one beside the policies. Raises `Refused`."""
    from app.cli.signing import read_envelopes
    from app.policies.signatures import FILE_NAME, claims

    if file is None:
        if directory is None or not directory.is_dir() or not (directory / FILE_NAME).exists():
            return ()
        file = directory / FILE_NAME
    found = read_envelopes(file)
    if not any(digest in claims(one) for one in found):
        raise Refused(
            ExitCode.BAD_DATA,
            f"`{file}` has no signature of `{digest}`, which is what the policies are now",
            fix="sign them again: `mfw policies sign DIR --key FILE`, or remove the file",
        )
    return found


def run_activate(digest: str, *, reason: str, service: Service, as_json: bool) -> None:
    """Put a stored set into force. Raises `Refused`; its code says deny or hold where the set in force said so."""
    _activate(_digest(digest), reason=reason, service=service, as_json=as_json)


def run_rollback(digest: str | None, *, reason: str, service: Service, as_json: bool) -> None:
    """Put an earlier set into force again: the one before the last activation, unless one is named."""
    if digest is None:
        last = next(iter(_items(service.ask(f"{PATH}/activations?limit=1"))), {})
        digest = last.get("previous")
        if not isinstance(digest, str):
            raise Refused(
                ExitCode.FAILED,
                "there is no set before the one in force",
                fix="`mfw policies history` shows all of them",
            )
    _activate(_digest(digest), reason=reason, service=service, as_json=as_json)


def _activate(digest: str, *, reason: str, service: Service, as_json: bool) -> None:
    try:
        answer = service.ask(f"{PATH}/{digest}/activate", {"reason": reason})
    except Refused as error:
        if not as_json:
            _show_reasons(error.extra.get("reasons"))
        raise
    if as_json:
        write_json(answer)
        return
    facts = table("", "")
    facts.show_header = False
    for member in ("digest", "previous", "sequence", "activated_at", "activated_by", "reason", "ledger_index"):
        if answer.get(member) is not None:
            facts.add_row(member.replace("_", " "), plain(answer[member]))
    console().print("in force")
    console().print(facts)


def _show_reasons(reasons: object) -> None:
    if not isinstance(reasons, list) or not reasons:
        return
    listing = table("effect", "policy", "rule", "message")
    for reason in reasons:
        if isinstance(reason, dict):
            listing.add_row(*(plain(reason.get(key, "")) for key in ("effect", "policy", "rule", "message")))
    console(stderr=True).print(listing)


def run_force(digest: str, *, reason: str, unsafe_unsigned: bool = False, as_json: bool) -> None:
    """Put a stored set into force past the one that is, in the database of the settings. Raises `FirewallError`."""
    import asyncio
    import os
    import pwd
    import secrets
    from datetime import UTC, datetime
    from functools import partial
    from importlib.metadata import version

    from app.cli.keys import named_database
    from app.persistence import revision
    from app.persistence.engine import create_engine
    from app.policies.signatures import RequiredSigners
    from app.policies.store import Activation, PolicySetStore
    from app.service.force import force
    from app.settings import Settings

    digest = _digest(digest)
    policies = Settings.load(rules_for={"policies"}).policies
    signers = RequiredSigners.of(policies.signers, required=policies.signatures_required)
    try:
        operator = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container: a number for a user
        operator = f"uid {os.getuid()}"

    async def run(dsn: str) -> Activation:
        engine = create_engine(dsn, pool_size=1)
        try:
            await revision.check(engine)
            return await force(
                digest,
                store=PolicySetStore(engine),
                operator=operator,
                reason=reason,
                clock=partial(datetime.now, UTC),
                entropy=secrets.token_bytes,
                engine=f"mutation-firewall/{version('mutation-firewall')}",
                signers=signers,
                unsafe_unsigned=unsafe_unsigned,
            )
        finally:
            await engine.dispose()

    with named_database() as dsn:
        made = asyncio.run(run(dsn))
    if as_json:
        write_json({"sequence": made.sequence, "digest": made.digest, "ledger_index": made.ledger_index})
    else:
        console().print(plain(f"in force, unjudged: {made.digest}; ledger entry {made.ledger_index} says so"))
        if unsafe_unsigned:
            console(stderr=True).print(
                "replicas that require signatures do not follow until they have them, or until they are started with "
                "other settings"
            )


def run_history(*, limit: int, service: Service, as_json: bool) -> None:
    """The activations, the latest first."""
    answer = service.ask(f"{PATH}/activations?{urlencode({'limit': limit})}")
    if as_json:
        write_json(answer)
        return
    listing = table("", "digest", "when", "by", "ledger", "reason")
    for one in _items(answer):
        listing.add_row(
            *(
                plain(_text(one, key))
                for key in ("sequence", "digest", "activated_at", "activated_by", "ledger_index", "reason")
            )
        )
    console().print(listing)


def run_export(digest: str, *, output: Path, service: Service, as_json: bool) -> None:
    """Write a stored set as one file per policy into a new directory; loaded, they have the same digest."""
    digest = _digest(digest)
    documents = service.ask(f"{PATH}/{digest}").get("documents")
    if not isinstance(documents, list) or _digest_of(documents) != digest:
        raise Refused(
            ExitCode.BAD_DATA,
            f"what the service sent is not policy set `{digest}`",
            fix="do not use it; tell its owner",
        )
    try:
        if output.exists() and any(output.iterdir()):
            raise Refused(ExitCode.NO_INPUT, f"`{output}` is not empty", fix="name a directory that is not there yet")
        output.parent.mkdir(parents=True, exist_ok=True)
        # Whole or not at all: somebody's service may watch the directory.
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as scratch:
            written = Path(scratch) / "set"
            names = _write(documents, written, digest=digest)
            written.rename(output)
    except OSError as error:
        reason = (error.strerror or "unknown reason").lower()
        raise Refused(ExitCode.NO_INPUT, f"cannot write `{output}`: {reason}", fix="check the path") from error
    if as_json:
        write_json({"digest": digest, "directory": str(output), "files": names})
    else:
        console().print(plain(f"{len(names)} policies in {output}"))


def _write(documents: Sequence[Any], directory: Path, *, digest: str) -> list[str]:
    directory.mkdir()
    names: list[str] = []
    for number, document in enumerate(documents):
        metadata = document.get("metadata") if isinstance(document, dict) else None
        name = metadata.get("name") if isinstance(metadata, dict) else None
        stem = name if isinstance(name, str) and _NAME.fullmatch(name) else f"document-{number}"
        # A policy and an exception may have the same name.
        names.append(f"{stem}.yaml" if f"{stem}.yaml" not in names else f"{stem}.{number}.yaml")
        (directory / names[-1]).write_text(to_yaml(document), encoding="utf-8")
    read = check_directory(directory)
    # A set of another release may have errors here; what loads must be what was asked for.
    if read.policy_set is not None and read.policy_set.digest != digest:
        raise Refused(ExitCode.FAILED, "the files would not have the same digest", fix="report this with the set")
    return names


def to_yaml(document: Any) -> str:
    """Write a document as a person would."""
    from ruamel.yaml import YAML
    from ruamel.yaml.representer import SafeRepresenter

    class Representer(SafeRepresenter):
        """Texts that a person writes as blocks are written as blocks."""

    def text(representer: SafeRepresenter, value: str) -> Any:
        style = "|" if "\n" in value else '"' if _is_doubtful(value) else None
        return representer.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Representer.add_representer(str, text)
    writer = YAML(typ="safe", pure=True)
    writer.Representer = Representer
    writer.default_flow_style = False
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # its type is written as None
    writer.width = 120
    stream = StringIO()
    writer.dump(document, stream)
    return stream.getvalue()


def _is_doubtful(value: str) -> bool:
    """Whether the text, unquoted, could be taken for something else by some reader of YAML."""
    return not value[:1].isalpha() or value.lower() in {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}


def _checked(paths: Sequence[Path]) -> Checked:
    if len(paths) == 1 and paths[0].is_dir():
        return check_directory(paths[0])
    if any(path.is_dir() for path in paths):
        raise Refused(ExitCode.USAGE, "a directory stands beside other paths", fix="name one directory, or files only")
    return check_files(paths)


def _digest(text: str) -> str:
    if not _DIGEST.fullmatch(text):
        raise Refused(
            ExitCode.USAGE, f"`{text[:100]}` is no digest of a policy set", fix="it is `sha256:` and 64 hex digits"
        )
    return text


def _digest_of(documents: Sequence[Any]) -> str | None:
    try:
        return "sha256:" + sha256(canonical(sorted(documents, key=canonical))).hexdigest()
    except FirewallError:
        return None


def _items(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    return _listed(answer, "items")


def _listed(answer: Mapping[str, Any], member: str) -> list[dict[str, Any]]:
    items = answer.get(member)
    return [one for one in items if isinstance(one, dict)] if isinstance(items, list) else []


def _text(answer: Mapping[str, Any], member: str) -> str:
    return str(answer.get(member, ""))


def _diagnostic(one: Mapping[str, Any]) -> Diagnostic:
    def number(member: str) -> int:
        return one[member] if isinstance(one.get(member), int) else 0

    return Diagnostic(
        file=_text(one, "file"),
        line=number("line"),
        column=number("column"),
        path=_text(one, "path"),
        message=_text(one, "message"),
        fix=None if one.get("fix") is None else _text(one, "fix"),
        severity=Severity.WARNING if one.get("severity") == Severity.WARNING else Severity.ERROR,
        code=_text(one, "code") or INVALID,
    )
