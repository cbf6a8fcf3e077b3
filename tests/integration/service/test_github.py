"""Deliveries of GitHub on the running service, a GitHub of the tests' own behind it, the ledger beside each answer."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.surfaces.github import client, routes
from tests.corpus.cases import load
from tests.corpus.deliveries import SECRET, SHA, delivery_for, deployment, pull_request, signed
from tests.integration.service.githubbed import APP, PEM, github_running

ROOT = Path(__file__).resolve().parents[3]
WEBHOOK = "/github/v1/webhook"
POLICY = """\
apiVersion: mutationfirewall.io/v1
kind: MutationPolicy
metadata: {name: pulls}
spec:
  match: {resources: [{type: git/PullRequest}]}
  rules:
    - {name: docs, effect: allow, when: "change.files.all(f, f.path.startsWith('docs/'))"}
    - name: code
      effect: hold
      when: "change.files.exists(f, f.path.startsWith('src/'))"
      messageExpression: "'code is read first: ' + change.files.map(f, string(f.path)).join(', ')"
      approval: {anyOf: [{group: owners, count: 2}]}
    - {name: ci, effect: deny, when: "change.files.exists(f, f.path.startsWith('.github/'))", message: "never `the pipeline` <b>@octocat</b>"}
---
apiVersion: mutationfirewall.io/v1
kind: MutationPolicy
metadata: {name: deployments}
spec:
  match: {resources: [{type: git/Deployment}]}
  rules:
    - {name: staging, effect: allow, when: "resource.properties.environment == 'staging'"}
    - {name: production, effect: hold, when: "resource.properties.environment == 'production'", message: ask, approval: {anyOf: [{group: sre}]}}
    - {name: never, effect: deny, when: "resource.properties.environment == 'frozen'", message: it is frozen}
"""


def diff_of(path: str) -> str:
    return f"diff --git a/{path} b/{path}\nindex 1111111..2222222 100644\n--- a/{path}\n+++ b/{path}\n@@ -1 +1 @@\n-a\n+b\n"


@pytest.fixture(scope="module")
def server():
    with pytest.MonkeyPatch.context() as patched, github_running() as started:
        # Where a GitHub answers it is waited for, however busy this machine is.
        patched.setattr(client, "TRY_SECONDS", 60.0)
        patched.setattr(routes, "TELL_SECONDS", 60.0)
        yield started


@pytest.fixture
def github(server):
    server.reset()
    return server


def settings_of(server, folder: Path) -> Any:
    (folder / "p.yaml").write_text(POLICY)
    return {
        "MFW_POLICIES__DIRECTORY": str(folder),
        "MFW_GITHUB__WEBHOOK_SECRET": SECRET,
        "MFW_GITHUB__APP_ID": str(APP),
        "MFW_GITHUB__PRIVATE_KEY": PEM,
        "MFW_GITHUB__API_URL": server.url,
        "MFW_GITHUB__PRIVATE_ADDRESSES": "true",
    }


@pytest.fixture(scope="module")
def firewall(tmp_path_factory, shared_database_dsn, server):
    from tests.integration.service.conftest import running

    with running(shared_database_dsn, **settings_of(server, tmp_path_factory.mktemp("github"))) as started:
        yield started


def post(firewall, tree: Any, event: str = "pull_request", **options: Any) -> httpx.Response:
    body = tree if isinstance(tree, bytes) else json.dumps(tree).encode()
    headers = signed(body, event, **options)
    with firewall.client(key="") as client:
        answer: httpx.Response = client.post(WEBHOOK, content=body, headers=headers)
    return answer


def decided(firewall, answer: httpx.Response) -> dict[str, Any]:
    """The answer, once the ledger has its decision."""
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    told = found["decision"]
    index, identifier, receipt = firewall.entries()[told["ledger_index"]]
    assert (index, identifier) == (told["ledger_index"], told["id"])
    assert json.loads(receipt)["decision"] == told["decision"]
    return found


@pytest.mark.parametrize(
    ("path", "effect", "conclusion"),
    [
        ("docs/a.md", "allow", "success"),
        ("src/a.py", "hold", "action_required"),
        (".github/workflows/ci.yml", "deny", "failure"),
    ],
)
@pytest.mark.parametrize("action", ["opened", "synchronize", "reopened", "ready_for_review"])
def test_each_answer_is_in_the_ledger_and_a_check_run(firewall, github, path, effect, conclusion, action):
    github.diff = diff_of(path)
    found = decided(firewall, post(firewall, pull_request(action=action)))
    assert found["decision"]["decision"] == effect
    (check,) = github.checks
    assert (check["conclusion"], check["head_sha"]) == (conclusion, SHA)
    assert check["external_id"] == found["decision"]["id"]
    assert (
        "GET",
        f"/repos/octo-org/octo-repo/compare/f95f852bd8fca8fcc58a9a2d6c842781e32a215e...{SHA}",
    ) in github.calls
    summary = check["output"]["summary"]
    if effect == "hold":
        assert "needs the approval of 2 of group `owners`" in summary
        (mark,) = check["output"]["annotations"]
        assert (mark["path"], mark["annotation_level"]) == (path, "warning")
    if effect == "deny":
        # What people write stays text: no mention, no HTML, no end of the code span.
        assert "``never `the pipeline` <b>@octocat</b>``" in summary


def test_another_base_is_asked_about_anew(firewall, github):
    github.diff = diff_of("docs/a.md")
    tree = pull_request(action="edited") | {
        "changes": {"base": {"ref": {"from": "sandbox"}, "sha": {"from": "1" * 40}}}
    }
    found = decided(firewall, post(firewall, tree))
    (check,) = github.checks
    assert (check["name"], check["external_id"]) == ("mutation-firewall/main", found["decision"]["id"])
    for words in ({"title": {"from": "a"}}, {}):
        assert post(firewall, tree | {"changes": words}).json()["outcome"] == "nothing to decide"
    assert len(github.checks) == 1


@pytest.mark.parametrize(
    ("environment", "effect", "state"),
    [("staging", "allow", "approved"), ("production", "hold", None), ("frozen", "deny", "rejected")],
)
def test_deployments_are_answered_and_a_hold_waits(firewall, github, environment, effect, state):
    tree = deployment(github.url, environment=environment)
    found = decided(firewall, post(firewall, tree, "deployment_protection_rule"))
    assert found["decision"]["decision"] == effect
    (answer,) = github.answers
    assert answer["environment_name"] == environment
    assert answer.get("state") == state
    assert found["decision"]["id"] in answer["comment"]
    assert github.calls[-1] == ("POST", "/repos/octo-org/octo-repo/actions/runs/7/deployment_protection_rule")
    assert github.checks == []


def test_an_empty_commit_can_be_deployed(firewall, github):
    github.diff = ""
    decided(firewall, post(firewall, deployment(github.url, environment="staging"), "deployment_protection_rule"))
    assert github.answers[0]["state"] == "approved"


@pytest.mark.parametrize(
    ("tree", "event"),
    [
        ({"zen": "Keep it logically awesome.", "hook_id": 1}, "ping"),
        (pull_request(action="labeled"), "pull_request"),
        ({"action": "completed"}, "check_suite"),
        ({**deployment(), "action": "approved"}, "deployment_protection_rule"),
    ],
)
def test_what_asks_nothing_is_answered_and_leaves_nothing(firewall, github, tree, event):
    before = len(firewall.entries())
    answer = post(firewall, tree, event)
    assert (answer.status_code, answer.json()["outcome"]) == (200, "nothing to decide")
    assert (len(firewall.entries()), github.calls) == (before, [])


def test_a_delivery_that_is_sent_again_is_decided_once(firewall, github):
    tree = pull_request()
    github.diff = diff_of("src/a.py")
    first = post(firewall, tree, delivery="d-1")
    entries = len(firewall.entries())
    again = post(firewall, tree, delivery="d-1")
    assert again.content == first.content
    assert again.headers["idempotency-replayed"] == "true"
    assert len(firewall.entries()) == entries
    assert len(github.checks) == 1
    assert [call for call in github.calls if call[0] == "PATCH"] == [
        ("PATCH", "/repos/octo-org/octo-repo/check-runs/1")
    ]
    other = post(firewall, pull_request(number=3), delivery="d-1")
    assert other.status_code == 409
    # Another delivery about the same commits is the same mutation.
    assert post(firewall, tree).json()["decision"]["mutation_digest"] == first.json()["decision"]["mutation_digest"]


def test_a_report_that_does_not_arrive_is_an_error_and_comes_with_the_next_try(firewall, github):
    github.failing["/check-runs"] = [500, 502, 503]
    tree = pull_request()
    first = post(firewall, tree, delivery="d-2")
    assert (first.status_code, github.checks) == (503, [])
    entries = len(firewall.entries())
    again = post(firewall, tree, delivery="d-2")
    assert decided(firewall, again)["report"]["conclusion"] == "success"
    assert len(firewall.entries()) == entries
    assert [one["conclusion"] for one in github.checks] == ["success"]


def test_one_lost_try_is_made_again(firewall, github):
    github.failing[SHA] = [502]
    assert decided(firewall, post(firewall, pull_request()))["report"]["conclusion"] == "success"


@pytest.mark.parametrize(
    ("failing", "status", "words"),
    [
        ({SHA: [406]}, 413, "larger than GitHub shows"),
        ({SHA: [404]}, 503, "`contents: read`"),
        ({SHA: [429]}, 503, "rate limit"),
        ({SHA: [301]}, 503, "answered 301"),
        ({SHA: [500, 500, 500]}, 503, "answered 500"),
    ],
)
def test_a_diff_that_cannot_be_had_is_never_a_success(firewall, github, failing, status, words):
    before = len(firewall.entries())
    github.failing = failing
    answer = post(firewall, pull_request())
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert len(firewall.entries()) == before
    (check,) = github.checks
    assert check["conclusion"] == "action_required"
    assert words in check["output"]["summary"]


@pytest.mark.parametrize(
    ("diff", "members", "status"),
    [
        ("", {}, 400),
        ("not a diff", {}, 400),
        (b"\xff\xfe", {}, 400),
        (diff_of("docs/a\0b"), {}, 400),
        (diff_of("docs/a.md"), {"changed_files": 2}, 413),
        (diff_of("docs/a.md"), {"changed_files": 301}, 413),
        (diff_of("docs/a.md"), {"additions": 20_001}, 413),
        (b" " * 1_100_000, {}, 413),
    ],
    ids=str,
)
def test_a_diff_that_is_in_doubt_is_never_decided(firewall, github, diff, members, status):
    before = len(firewall.entries())
    github.diff = diff
    answer = post(firewall, pull_request(**members))
    assert answer.status_code == status, answer.text
    assert len(firewall.entries()) == before
    assert [check["conclusion"] for check in github.checks] == ["action_required"]


FORK = {"head": {"ref": "docs", "sha": SHA, "repo": {"full_name": "somebody/octo-repo"}}}


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"draft": True}, "it is a draft"),
        (FORK, "it comes from a fork"),
        ({"head": {**FORK["head"], "repo": None}}, "fork"),
    ],
)
def test_drafts_and_forks_need_somebody(firewall, github, members, words):
    found = decided(firewall, post(firewall, pull_request(**members)))
    assert found["decision"]["decision"] == "allow"
    assert github.checks[0]["conclusion"] == "action_required"
    assert words in github.checks[0]["output"]["summary"]


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/repos/octo-org/octo-repo/actions/runs/7/deployment_protection_rule",
        "{api}.evil.example/repos/octo-org/octo-repo/actions/runs/7/deployment_protection_rule",
        "{api}/repos/other/repo/actions/runs/7/deployment_protection_rule",
        "{api}/repos/octo-org/octo-repo/actions/runs/7/../8/deployment_protection_rule",
        "{api}/repos/octo-org/octo-repo/actions/runs/7/deployment_protection_rule?x=1",
        "{api}@evil.example/repos/octo-org/octo-repo/actions/runs/7/deployment_protection_rule",
    ],
)
def test_nothing_else_is_called(firewall, github, url):
    tree = deployment(deployment_callback_url=url.format(api=github.url))
    assert post(firewall, tree, "deployment_protection_rule").status_code == 403
    assert github.calls == []


def test_who_may_deliver(firewall, github):
    body = json.dumps(pull_request()).encode()
    before = len(firewall.entries())
    for changed in (
        {"X-Hub-Signature-256": ""},
        {"X-Hub-Signature-256": "sha256=" + "0" * 64},
        {"X-Hub-Signature-256": signed(body + b" ", "ping")["X-Hub-Signature-256"]},
        {"Authorization": f"Bearer {firewall.key}", "X-Hub-Signature-256": "sha256=" + "1" * 64},
    ):
        with firewall.client(key="") as client:
            answer = client.post(WEBHOOK, content=body, headers={**signed(body, "pull_request"), **changed})
        assert answer.status_code == 401, changed
    assert (len(firewall.entries()), github.calls) == (before, [])


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"[]", {}, 400),
        (json.dumps(pull_request()).replace('"number"', '"number": 1, "number"').encode(), {}, 400),
        (json.dumps(pull_request(head={})).encode(), {}, 400),
        (json.dumps(pull_request(updated_at="2020-01-01T00:00:00Z")).encode(), {}, 403),
        (json.dumps(pull_request("a/..")).encode(), {}, 400),
        (b"{}", {"X-GitHub-Event": "PING!"}, 400),
        (b"{}", {"X-GitHub-Delivery": "a b"}, 400),
        (b"payload=%7B%7D", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
        (b" " * 2_100_000, {}, 413),
    ],
    ids=[
        "cut off",
        "a list",
        "a member twice",
        "no head",
        "too old",
        "no repository",
        "no event",
        "no id",
        "a form",
        "too large",
    ],
)
def test_what_is_no_delivery_is_refused_and_leaves_nothing(firewall, github, content, headers, status):
    before = len(firewall.entries())
    with firewall.client(key="") as client:
        answer = client.post(WEBHOOK, content=content, headers={**signed(content, "pull_request"), **headers})
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert (len(firewall.entries()), github.checks) == (before, [])


def test_secrets_rotate_and_a_token_sets_statuses(serve, database_dsn, github, tmp_path):
    settings = settings_of(github, tmp_path) | {
        "MFW_GITHUB__WEBHOOK_SECRET": "x8CvB2nM5kL9pQ4rT7wY1zA6dF3gH0jS",
        "MFW_GITHUB__PREVIOUS_WEBHOOK_SECRET": SECRET,
        "MFW_GITHUB__APP_ID": "",
        "MFW_GITHUB__PRIVATE_KEY": "",
        "MFW_GITHUB__TOKEN": "github_pat_x",
        "MFW_LIMITS__BURST": "3",
        "MFW_LIMITS__PER_MINUTE": "1",
    }
    with serve(database_dsn, **settings) as service:
        for secret in (SECRET, settings["MFW_GITHUB__WEBHOOK_SECRET"]):
            assert decided(service, post(service, pull_request(), secret=secret))["report"]["status"] == "success"
        assert [one["state"] for one in github.statuses] == ["success", "success"]
        told = post(service, deployment(github.url), "deployment_protection_rule")
        assert told.status_code == 503
        assert "APP_ID" in told.text
        # A bucket of its own: the agent's key is not out of breath.
        assert post(service, pull_request()).status_code == 429
        with service.client() as client:
            assert client.post("/v1/decisions", json={}).status_code == 400


def test_a_token_that_ended_early_is_had_anew(firewall, github):
    decided(firewall, post(firewall, pull_request()))
    github.token = "ghs_second"
    decided(firewall, post(firewall, pull_request()))
    assert sum(path.endswith("/access_tokens") for _, path in github.calls) >= 1


def test_a_ledger_that_is_away_is_an_error_and_no_success(serve, database_dsn, github, tmp_path):
    import asyncpg

    from tests.integration.service.conftest import apart

    async def shut() -> None:
        connection = await asyncpg.connect(database_dsn)
        await connection.execute("ALTER TABLE ledger_entries RENAME TO elsewhere")
        await connection.close()

    with serve(database_dsn, **settings_of(github, tmp_path)) as service:
        apart(shut())
        answer = post(service, pull_request())
        assert answer.status_code in {500, 503, 504}
    assert {check["conclusion"] for check in github.checks} <= {"action_required"}


def test_a_github_that_is_too_slow_is_late(serve, database_dsn, github, tmp_path):
    with serve(database_dsn, **settings_of(github, tmp_path), MFW_GITHUB__TIMEOUT_SECONDS="0.2") as service:
        github.delay = 0.5
        assert post(service, pull_request()).status_code == 504
        assert service.entries() == []
    # There was time to say so.
    assert {check["conclusion"] for check in github.checks} <= {"action_required"}


def test_the_corpus_is_decided_as_on_the_native_route(serve, database_dsn, github, tmp_path):
    settings = settings_of(github, tmp_path)
    del settings["MFW_POLICIES__DIRECTORY"]
    compared = 0
    with serve(database_dsn, **settings) as service, service.client() as client:
        for case in load():
            made = delivery_for(case)
            if made is None:
                continue
            body, github.diff = made
            native = client.post("/v1/decisions", json=case.mutation).json()
            found = decided(service, post(service, body))
            assert found["decision"]["decision"] == native["decision"] == case.decision, case.name
            for reason in native["reasons"]:
                assert f"policy `{reason['policy']}`, rule `{reason['rule']}`" in found["report"]["summary"]
            compared += 1
    assert compared >= 10


def test_the_five_lines_of_the_page_work(serve, database_dsn, github, tmp_path):
    page = (ROOT / "docs" / "integrations" / "github.md").read_text()
    (command,) = re.findall(r"```console\n\$ (.*?)```", page, re.DOTALL)
    with serve(database_dsn, **settings_of(github, tmp_path)) as service:
        result = subprocess.run(
            ["bash", "-c", command],
            env={"MFW_URL": service.url, "MFW_GITHUB__WEBHOOK_SECRET": SECRET, "PATH": "/usr/bin:/bin"},
            capture_output=True,
            check=True,
        )
    assert json.loads(result.stdout)["outcome"] == "nothing to decide", result.stdout
