"""Step 5: a mutation as policies read it, and the digest that names it."""

from typing import Any

from app.core import diff, manifest, members, patch, statements
from app.core.canonical import canonical, digest_of, plain
from app.core.comparison import Difference, compare, equal
from app.core.types import JsonObject, Mutation, NormalisedMutation
from app.errors import FirewallError, Kind

_POINTER = "/change"
_KNOWN = ("before", "after", "patch", "diff", "statement", "manifest")
_KNOWN_SET = frozenset(_KNOWN)
_DELETE = "delete"


def normalise(mutation: Mutation) -> NormalisedMutation:
    """Say what a mutation changes, in the one form that policies are written for, and compute its digest.

    `inputs["change"]` has the members that were sent, and always, as lists:
    - `paths`, `added`, `removed`: sorted JSON pointers of what differs between `before` and `after`. `null` stands for
      "nothing there", as in a Terraform plan: without `before` everything is added (`[""]`), without `after` removed.
      A patch is applied to `before` and gives `after`; without `before` the pointers are those that the patch names.
    - `files`: one object per file of `diff` (see `app.core.diff.parse`); their paths are in `files[].path`, not in
      `paths`, which holds JSON pointers only.
    - `statements`: one object per SQL statement (see `app.core.statements.parse`).
    `manifest` is there when it was sent, with `delta` and `regressed` in each evaluation (see `app.core.manifest`).

    The digest is over the members as they were sent: subject, action, resource, context and change. What is derived
    here follows from them, so a later version that derives more leaves every digest as it is. `request_id` and
    `rationale` carry no meaning for the decision and stay out.

    The mutation is not changed; what is returned shares parts with it.

    Raises: FirewallError(MALFORMED) with the pointer of the member at fault.
    Does not check: the shape of subject, action, resource and context (step 4 did).
    """
    sent = mutation.change
    action = _with_properties(mutation.action)
    subject = _with_properties(mutation.subject)
    resource = _with_properties(mutation.resource)
    change: JsonObject = {**sent, "paths": [], "added": [], "removed": [], "files": [], "statements": []}
    if not sent.keys() <= _KNOWN_SET:
        members.refuse_unknown(sent, known=_KNOWN, pointer=_POINTER)
    _refuse_nothing(sent, action=action)
    if "patch" in sent:
        difference = _patched(sent, change)
    elif "before" in sent or "after" in sent:
        difference = _compared(sent.get("before"), sent.get("after"))
    else:
        difference = None
    if difference is not None:
        change["paths"] = difference.paths
        change["added"] = difference.added
        change["removed"] = difference.removed
    if "diff" in sent:
        if not isinstance(sent["diff"], str):
            raise members.refuse_type(sent["diff"], expected="a string, a unified diff", pointer="/change/diff")
        change["files"] = diff.parse(sent["diff"])
    if "statement" in sent:
        change["statements"] = statements.parse(sent["statement"])
    if "manifest" in sent:
        change["manifest"] = manifest.parse(sent["manifest"])
    name, text = _named(mutation, subject=subject, action=action, resource=resource)
    inputs = {"action": action, "change": change, "context": mutation.context, "resource": resource, "subject": subject}
    return NormalisedMutation(inputs, name, text)


def digest(mutation: Mutation) -> str:
    """Name a mutation by what carries meaning, whether or not it can be normalised."""
    subject, action, resource = map(_with_properties, (mutation.subject, mutation.action, mutation.resource))
    return _named(mutation, subject=subject, action=action, resource=resource)[0]


def _named(
    mutation: Mutation, *, subject: JsonObject, action: JsonObject, resource: JsonObject
) -> tuple[str, bytes | None]:
    """The digest, and what it is of where that is all there is to say."""
    named: JsonObject = {
        "action": action,
        "change": mutation.change,
        "context": mutation.context,
        "resource": resource,
        "subject": subject,
    }
    text = plain(named)
    return digest_of(canonical(named) if text is None else text), text


def _with_properties(party: JsonObject) -> JsonObject:
    return party if "properties" in party else {**party, "properties": {}}


def _refuse_nothing(sent: JsonObject, *, action: JsonObject) -> None:
    """Refuse a change that does not say what would be different afterwards."""
    if not sent:
        return  # it is not known: what reads it fails, and doubt denies
    if len(sent) == 1 and "before" in sent and action.get("name") != _DELETE:
        raise FirewallError(
            Kind.MALFORMED,
            f"`before` alone says what is deleted, but the action is not `{_DELETE}`",
            pointer=_POINTER,
            fix="add `after`, or another member that says what would be different",
        )
    if sent.get("before") is None and sent.get("after") is None and sent.keys() <= {"before", "after"}:
        raise FirewallError(
            Kind.MALFORMED, "nothing is there before and after", pointer=_POINTER, fix="send `before`, `after` or both"
        )


def _compared(before: Any, after: Any) -> Difference:
    """What differs, when null is nothing: all of what is only on one side."""
    if before is None:
        return Difference([""], [""], []) if after is not None else Difference([], [], [])
    if after is None:
        return Difference([""], [], [""])
    return compare(before, after)


def _patched(sent: JsonObject, change: JsonObject) -> Difference:
    """Apply the patch to `before`, or read off it what it names; sets `after` in the normalised change."""
    operations = patch.parse(sent["patch"])
    if "before" not in sent:
        if "after" in sent:
            raise FirewallError(
                Kind.MALFORMED,
                "`patch` and `after` cannot be checked against each other without `before`",
                pointer="/change/after",
                fix="add `before`, or leave out `after`",
            )
        return patch.named(operations)
    before = sent["before"]
    after = patch.apply(operations, before=before)
    if "after" in sent and not equal(sent["after"], after):
        raise FirewallError(
            Kind.MALFORMED,
            "`after` is not what `patch` makes of `before`",
            pointer="/change/after",
            fix="leave out `after`: it is computed",
        )
    change["after"] = after
    return _compared(before, after)
