"""DSSE v1 envelopes (secure-systems-lab/dsse): bytes, a type that says how to read them, and signatures of both."""

import base64
import binascii
from dataclasses import dataclass
from typing import Any, Final

from app.core import strict_json
from app.core.types import JsonObject
from app.errors import FirewallError, Kind

# A statement has 300 bytes, a signature 200. More is no envelope of ours, and every signature costs a verification.
ENVELOPE_BYTES_MAX: Final = 65_536
SIGNATURES_MAX: Final = 32

# Both alphabets of RFC 4648 mean the same here, and a verifier must take either (protocol.md).
_STANDARD: Final = str.maketrans("-_", "+/")


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature and the hint at its key, "" for none. The hint is not signed: it may only say which key to try."""

    keyid: str
    signature: bytes


@dataclass(frozen=True, slots=True)
class Envelope:
    """What was signed, and by whom as far as the envelope says. Nothing in it is true before it is verified."""

    payload_type: str
    payload: bytes
    signatures: tuple[Signature, ...]

    @property
    def signed(self) -> bytes:
        """The bytes that every signature is of."""
        return pae(self.payload_type, self.payload)


def pae(payload_type: str, payload: bytes) -> bytes:
    """The pre-authentication encoding: the lengths make sure that no two pairs give the same bytes."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def read(content: bytes) -> Envelope:
    """An envelope as it is written in a file. Raises FirewallError (MALFORMED). Does not check: any signature."""
    if len(content) > ENVELOPE_BYTES_MAX:
        raise FirewallError(Kind.MALFORMED, f"a DSSE envelope has at most {ENVELOPE_BYTES_MAX} bytes", pointer="")
    return of_tree(strict_json.parse(content).tree)


def of_tree(tree: Any) -> Envelope:
    """An envelope that is JSON already. Members that DSSE does not name are left alone, as they are not signed.

    Raises FirewallError (MALFORMED) with the member that is at fault. Does not check: any signature.
    """
    if not isinstance(tree, dict):
        raise _malformed("a DSSE envelope is an object", "")
    payload_type = tree.get("payloadType")
    if not isinstance(payload_type, str) or not payload_type:
        raise _malformed("`payloadType` is not a string with something in it", "/payloadType")
    payload = _bytes(tree.get("payload"), "/payload")
    listed = tree.get("signatures")
    if not isinstance(listed, list) or not listed:
        raise _malformed("`signatures` is not a list with something in it", "/signatures")
    if len(listed) > SIGNATURES_MAX:
        raise _malformed(f"there are more than {SIGNATURES_MAX} signatures", "/signatures")
    signatures: list[Signature] = []
    for number, one in enumerate(listed):
        where = f"/signatures/{number}"
        if not isinstance(one, dict):
            raise _malformed("a signature is an object", where)
        keyid = one.get("keyid", "")
        if not isinstance(keyid, str):
            raise _malformed("`keyid` is not a string", f"{where}/keyid")
        signatures.append(Signature(keyid, _bytes(one.get("sig"), f"{where}/sig")))
    return Envelope(payload_type, payload, tuple(signatures))


def tree_of(envelope: Envelope) -> JsonObject:
    """The envelope as JSON, in the standard alphabet."""
    return {
        "payload": _text(envelope.payload),
        "payloadType": envelope.payload_type,
        "signatures": [{"keyid": one.keyid, "sig": _text(one.signature)} for one in envelope.signatures],
    }


def _bytes(value: object, where: str) -> bytes:
    if not isinstance(value, str) or not value:
        raise _malformed(f"`{where.rsplit('/', 1)[1]}` is not a string with something in it", where)
    try:
        return base64.b64decode(value.translate(_STANDARD), validate=True)
    except (binascii.Error, ValueError):
        raise _malformed(f"`{where.rsplit('/', 1)[1]}` is not base64", where) from None


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _malformed(detail: str, where: str) -> FirewallError:
    return FirewallError(
        Kind.MALFORMED, detail, pointer=where, fix="send the file that `mfw policies sign` wrote, as it is"
    )
