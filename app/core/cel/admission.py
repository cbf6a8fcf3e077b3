"""What Kubernetes calls the parts of a change to one of its objects, as values that are computed when first read."""

from typing import Any

from app.core.admission.facts import Facts, facts_of
from app.core.cel.bindings import RequestBindings, Variable, load
from app.core.cel.estimate import Estimate
from app.core.cel.values import CelError


def _object(bindings: RequestBindings, *_: Any) -> Any:
    return bindings.inputs["change"].get("after")


def _old_object(bindings: RequestBindings, *_: Any) -> Any:
    return bindings.inputs["change"].get("before")


def _facts(bindings: RequestBindings, *_: Any) -> Any:
    return facts_of(bindings.inputs)


def _request(bindings: RequestBindings, *_: Any) -> Any:
    facts = facts_in(bindings)
    return None if facts is None else facts.request


def _namespace_object(bindings: RequestBindings, *_: Any) -> Any:
    facts = facts_in(bindings)
    return None if facts is None else facts.namespace_object


def _no_params(*_: Any) -> Any:
    # Only a policy whose evaluation was bound to parameters may read them; another reading is a fault of the firewall.
    raise CelError("`params` was not bound")


# Not to be read by any expression: what rules and selectors are matched against, derived once per request.
_FACTS = Variable("facts", _facts)
# They are looked up, and nothing is paid for that.
_FREE = Estimate(0, 0, 0)
OBJECT = Variable("object", _object, estimate=_FREE)
OLD_OBJECT = Variable("oldObject", _old_object, estimate=_FREE)
REQUEST = Variable("request", _request, estimate=_FREE)
NAMESPACE_OBJECT = Variable("namespaceObject", _namespace_object, estimate=_FREE)
PARAMS = Variable("params", _no_params, local=True, estimate=_FREE)

# In the order of `KUBERNETES_NAMES`, then what only one evaluation has.
VARIABLES = (OBJECT, OLD_OBJECT, REQUEST, NAMESPACE_OBJECT, PARAMS)


def facts_in(bindings: RequestBindings) -> Facts | None:
    """Give the facts of a request as Kubernetes' admission sees it; None if it is no change of a Kubernetes object."""
    found: Facts | None = bindings.values[_FACTS] if _FACTS in bindings.values else load(bindings, _FACTS)
    return found


def bind_params(bindings: RequestBindings, params: Any) -> RequestBindings:
    """Make the values of one evaluation with one parameter object (None for none), which shares those of the request.

    `params` is a JSON value and must not change while it is used.
    """
    return RequestBindings(
        bindings.inputs,
        bindings.now,
        {PARAMS: params},
        authorizer=bindings.authorizer,
        answers=bindings.answers,
        parent=bindings,
        allowance=bindings.allowance,
    )
