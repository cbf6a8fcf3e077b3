"""The admission surface as the API document shows it; requests are read by `wire.py`, never by these."""

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

_Object = dict[str, JsonValue]


class _Wire(BaseModel):
    # An API server of a later release may send more.
    model_config = ConfigDict(extra="allow")


class GroupVersionKind(_Wire):
    """What an object is."""

    group: str = ""
    version: str = ""
    kind: str = Field(min_length=1)


class GroupVersionResource(_Wire):
    """Where it is served."""

    group: str = ""
    version: str = ""
    resource: str = Field(min_length=1)


class UserInfo(_Wire):
    """Who asks the API server."""

    username: str = Field(min_length=1, max_length=512)
    uid: str | None = None
    groups: list[str] | None = None
    extra: dict[str, list[str]] | None = None


class AdmissionRequest(_Wire):
    """What the API server was asked to do."""

    uid: str = Field(min_length=1, max_length=128)
    kind: GroupVersionKind
    resource: GroupVersionResource
    operation: Literal["CREATE", "UPDATE", "DELETE", "CONNECT"]
    userInfo: UserInfo  # noqa: N815 - as Kubernetes writes it
    subResource: str | None = None  # noqa: N815
    name: str | None = None
    namespace: str | None = None
    object: _Object | None = None
    oldObject: _Object | None = None  # noqa: N815
    dryRun: bool | None = None  # noqa: N815
    options: JsonValue = None


class AdmissionReviewIn(_Wire):
    """`admission.k8s.io/v1`."""

    apiVersion: Literal["admission.k8s.io/v1"]  # noqa: N815
    kind: Literal["AdmissionReview"]
    request: AdmissionRequest


class AdmissionResponse(BaseModel):
    """What the API server acts on."""

    uid: str
    allowed: bool
    status: _Object = Field(
        default_factory=dict, description="a `Status` of `v1` that says why not; `code`, `reason`, `message`, `details`"
    )
    warnings: list[str] = Field(default_factory=list, description="shown to the client, 120 characters each")
    auditAnnotations: dict[str, str] = Field(  # noqa: N815
        default_factory=dict, description="`decision`, `decision-id`, `ledger-index`, `policy-set` and others"
    )


class AdmissionReviewOut(BaseModel):
    """The answer, allowed or not."""

    apiVersion: str  # noqa: N815
    kind: Literal["AdmissionReview"]
    response: AdmissionResponse


EXAMPLE: Final[dict[str, Any]] = {
    "apiVersion": "admission.k8s.io/v1",
    "kind": "AdmissionReview",
    "request": {
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
        "kind": {"group": "apps", "version": "v1", "kind": "Deployment"},
        "resource": {"group": "apps", "version": "v1", "resource": "deployments"},
        "name": "checkout",
        "namespace": "shop",
        "operation": "UPDATE",
        "userInfo": {"username": "system:serviceaccount:agents:fixer", "groups": ["system:serviceaccounts:agents"]},
        "oldObject": {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "checkout", "namespace": "shop"},
            "spec": {"replicas": 3},
        },
        "object": {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "checkout", "namespace": "shop"},
            "spec": {"replicas": 5},
        },
        "dryRun": False,
    },
}
