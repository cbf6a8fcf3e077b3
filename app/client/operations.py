"""What can be asked, without saying how it is sent: one request, and how its answer is read."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from http import HTTPStatus
from typing import Any, Final, Generic, TypeVar
from urllib.parse import quote, urlencode

from app.client import answers
from app.client.answers import Activation, ActiveSet, Batch, Decision, Health, Page, PolicySet, Readiness, Release
from app.client.problems import ProblemError, ProblemKind

T = TypeVar("T")

DECISIONS: Final = "/v1/decisions"
POLICY_SETS: Final = "/v1/policy-sets"


class Repeat(Enum):
    """What may be sent a second time when it is not known whether the first one arrived."""

    ANY = "any"  # twice is once: a reading, content that is named by its digest, a request with an idempotency key
    NEVER = "never"  # only what was surely not done may be sent again


@dataclass(frozen=True, slots=True)
class Call:
    """One request. `answered` are the statuses whose body is the answer."""

    method: str
    path: str
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    repeat: Repeat = Repeat.ANY
    answered: frozenset[int] = frozenset({HTTPStatus.OK, HTTPStatus.CREATED})


@dataclass(frozen=True, slots=True)
class Operation(Generic[T]):
    """A call, and how the body of its answer is read; `read` raises ProblemError."""

    call: Call
    read: Callable[[bytes], T]


Mutation = Mapping[str, Any]
# In doubt these answers are no refusal: they say how the service does.
_EITHER: Final = frozenset({HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE})


def written(value: object) -> bytes:
    """JSON. Raises ProblemError for what JSON cannot hold, NaN among it."""
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ProblemError(
            ProblemKind.INVALID_REQUEST, f"this cannot be written as JSON: {error}", fix="send JSON values only"
        ) from None


def decide(mutation: Mutation | bytes, *, key: str | None) -> Operation[Decision]:
    """Ask for a decision; with an idempotency key it is made once, however often it is sent."""
    if isinstance(mutation, bytes):
        body, request_id = mutation, None
    else:
        body = written(mutation)
        sent = mutation.get("request_id")
        request_id = sent if isinstance(sent, str) else None
    return Operation(_once(DECISIONS, body, key), lambda answer: answers.decision(answer, request_id=request_id))


def decide_batch(mutations: Sequence[Mutation], *, atomic: bool, key: str | None) -> Operation[Batch]:
    """Ask for many decisions."""
    count = len(mutations)
    body = written({"mutations": list(mutations), "mode": "atomic" if atomic else "each"})
    return Operation(_once(f"{DECISIONS}:batch", body, key), lambda answer: answers.batch(answer, count=count))


def _once(path: str, body: bytes, key: str | None) -> Call:
    if key is None:
        return Call("POST", path, body, repeat=Repeat.NEVER)
    # A string of RFC 9651; the key's own characters are checked by the service.
    return Call("POST", path, body, headers={"Idempotency-Key": json.dumps(key)})


def publish(documents: Sequence[Mapping[str, Any]], *, note: str) -> Operation[PolicySet]:
    """Store a policy set; stored twice it is there once."""
    body = written({"documents": list(documents), **({"note": note} if note else {})})
    return Operation(Call("POST", POLICY_SETS, body), read_json(answers.policy_set))


def policy_set(digest: str) -> Operation[PolicySet]:
    """A stored set with its documents."""
    return Operation(Call("GET", f"{POLICY_SETS}/{quote(digest, safe=':')}"), read_json(answers.policy_set))


def policy_sets(*, limit: int, before: int | None) -> Operation[Page[PolicySet]]:
    """A page of stored sets."""
    call = Call("GET", f"{POLICY_SETS}?{_page(limit, before)}")
    return Operation(call, read_json(lambda value: answers.page(value, answers.policy_set)))


def active() -> Operation[ActiveSet]:
    """The set in force."""
    return Operation(Call("GET", f"{POLICY_SETS}/active"), read_json(answers.active_set))


def activate(digest: str, *, reason: str) -> Operation[Activation]:
    """Bring a stored set into force."""
    path = f"{POLICY_SETS}/{quote(digest, safe=':')}/activate"
    return Operation(
        Call("POST", path, written({"reason": reason}), repeat=Repeat.NEVER), read_json(answers.activation)
    )


def activations(*, limit: int, before: int | None) -> Operation[Page[Activation]]:
    """A page of activations."""
    call = Call("GET", f"{POLICY_SETS}/activations?{_page(limit, before)}")
    return Operation(call, read_json(lambda value: answers.page(value, answers.activation)))


def health() -> Operation[Health]:
    """How the service does."""
    return Operation(Call("GET", "/health", answered=_EITHER), read_json(answers.health))


def ready() -> Operation[Readiness]:
    """Whether requests should be sent there."""
    return Operation(Call("GET", "/health/ready", answered=_EITHER), read_json(answers.readiness))


def _page(limit: int, before: int | None) -> str:
    return urlencode({"limit": limit, **({} if before is None else {"before": before})})


def version() -> Operation[Release]:
    """Who answers."""
    return Operation(Call("GET", "/v1/version"), read_json(answers.release))


def read_json(read: Callable[[Any], T]) -> Callable[[bytes], T]:
    """Read the body of an answer as JSON, and that as a value."""
    return lambda body: read(answers.tree(body))
