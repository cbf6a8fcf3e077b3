"""What a delivery asks, and what the mutation is bound to."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.glob import compile_glob
from app.core.normalise import digest, normalise
from app.errors import FirewallError, Kind
from app.surfaces.github.wire import Deployment, GithubView, PullRequest, event_of, files_of, mutation_of
from tests.corpus.deliveries import BASE_SHA, SHA, deployment, pull_request

VIEW = GithubView("https://api.github.com", agents=(compile_glob("octo-*"),))
DIFF = "diff --git a/a b/a\nindex 1111111..2222222 100644\n--- a/a\n+++ b/a\n@@ -1 +1 @@\n-a\n+b\n"
PERSON, BOT = {"login": "mona", "type": "User"}, {"login": "dependabot[bot]", "type": "Bot"}


def read(tree: Any, name: str = "pull_request", view: GithubView = VIEW) -> Any:
    return event_of(name, json.dumps(tree).encode(), view)


def pulled(**members: Any) -> PullRequest:
    event = read(pull_request(**members))
    assert isinstance(event, PullRequest)
    return event


@pytest.mark.parametrize(
    ("owner", "sender", "type_", "login"),
    [
        (PERSON, PERSON, "user", "mona"),
        (BOT, PERSON, "agent", "dependabot[bot]"),
        (PERSON, BOT, "agent", "dependabot[bot]"),
        ({"login": "octo-fixer", "type": "User"}, PERSON, "agent", "octo-fixer"),
        ({"login": "acme", "type": "Organization"}, PERSON, "agent", "acme"),
    ],
)
def test_whose_change_it_is(owner, sender, type_, login):
    subject = read({**pull_request(user=owner), "sender": sender}).subject
    assert (subject["type"], subject["id"]) == (type_, f"github:{login}")
    assert subject["properties"]["sender"] == sender["login"]


def test_what_a_mutation_is_bound_to():
    one = mutation_of(pulled(), DIFF, view=VIEW, request_id="d-1")
    assert one.resource["id"] == "octo-org/octo-repo#2"
    assert (one.resource["properties"]["head_sha"], one.resource["properties"]["base_sha"]) == (SHA, BASE_SHA)
    assert normalise(one).inputs["change"]["files"][0]["path"] == "a"
    # Whatever event brings the same commits, and under whatever title.
    same = mutation_of(pulled(title="other", updated_at="2026-01-01T00:00:00Z"), DIFF, view=VIEW, request_id="d-2")
    assert digest(same) == digest(one)
    head = {"ref": "docs", "sha": "0" * 40, "repo": {"full_name": "octo-org/octo-repo"}}
    assert digest(mutation_of(pulled(head=head), DIFF, view=VIEW)) != digest(one)


def test_a_deployment():
    event = read(deployment(), "deployment_protection_rule")
    assert isinstance(event, Deployment)
    assert (event.run, event.installation, event.event) == (7, 5, "deployment_protection_rule")
    made = mutation_of(event, DIFF, view=VIEW)
    assert (made.resource["type"], made.resource["id"]) == ("git/Deployment", "octo-org/octo-repo/production")
    assert made.change["after"] == {"environment": "production", "ref": "main", "sha": SHA}
    assert "diff" not in mutation_of(event, "", view=VIEW).change
    assert files_of(event, "") == []
    with pytest.raises(FirewallError) as caught:
        files_of(event, DIFF * 300)
    assert caught.value.kind is Kind.TOO_LARGE


def test_forks():
    assert not pulled().fork
    for repo in ({"full_name": "somebody/octo-repo"}, None):
        assert pulled(head={"ref": "x", "sha": SHA, "repo": repo}).fork


@pytest.mark.parametrize(
    ("api", "url", "run"),
    [
        ("https://api.github.com", "https://api.github.com/repos/Octo-Org/octo-repo/actions/runs/9/{}", 9),
        ("https://api.github.com", "https://api.github.com:443/repos/octo-org/octo-repo/actions/runs/9/{}", 9),
        ("https://ghe.example/api/v3", "https://ghe.example/api/v3/repos/octo-org/octo-repo/actions/runs/9/{}", 9),
        ("https://ghe.example/api/v3", "https://ghe.example/repos/octo-org/octo-repo/actions/runs/9/{}", None),
        ("https://api.github.com", "http://api.github.com/repos/octo-org/octo-repo/actions/runs/9/{}", None),
        ("https://api.github.com", "https://api.github.com:8443/repos/octo-org/octo-repo/actions/runs/9/{}", None),
        ("https://api.github.com", "https://api.github.com:x/repos/octo-org/octo-repo/actions/runs/9/{}", None),
        ("https://api.github.com", "https://api.github.com\\@evil/repos/octo-org/octo-repo/actions/runs/9/{}", None),
        ("https://api.github.com", "https://api.github.com/repos/octo-org/octo-repo/actions/runs/%39/{}", None),
        ("https://api.github.com", "https://api.github.com/repos/octo-org/octo-repo/actions/runs/9/{}#x", None),
        ("https://api.github.com", "https://[::1/repos/octo-org/octo-repo/actions/runs/9/{}", None),
        ("https://api.github.com", "https://api.github.com/repos/octo-org/octo-repo/actions/runs/0/{}", None),
    ],
)
def test_where_answers_go(api, url, run):
    tree = deployment(deployment_callback_url=url.format("deployment_protection_rule"))
    view = GithubView(api)
    if run is not None:
        assert read(tree, "deployment_protection_rule", view).run == run
        return
    with pytest.raises(FirewallError) as caught:
        read(tree, "deployment_protection_rule", view)
    assert (caught.value.kind, caught.value.pointer) == (Kind.FORBIDDEN, "/deployment_callback_url")


@pytest.mark.parametrize(
    ("members", "pointer"),
    [
        ({"head": None}, "/pull_request/head"),
        ({"head": {"ref": "x", "sha": "main", "repo": None}}, "/pull_request/head/sha"),
        ({"base": {"ref": "", "sha": SHA}}, "/pull_request/base/ref"),
        ({"base": {"ref": "x", "sha": f"{SHA}?x=1"}}, "/pull_request/base/sha"),
        ({"number": "2"}, "/pull_request/number"),
        ({"changed_files": True}, "/pull_request/changed_files"),
        ({"additions": -1}, "/pull_request/additions"),
        ({"draft": "no"}, "/pull_request/draft"),
        ({"user": None}, "/pull_request/user"),
        ({"user": {"login": "a/b", "type": "User"}}, "/pull_request/user/login"),
        ({"updated_at": "yesterday"}, "/pull_request/updated_at"),
        ({"updated_at": "2026-11-22T10:00:00"}, "/pull_request/updated_at"),
    ],
    ids=str,
)
def test_what_is_no_pull_request(members, pointer):
    with pytest.raises(FirewallError) as caught:
        read(pull_request(**members))
    assert (caught.value.kind, caught.value.pointer) == (Kind.MALFORMED, pointer)


@pytest.mark.parametrize("name", ["a", "a/b/c", "a/..", "a/.", "../a", "a/b?c", "a/b#", "a b/c", "/a"])
def test_no_other_path_is_called(name):
    with pytest.raises(FirewallError) as caught:
        read(pull_request(name))
    assert caught.value.pointer == "/repository/full_name"


def test_the_installation():
    assert read({**pull_request(), "installation": None}).installation is None
    with pytest.raises(FirewallError):
        read({**pull_request(), "installation": {"id": "5"}})


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-5, 400) | st.text(max_size=8),
        lambda inner: st.dictionaries(
            st.sampled_from(["action", "pull_request", "head", "base", "repo", "sha", "user", "login", "installation"]),
            inner,
            max_size=4,
        ),
        max_leaves=12,
    ),
    st.sampled_from(["pull_request", "deployment_protection_rule", "ping"]),
)
def test_any_body_is_an_event_or_refused(tree, name):
    for sent in (tree, {**pull_request(), "pull_request": tree}, {**deployment(), "deployment": tree}):
        try:
            event = event_of(name, json.dumps(sent).encode(), VIEW)
        except FirewallError as error:
            assert error.kind in {Kind.MALFORMED, Kind.TOO_LARGE, Kind.FORBIDDEN}  # noqa: PT017 - most are refused
        else:
            assert event is None or isinstance(event, PullRequest | Deployment)
