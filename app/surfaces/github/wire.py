"""Step 4 for deliveries of GitHub's webhooks: what a delivery asks, and the mutation that it becomes.

A delivery says who wants what, but not what would change: that is fetched (`client.py`), by the hashes of commits that
the delivery names, so that nobody can show one change and merge another.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NoReturn, TypeAlias
from urllib.parse import SplitResult, urlsplit

from app.core import diff, strict_json
from app.core.glob import Glob
from app.core.types import Json, JsonObject, Mutation
from app.errors import FirewallError, Kind

PULL_REQUEST: Final = "pull_request"
DEPLOYMENT: Final = "deployment_protection_rule"
# What of each event is decided. A pull request is decided when its commits change, when it could be merged next, and
# when it shall go somewhere else (`EDITED`, which most often is about words alone).
EDITED: Final = "edited"
ACTIONS: Final = {
    PULL_REQUEST: ("opened", "synchronize", "reopened", "ready_for_review", EDITED),
    DEPLOYMENT: ("requested",),
}

# What GitHub itself gives as a diff: more is refused there, or left out without a word.
FILES_MAX: Final = 300
LINES_MAX: Final = 20_000

TEXT_CHARS: Final = 255
TITLE_CHARS: Final = 512

_REPOSITORY: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}/(?!\.{1,2}$)[A-Za-z0-9._-]{1,100}")
_SHA: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_LOGIN: Final = re.compile(r"[A-Za-z0-9_-]{1,100}(?:\[bot\])?")
_CALLBACK: Final = re.compile(r"/repos/([^/]+/[^/]+)/actions/runs/([1-9][0-9]{0,18})/deployment_protection_rule")
_PORTS: Final = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True)
class GithubView:
    """What is known of a GitHub before it delivers anything.

    `api` is the address of its API, `agents` are logins that are AI agents though GitHub takes them for people, and
    with `forks` pull requests from forks can be allowed.
    """

    api: str
    agents: Sequence[Glob] = ()
    forks: bool = False


@dataclass(frozen=True, slots=True)
class PullRequest:
    """The commits of a pull request shall be merged."""

    repository: str
    subject: JsonObject
    number: int
    title: str
    base: str
    base_sha: str
    head: str
    sha: str
    head_repository: str
    draft: bool
    files: int
    lines: int
    at: datetime
    installation: int | None

    @property
    def event(self) -> str:
        """Its name at GitHub."""
        return PULL_REQUEST

    @property
    def fork(self) -> bool:
        """Whether the commits come from somewhere else."""
        return self.head_repository != self.repository


@dataclass(frozen=True, slots=True)
class Deployment:
    """A job waits to deploy a commit to an environment."""

    repository: str
    subject: JsonObject
    environment: str
    ref: str
    sha: str
    trigger: str
    run: int
    at: datetime
    installation: int | None

    @property
    def event(self) -> str:
        """Its name at GitHub."""
        return DEPLOYMENT


Event: TypeAlias = PullRequest | Deployment


def event_of(name: str, body: bytes, view: GithubView) -> Event | None:
    """Read a delivery of the event `name`; None for what is not to be decided.

    Raises FirewallError: what `strict_json.parse` raises, MALFORMED with the pointer of the member at fault, FORBIDDEN
    for an answer that would go somewhere else than to our GitHub.
    """
    tree = strict_json.parse(body).tree
    if not isinstance(tree, dict):
        _refuse("the body is not an object", "")
    actions = ACTIONS.get(name)
    if actions is None or tree.get("action") not in actions:
        return None
    if tree["action"] == EDITED and "base" not in _object(tree, "/changes"):
        return None
    repository = _matching(_object(tree, "/repository"), "full_name", _REPOSITORY, "/repository")
    installation = None
    if tree.get("installation") is not None:
        installation = _number(_object(tree, "/installation"), "id", "/installation")
    if name == PULL_REQUEST:
        return _pull_request(tree, repository, installation, view)
    return _deployment(tree, repository, installation, view)


def mutation_of(event: Event, text: str, *, view: GithubView, request_id: str | None = None) -> Mutation:
    """Make the mutation of an event and the diff of its commits, which a deployment may do without.

    The same commits asked about again are the same mutation, whatever event brought them.
    """
    where: JsonObject = {"github": {"api": view.api, "event": event.event}}
    if isinstance(event, PullRequest):
        properties: JsonObject = {
            "repository": event.repository,
            "number": event.number,
            "base": event.base,
            "base_sha": event.base_sha,
            "head": event.head,
            "head_sha": event.sha,
            "head_repository": event.head_repository,
            "fork": event.fork,
            "draft": event.draft,
        }
        return Mutation(
            subject=event.subject,
            action={"name": "merge", "properties": {}},
            resource={
                "type": "git/PullRequest",
                "id": f"{event.repository}#{event.number}",
                "properties": properties,
            },
            change={"diff": text},
            context=where,
            request_id=request_id,
            rationale=event.title or None,
        )
    properties = {
        "repository": event.repository,
        "environment": event.environment,
        "ref": event.ref,
        "sha": event.sha,
        "trigger": event.trigger,
    }
    change: JsonObject = {"after": {"environment": event.environment, "ref": event.ref, "sha": event.sha}}
    if text:
        change["diff"] = text
    return Mutation(
        subject=event.subject,
        action={"name": "deploy", "properties": {}},
        resource={
            "type": "git/Deployment",
            "id": f"{event.repository}/{event.environment}",
            "properties": properties,
        },
        change=change,
        context=where,
        request_id=request_id,
    )


def require_small(event: Event) -> None:
    """Raise FirewallError (TOO_LARGE) for what GitHub would not show whole, as the delivery itself tells."""
    if isinstance(event, PullRequest) and (event.files > FILES_MAX or event.lines > LINES_MAX):
        raise too_large(f"{event.files} files with {event.lines} lines have changed")


def files_of(event: Event, text: str) -> list[JsonObject]:
    """Give the files of a diff, once it is plain that these are all of them.

    Raises FirewallError: MALFORMED for what does not have exactly one reading, TOO_LARGE for what may be a part.
    """
    if not text and isinstance(event, Deployment):
        return []
    files = diff.parse(text)
    if isinstance(event, PullRequest):
        if len(files) < event.files:
            raise too_large(f"GitHub gave the diff of {len(files)} files, and {event.files} have changed")
    elif len(files) >= FILES_MAX:
        raise too_large(f"the diff of a commit ends with file {FILES_MAX}, whether or not there are more")
    return files


def too_large(detail: str) -> FirewallError:
    """Refuse what cannot be seen whole."""
    return FirewallError(
        Kind.TOO_LARGE,
        detail,
        fix=f"split it: GitHub shows no more than {FILES_MAX} files and {LINES_MAX} lines of a diff",
    )


def _pull_request(tree: JsonObject, repository: str, installation: int | None, view: GithubView) -> PullRequest:
    where = "/pull_request"
    sent = _object(tree, where)
    base, head = (_object(sent, f"{where}/{name}") for name in ("base", "head"))
    # A fork that was deleted has no repository any more: it is none of ours in any case.
    source = head.get("repo")
    draft = sent.get("draft", False)
    if not isinstance(draft, bool):
        _refuse("`draft` is neither true nor false", f"{where}/draft")
    title = sent.get("title")
    return PullRequest(
        repository=repository,
        subject=_subject(view, sent.get("user"), tree.get("sender"), f"{where}/user"),
        number=_number(sent, "number", where),
        title=title[:TITLE_CHARS] if isinstance(title, str) else "",
        base=_text(base, "ref", f"{where}/base"),
        base_sha=_matching(base, "sha", _SHA, f"{where}/base"),
        head=_text(head, "ref", f"{where}/head"),
        sha=_matching(head, "sha", _SHA, f"{where}/head"),
        head_repository=""
        if source is None
        else _matching(_object(head, f"{where}/head/repo"), "full_name", _REPOSITORY, f"{where}/head/repo"),
        draft=draft,
        files=_number(sent, "changed_files", where),
        lines=_number(sent, "additions", where) + _number(sent, "deletions", where),
        at=_moment(sent, "updated_at", where),
        installation=installation,
    )


def _deployment(tree: JsonObject, repository: str, installation: int | None, view: GithubView) -> Deployment:
    where = "/deployment"
    sent = _object(tree, where)
    sender = tree.get("sender")
    return Deployment(
        repository=repository,
        subject=_subject(view, sender, sender, "/sender"),
        environment=_text(tree, "environment", ""),
        ref=_text(sent, "ref", where),
        sha=_matching(sent, "sha", _SHA, where),
        trigger=_text(tree, "event", ""),
        run=_run(_text(tree, "deployment_callback_url", "", most=2048), repository, view.api),
        at=_moment(sent, "updated_at", where),
        installation=installation,
    )


def _run(url: str, repository: str, api: str) -> int:
    """The run that waits, of an address that is where our GitHub takes answers for this repository.

    Only this number is kept: the address that is called is made anew of what is ours. Raises FirewallError (FORBIDDEN).
    """
    found = None
    try:
        sent, ours = urlsplit(url), urlsplit(api)
        plain = url.isascii() and url.isprintable() and not any(mark in url for mark in "\\ %@?#")
        if plain and _origin(sent) == _origin(ours) and sent.path.startswith(ours.path):
            found = _CALLBACK.fullmatch(sent.path.removeprefix(ours.path))
    except ValueError:
        found = None
    if found is None or found[1].lower() != repository.lower():
        raise FirewallError(
            Kind.FORBIDDEN,
            f"`{url[:200]}` is not where {api} takes answers for `{repository}`",
            pointer="/deployment_callback_url",
            fix="set MFW_GITHUB__API_URL to the API of the GitHub that delivers",
        )
    return int(found[2])


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)


def _subject(view: GithubView, owner: Json, sender: Json, pointer: str) -> JsonObject:
    """Whose change it is: an agent's if it is either's whose name stands on it, for people answer for themselves."""
    parties = [_party(view, one, where) for one, where in ((owner, pointer), (sender, "/sender"))]
    whose = next((one for one in parties if one["type"] == "agent"), parties[0])
    return {**whose, "properties": {**whose["properties"], "sender": parties[1]["properties"]["login"]}}


def _party(view: GithubView, sent: Json, pointer: str) -> JsonObject:
    if not isinstance(sent, dict):
        _refuse("there is no account", pointer)
    login = _matching(sent, "login", _LOGIN, pointer)
    account = _text(sent, "type", pointer)
    # A bot that nobody knows is taken for an agent: a person in its place would be trusted with more.
    agent = account != "User" or any(glob.matches(login) for glob in view.agents)
    return {
        "type": "agent" if agent else "user",
        "id": f"github:{login}",
        "properties": {"login": login, "account": account},
    }


def _object(holder: JsonObject, pointer: str) -> JsonObject:
    value = holder.get(pointer.rpartition("/")[2])
    if not isinstance(value, dict):
        _refuse("there is no such object", pointer)
    return value


def _text(holder: JsonObject, name: str, pointer: str, *, most: int = TEXT_CHARS) -> str:
    value = holder.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= most:
        _refuse(f"`{name}` is no string of 1 to {most} characters", f"{pointer}/{name}")
    return value


def _matching(holder: JsonObject, name: str, form: re.Pattern[str], pointer: str) -> str:
    value = _text(holder, name, pointer)
    if form.fullmatch(value) is None:
        _refuse(f"`{value[:80]}` is no `{name}` that GitHub gives", f"{pointer}/{name}")
    return value


def _number(holder: JsonObject, name: str, pointer: str) -> int:
    value: Any = holder.get(name)
    if type(value) is not int or value < 0:
        _refuse(f"`{name}` is no number", f"{pointer}/{name}")
    return int(value)


def _moment(holder: JsonObject, name: str, pointer: str) -> datetime:
    try:
        found = datetime.fromisoformat(_text(holder, name, pointer))
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        _refuse(f"`{name}` is no time with its zone", f"{pointer}/{name}")
    return found


def _refuse(detail: str, pointer: str) -> NoReturn:
    raise FirewallError(
        Kind.MALFORMED, detail, pointer=pointer, fix="deliver what GitHub sends, unchanged and as application/json"
    )
