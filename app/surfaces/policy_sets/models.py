"""The surface of policy sets as the API document shows it."""

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from app.core.dsse import SIGNATURES_MAX
from app.core.types import Effect
from app.policies.diagnostics import Severity
from app.policies.store import TEXT_CHARACTERS_MAX
from app.surfaces.openapi import Problem

DIGEST_PATTERN: Final = "^sha256:[0-9a-f]{64}$"
KEYID_PATTERN: Final = "^[0-9a-f]{64}$"
# Of a page; a set is listed in some 300 bytes.
LIMIT_MAX: Final = 200
LIMIT_DEFAULT: Final = 50

Digest = Annotated[str, Field(pattern=DIGEST_PATTERN)]
Moment = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class _Wire(BaseModel):
    model_config = ConfigDict(extra="forbid")


class DiagnosticOut(_Wire):
    """One finding. Lines and columns count from 1, 0 where there is no place, as in documents sent as JSON."""

    file: str
    line: int
    column: int
    path: str = Field(description="the member, such as `spec.rules[0].when`")
    message: str
    fix: str | None
    severity: Severity
    code: str = Field(description="names the kind of finding, such as `invalid-policy`")


class PolicySetIn(_Wire):
    """The documents of a set; in YAML, a stream of them."""

    documents: list[dict[str, JsonValue]] = Field(min_length=1)
    note: str = Field(default="", max_length=TEXT_CHARACTERS_MAX)


class PolicySetOut(_Wire):
    """A set as it is listed."""

    digest: Digest
    policies: int = Field(ge=1)
    rules: int = Field(ge=1)
    created_at: Moment
    created_by: str
    note: str = ""
    active: bool = Field(description="whether it is in force at the replica that answers")


class SignerOut(_Wire):
    """Somebody who may sign policy sets."""

    name: str = Field(description="as the settings name the signer")
    keyid: str = Field(pattern=KEYID_PATTERN, description="SHA-256 of the public key (DER SubjectPublicKeyInfo)")


class SignaturesOut(_Wire):
    """Who signed a set, verified for this answer with the keys in the settings of the service."""

    required: int = Field(ge=0, description="how many signers must have signed it; 0 where none need to")
    enough: bool = Field(description="whether it may be activated, as far as signatures are concerned")
    signed: list[SignerOut]
    missing: list[SignerOut] = Field(description="the known signers who have not signed it")


class PublishedOut(PolicySetOut):
    """A set that is stored, with its warnings."""

    diagnostics: list[DiagnosticOut]
    signatures: SignaturesOut


class PolicySetDocumentsOut(PolicySetOut):
    """A set with its documents."""

    documents: list[dict[str, JsonValue]]
    signatures: SignaturesOut


class SignatureIn(BaseModel):
    """One signature of an envelope."""

    keyid: str = Field(default="", description="a hint at the key; not trusted")
    sig: str = Field(min_length=1, description="base64, either alphabet")


class EnvelopeIn(BaseModel):
    """A DSSE v1 envelope, as `mfw policies sign` writes it."""

    payload: str = Field(min_length=1, description="base64 of an in-toto Statement v1 about the set")
    payloadType: str = Field(min_length=1, description="`application/vnd.in-toto+json`")  # noqa: N815 - DSSE's name
    signatures: list[SignatureIn] = Field(min_length=1, max_length=SIGNATURES_MAX)


class StoredSignatureOut(_Wire):
    """A good signature, and how it came here."""

    name: str
    keyid: str = Field(pattern=KEYID_PATTERN)
    added_by: str
    added_at: Moment


class SetSignaturesOut(SignaturesOut):
    """Who signed a set, and the signatures themselves, to verify elsewhere."""

    digest: Digest
    stored: list[StoredSignatureOut]
    envelopes: list[dict[str, JsonValue]] = Field(description="DSSE v1; signatures of the same bytes stand together")


class PolicySetsOut(_Wire):
    """A page of sets, the latest first."""

    items: list[PolicySetOut]
    next: int = Field(default=1, description="pass it as `before` for the next page; left out on the last one")


class ActiveOut(_Wire):
    """The set in force at the replica that answers."""

    digest: Digest
    source: str = Field(description="`database` or `directory`")
    sequence: int = Field(default=1, ge=1, description="of its activation; left out for a directory")
    since: Moment
    signed_by: list[str] = Field(
        default_factory=list, description="names of the signers it was taken with; left out where none are named"
    )
    stale: bool = Field(description="from the last good copy on the local disk, not confirmed by the database yet")
    policies: int = Field(ge=1)
    rules: int = Field(ge=1)
    documents: list[dict[str, JsonValue]]


class ActivateIn(_Wire):
    """Why."""

    reason: str = Field(min_length=1, max_length=TEXT_CHARACTERS_MAX, pattern=r"\S")


class ActivationOut(_Wire):
    """One act of putting a set into force."""

    sequence: int = Field(ge=1)
    digest: Digest
    previous: str = Field(default="", description="the set before it; left out for the first one")
    reason: str
    activated_by: str
    activated_at: Moment
    ledger_id: str = Field(json_schema_extra={"format": "uuid"})
    ledger_index: int = Field(ge=0)
    decision_id: str = Field(default="", description="the decision that allowed it; left out where none was made now")


class ActivationsOut(_Wire):
    """A page of activations, the latest first."""

    items: list[ActivationOut]
    next: int = Field(default=1, description="pass it as `before` for the next page; left out on the last one")


class RefusedSetProblem(Problem):
    """A problem with everything that is wrong with the documents."""

    errors: list[DiagnosticOut] = Field(default_factory=list, description="left out where the request itself is wrong")


class NotAllowedProblem(Problem):
    """A problem that says how the set in force judged the activation."""

    decision: Effect = Field(default=Effect.DENY, description="left out where it came to no decision")
    decision_id: str = ""
    ledger_index: int = 0
    policy_set: str = Field(default="", description="the set that judged")
    reasons: list[dict[str, JsonValue]] = Field(default_factory=list)
    approval: dict[str, JsonValue] | None = Field(default=None, description="what lifts a hold")
    signatures: dict[str, JsonValue] | None = Field(default=None, description="who signed, where too few did")


EXAMPLE_SET: Final[dict[str, Any]] = {
    "documents": [
        {
            "apiVersion": "mutationfirewall.io/v1",
            "kind": "MutationPolicy",
            "metadata": {"name": "prod-replicas"},
            "spec": {
                "match": {"resources": [{"type": "apps/Deployment"}]},
                "rules": [
                    {
                        "name": "to-zero",
                        "effect": "deny",
                        "when": "change.after.spec.replicas == 0",
                        "message": "scaling to zero is never automatic",
                    }
                ],
            },
        }
    ],
    "note": "from commit 41d5c0e",
}
EXAMPLE_REASON: Final[dict[str, Any]] = {"reason": "replica limits, reviewed in change 4711"}
EXAMPLE_ENVELOPE: Final[dict[str, Any]] = {
    "payload": "eyJfdHlwZSI6Imh0dHBzOi8vaW4tdG90by5pby9TdGF0ZW1lbnQvdjEifQ==",
    "payloadType": "application/vnd.in-toto+json",
    "signatures": [{"keyid": "1c627afa42031f9204b63eb2664fc230e1e5dce21356cf5ebb66a72cf4e7820b", "sig": "7UqJtSLb"}],
}
