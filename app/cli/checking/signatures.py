"""Signatures of models (OpenSSF Model Signing): who signed these files, or why they count as unsigned.

    (1) trust     what to check by: a key, authorities, or an identity of Sigstore with a given root of trust
    (2) verify    the bundle, and the digests in it against the files, by the library of the format
    (3) read      the statement that was signed, strictly
    (4) cover     every file here is in the statement; those that it says to ignore are not ours to ignore
    (5) name      who it was, for policies

Nothing is fetched: without a root of trust there is no Sigstore, and the authorities of the web sign no models.
"""

import base64
import contextlib
import hashlib
import io
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias, assert_never

from app.cli.checking.trees import Tree
from app.cli.exits import ExitCode
from app.cli.output import Refused
from app.core import strict_json
from app.core.types import JsonObject

# The digests of some hundred thousand shards.
SIGNATURE_BYTES_MAX: Final = 67_108_864
_PREDICATE: Final = "https://model_signing/signature/v1.0"
_SHOWN: Final = 5


class BadSignatureError(Exception):
    """A signature that does not hold, or is not of these files; the text says why."""


@dataclass(frozen=True, slots=True)
class Key:
    """A PEM file of the public key that must have signed."""

    file: Path


@dataclass(frozen=True, slots=True)
class Authorities:
    """PEM files of authorities that must have certified the signer."""

    files: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Keyless:
    """An identity of Sigstore, who vouches for it, and the root of trust (ClientTrustConfig)."""

    identity: str
    issuer: str
    trust_config: Path


Trust: TypeAlias = Key | Authorities | Keyless


def read_trust(
    *,
    public_key: Path | None,
    certificates: Sequence[Path],
    identity: str | None,
    issuer: str | None,
    trust_config: Path | None,
) -> Trust | None:
    """What signatures are checked by, None for nothing. Raises `Refused` for two methods, and for a part of one."""
    ways: list[Trust] = []
    if public_key is not None:
        ways.append(Key(public_key))
    if certificates:
        ways.append(Authorities(tuple(certificates)))
    if identity is not None and issuer is not None and trust_config is not None:
        ways.append(Keyless(identity, issuer, trust_config))
    elif (identity, issuer, trust_config) != (None, None, None):
        raise Refused(
            ExitCode.USAGE,
            "an identity of sigstore needs its issuer and a root of trust",
            fix="give `--identity`, `--issuer` and `--trust-config FILE`: none is fetched",
        )
    if len(ways) > 1:
        fix = "give `--public-key`, or `--certificate`, or `--identity` with `--issuer` and `--trust-config`"
        raise Refused(ExitCode.USAGE, "a signature is checked in one way", fix=fix)
    return ways[0] if ways else None


def verified(tree: Tree, signature: Path, *, trust: Trust) -> JsonObject:
    """Who signed the files of a tree: `method`, and what names them.

    Raises: BadSignatureError; `Refused` where what it is checked by cannot be read, or the library is not installed.
    Does not check: that a certificate was valid when it signed (no bundle of this kind says when); `not_after` is told.
    """
    content = _content(signature)
    checker = _checker(trust)
    with tempfile.TemporaryDirectory() as directory:
        # What is verified and what is read below are the same bytes.
        copy = Path(directory) / "signature"
        copy.write_bytes(content)
        try:
            # It prints warnings; standard output is for the answer.
            with contextlib.redirect_stdout(io.StringIO()):
                checker.verify(tree.path, copy)
        except Exception as error:  # whatever it is that it cannot take, it is no signature
            raise BadSignatureError(_reason(error)) from error
    try:
        bundle = strict_json.parse(content, max_values=None).tree
        statement = strict_json.parse(base64.b64decode(bundle["dsseEnvelope"]["payload"]), max_values=None).tree
        _check_cover(tree, statement)
        return _named(trust, bundle)
    except BadSignatureError:
        raise
    except Exception as error:  # one reading, or none
        raise BadSignatureError(f"the bundle cannot be read: {_reason(error)}") from error


def _content(signature: Path) -> bytes:
    try:
        with signature.open("rb") as source:
            content = source.read(SIGNATURE_BYTES_MAX + 1)
    except OSError as error:
        raise BadSignatureError(f"`{signature}` cannot be read: {(error.strerror or 'unknown').lower()}") from error
    if len(content) > SIGNATURE_BYTES_MAX:
        raise BadSignatureError(f"`{signature}` is longer than {SIGNATURE_BYTES_MAX} bytes")
    return content


def _checker(trust: Trust) -> Any:
    """(1)."""
    try:
        from model_signing.verifying import Config
    except ImportError:
        raise Refused(
            ExitCode.FAILED,
            "signatures of models need a library that is not installed",
            fix="pip install 'mutation-firewall[models]'",
        ) from None
    try:
        config = Config()  # type: ignore[no-untyped-call]  # the library leaves its own constructor without types
        match trust:
            case Key(file):
                return config.use_elliptic_key_verifier(public_key=file)
            case Authorities(files):
                return config.use_certificate_verifier(certificate_chain=list(files))
            case Keyless(identity, issuer, trust_config):
                return config.use_sigstore_verifier(identity=identity, oidc_issuer=issuer, trust_config=trust_config)
            case _:
                assert_never(trust)
    except OSError as error:
        why = (error.strerror or "unknown").lower()
        raise Refused(ExitCode.NO_INPUT, f"cannot read `{error.filename}`: {why}", fix="name a file") from error
    except Exception as error:
        raise Refused(
            ExitCode.BAD_DATA, f"signatures cannot be checked by this: {_reason(error)}", fix="name a PEM file"
        ) from error


def _check_cover(tree: Tree, statement: Any) -> None:
    """(4): a signer may leave files out, and old statements do not say which."""
    if statement["predicateType"] != _PREDICATE:
        raise BadSignatureError("the statement is of a form that does not say which files it leaves out")
    predicate = statement["predicate"]
    if predicate["serialization"]["method"] != "files":
        raise BadSignatureError("the statement is not over whole files")
    signed = {
        one["name"]: f"sha256:{one['digest']}" if one["algorithm"] == "sha256" else None
        for one in predicate["resources"]
    }
    if tree.is_file:
        signed = {str(tree.artifacts[0]["name"]): signed["."]} if "." in signed else signed
    missing = [one["name"] for one in tree.artifacts if one["name"] not in signed]
    if missing:
        raise BadSignatureError(f"files that it does not cover: {_listed(missing)}")
    changed = [
        one["name"]
        for one in tree.artifacts
        if signed[one["name"]] is not None and signed[one["name"]] != one["digest"]
    ]
    if changed:
        raise BadSignatureError(f"files that changed meanwhile: {_listed(changed)}")


def _named(trust: Trust, bundle: Any) -> JsonObject:
    """(5)."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    match trust:
        case Key(file):
            key = serialization.load_pem_public_key(file.read_bytes())
            encoded = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
            return {"method": "key", "key": f"sha256:{hashlib.sha256(encoded).hexdigest()}"}
        case Authorities():
            first = bundle["verificationMaterial"]["x509CertificateChain"]["certificates"][0]["rawBytes"]
            certificate = x509.load_der_x509_certificate(base64.b64decode(first))
            return {
                "method": "certificate",
                "subject": certificate.subject.rfc4514_string(),
                "issuer": certificate.issuer.rfc4514_string(),
                "certificate": f"sha256:{certificate.fingerprint(hashes.SHA256()).hex()}",
                "not_after": certificate.not_valid_after_utc.isoformat().replace("+00:00", "Z"),
            }
        case Keyless(identity, issuer):
            return {"method": "sigstore", "identity": identity, "issuer": issuer}
        case _:
            assert_never(trust)


def _listed(names: Sequence[str]) -> str:
    told = ", ".join(f"`{name}`" for name in names[:_SHOWN])
    return told + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    return text or type(error).__name__
