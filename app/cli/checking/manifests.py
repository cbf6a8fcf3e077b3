"""`mfw check manifest`: a model, a prompt, a tool or a memory, before it takes the place of what is there."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from app.cli.checking.asking import Answered, Asked, Asks
from app.cli.checking.reading import Proposal, read_input
from app.cli.checking.results import Report
from app.cli.checking.signatures import BadSignatureError, Trust, verified
from app.cli.checking.trees import SIGNATURE, Tree, digest_tree
from app.cli.exits import ExitCode
from app.cli.output import Refused
from app.core import manifest, strict_json
from app.core.decide import FIREWALL
from app.core.manifest import ArtefactKind
from app.core.types import Effect, JsonObject

RESOURCES: Final[Mapping[ArtefactKind, str]] = {
    ArtefactKind.MODEL: "model/Registry",
    ArtefactKind.PROMPT: "agent/SystemPrompt",
    ArtefactKind.TOOL: "agent/Tool",
    ArtefactKind.MEMORY: "agent/Memory",
    ArtefactKind.POLICY: "policy-set",
    ArtefactKind.DATASET: "dataset/Registry",
}
# Kinds whose text is what policies and people read, beside its digest.
_READ: Final = frozenset({ArtefactKind.PROMPT, ArtefactKind.TOOL, ArtefactKind.MEMORY})
_EXAMPLE: Final = "mfw check manifest manifest.json"
MANIFEST_BYTES_MAX: Final = 8_000_000
TEXT_BYTES_MAX: Final = 1_048_576
# The rule of ours that denies before anybody is asked.
SIGNATURE_RULE: Final = "signature"


@dataclass(frozen=True, slots=True)
class Artefacts:
    """What the command line says: a manifest, or files from which one is made."""

    manifest: str | None = None
    kind: ArtefactKind | None = None
    base: Path | None = None
    target: Path | None = None
    evaluations: str | None = None
    signature: Path | None = None
    trust: Trust | None = None


def check_manifest(
    given: Artefacts, *, name: str, action: str | None, resource: str | None, proposal: Proposal, asks: Asks
) -> Report:
    """Ask about a change of what an AI is made of; a signature that does not hold is denied, and nobody is asked.

    Raises `Refused` and `FirewallError`.
    """
    made = _from_file(given) if given.target is None else _from_files(given, given.target)
    kind = ArtefactKind(made.manifest["kind"])
    done = action or (
        "promote" if kind is ArtefactKind.MODEL else "update" if "base_digest" in made.manifest else "create"
    )
    context = {"signature": made.signature} if made.signature is not None else {}
    mutation = proposal.mutation(
        action={"name": done},
        resource={"type": resource or RESOURCES[kind], "id": name, "properties": {}},
        change={**made.texts, "manifest": made.manifest},
        context=context,
    )
    asked = Asked(name, done, mutation, made.places)
    if made.fault is not None:
        return Report("manifest", [_denied(asked, made.fault)], [*made.notes, "nobody was asked"])
    return Report("manifest", asks.ask([asked]), made.notes)


@dataclass(frozen=True, slots=True)
class _Made:
    """A manifest, with what else is known: `fault` is why its signature does not hold."""

    manifest: JsonObject
    texts: JsonObject
    places: tuple[str, ...]
    notes: tuple[str, ...] = ()
    signature: "JsonObject | None" = None
    fault: str | None = None


def _from_file(given: Artefacts) -> _Made:
    if given.manifest is None:
        raise Refused(ExitCode.USAGE, "there is nothing to check", fix=f"`{_EXAMPLE}`, or `--kind model --target DIR`")
    if given.kind is not None or given.base is not None or given.signature is not None or given.trust is not None:
        raise Refused(
            ExitCode.USAGE,
            "a manifest says of which kind it is, and its files are not here to be compared or checked",
            fix="name the files with `--target`, or leave out `--kind`, `--base` and what is about signatures",
        )
    body = read_input(given.manifest, most=MANIFEST_BYTES_MAX, what="manifest", example=_EXAMPLE)
    tree = strict_json.parse(body, max_values=None).tree
    if isinstance(tree, dict) and given.evaluations is not None:
        if "evaluations" in tree:
            raise Refused(ExitCode.USAGE, "the manifest has evaluations", fix="leave out `--evaluations`")
        tree["evaluations"] = _evaluations(given.evaluations)
    manifest.parse(tree)
    return _Made(tree, {}, () if given.manifest == "-" else (given.manifest,))


def _from_files(given: Artefacts, target: Path) -> _Made:
    if given.manifest is not None:
        raise Refused(ExitCode.USAGE, "a manifest and files: which of the two", fix="leave out one of them")
    if given.kind is None:
        raise Refused(ExitCode.USAGE, "of which kind are these files", fix="say `--kind model`, for example")
    signature = given.signature or _beside(target)
    checked = given.trust is not None
    # A signature that is checked says nothing about itself; one that is not is a file like others.
    tree = digest_tree(target, without=signature if checked else None)
    base = None if given.base is None else digest_tree(given.base, without=_beside(given.base) if checked else None)
    made: JsonObject = {"kind": given.kind.value, "target_digest": tree.digest, "artifacts": list(tree.artifacts)}
    if base is not None:
        made["base_digest"] = base.digest
    if given.evaluations is not None:
        made["evaluations"] = _evaluations(given.evaluations)
    manifest.parse(made)
    texts = _texts(tree, base) if given.kind in _READ else {}
    notes = _differences(tree, base)
    places = (target.as_posix(),)
    if given.trust is None:
        present = signature.is_file()
        if present:
            notes += (f"nobody checked the signature `{signature}`: say by what, with `--public-key` or the like",)
        return _Made(made, texts, places, notes, {"present": present, "verified": False})
    try:
        signer = verified(tree, signature, trust=given.trust)
    except BadSignatureError as error:
        told = {"present": signature.is_file(), "verified": False}
        return _Made(made, texts, places, notes, told, f"the signature does not hold: {error}")
    return _Made(made, texts, places, notes, {"present": True, "verified": True, **signer})


def _beside(target: Path) -> Path:
    return target / SIGNATURE if target.is_dir() else target.with_name(f"{target.name}.sig")


def _evaluations(file: str) -> Any:
    body = read_input(file, most=MANIFEST_BYTES_MAX, what="evaluations", example=_EXAMPLE)
    tree = strict_json.parse(body).tree
    return tree["evaluations"] if isinstance(tree, dict) and "evaluations" in tree else tree


def _texts(tree: Tree, base: Tree | None) -> JsonObject:
    """What single files say, before and after; directories are known by digest alone."""
    if not tree.is_file or (base is not None and not base.is_file):
        return {}
    return {"before": None if base is None else _text(base), "after": _text(tree)}


def _text(tree: Tree) -> Any:
    body = read_input(str(tree.path), most=TEXT_BYTES_MAX, what="text", example=_EXAMPLE)
    if tree.path.suffix == ".json":
        return strict_json.parse(body).tree
    try:
        return {"content": body.decode()}
    except UnicodeDecodeError:
        raise Refused(ExitCode.BAD_DATA, f"`{tree.path}` is not utf-8", fix="convert it") from None


def _differences(tree: Tree, base: Tree | None) -> tuple[str, ...]:
    if base is None:
        return (f"files: {len(tree.artifacts)}, compared with nothing",)
    if tree.is_file or base.is_file:
        return ("the file is the same" if tree.digest == base.digest else "the file differs",)
    was = {one["name"]: one["digest"] for one in base.artifacts}
    now = {one["name"]: one["digest"] for one in tree.artifacts}
    counts = {
        "added": len(now.keys() - was.keys()),
        "removed": len(was.keys() - now.keys()),
        "changed": sum(was[name] != digest for name, digest in now.items() if name in was),
    }
    told = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    return (f"files: {len(now)}, {told or 'none differs'}",)


def _denied(asked: Asked, message: str) -> Answered:
    reason = {"policy": FIREWALL, "rule": SIGNATURE_RULE, "effect": "deny", "mode": "enforce", "message": message}
    return Answered(asked, Effect.DENY, {"recorded": False, "decision": "deny", "reasons": [reason]})
