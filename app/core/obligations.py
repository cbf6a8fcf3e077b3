"""What has to be done as well, and who says that it will be. Pure."""

from collections.abc import Collection, Iterable

from app.core.types import Obligation


def unmet(obligations: Iterable[Obligation], fulfilled: Collection[str]) -> tuple[Obligation, ...]:
    """Give the obligations that nobody meets who meets those with the keys `fulfilled`, in their order.

    INVARIANT: an allow is one only where this is empty: who cannot do what has to be done as well does nothing.
    """
    return tuple([one for one in obligations if one.key not in fulfilled])
