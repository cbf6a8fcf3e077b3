"""The corpus as deliveries of GitHub: those of its cases that are pull requests, and what GitHub sends with them."""

import hashlib
import hmac
import json
import uuid
from datetime import UTC, datetime
from typing import Any

from tests.corpus.cases import Case

SECRET = "q3ZBv8nTyX1kLw7RfD5sGh2JmC9pKe4A"
SHA = "ec26c3e57ca3a959ca5aad62de7213c562f8c821"
BASE_SHA = "f95f852bd8fca8fcc58a9a2d6c842781e32a215e"


def pull_request(repository: str = "octo-org/octo-repo", action: str = "opened", **members: Any) -> dict[str, Any]:
    """A `pull_request` event, shortened to what is read and some of what is not."""
    sent = {
        "id": 279147437,
        "number": 2,
        "state": "open",
        "title": "Say where the configuration lies",
        "user": {"login": "octo-agent[bot]", "type": "Bot"},
        "head": {"ref": "docs", "sha": SHA, "repo": {"full_name": repository}},
        "base": {"ref": "main", "sha": BASE_SHA, "repo": {"full_name": repository}},
        "draft": False,
        "additions": 1,
        "deletions": 1,
        "changed_files": 1,
        "updated_at": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        **members,
    }
    return {
        "action": action,
        "number": sent["number"],
        "pull_request": sent,
        "repository": {"id": 186853002, "full_name": repository, "private": False},
        "sender": sent["user"] or {"login": "octocat", "type": "User"},
        "installation": {"id": 5},
    }


def deployment(
    api: str = "https://api.github.com", repository: str = "octo-org/octo-repo", **members: Any
) -> dict[str, Any]:
    """A `deployment_protection_rule` event."""
    return {
        "action": "requested",
        "environment": "production",
        "event": "push",
        "deployment_callback_url": f"{api}/repos/{repository}/actions/runs/7/deployment_protection_rule",
        "deployment": {
            "id": 1,
            "sha": SHA,
            "ref": "main",
            "task": "deploy",
            "updated_at": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        },
        "pull_requests": [],
        "repository": {"id": 186853002, "full_name": repository},
        "sender": {"login": "octo-agent[bot]", "type": "Bot"},
        "installation": {"id": 5},
        **members,
    }


def signed(body: bytes, event: str, *, delivery: str | None = None, secret: str = SECRET) -> dict[str, str]:
    """The headers of a delivery."""
    return {
        "Content-Type": "application/json",
        "User-Agent": "GitHub-Hookshot/044aadd",
        "X-GitHub-Event": event,
        "X-GitHub-Delivery": delivery or str(uuid.uuid4()),
        "X-Hub-Signature-256": f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}",
    }


def delivery_for(case: Case) -> tuple[bytes, str] | None:
    """Write a case as a delivery and the diff that GitHub has of it; None for what is no pull request."""
    body = case.mutation
    change = body.get("change", {})
    if body["resource"]["type"] != "git/PullRequest" or change.keys() != {"diff"} or body["action"]["name"] != "merge":
        return None
    if body["subject"]["type"] != "agent":
        return None
    repository, _, number = body["resource"]["id"].partition("#")
    tree = pull_request(
        repository,
        number=int(number),
        user={"login": f"{body['subject']['id']}[bot]", "type": "Bot"},
        changed_files=change["diff"].count("diff --git"),
    )
    return json.dumps(tree).encode(), change["diff"]
