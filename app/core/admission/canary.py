"""The canary: a change that is never allowed, so that whoever tries it learns whether anybody was asked.

It carries a number drawn for this one time, and a denial that answers with the number's code under a key that only the
firewall has. A denial by anybody else, of whatever words, has no such code.
"""

import hmac
import re
from hashlib import sha256
from typing import Any, Final

from app.core.types import JsonObject, Mutation

# A ConfigMap of this name in any namespace.
NAME: Final = "mutation-firewall-canary"
ANNOTATION: Final = "mutationfirewall.io/canary"
NONCE_BYTES: Final = 16

_TYPE: Final = "core/ConfigMap"
_NONCE: Final = re.compile(r"[0-9a-f]{32}")


class Canary:
    """Knows the canary, and what a denial of it has to say."""

    __slots__ = ("_key",)

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    def denial(self, mutation: Mutation) -> str | None:
        """Say that the canary is denied, in words that prove it; None for everything else."""
        if mutation.resource["type"] != _TYPE or mutation.resource["id"].rpartition("/")[2] != NAME:
            return None
        nonce = _nonce(mutation.change.get("after"))
        if nonce is None:
            return f"`{NAME}` is the canary of the firewall, and always denied"
        return f"`{NAME}` is always denied, proof {self.proof(nonce)}"

    def proof(self, nonce: str) -> str:
        """The code that nobody without the key can say of a number that was never used before."""
        return hmac.new(self._key, f"{NAME} {nonce}".encode(), sha256).hexdigest()


def flown(namespace: str, nonce: str) -> JsonObject:
    """The canary itself, as it is sent to an API server."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": NAME, "namespace": namespace, "annotations": {ANNOTATION: nonce}},
    }


def _nonce(document: Any) -> str | None:
    metadata = document.get("metadata") if isinstance(document, dict) else None
    annotations = metadata.get("annotations") if isinstance(metadata, dict) else None
    nonce = annotations.get(ANNOTATION) if isinstance(annotations, dict) else None
    return nonce if isinstance(nonce, str) and _NONCE.fullmatch(nonce) else None
