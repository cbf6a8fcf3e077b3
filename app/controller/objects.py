"""Objects of the cluster as documents of a policy set: what of an object is policy, and what is the cluster's own."""

from dataclasses import dataclass
from typing import Any

from app.core.types import JsonObject
from app.policies.custom_resources import GROUP, VERSION, Resource

API_VERSION = f"{GROUP}/{VERSION}"


@dataclass(frozen=True, slots=True)
class Item:
    """One object as it was listed or watched."""

    resource: Resource
    body: JsonObject

    @property
    def uid(self) -> str:
        """What it is called for ever, also when another has its name."""
        return str(self.body["metadata"]["uid"])

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.body["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """Its namespace, empty for what is in none."""
        return str(self.body["metadata"].get("namespace", ""))

    @property
    def generation(self) -> int:
        """Counts the changes of what somebody wants of it."""
        return int(self.body["metadata"].get("generation", 1))

    @property
    def status(self) -> JsonObject:
        """What was written on it last."""
        found: Any = self.body.get("status")
        return found if isinstance(found, dict) else {}

    @property
    def path(self) -> str:
        """Where it is."""
        within = f"namespaces/{self.namespace}/" if self.namespace else ""
        return f"/apis/{API_VERSION}/{within}{self.resource.plural}/{self.name}"

    @property
    def shown(self) -> str:
        """What people call it."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name

    @property
    def document(self) -> JsonObject:
        """The document that it is.

        Labels with a prefix are those of programs (https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/):
        a new version of a chart or a tool must not make a new policy set. A label without a text says nothing.
        """
        labels = self.body["metadata"].get("labels") or {}
        kept = {key: text for key, text in labels.items() if "/" not in key and text.strip()}
        metadata = {"name": self.name, **({"labels": kept} if kept else {})}
        return {
            "apiVersion": API_VERSION,
            "kind": self.resource.kind,
            "metadata": metadata,
            "spec": self.body.get("spec", {}),
        }
