"""Manifests: digests of a model, prompt, tool, memory, policy or dataset before and after, with evaluation evidence."""

import math
import re
from enum import StrEnum
from typing import Any

from app.core import members
from app.core.types import JsonObject
from app.errors import FirewallError, Kind

_POINTER = "/change/manifest"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class ArtefactKind(StrEnum):
    """What a manifest is about."""

    MODEL = "model"
    PROMPT = "prompt"
    TOOL = "tool"
    MEMORY = "memory"
    POLICY = "policy"
    DATASET = "dataset"


def parse(manifest: Any) -> JsonObject:
    """Check a manifest and say of each evaluation whether it got worse.

    The result has the members that were sent, `artifacts` and `evaluations` as lists always, and in each evaluation
    `higher_is_better` (true unless sent), `safety` (false unless sent), `delta` (target minus base, a double) and
    `regressed`, which compares the numbers themselves, exactly.

    Raises: FirewallError(MALFORMED) with a pointer below /change/manifest.
    Does not check: that the digests are of anything, and that the evaluations were run.
    """
    if not isinstance(manifest, dict):
        raise members.refuse_type(manifest, expected="an object", pointer=_POINTER)
    known = ("kind", "base_digest", "target_digest", "artifacts", "evaluations")
    members.refuse_unknown(manifest, known=known, pointer=_POINTER)
    kind = members.text(manifest, "kind", pointer=_POINTER)
    if kind not in list(ArtefactKind):
        raise FirewallError(
            Kind.MALFORMED,
            f"unknown kind `{kind[:80]}`",
            pointer=f"{_POINTER}/kind",
            fix=f"use one of {members.listed(ArtefactKind)}",
        )
    _check_digest(manifest, "target_digest", pointer=_POINTER)
    if "base_digest" in manifest:
        _check_digest(manifest, "base_digest", pointer=_POINTER)
    artifacts = _objects(manifest, "artifacts")
    evaluations = _objects(manifest, "evaluations")
    seen: set[tuple[str, ...]] = set()
    for position, artifact in enumerate(artifacts):
        where = f"{_POINTER}/artifacts/{position}"
        members.refuse_unknown(artifact, known=("name", "digest"), pointer=where)
        _once((members.text(artifact, "name", pointer=where),), seen, what="artifact", pointer=where)
        _check_digest(artifact, "digest", pointer=where)
    seen.clear()
    judged = []
    for position, evaluation in enumerate(evaluations):
        where = f"{_POINTER}/evaluations/{position}"
        judged.append(_judged(evaluation, pointer=where))
        _once((evaluation["suite"], evaluation["metric"]), seen, what="suite and metric", pointer=where)
    return {**manifest, "artifacts": artifacts, "evaluations": judged}


def _judged(evaluation: JsonObject, *, pointer: str) -> JsonObject:
    """Check one evaluation and compute what follows from it."""
    known = ("suite", "metric", "base", "target", "higher_is_better", "safety")
    members.refuse_unknown(evaluation, known=known, pointer=pointer)
    members.text(evaluation, "suite", pointer=pointer)
    members.text(evaluation, "metric", pointer=pointer)
    base = _number(evaluation, "base", pointer=pointer)
    target = _number(evaluation, "target", pointer=pointer)
    higher_is_better = _flag(evaluation, "higher_is_better", default=True, pointer=pointer)
    delta = float(target) - float(base)
    if not math.isfinite(delta):
        raise FirewallError(Kind.MALFORMED, "base and target are too far apart for a double", pointer=pointer)
    return {
        **evaluation,
        "higher_is_better": higher_is_better,
        "safety": _flag(evaluation, "safety", default=False, pointer=pointer),
        "delta": delta,
        "regressed": target < base if higher_is_better else target > base,
    }


def _check_digest(sent: JsonObject, name: str, *, pointer: str) -> None:
    if _DIGEST.fullmatch(members.text(sent, name, pointer=pointer)) is None:
        raise FirewallError(
            Kind.MALFORMED,
            f"`{name}` is not a digest",
            pointer=f"{pointer}/{name}",
            fix="write it as `sha256:` and 64 lower-case hex digits",
        )


def _objects(sent: JsonObject, name: str) -> list[JsonObject]:
    """Take a member that may be missing and is a list of objects."""
    where = f"{_POINTER}/{name}"
    value = sent.get(name, [])
    if not isinstance(value, list):
        raise members.refuse_type(value, expected="an array of objects", pointer=where)
    for position, item in enumerate(value):
        if not isinstance(item, dict):
            raise members.refuse_type(item, expected="an object", pointer=f"{where}/{position}")
    return value


def _number(sent: JsonObject, name: str, *, pointer: str) -> int | float:
    where = f"{pointer}/{name}"
    if name not in sent:
        raise FirewallError(Kind.MALFORMED, f"`{name}` is missing", pointer=where, fix=f"add `{name}`, a number")
    value = sent[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise members.refuse_type(value, expected="a number", pointer=where)
    return value


def _flag(sent: JsonObject, name: str, *, default: bool, pointer: str) -> bool:
    value = sent.get(name, default)
    if not isinstance(value, bool):
        raise members.refuse_type(value, expected="a boolean", pointer=f"{pointer}/{name}")
    return value


def _once(key: tuple[str, ...], seen: set[tuple[str, ...]], *, what: str, pointer: str) -> None:
    """Refuse a second statement about one thing: policies could not tell which of the two to believe."""
    if key in seen:
        raise FirewallError(Kind.MALFORMED, f"the {what} `{'/'.join(key)[:80]}` stands twice", pointer=pointer)
    seen.add(key)
