"""Exceptions on one mutation: which of them fit, and what they lift. Doubt denies: one that fails lifts nothing."""

from app.core.cel import Bindings
from app.core.index import CompiledPolicySet, PolicyException
from app.core.validity import Phase


class Lifting:
    """The exceptions of a set on one mutation; each is asked once, and only where there is something for it to lift."""

    __slots__ = ("_bindings", "_fits", "_policy_set")

    def __init__(self, policy_set: CompiledPolicySet, bindings: Bindings) -> None:
        self._policy_set = policy_set
        self._bindings = bindings
        self._fits: dict[str, bool] = {}

    def exception(self, policy: str, rule: str) -> str | None:
        """Name the first exception that lifts what a rule says; `rule` is not one that allows if there is any."""
        for exception in self._policy_set.exceptions_of(policy, rule):
            if exception.name not in self._fits:
                self._fits[exception.name] = fits(exception, self._bindings)
            if self._fits[exception.name]:
                return exception.name
        return None


def fits(exception: PolicyException, bindings: Bindings) -> bool:
    """Tell whether an exception is valid, matches, and has no condition that is anything but true."""
    if exception.validity.phase(bindings.now) is not Phase.CURRENT or not exception.match.matches(bindings.inputs):
        return False
    for condition in exception.conditions:
        try:
            if condition.program.evaluate(bindings) is not True:
                return False
        except Exception:  # noqa: BLE001 - whatever goes wrong, nothing is lifted
            return False
    return True
