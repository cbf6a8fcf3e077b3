"""The authorizer of a test: it answers what a case states, and no to everything else."""

from collections.abc import Mapping
from dataclasses import dataclass

from app.core.admission.facts import facts_of
from app.core.cel import Answer, Attributes
from app.core.index import MESSAGE_MAX_CHARS
from app.core.types import JsonObject
from app.policies import shape
from app.policies.reader import Reader
from app.policies.tree import Node, Scalar

# The texts of `Attributes`, as a document calls them.
_TEXTS = {
    "verb": "verb",
    "path": "path",
    "group": "group",
    "resource": "resource",
    "subresource": "subresource",
    "namespace": "namespace",
    "name": "name",
    "fieldSelector": "field_selector",
    "labelSelector": "label_selector",
}


@dataclass(frozen=True, slots=True)
class StatedAnswers:
    """An authorizer for one request of a test."""

    inputs: JsonObject
    answers: Mapping[Attributes, Answer]

    def request_resource(self) -> Attributes:
        """Give what the request is about; nothing where it is about no Kubernetes object."""
        facts = facts_of(self.inputs)
        if facts is None:
            return Attributes()
        return Attributes(
            group=facts.group,
            resource=facts.resource,
            subresource=facts.subresource,
            namespace=facts.namespace,
            name=facts.name,
        )

    def authorize(self, attributes: Attributes) -> Answer:
        """Give the answer to exactly this question."""
        return self.answers.get(attributes) or Answer(allowed=False)


def read_answers(node: Node, path: str, reader: Reader) -> dict[Attributes, Answer]:
    """Read what a case states; a question that is stated twice, and anything else that is wrong, is noted."""
    found: dict[Attributes, Answer] = {}
    for item, item_path in reader.items(node, path):
        members = reader.mapping(item, item_path, known=shape.ANSWER.known, required=shape.ANSWER.required)
        texts = {
            name: reader.text(members.get(member), f"{item_path}.{member}", max_chars=shape.LABEL_MAX_CHARS) or ""
            for member, name in _TEXTS.items()
        }
        account = reader.text(
            members.get("serviceAccount"), f"{item_path}.serviceAccount", max_chars=shape.LABEL_MAX_CHARS
        )
        namespace, _, name = (account or "").partition("/")
        if account is not None and not (namespace and name):
            fix = "write `NAMESPACE/NAME`"
            at = members["serviceAccount"]
            reader.note(at, f"{item_path}.serviceAccount", f"`{account}` is no service account", fix=fix)
        reason = reader.text(members.get("reason"), f"{item_path}.reason", max_chars=MESSAGE_MAX_CHARS) or ""
        allowed = members.get("allowed")
        if allowed is not None and not (isinstance(allowed, Scalar) and isinstance(allowed.value, bool)):
            reader.note(allowed, f"{item_path}.allowed", "must be true or false")
        asked = Attributes(**texts, service_account=(namespace, name) if account else None)
        if asked in found:
            reader.note(item, item_path, "this question is answered twice", fix="remove one")
        found[asked] = Answer(allowed=isinstance(allowed, Scalar) and allowed.value is True, reason=reason)
    return found
