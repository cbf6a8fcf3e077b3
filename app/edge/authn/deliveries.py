"""Step 2 for webhooks: who delivers proves with each body that it knows a secret (`X-Hub-Signature-256`)."""

import hmac
import logging
import re
from collections.abc import Iterable, Sequence
from typing import Final, NoReturn

from app.core.principal import AuthMethod, Principal
from app.edge.authn.failures import FailedAttempts
from app.errors import FirewallError, Kind
from app.observability.metrics import AuthResult, LimitScope, Metrics

Headers = Iterable[tuple[bytes, bytes]]

SIGNATURE: Final = b"x-hub-signature-256"

_FORM: Final = re.compile(rb"sha256=[0-9a-f]{64}")
# As for credentials: what exactly was wrong would help to guess.
_REFUSED: Final = "a valid signature of the body is needed"
_FIX: Final = "set the same secret for the webhook and in MFW_GITHUB__WEBHOOK_SECRET"

_log: Final = logging.getLogger("mfw.authn")


class SignedDeliveries:
    """The deliveries of one sender, signed with any of `secrets`; without one of them nothing is believed.

    Several secrets are for the time in which one takes the place of another. What is signed is never held up, whatever
    its address did before: somebody else behind the same proxy must not keep deliveries out.
    """

    def __init__(
        self, secrets: Sequence[bytes], *, principal: Principal, failures: FailedAttempts, metrics: Metrics
    ) -> None:
        self._secrets = tuple(secrets)
        self._principal = principal
        self._failures = failures
        self._attempts = {result: metrics.auth_attempts[AuthMethod.SIGNATURE, result] for result in AuthResult}
        self._rejections = metrics.rate_limit_rejections[LimitScope.ADDRESS]

    def presented(self, headers: Headers) -> bytes:
        """Give the signature that was sent, before the body is read.

        Raises FirewallError (UNAUTHENTICATED) where there is none. Does not check: the signature.
        """
        found = [value for name, value in headers if name == SIGNATURE]
        if len(found) != 1 or not self._secrets or _FORM.fullmatch(found[0]) is None:
            # Nothing was tried: a scanner costs one look at the headers, and counts against nobody.
            self._attempts[AuthResult.FAILURE].inc()
            raise FirewallError(Kind.UNAUTHENTICATED, _REFUSED, fix=_FIX)
        return found[0]

    async def authenticate(self, body: bytes, signature: bytes, *, client_ip: str) -> Principal:
        """Return who signed the body. Raises FirewallError: UNAUTHENTICATED, RATE_LIMITED."""
        valid = False
        for secret in self._secrets:
            expected = b"sha256=" + hmac.digest(secret, body, "sha256").hex().encode()
            # All of them are tried, and all of each is compared: the time tells neither which one nor how much of it.
            valid |= hmac.compare_digest(expected, signature)
        if not valid:
            await self._refuse(client_ip)
        self._attempts[AuthResult.SUCCESS].inc()
        return self._principal

    async def _refuse(self, client_ip: str) -> NoReturn:
        refusal = self._failures.refusal(client_ip, b"")
        if refusal is not None:
            self._attempts[AuthResult.LIMITED].inc()
            self._rejections.inc()
            refusal.check()
        self._attempts[AuthResult.FAILURE].inc()
        _log.warning(
            "authentication failed",
            extra={"fields": {"client": client_ip, "method": AuthMethod.SIGNATURE.value, "reason": "wrong signature"}},
        )
        try:
            await self._failures.count(client_ip, b"")
        except FirewallError:
            self._rejections.inc()
            raise
        raise FirewallError(Kind.UNAUTHENTICATED, _REFUSED, fix=_FIX)
