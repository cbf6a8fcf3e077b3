"""Steps 4 and 10 of OpenID AuthZEN Authorization API 1.0, sections 5 to 7.

A request there has no word for what would be different. `context.change` is ours for it, with the members that the
native surface has; without it the change is not known, and what reads it fails.

Nor has it one for what else an enforcement point can do. Section 5.5 lets it go on upon a `true` whose context it does
not understand, so that a `true` must not depend on its context: an allow under obligations is one for who said in
`context.fulfils` that they meet all of them.
"""

import base64
from collections.abc import Collection, Iterable, Sequence
from enum import StrEnum
from hashlib import sha256
from typing import Final, NamedTuple

import orjson

from app.core import strict_json
from app.core.batch import Batch
from app.core.canonical import canonical
from app.core.obligations import unmet
from app.core.types import Effect, Json, JsonObject, Mutation
from app.errors import FirewallError, Kind
from app.service.decide import Decision, Outcome
from app.service.search import Found, Search, Wanted
from app.surfaces.decided import decision_members
from app.surfaces.parties import MISSING, action, entity, refuse, text
from app.surfaces.problems import status_and_title

# Evaluations in one request: as many as mutations in a batch.
MAX_EVALUATIONS: Final = 1000
# The member of the context that says what would be different.
CHANGE: Final = "change"
# The member of the context that says which obligations its sender meets, by their keys.
FULFILS: Final = "fulfils"
MAX_FULFILS: Final = 64

PAGE_DEFAULT: Final = 100
PAGE_MAX: Final = 1000
# The name of an entity twice over, in base64.
TOKEN_MAX_CHARS: Final = 4096

_DEFAULTS: Final = ("subject", "action", "resource", "context")


class Semantic(StrEnum):
    """Section 7.1.2.1: whether all are evaluated, or the first of one kind ends it."""

    EXECUTE_ALL = "execute_all"
    DENY_ON_FIRST_DENY = "deny_on_first_deny"
    PERMIT_ON_FIRST_PERMIT = "permit_on_first_permit"


_UNTIL: Final = {
    Semantic.EXECUTE_ALL: None,
    Semantic.DENY_ON_FIRST_DENY: False,
    Semantic.PERMIT_ON_FIRST_PERMIT: True,
}


class Evaluation(NamedTuple):
    """What is asked, and the keys of the obligations that whoever asks meets."""

    mutation: Mutation
    fulfilled: frozenset[str]


def evaluation_of(tree: Json) -> Evaluation:
    """Make a mutation of an evaluation; members that nobody knows are passed over, as section 5 has it.

    Raises FirewallError(MALFORMED) with the pointer of the member at fault. Does not check: the members of the change.
    """
    tree = _asking(tree, MISSING)
    context, change, fulfilled = _context(tree)
    mutation = Mutation(
        subject=entity(tree["subject"], "subject", lenient=True),
        action=action(tree["action"], lenient=True),
        resource=entity(tree["resource"], "resource", lenient=True),
        change=change,
        context=context,
    )
    return Evaluation(mutation, fulfilled)


def _asking(tree: Json, needed: Iterable[str]) -> JsonObject:
    if not isinstance(tree, dict):
        refuse("the body is not an object", "", fix='send `{"subject": ..., "action": ..., "resource": ...}`')
    for name in needed:
        if name not in tree:
            refuse(f"member `{name}` is missing", f"/{name}", fix=MISSING[name])
    return tree


def _context(tree: JsonObject) -> tuple[JsonObject, JsonObject, frozenset[str]]:
    """The context, what would be different, and which obligations are met."""
    context = tree.get("context", {})
    if not isinstance(context, dict):
        refuse("`context` is not an object", "/context", fix="send an object, or leave it out")
    change = context.get(CHANGE, {})
    if not isinstance(change, dict):
        refuse(
            f"`context.{CHANGE}` is not an object",
            f"/context/{CHANGE}",
            fix="say what would be different, by `before`, `after`, `patch`, `diff`, `statement` or `manifest`",
        )
    rest = {name: value for name, value in context.items() if name not in (CHANGE, FULFILS)}
    return rest, change, _fulfilled(context)


def _fulfilled(context: JsonObject) -> frozenset[str]:
    keys = context.get(FULFILS, [])
    if not isinstance(keys, list) or not all(isinstance(one, str) for one in keys):
        refuse(
            f"`context.{FULFILS}` is not a list of texts",
            f"/context/{FULFILS}",
            fix="send the keys of the obligations that you meet, such as `audit/ticket`, or leave it out",
        )
    if len(keys) > MAX_FULFILS:
        refuse(
            f"`context.{FULFILS}` has {len(keys)} keys, and {MAX_FULFILS} are the most",
            f"/context/{FULFILS}",
            fix="send the keys of the obligations that your policies have",
        )
    return frozenset(keys)


def search_of(tree: Json, wanted: Wanted) -> Search:
    """Make a search of a request (sections 8.4 to 8.6). Raises FirewallError(MALFORMED)."""
    needed = [name for name in MISSING if name != Wanted.ACTION or wanted is not Wanted.ACTION]
    tree = _asking(tree, needed)
    context, change, fulfilled = _context(tree)
    given: dict[str, JsonObject] = {}
    for name in needed:
        if name == wanted:
            # What is looked for has a type and no id; one that is sent says nothing.
            given[name] = entity({**_object(tree, name), "id": "-"}, name, lenient=True)
        elif name == Wanted.ACTION:
            given[name] = action(tree[name], lenient=True)
        else:
            given[name] = entity(tree[name], name, lenient=True)
    page = tree.get("page", {})
    if not isinstance(page, dict):
        refuse("`page` is not an object", "/page", fix="send an object, or leave it out")
    limit = page.get("limit", PAGE_DEFAULT)
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 0:
        refuse("`page.limit` is no whole number from 0", "/page/limit", fix=f"send at most {PAGE_MAX}, or leave it out")
    fingerprint = _digest([wanted.value, {name: value for name, value in tree.items() if name != "page"}])
    token = _Token(fingerprint, _paged(page), min(limit, PAGE_MAX), None)
    if page.get("token"):
        token = _read_token(page, fingerprint)
    return Search(
        wanted,
        given,
        change,
        context,
        limit=token.limit,
        fulfilled=fulfilled,
        after=token.after,
        fingerprint=fingerprint,
        paged=token.paged,
    )


def _object(tree: JsonObject, name: str) -> JsonObject:
    value = tree[name]
    if not isinstance(value, dict):
        refuse(f"`{name}` is not an object", f"/{name}", fix=MISSING[name])
    return value


class _Token(NamedTuple):
    """What a token says: the search and the page that it came from, and the name behind which the next one begins."""

    fingerprint: str
    paged: str
    limit: int
    after: str | None


def _digest(value: Json) -> str:
    return sha256(canonical(value)).hexdigest()[:32]


def _paged(page: JsonObject) -> str:
    """Name how a page was asked for, other than by a token."""
    return _digest({name: value for name, value in page.items() if name != "token"})


def _read_token(page: JsonObject, fingerprint: str) -> _Token:
    """Give what the token of a page says; it is for the search that it came from.

    Section 8.2.1 wants the members of `page` to stay as they were, and its example of a second request has none but the
    token: what is left out is as it was, and what is sent has to be.
    """
    sent = text(page, "token", TOKEN_MAX_CHARS, parent="page")
    try:
        found = strict_json.parse(base64.urlsafe_b64decode(sent.encode())).tree
    except (FirewallError, ValueError):
        found = None
    token: _Token | None = None
    match found:
        case [str(search), str(paged), int(limit), str(after)]:
            token = _Token(search, paged, limit, after)
    same = token is not None and token.fingerprint == fingerprint and 0 <= token.limit <= PAGE_MAX
    if token is None or not same or (page.keys() != {"token"} and _paged(page) != token.paged):
        refuse(
            "the token is not one of this search",
            "/page/token",
            fix="send `next_token` of the page before, and everything else as it was",
        )
    return token


def found_to_wire(search: Search, found: Found) -> bytes:
    """Write a page; what is known of an entity beyond its name stays here."""
    token = ""
    if found.last is not None:
        next_page = _Token(search.fingerprint, search.paged, search.limit, found.last)
        token = base64.urlsafe_b64encode(orjson.dumps(list(next_page))).decode()
    return orjson.dumps({"page": {"next_token": token, "count": len(found.results)}, "results": list(found.results)})


def evaluations_of(tree: Json) -> tuple[Batch, bool]:
    """Make a batch of a request to evaluate many, and tell whether it was one for a single evaluation after all.

    What an evaluation lacks it has from the top level, whole: nothing is merged (section 7.1.1). One that is wrong
    stands in its place as an error. Raises FirewallError: MALFORMED where it is no such request, TOO_LARGE.
    """
    if not isinstance(tree, dict):
        refuse("the body is not an object", "", fix='send `{"evaluations": [...]}`')
    listed = tree.get("evaluations", [])
    if not isinstance(listed, list):
        refuse("`evaluations` is not a list", "/evaluations", fix='send `{"evaluations": [...]}`')
    until = _UNTIL[_semantic(tree)]
    if not listed:
        return _batch([evaluation_of(tree)], until=None), True
    if len(listed) > MAX_EVALUATIONS:
        raise FirewallError(
            Kind.TOO_LARGE,
            f"{len(listed)} evaluations in one request, and {MAX_EVALUATIONS} are the most",
            pointer="/evaluations",
            fix="send several requests",
        )
    defaults: JsonObject = {name: tree[name] for name in _DEFAULTS if name in tree}
    return _batch([_or_error(one, defaults) for one in listed], until=until), False


def _batch(asked: Sequence[Evaluation | FirewallError], *, until: bool | None) -> Batch:
    items = [one if isinstance(one, FirewallError) else one.mutation for one in asked]
    fulfilled = [frozenset[str]() if isinstance(one, FirewallError) else one.fulfilled for one in asked]
    return Batch(items, until=until, fulfilled=fulfilled)


def _semantic(tree: JsonObject) -> Semantic:
    options = tree.get("options", {})
    if not isinstance(options, dict):
        refuse("`options` is not an object", "/options", fix="send an object, or leave it out")
    said = options.get("evaluations_semantic", Semantic.EXECUTE_ALL.value)
    if not isinstance(said, str) or said not in {one.value for one in Semantic}:
        known = ", ".join(f"`{one.value}`" for one in Semantic)
        refuse(
            "`options.evaluations_semantic` is none that there is",
            "/options/evaluations_semantic",
            fix=f"send one of {known}, or leave it out",
        )
    return Semantic(said)


def _or_error(one: Json, defaults: JsonObject) -> Evaluation | FirewallError:
    try:
        return evaluation_of({**defaults, **one} if isinstance(one, dict) else one)
    except FirewallError as error:
        return error


def evaluation_to_wire(decision: Decision, fulfilled: Collection[str]) -> bytes:
    """Write the answer to one evaluation of somebody who meets the obligations with the keys `fulfilled`."""
    return orjson.dumps(_evaluation(decision, fulfilled))


def evaluations_to_wire(outcomes: Sequence[Outcome], fulfilled: Sequence[Collection[str]]) -> bytes:
    """Write the answers to many, in their order; what could not be decided is a no with its error (section 7.2.1).

    `fulfilled` is as long as what was asked, which may be longer than what was answered.
    """
    answers = [_outcome(one, at, fulfilled[at]) for at, one in enumerate(outcomes)]
    return orjson.dumps({"evaluations": answers})


def _outcome(outcome: Outcome, position: int, fulfilled: Collection[str]) -> JsonObject:
    if not isinstance(outcome, FirewallError):
        return _evaluation(outcome, fulfilled)
    status, _ = status_and_title(outcome.kind)
    error = {
        "status": status,
        "message": outcome.detail,
        "pointer": f"/evaluations/{position}{placed(outcome.pointer)}",
    }
    return {"decision": False, "context": {"error": {**error, **({"fix": outcome.fix} if outcome.fix else {})}}}


def placed(pointer: str | None) -> str:
    """Where what is at fault stands here: the change is a member of the context."""
    place = pointer or ""
    return f"/context{place}" if place == f"/{CHANGE}" or place.startswith(f"/{CHANGE}/") else place


def _evaluation(decision: Decision, fulfilled: Collection[str]) -> JsonObject:
    """Section 5.5: yes or no. Only an allow whose obligations are met is a yes; the context says why, and where in the
    ledger it stands.
    """
    members = decision_members(decision)
    context: JsonObject = {
        "evaluation_id": members.pop("id"),
        "evaluated_at": members.pop("decided_at"),
        "effect": members.pop("decision"),
        "reason": decision.reasons[0].message,
        **members,
    }
    if decision.effect is Effect.HOLD:
        # Access Request and Approval Profile (draft), "Requestable Denial Context"; bound by `evaluation_id`.
        deciding = decision.reasons[0]
        context["access_request"] = {
            "requestable": True,
            "template": f"{deciding.policy}/{deciding.rule}",
            "reason": "approval_required",
        }
    # A hold has some too, for when it is lifted: why it is none yet is another reason.
    left = unmet(decision.obligations, fulfilled) if decision.effect is Effect.ALLOW else ()
    if left:
        named = ", ".join(f"`{one.key}` of `{one.policy}/{one.rule}`" for one in left)
        context["reason"] = f"allowed under obligations that nobody said they meet: {named}"
        context["unmet"] = sorted({one.key for one in left})
        context["fix"] = f"meet them, and say so in `context.{FULFILS}`"
    return {"decision": decision.effect is Effect.ALLOW and not left, "context": context}
