"""A document of kind RecordMask: from its tree to a mask of the core (docs/ledger.md)."""

from app.core import pointer
from app.core.cel import ResultType
from app.core.index import Match
from app.core.record_masks import ANY_DEPTH, ANY_MEMBER, PARTS, RATIONALE, Hiding, MaskAction, RecordMask, may_be_hidden
from app.policies import shape
from app.policies.document import read_conditions, read_match, read_metadata, read_program
from app.policies.reader import Reader
from app.policies.tree import Mapping, Node

_FIX = "begin with one of " + ", ".join(f"`/{part}/...`" for part in PARTS) + f", or write `/{RATIONALE}`"


def read_mask(root: Node, reader: Reader) -> RecordMask | None:
    """Read and compile one document; None if anything is wrong, which `reader` has then noted.

    Does not check that the name is unique in the set.
    """
    before = len(reader.diagnostics)
    members = reader.mapping(root, "", known=shape.MASK.known, required=shape.MASK.required)
    reader.choice(members.get("apiVersion"), "apiVersion", (shape.API_VERSION,))
    name, labels = read_metadata(members.get("metadata"), reader)
    if "spec" not in members:
        return None
    of = shape.MASK_SPEC
    spec = reader.mapping(members["spec"], "spec", known=of.known, required=of.required)
    match = read_match(spec["match"], reader) if "match" in spec else Match()
    conditions = read_conditions(spec.get("matchConditions"), {}, set(), reader)
    hidings = [
        hiding
        for item, path in reader.items(spec.get("masks"), "spec.masks")
        if (hiding := _hiding(item, path, reader)) is not None
    ]
    if len(reader.diagnostics) > before or name is None:
        return None
    return RecordMask(name, tuple(hidings), match, conditions, labels)


def _hiding(node: Node, path: str, reader: Reader) -> Hiding | None:
    members = reader.mapping(node, path, known=shape.HIDING.known)
    action = reader.choice(members.get("action"), f"{path}.action", tuple(MaskAction)) or MaskAction.ERASE
    text = reader.checked(members.get("pointer"), f"{path}.pointer", _check, max_chars=shape.POINTER_MAX_CHARS)
    place = f"{path}.pointersExpression"
    program = read_program(members.get("pointersExpression"), place, ResultType.JSON, {}, reader)
    if isinstance(node, Mapping) and ("pointer" in members) == ("pointersExpression" in members):
        reader.note(node, path, "needs exactly one of `pointer` and `pointersExpression`", fix="say where, in one way")
        return None
    if text is None and program is None:
        return None
    return Hiding(MaskAction(action), tuple(pointer.split(text or "")), program)


def _check(text: str) -> None:
    """Raise ValueError for what could hide nothing, or the mutation itself."""
    tokens = pointer.split(text)
    if tokens and tokens[0] in {ANY_MEMBER, ANY_DEPTH}:
        # Anywhere: what may not be hidden is left out when it is looked for.
        if all(token in {ANY_MEMBER, ANY_DEPTH} for token in tokens):
            raise ValueError(f"hides all of every mutation; {_FIX}")
        return
    if not may_be_hidden(tokens):
        raise ValueError(f"is no place that can be hidden; {_FIX}")
