"""The client, for threads and for asyncio. Connections are kept and used again; both are safe to share."""

import logging
import time
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar
from uuid import uuid4

from app.client import connection, keys, operations, switches
from app.client.answers import Activation, ActiveSet, Batch, Decision, Health, Page, PolicySet, Readiness, Release
from app.client.keys import ApiKey, KeyPage, NewApiKey
from app.client.operations import Call, Mutation, Operation
from app.client.patience import Patience, seconds
from app.client.problems import ProblemError
from app.client.switches import Switch

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

TIMEOUT_SECONDS: Final = 10.0
RETRIES: Final = 2
PAGE: Final = 50
# More than can be on at a time.
SWITCHES_PAGE: Final = 500

_log: Final = logging.getLogger("mfw.client")


class _Settings:
    """What both clients are made with."""

    def __init__(
        self,
        url: str,
        api_key: str | None,
        *,
        timeout: float,
        retries: int,
        idempotent: bool,
    ) -> None:
        if connection.in_plain_text(url, api_key):
            warnings.warn(f"the api key goes to `{url}` in plain text; use https", RuntimeWarning, stacklevel=3)
        self.url = url
        self._timeout = timeout
        self._retries = retries
        self._idempotent = idempotent

    def patience(self, call: Call) -> Patience:
        return Patience(call, timeout=self._timeout, retries=self._retries)

    def key(self, given: str | None) -> str | None:
        """The idempotency key of a decision: the caller's, or a fresh one, since without it no try is repeated."""
        return given or (str(uuid4()) if self._idempotent else None)


class Firewall:
    """A firewall at an address, asked from threads.

    `timeout` is for a whole call in seconds: no try, of up to `retries` further ones, begins later, and each of its
    steps (to connect, to send, to wait for the first byte) has what was left at its beginning.
    With `idempotent` each decision carries an `Idempotency-Key`, so that one whose answer was lost can be asked for
    again; it costs the service one more transaction. `api_key` may be a token as well. `ca_file` names authorities to
    trust instead of the machine's own.

    Every method raises ProblemError. Does not follow redirects.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        timeout: float = TIMEOUT_SECONDS,
        retries: int = RETRIES,
        idempotent: bool = True,
        ca_file: str | Path | None = None,
        transport: "httpx.BaseTransport | None" = None,
    ) -> None:
        """Does not connect: the first call does."""
        import httpx

        self._settings = _Settings(url, api_key, timeout=timeout, retries=retries, idempotent=idempotent)
        self._http = httpx.Client(**connection.options(url, api_key, ca_file=ca_file, transport=transport))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def decide(self, mutation: Mutation | bytes, *, idempotency_key: str | None = None) -> Decision:
        """Ask whether a change may be made; bytes are sent as they are."""
        return self._run(operations.decide(mutation, key=self._settings.key(idempotency_key)))

    def allows(self, mutation: Mutation | bytes, *, meets: Collection[str] = ()) -> bool:
        """Whether the change may be made. False for a deny, a hold, and whatever goes wrong: doubt denies.

        `meets` names the keys of obligations that the caller sees to; an allow with others is False.
        """
        try:
            return _is_met(self.decide(mutation), meets)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is no allow
            _log.warning("not allowed: no decision", extra={"fields": _fields(error)})
            return False

    def decide_batch(
        self, mutations: Sequence[Mutation], *, atomic: bool = False, idempotency_key: str | None = None
    ) -> Batch:
        """Ask about up to a thousand changes; `atomic` allows all of them or none."""
        key = self._settings.key(idempotency_key)
        return self._run(operations.decide_batch(mutations, atomic=atomic, key=key))

    def publish(self, documents: Sequence[Mapping[str, Any]], *, note: str = "") -> PolicySet:
        """Store a policy set; it is not in force by that."""
        return self._run(operations.publish(documents, note=note))

    def policy_set(self, digest: str) -> PolicySet:
        """A stored set with its documents."""
        return self._run(operations.policy_set(digest))

    def policy_sets(self, *, limit: int = PAGE, before: int | None = None) -> Page[PolicySet]:
        """Stored sets, the latest first."""
        return self._run(operations.policy_sets(limit=limit, before=before))

    def active_policy_set(self) -> ActiveSet:
        """The set in force."""
        return self._run(operations.active())

    def activate(self, digest: str, *, reason: str) -> Activation:
        """Bring a stored set into force; the set in force judges that, and its verdict is in the problem's members."""
        return self._run(operations.activate(digest, reason=reason))

    def activations(self, *, limit: int = PAGE, before: int | None = None) -> Page[Activation]:
        """What was brought into force, the latest first."""
        return self._run(operations.activations(limit=limit, before=before))

    def health(self) -> Health:
        """How the service does, and its version."""
        return self._run(operations.health())

    def ready(self) -> Readiness:
        """Whether requests should be sent there."""
        return self._run(operations.ready())

    def version(self) -> Release:
        """Which release answers, and which versions of the interface; for any valid credential."""
        return self._run(operations.version())

    def throw_switch(self, kind: str, *, reason: str, target: str | None = None, lasting: str | None = None) -> Switch:
        """Throw a kill switch; `lasting` is a duration such as `1h`, without it it holds until it is ended."""
        return self._run(switches.throw(kind, target=target, reason=reason, lasting=lasting))

    def switches(self, *, limit: int = SWITCHES_PAGE, everything: bool = False) -> tuple[Switch, ...]:
        """The kill switches that are on, the latest first; with `everything` all that ever were."""
        return self._run(switches.some(limit=limit, everything=everything))

    def end_switch(self, switch_id: str, *, reason: str) -> Switch:
        """End a kill switch."""
        return self._run(switches.end(switch_id, reason=reason))

    def create_key(
        self,
        name: str,
        *,
        reason: str,
        roles: Collection[str] = (),
        scopes: Collection[str] = (),
        subjects: Collection[str] = (),
        networks: Collection[str] = (),
        principal_id: str | None = None,
        expires_in_days: int | None = None,
    ) -> NewApiKey:
        """Make an API key. Its text is in the answer and nowhere else."""
        return self._run(
            keys.create(
                name,
                reason=reason,
                roles=roles,
                scopes=scopes,
                subjects=subjects,
                networks=networks,
                principal_id=principal_id,
                expires_in_days=expires_in_days,
            )
        )

    def keys(self, *, limit: int = PAGE, after: str | None = None, everything: bool = False) -> KeyPage:
        """The API keys that work, the oldest first; with `everything` all that ever were."""
        return self._run(keys.page(limit=limit, after=after, everything=everything))

    def key(self, key_id: str) -> ApiKey:
        """One API key, whatever became of it."""
        return self._run(keys.one(key_id))

    def rotate_key(self, key_id: str, *, reason: str, grace_hours: int | None = None) -> NewApiKey:
        """Make the successor of an API key; both work until the grace is over."""
        return self._run(keys.rotate(key_id, reason=reason, grace_hours=grace_hours))

    def revoke_key(self, key_id: str, *, reason: str, force: bool = False) -> ApiKey:
        """Make an API key worthless; `force` even the last one of an administrator."""
        return self._run(keys.revoke(key_id, reason=reason, force=force))

    def call(self, call: Call) -> bytes:
        """The body of an answer, for what has no method here."""
        import httpx

        patience = self._settings.patience(call)
        while True:
            try:
                status, reason, retry_after, body = self._send(call, patience)
            except httpx.TimeoutException:
                raise patience.no_answer() from None
            except httpx.TransportError as error:
                problem = connection.unreachable(error, self._settings.url)
                pause = patience.failed(problem, sent=connection.was_sent(error))
            else:
                wait = patience.answered(status, body, retry_after=retry_after, reason=reason)
                if wait is None:
                    return body
                pause = wait
            time.sleep(pause)

    def _run(self, operation: Operation[T]) -> T:
        return operation.read(self.call(operation.call))

    def _send(self, call: Call, patience: Patience) -> tuple[int, str, float | None, bytes]:
        left = patience.left
        headers = connection.headers_of(call.headers, body=call.body, seconds=left)
        request = self._http.build_request(call.method, call.path, content=call.body, headers=headers, timeout=left)
        response = self._http.send(request, stream=True)
        try:
            body = bytearray()
            # As it came over the wire: no content coding was asked for, and none is unfolded.
            for chunk in response.iter_raw():
                body += chunk
                if len(body) > connection.ANSWER_BYTES_MAX:
                    raise connection.too_long()
                # httpx bounds each read; only this bounds all of them.
                _ = patience.left
        finally:
            response.close()
        return response.status_code, response.reason_phrase, seconds(response.headers.get("retry-after")), bytes(body)


class AsyncFirewall:
    """A firewall at an address, asked from asyncio. As `Firewall`, but awaited, and ended by `timeout`."""

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        timeout: float = TIMEOUT_SECONDS,
        retries: int = RETRIES,
        idempotent: bool = True,
        ca_file: str | Path | None = None,
        transport: "httpx.AsyncBaseTransport | None" = None,
    ) -> None:
        """Does not connect: the first call does."""
        import httpx

        self._settings = _Settings(url, api_key, timeout=timeout, retries=retries, idempotent=idempotent)
        self._http = httpx.AsyncClient(**connection.options(url, api_key, ca_file=ca_file, transport=transport))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def decide(self, mutation: Mutation | bytes, *, idempotency_key: str | None = None) -> Decision:
        """Ask whether a change may be made; bytes are sent as they are."""
        return await self._run(operations.decide(mutation, key=self._settings.key(idempotency_key)))

    async def allows(self, mutation: Mutation | bytes, *, meets: Collection[str] = ()) -> bool:
        """Whether the change may be made. False for a deny, a hold, and whatever goes wrong: doubt denies.

        `meets` names the keys of obligations that the caller sees to; an allow with others is False.
        """
        try:
            return _is_met(await self.decide(mutation), meets)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is no allow
            _log.warning("not allowed: no decision", extra={"fields": _fields(error)})
            return False

    async def decide_batch(
        self, mutations: Sequence[Mutation], *, atomic: bool = False, idempotency_key: str | None = None
    ) -> Batch:
        """Ask about up to a thousand changes; `atomic` allows all of them or none."""
        key = self._settings.key(idempotency_key)
        return await self._run(operations.decide_batch(mutations, atomic=atomic, key=key))

    async def publish(self, documents: Sequence[Mapping[str, Any]], *, note: str = "") -> PolicySet:
        """Store a policy set; it is not in force by that."""
        return await self._run(operations.publish(documents, note=note))

    async def policy_set(self, digest: str) -> PolicySet:
        """A stored set with its documents."""
        return await self._run(operations.policy_set(digest))

    async def policy_sets(self, *, limit: int = PAGE, before: int | None = None) -> Page[PolicySet]:
        """Stored sets, the latest first."""
        return await self._run(operations.policy_sets(limit=limit, before=before))

    async def active_policy_set(self) -> ActiveSet:
        """The set in force."""
        return await self._run(operations.active())

    async def activate(self, digest: str, *, reason: str) -> Activation:
        """Bring a stored set into force; the set in force judges that, and its verdict is in the problem's members."""
        return await self._run(operations.activate(digest, reason=reason))

    async def activations(self, *, limit: int = PAGE, before: int | None = None) -> Page[Activation]:
        """What was brought into force, the latest first."""
        return await self._run(operations.activations(limit=limit, before=before))

    async def health(self) -> Health:
        """How the service does, and its version."""
        return await self._run(operations.health())

    async def ready(self) -> Readiness:
        """Whether requests should be sent there."""
        return await self._run(operations.ready())

    async def version(self) -> Release:
        """Which release answers, and which versions of the interface; for any valid credential."""
        return await self._run(operations.version())

    async def throw_switch(
        self, kind: str, *, reason: str, target: str | None = None, lasting: str | None = None
    ) -> Switch:
        """Throw a kill switch; `lasting` is a duration such as `1h`, without it it holds until it is ended."""
        return await self._run(switches.throw(kind, target=target, reason=reason, lasting=lasting))

    async def switches(self, *, limit: int = SWITCHES_PAGE, everything: bool = False) -> tuple[Switch, ...]:
        """The kill switches that are on, the latest first; with `everything` all that ever were."""
        return await self._run(switches.some(limit=limit, everything=everything))

    async def end_switch(self, switch_id: str, *, reason: str) -> Switch:
        """End a kill switch."""
        return await self._run(switches.end(switch_id, reason=reason))

    async def create_key(
        self,
        name: str,
        *,
        reason: str,
        roles: Collection[str] = (),
        scopes: Collection[str] = (),
        subjects: Collection[str] = (),
        networks: Collection[str] = (),
        principal_id: str | None = None,
        expires_in_days: int | None = None,
    ) -> NewApiKey:
        """Make an API key. Its text is in the answer and nowhere else."""
        return await self._run(
            keys.create(
                name,
                reason=reason,
                roles=roles,
                scopes=scopes,
                subjects=subjects,
                networks=networks,
                principal_id=principal_id,
                expires_in_days=expires_in_days,
            )
        )

    async def keys(self, *, limit: int = PAGE, after: str | None = None, everything: bool = False) -> KeyPage:
        """The API keys that work, the oldest first; with `everything` all that ever were."""
        return await self._run(keys.page(limit=limit, after=after, everything=everything))

    async def key(self, key_id: str) -> ApiKey:
        """One API key, whatever became of it."""
        return await self._run(keys.one(key_id))

    async def rotate_key(self, key_id: str, *, reason: str, grace_hours: int | None = None) -> NewApiKey:
        """Make the successor of an API key; both work until the grace is over."""
        return await self._run(keys.rotate(key_id, reason=reason, grace_hours=grace_hours))

    async def revoke_key(self, key_id: str, *, reason: str, force: bool = False) -> ApiKey:
        """Make an API key worthless; `force` even the last one of an administrator."""
        return await self._run(keys.revoke(key_id, reason=reason, force=force))

    async def call(self, call: Call) -> bytes:
        """The body of an answer, for what has no method here."""
        # Here, because half of the time to import this module would be asyncio's.
        import asyncio

        import httpx

        patience = self._settings.patience(call)
        while True:
            try:
                async with asyncio.timeout(patience.left):
                    status, reason, retry_after, body = await self._send(call, patience)
            except (TimeoutError, httpx.TimeoutException):
                raise patience.no_answer() from None
            except httpx.TransportError as error:
                problem = connection.unreachable(error, self._settings.url)
                pause = patience.failed(problem, sent=connection.was_sent(error))
            else:
                wait = patience.answered(status, body, retry_after=retry_after, reason=reason)
                if wait is None:
                    return body
                pause = wait
            await asyncio.sleep(pause)

    async def _run(self, operation: Operation[T]) -> T:
        return operation.read(await self.call(operation.call))

    async def _send(self, call: Call, patience: Patience) -> tuple[int, str, float | None, bytes]:
        left = patience.left
        headers = connection.headers_of(call.headers, body=call.body, seconds=left)
        request = self._http.build_request(call.method, call.path, content=call.body, headers=headers, timeout=left)
        response = await self._http.send(request, stream=True)
        try:
            body = bytearray()
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > connection.ANSWER_BYTES_MAX:
                    raise connection.too_long()
        finally:
            await response.aclose()
        return response.status_code, response.reason_phrase, seconds(response.headers.get("retry-after")), bytes(body)


def _is_met(decision: Decision, meets: Collection[str]) -> bool:
    return decision.allowed and all(one.key in meets for one in decision.obligations)


def _fields(error: Exception) -> dict[str, str]:
    """What the log is told; an error's text may quote what was sent, its kind does not."""
    if isinstance(error, ProblemError):
        return {"problem": error.kind.value, **({"request_id": error.request_id} if error.request_id else {})}
    return {"error": type(error).__name__}
