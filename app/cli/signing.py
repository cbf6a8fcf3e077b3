"""`mfw policies keygen`, `sign`, `verify`: signatures on policy sets, made and checked without any service."""

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from app.cli.authoring.check import show
from app.cli.exits import ExitCode
from app.cli.output import Refused, console, plain, write_json
from app.core import dsse
from app.core.dsse import Envelope
from app.errors import FirewallError
from app.policies import signatures
from app.policies.diagnostics import PolicyErrors
from app.policies.load import check_directory
from app.policies.signatures import FILE_NAME, RequiredSigners, Signed

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PASSPHRASE: Final = "MFW_SIGNING_PASSPHRASE"  # noqa: S105 - the variable's name
# A PEM key is a page; a larger file is a wrong path.
KEY_BYTES_MAX: Final = 65_536
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


@dataclass(frozen=True, slots=True)
class Target:
    """What is signed: a set by its digest, and the directory that it is in, None for a digest alone."""

    digest: str
    directory: Path | None

    @property
    def signature_file(self) -> Path:
        """Where its signatures are unless another file is named: beside the policies, where a service looks as well."""
        return (self.directory or Path()) / FILE_NAME

    @property
    def shown(self) -> str:
        """As it was named."""
        return self.digest if self.directory is None else str(self.directory)


def run_keygen(directory: Path, *, name: str, encrypt: bool, as_json: bool) -> None:
    """Make a pair of keys. Raises `Refused`; never touches a file that is there."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        KeySerializationEncryption,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    from app.core import ed25519

    if not _NAME.fullmatch(name):
        raise Refused(
            ExitCode.USAGE, f"`{name[:80]}` is no name of a signer", fix="use letters, digits and `.`, `_`, `@`, `-`"
        )
    wanted = encrypt or os.environ.get(PASSPHRASE)
    passphrase = _passphrase(f"a passphrase for {name}.key", confirm=True) if wanted else None
    encryption: KeySerializationEncryption = NoEncryption()
    if passphrase is not None:
        encryption = BestAvailableEncryption(passphrase)
    key = Ed25519PrivateKey.generate()
    private, public = directory / f"{name}.key", directory / f"{name}.pem"
    taken = next((file for file in (private, public) if os.path.lexists(file)), None)
    if taken is not None:
        raise Refused(
            ExitCode.NO_INPUT,
            f"`{taken}` is there already, and a key is never overwritten",
            fix="choose another --name or another --out",
        )
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _create(private, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption), mode=0o600)
        _create(public, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), mode=0o644)
    except OSError as error:
        raise _unwritable(directory, error) from error
    keyid = ed25519.key_id(key.public_key())
    if as_json:
        write_json({"name": name, "keyid": keyid, "private_key": str(private), "public_key": str(public)})
        return
    out = console()
    out.print(plain(f"{private}  the private key: keep it where secrets are kept"), soft_wrap=True)
    out.print(plain(f"{public}  the public key, {keyid}"), soft_wrap=True)
    out.print(plain(f"next: mfw policies sign DIR --key {private}"), soft_wrap=True)
    out.print(plain(f"and for the service: MFW_POLICIES__SIGNERS={public.resolve()}"), soft_wrap=True)


def run_sign(target: str, *, key: Path, output: Path | None, as_json: bool) -> None:
    """Sign a set and write the envelope, beside the signatures that are there. Raises `PolicyErrors`, `Refused`."""
    found = target_of(target, as_json=as_json)
    private = _private_key(key)
    made = signatures.sign(found.digest, private)
    file = output or found.signature_file
    there = read_envelopes(file) if file.exists() else ()
    stale = [one for one in there if found.digest not in signatures.claims(one)]
    if stale and (output is not None or found.directory is None):
        raise Refused(
            ExitCode.NO_INPUT,
            f"`{file}` has signatures of another policy set",
            fix="name another file with --out, or remove it",
        )
    # Beside the policies they can only be of what the policies were before.
    kept = [one for one in there if one not in stale]
    envelope, *others = signatures.merged([made, *kept])
    if others:
        raise Refused(
            ExitCode.NO_INPUT,
            f"`{file}` has a signature of another statement about the same set",
            fix="name another file with --out",
        )
    _replace(file, (json.dumps(dsse.tree_of(envelope), indent=2) + "\n").encode())
    keyid = made.signatures[0].keyid
    if as_json:
        write_json({"digest": found.digest, "keyid": keyid, "file": str(file), "signatures": len(envelope.signatures)})
        return
    out = console()
    out.print(plain(found.digest))
    if stale:
        out.print("the signatures of what the policies were before are gone")
    count = len(envelope.signatures)
    out.print(plain(f"{file} has {count} signature{'s' if count != 1 else ''}"), soft_wrap=True)
    where = "DIR" if found.directory is None else str(found.directory)
    option = "" if found.directory is not None and output is None else f" --signature {file}"
    out.print(plain(f"next: mfw policies push {where}{option}"), soft_wrap=True)


def run_verify(
    target: str, *, signature: Path | None, signers: Sequence[Path], required: int | None, as_json: bool
) -> None:
    """Say who signed a set. Raises `PolicyErrors`, `Refused`, `FirewallError` (INVALID_SIGNATURE) for too few."""
    found = target_of(target, as_json=as_json)
    known = _known_signers(signers, required)
    file = signature or found.signature_file
    signed = known.verify(found.digest, read_envelopes(file))
    if not signed.enough:
        other = sorted({claim for one in read_envelopes(file) for claim in signatures.claims(one)} - {found.digest})
        if other and not signed.signers:
            raise Refused(
                ExitCode.BAD_DATA,
                f"`{file}` says that it is of `{other[0]}`, and `{found.shown}` is `{found.digest}`",
                fix=f"sign it as it is now: `mfw policies sign {found.shown} --key FILE`",
            )
        signed.check()
    if as_json:
        write_json({"digest": found.digest, **described(signed)})
        return
    out = console()
    out.print(plain(found.digest))
    for one in signed.signers:
        out.print(plain(f"signed by {one.name}, key {one.keyid}"), soft_wrap=True)
    for one in signed.missing:
        out.print(plain(f"not by {one.name}, which is not needed"), soft_wrap=True)


def described(signed: Signed) -> dict[str, Any]:
    """Who signed, as JSON."""
    return {
        "required": signed.required,
        "signed": [{"name": one.name, "keyid": one.keyid} for one in signed.signers],
        "missing": [{"name": one.name, "keyid": one.keyid} for one in signed.missing],
    }


def target_of(text: str, *, as_json: bool) -> Target:
    """A digest, or a directory of policies as the loader reads it. Raises `PolicyErrors`, `Refused`."""
    if _DIGEST.fullmatch(text):
        return Target(text, None)
    directory = Path(text)
    if not directory.is_dir():
        raise Refused(
            ExitCode.NO_INPUT,
            f"`{text[:200]}` is neither a directory of policies nor a digest",
            fix="a digest is `sha256:` and 64 hex digits",
        )
    checked = check_directory(directory)
    if checked.policy_set is None:
        if not as_json:
            show(checked.diagnostics, directory=directory, sources=checked.sources)
        raise PolicyErrors(checked.diagnostics)
    return Target(checked.policy_set.digest, directory)


def read_envelopes(file: Path) -> tuple[Envelope, ...]:
    """The envelope in a file. Raises `Refused`."""
    try:
        return (dsse.read(_read(file, dsse.ENVELOPE_BYTES_MAX + 1)),)
    except FirewallError as error:
        where = f" at `{error.pointer}`" if error.pointer else ""
        raise Refused(
            ExitCode.BAD_DATA,
            f"`{file}` has no signatures in it: {error.detail}{where}",
            fix="`mfw policies sign` writes such a file",
        ) from error


def _known_signers(paths: Sequence[Path], required: int | None) -> RequiredSigners:
    if not paths:
        from app.settings import Settings

        policies = Settings.load(rules_for={"policies"}).policies
        if not policies.signers:
            raise Refused(
                ExitCode.USAGE, "nobody is named who could have signed", fix="name public keys with --signer FILE"
            )
        # What was asked for here, else what the service asks for; a look that asks for nothing would say nothing.
        chosen = required or policies.signatures_required or None
        return RequiredSigners.of(policies.signers, required=_reachable(chosen, policies.signers))
    keys: dict[str, str] = {}
    for path in paths:
        name = path.stem
        if name in keys:
            raise Refused(ExitCode.USAGE, f"two signers are called `{name}`", fix="rename one of the files")
        keys[name] = _read(path, KEY_BYTES_MAX).decode("utf-8", "replace")
    try:
        found = [signatures.signer(name, pem) for name, pem in keys.items()]
    except FirewallError as error:
        raise Refused(ExitCode.BAD_DATA, error.detail, fix=error.fix) from error
    if len({one.keyid for one in found}) != len(found):
        raise Refused(ExitCode.USAGE, "two of the signers have the same key", fix="name each key once")
    return RequiredSigners.of(keys, required=_reachable(required, keys))


def _reachable(required: int | None, keys: Mapping[str, str]) -> int | None:
    if required is not None and required > len(keys):
        raise Refused(
            ExitCode.USAGE, f"{required} signatures are required of {len(keys)} signers", fix="name more of them"
        )
    return required


def _private_key(file: Path) -> "Ed25519PrivateKey":
    from app.core import ed25519

    pem = _read(file, KEY_BYTES_MAX)
    try:
        passphrase = _passphrase(f"passphrase of {file}") if ed25519.is_encrypted(pem) else None
        return ed25519.private_key(pem, passphrase=passphrase)
    except FirewallError as error:
        raise Refused(ExitCode.BAD_DATA, f"the key in `{file}` {error.detail}", fix=error.fix) from error


def _passphrase(words: str, *, confirm: bool = False) -> bytes:
    """From the environment, else from whoever sits there. Raises `Refused` where nobody does."""
    given = os.environ.get(PASSPHRASE)
    if not given:
        if not _somebody_is_there():
            raise Refused(
                ExitCode.NO_INPUT, "a passphrase is needed, and there is nobody to ask for it", fix=f"set {PASSPHRASE}"
            )
        import typer

        given = typer.prompt(words, hide_input=True, confirmation_prompt=confirm, err=True)
    return str(given).encode()


def _somebody_is_there() -> bool:
    return sys.stdin.isatty()


def _read(file: Path, most: int) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(most)
    except OSError as error:
        reason = (error.strerror or "unknown reason").lower()
        raise Refused(ExitCode.NO_INPUT, f"cannot read `{file}`: {reason}", fix="check the path") from error


def _create(file: Path, content: bytes, *, mode: int) -> None:
    """Write a file that is not there yet. Raises OSError."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)


def _replace(file: Path, content: bytes) -> None:
    """Write a file whole or not at all: a service may watch the directory. Raises `Refused`."""
    scratch = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with suppress(FileNotFoundError):
            scratch.unlink()
        _create(scratch, content, mode=0o644)
        scratch.replace(file)
    except OSError as error:
        with suppress(OSError):
            scratch.unlink()
        raise _unwritable(file, error) from error


def _unwritable(path: Path, error: OSError) -> Refused:
    reason = (error.strerror or "unknown reason").lower()
    return Refused(ExitCode.NO_INPUT, f"cannot write `{path}`: {reason}", fix="check the path")
