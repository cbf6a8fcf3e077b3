"""Steps 2 and 3 of every route that is not the hot path: who asks, how often, and whether they may ask this."""

from starlette.types import Scope

from app.core.principal import AccessScope, AuthMethod, Principal, PrincipalKind, require
from app.core.quota import RouteClass
from app.edge.authn import Authenticates
from app.edge.context import RequestContext, client_address, context_of, peer_of
from app.edge.limits import Allowance, RateLimits
from app.observability.metrics import LimitScope, Metrics


class Gate:
    """One gate for all surfaces, so that no route has a way round it."""

    def __init__(self, authenticator: Authenticates, *, limits: RateLimits, metrics: Metrics) -> None:
        self.authenticator = authenticator
        self.limits = limits
        self._rejected = metrics.rate_limit_rejections[LimitScope.PRINCIPAL].inc

    async def admit(self, scope: Scope, route: RouteClass, needed: AccessScope | None) -> Principal:
        """Return the caller, who has the scope that is needed (any caller will do where none is).

        The rate comes first: a caller without the scope cannot ask for ever. Raises FirewallError: what step 2 raises,
        RATE_LIMITED, FORBIDDEN.
        """
        context = context_of(scope)
        # Until the caller is known only the policy can be told, not what remains of it.
        context.limits = [self.limits.policy_header(route)]
        principal = await self.authenticate(scope)
        await self._count(context, principal, route)
        if needed is not None:
            require(principal, needed)
        return principal

    async def authenticate(self, scope: Scope) -> Principal:
        """Return the caller, and have the log know who it was. Raises FirewallError: what step 2 raises."""
        principal = await self.authenticator.authenticate(
            scope["headers"], client_ip=client_address(scope), peer=peer_of(scope)
        )
        context_of(scope).principal = principal
        return principal

    async def admit_anyone(self, scope: Scope, route: RouteClass) -> None:
        """Count a caller who is not asked who it is, by its address. Raises FirewallError: RATE_LIMITED."""
        caller = Principal(client_address(scope), PrincipalKind.SERVICE, frozenset(), AuthMethod.NONE)
        await self._count(context_of(scope), caller, route)

    async def take(self, principal: Principal, route: RouteClass, cost: int = 1) -> Allowance:
        """Take tokens from the caller's bucket. Raises FirewallError: RATE_LIMITED."""
        return self.checked(await self.limits.take(principal, route, cost))

    async def _count(self, context: RequestContext, principal: Principal, route: RouteClass) -> None:
        """Take one token, and have the answer say what remains, a refusal too."""
        allowance = await self.limits.take(principal, route)
        context.limits = allowance.headers()
        self.checked(allowance)

    def checked(self, allowance: Allowance) -> Allowance:
        """Give it back if it allows, else count the rejection. Raises FirewallError: RATE_LIMITED."""
        if not allowance.allowed:
            self._rejected()
            allowance.check()
        return allowance
