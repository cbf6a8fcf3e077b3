"""A webhook's certificate, made and renewed without anybody who waits: a Secret, and the `caBundle` that fits.

1. An authority and a certificate are made; both lie in the Secret *beside* those in use.
2. The authority is added to every `caBundle`, beside the one in use.
3. When each API server must have seen it, the certificate becomes the one that is served.
4. When each replica must have it, the authority before is taken out.

INVARIANT: what is in a `caBundle` was in the Secret before, and a certificate is served while its authority is in every
`caBundle`. Each step is one write that names the version it is about, so whoever does it twice, or stops in between,
or runs beside somebody who does the same, loses a write and looks again.
"""

import asyncio
import base64
import binascii
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final, Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from app.cluster.api import STRATEGIC_MERGE
from app.cluster.authority import Issued, issue
from app.core.types import JsonObject
from app.errors import FirewallError, Kind

# Who made the certificate; what has none of it and a certificate is somebody else's.
MADE_BY: Final = "mutationfirewall.io/certificate"
_SELF_SIGNED: Final = "self-signed"
_BUNDLED_AT: Final = "mutationfirewall.io/bundled-at"
_SWITCHED_AT: Final = "mutationfirewall.io/switched-at"
_INJECTED: Final = "cert-manager.io/inject-"

_WEBHOOKS: Final = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/"
_DRY_RUN: Final = {"dryRun": "All"}

# Of the life of a certificate: as cert-manager has it.
RENEW_SHARE: Final = 1 / 3
# Steps that may follow one another at once, and writes that may be lost to somebody else.
_PASSES: Final = 20
_RETRY_SECONDS: Final = 0.2


class Act(StrEnum):
    """What was done."""

    MADE = "made the first certificate"
    REPLACED = "replaced a certificate of no use"
    PREPARED = "made the next certificate and its authority"
    BUNDLED = "changed the caBundle"
    SWITCHED = "took the next certificate into use"
    FORGOT = "took the former authority out"


@dataclass(frozen=True, slots=True)
class Done:
    """One thing that was done, or would be in a dry run, and to what."""

    act: Act
    what: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a look led to: what was done, when the certificate ends, and when there is something to do again."""

    done: tuple[Done, ...]
    missing: tuple[str, ...]
    not_after: datetime
    due: datetime


@dataclass(frozen=True, slots=True)
class Terms:
    """How certificates are kept.

    `settle` is how long an authority is in every `caBundle` before its certificate is served: until API servers have
    seen it. `overlap` is how long the one before stays: until kubelets have brought the Secret to every replica.
    """

    names: tuple[str, ...]
    lifetime: timedelta = timedelta(days=90)
    settle: timedelta = timedelta(seconds=60)
    overlap: timedelta = timedelta(hours=1)


class Calls(Protocol):
    """An API server."""

    async def call(
        self,
        method: str,
        path: str,
        body: "JsonObject | None" = None,
        *,
        query: Any = None,
        content_type: str = "application/json",
    ) -> JsonObject:
        """Send one request. Raises FirewallError."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """What lies in the Secret."""

    current: Issued | None = None
    following: Issued | None = None
    previous: bytes = b""
    bundled_at: datetime | None = None
    switched_at: datetime | None = None

    @property
    def bundle(self) -> bytes:
        """Every authority that a client has to know at the moment."""
        authorities = [one.authority for one in (self.current, self.following) if one is not None]
        return _joined(*authorities, self.previous)


class CertificateKeeper:
    """Keeps the certificate in one Secret, and the `caBundle` of every webhook in these configurations."""

    def __init__(
        self,
        api: Calls,
        *,
        namespace: str,
        secret: str,
        configurations: Sequence[str],
        terms: Terms,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        dry_run: bool = False,
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._secret = secret
        self._configurations = tuple(configurations)
        self._terms = terms
        self._clock = clock
        self._query = _DRY_RUN if dry_run else None
        self._dry_run = dry_run

    async def keep(self) -> Outcome:
        """Do everything that is due. Raises FirewallError: what the API server refuses, and what is somebody else's."""
        done: list[Done] = []
        for _ in range(_PASSES):
            try:
                outcome = await self._pass(done)
            except FirewallError as error:
                if error.kind is not Kind.CONFLICT:
                    raise
                # Somebody else was quicker: what they did is looked at first.
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            if outcome is not None:
                return outcome
        raise FirewallError(
            Kind.CONFLICT,
            f"somebody else changes the Secret `{self._namespace}/{self._secret}` or the webhooks all the time",
            fix="run this once for each Secret, and nothing else that writes it",
        )

    async def _pass(self, done: list[Done]) -> Outcome | None:
        """Do one step; None if another one may follow at once."""
        # In this order: a configuration that was read before the Secret cannot lose what somebody added after it.
        found = [(name, await self._configuration(name)) for name in self._configurations]
        secret = await self._read_secret()
        kept, now = _kept(secret), self._clock()
        step = self._due(kept, now, [one for _, one in found if one is not None])
        if step is None or step[0] not in {Act.MADE, Act.REPLACED}:
            for name, configuration in found:
                if configuration is not None and await self._bundle(name, configuration, kept.bundle):
                    done.append(Done(Act.BUNDLED, name))
        if step is None:
            assert kept.current is not None  # noqa: S101 - without one there is always a step
            reading = kept.current.read()
            missing = tuple(name for name, one in found if one is None)
            return Outcome(tuple(done), missing, reading.not_after, self._next(kept))
        act, changed = step
        if act is not None:
            done.append(Done(act, f"{self._namespace}/{self._secret}"))
        await self._write(secret, changed)
        if self._dry_run:
            # Nothing was written: the next look would find the same.
            last = changed.current or kept.current
            assert last is not None  # noqa: S101 - no step ends without one
            return Outcome(tuple(done), (), last.read().not_after, now)
        return None

    def _due(self, kept: _Kept, now: datetime, configurations: Sequence[JsonObject]) -> tuple[Act | None, _Kept] | None:
        """The step that is due now."""
        terms = self._terms
        if kept.current is None or not _usable(kept.current, now):
            # What API servers know now is what replicas may still serve.
            known = b"".join(_authorities(one) for one in configurations)
            fresh = _Kept(current=self._issue(now), previous=_joined(known), switched_at=now)
            return (Act.MADE if kept.current is None else Act.REPLACED), fresh
        if kept.following is not None and not _usable(kept.following, now):
            return None, replace(kept, following=None, bundled_at=None)
        if kept.following is not None:
            if kept.bundled_at is None:
                return None, replace(kept, bundled_at=now)
            if now < kept.bundled_at + terms.settle:
                return None
            return Act.SWITCHED, _Kept(
                current=kept.following, previous=_joined(kept.previous, kept.current.authority), switched_at=now
            )
        if kept.previous and (kept.switched_at is None or now >= kept.switched_at + terms.overlap):
            return Act.FORGOT, replace(kept, previous=b"", switched_at=None)
        if now >= self._renewal(kept.current) or kept.current.read().names != frozenset(terms.names):
            return Act.PREPARED, replace(kept, following=self._issue(now), bundled_at=None)
        return None

    def _next(self, kept: _Kept) -> datetime:
        """When there is something to do again."""
        assert kept.current is not None  # noqa: S101 - as above
        dates = [self._renewal(kept.current)]
        if kept.bundled_at is not None:
            dates.append(kept.bundled_at + self._terms.settle)
        if kept.switched_at is not None and kept.previous:
            dates.append(kept.switched_at + self._terms.overlap)
        return min(dates)

    def _renewal(self, issued: Issued) -> datetime:
        return issued.read().not_after - self._terms.lifetime * RENEW_SHARE

    def _issue(self, now: datetime) -> Issued:
        return issue(self._terms.names, now=now, lifetime=self._terms.lifetime)

    # What lies in the cluster

    async def _read_secret(self) -> "JsonObject | None":
        try:
            return await self._api.call("GET", f"/api/v1/namespaces/{self._namespace}/secrets/{self._secret}")
        except FirewallError as error:
            if error.kind is Kind.NOT_FOUND:
                return None
            raise

    async def _configuration(self, name: str) -> "JsonObject | None":
        try:
            found = await self._api.call("GET", _WEBHOOKS + name)
        except FirewallError as error:
            if error.kind is Kind.NOT_FOUND:
                return None
            raise
        if any(key.startswith(_INJECTED) for key in _annotations(found)):
            raise FirewallError(
                Kind.INVALID_SETTINGS,
                f"cert-manager writes the caBundle of `{name}`",
                fix="use its certificate, or take its annotation off",
            )
        return found

    async def _bundle(self, name: str, configuration: JsonObject, bundle: bytes) -> bool:
        """Have every webhook know these authorities; False if each does already."""
        wanted = base64.b64encode(bundle).decode()
        webhooks = [one["name"] for one in _webhooks(configuration) if one["clientConfig"].get("caBundle") != wanted]
        if not webhooks:
            return False
        patch: JsonObject = {
            "metadata": {"resourceVersion": configuration["metadata"]["resourceVersion"]},
            # A strategic merge finds each webhook by its name, and changes nothing else of it.
            "webhooks": [{"name": one, "clientConfig": {"caBundle": wanted}} for one in webhooks],
        }
        await self._api.call("PATCH", _WEBHOOKS + name, patch, query=self._query, content_type=STRATEGIC_MERGE)
        return True

    async def _write(self, secret: "JsonObject | None", kept: _Kept) -> None:
        path = f"/api/v1/namespaces/{self._namespace}/secrets"
        data = _data(kept)
        notes = {MADE_BY: _SELF_SIGNED}
        for key, instant in ((_BUNDLED_AT, kept.bundled_at), (_SWITCHED_AT, kept.switched_at)):
            if instant is not None:
                notes[key] = instant.isoformat()
        if secret is None:
            made: JsonObject = {
                "apiVersion": "v1",
                "kind": "Secret",
                "type": "kubernetes.io/tls",
                "metadata": {"name": self._secret, "namespace": self._namespace, "annotations": notes},
                "data": data,
            }
            await self._api.call("POST", path, made, query=self._query)
            return
        metadata = secret["metadata"]
        others = {key: text for key, text in _annotations(secret).items() if key not in {_BUNDLED_AT, _SWITCHED_AT}}
        # With its resourceVersion: a Secret that somebody changed meanwhile is not overwritten.
        changed = {**secret, "metadata": {**metadata, "annotations": {**others, **notes}}, "data": data}
        await self._api.call("PUT", f"{path}/{self._secret}", changed, query=self._query)


def _kept(secret: "JsonObject | None") -> _Kept:
    """Read the Secret; what cannot be read counts as not there. Raises FirewallError for somebody else's."""
    if secret is None:
        return _Kept()
    data, notes = secret.get("data") or {}, _annotations(secret)
    if data.get("tls.crt") and notes.get(MADE_BY) != _SELF_SIGNED:
        metadata = secret["metadata"]
        raise FirewallError(
            Kind.INVALID_SETTINGS,
            f"somebody else made the certificate in `{metadata.get('namespace')}/{metadata.get('name')}`",
            fix="name another Secret, or delete this one",
        )
    return _Kept(
        current=_issued(data, "tls.crt", "tls.key", "ca.crt"),
        following=_issued(data, "next.crt", "next.key", "next-ca.crt"),
        previous=_decoded(data.get("previous-ca.crt")),
        bundled_at=_instant(notes.get(_BUNDLED_AT)),
        switched_at=_instant(notes.get(_SWITCHED_AT)),
    )


def _data(kept: _Kept) -> dict[str, str]:
    content: dict[str, bytes] = {}
    for issued, names in (
        (kept.current, ("tls.crt", "tls.key", "ca.crt")),
        (kept.following, ("next.crt", "next.key", "next-ca.crt")),
    ):
        if issued is not None:
            content |= dict(zip(names, (issued.certificate, issued.key, issued.authority), strict=True))
    if kept.previous:
        content["previous-ca.crt"] = kept.previous
    return {name: base64.b64encode(value).decode() for name, value in content.items()}


def _issued(data: JsonObject, certificate: str, key: str, authority: str) -> Issued | None:
    found = [_decoded(data.get(name)) for name in (certificate, key, authority)]
    return Issued(*found) if any(found) else None


def _usable(issued: Issued, now: datetime) -> bool:
    """Whether clients take it today."""
    try:
        reading = issued.read()
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, x509.ExtensionNotFound):
        return False
    return reading.not_before <= now < reading.not_after


def _joined(*bundles: bytes) -> bytes:
    """Every certificate once, always in the same order. What is none is left out: API servers refuse it."""
    found: set[bytes] = set()
    for bundle in bundles:
        with contextlib.suppress(ValueError):
            found |= {one.public_bytes(Encoding.PEM) for one in x509.load_pem_x509_certificates(bundle)}
    return b"".join(sorted(found))


def _authorities(configuration: JsonObject) -> bytes:
    return b"".join(_decoded(one["clientConfig"].get("caBundle")) + b"\n" for one in _webhooks(configuration))


def _webhooks(configuration: JsonObject) -> list[Any]:
    return configuration.get("webhooks") or []


def _annotations(document: JsonObject) -> dict[str, str]:
    return document["metadata"].get("annotations") or {}


def _decoded(text: object) -> bytes:
    try:
        return base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except binascii.Error:
        return b""


def _instant(text: str | None) -> datetime | None:
    try:
        instant = None if text is None else datetime.fromisoformat(text)
    except ValueError:
        return None
    return instant if instant is not None and instant.tzinfo is not None else None
