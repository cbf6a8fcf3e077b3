"""The trial once it is installed: what its accounts may do, whose tokens it takes, and what works when it is pasted."""

import base64
import json
import re
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from ruamel.yaml import YAML

from tests.helm.chart import QUICKSTART
from tests.kubernetes.cluster import ROOT, Answer, Cluster
from tests.kubernetes.node import Node
from tests.kubernetes.story import NAMESPACE, commands, patient, shell, until
from tests.kubernetes.test_applied import definitions

# A whole installation, and what is done with it; far more than it takes.
pytestmark = pytest.mark.timeout(1200, func_only=True)

TRIAL: Final = "firewall-trial"
AGENT: Final = f"system:serviceaccount:{TRIAL}:agent"
PREVIOUS: Final = Path(__file__).parent / "previous"
AUDIENCE: Final = "mutation-firewall"
ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
HOOKS: Final = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
MERGE: Final = "application/merge-patch+json"
A_POD: Final = (
    f"kubectl -n {NAMESPACE} get pods -l app.kubernetes.io/component=service -o jsonpath='{{.items[0].metadata.name}}'"
)
# What there is no kubelet for; `console node` is for these.
NEEDS_A_NODE: Final = re.compile(r" (logs|exec|port-forward|top) ")
# The page and the line of each command that is marked as for a cluster.
RUNBOOKS: Final = [
    (page.stem, line.removeprefix("$ "))
    for page in sorted((ROOT / "runbooks").glob("*.md"))
    for block in re.findall(r"^```console cluster\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
    if not NEEDS_A_NODE.search(line)
]


@dataclass(frozen=True, slots=True)
class Installed:
    """A release in a cluster with the stand-in for a node."""

    cluster: Cluster
    node: Node
    typed: Callable[[str], tuple[int, str]]
    before: list[tuple[Any, ...]]

    def types(self, line: str) -> str:
        """What a line answers, which works."""
        code, answer = self.typed(line)
        assert code == 0, f"{line}\n{answer}\n{self.told()}"
        return answer

    def told(self) -> str:
        """What pods wrote of late, without a line for each request."""
        lines = self.node.logs(NAMESPACE).splitlines()
        return "\n".join(["", *[line for line in lines if '"event":"request"' not in line][-40:]])

    def ready(self) -> None:
        """Wait until a replica answers, and has been seen to."""
        self.types(f"kubectl -n {NAMESPACE} rollout status deploy/mutation-firewall --timeout=5m")
        until(lambda: self.node.reach(NAMESPACE, "mutation-firewall", 443))

    def what_an_upgrade_keeps(self) -> tuple[Any, ...]:
        """The last entry of the ledger, which a refusal makes and names; passwords, certificates, where they are known."""
        told = until(lambda: answer if (answer := self.scale(0)).status == 403 else None).body["message"]
        (entry,) = re.findall(r"ledger entry (\d+)", told)
        secrets = [
            self.cluster.api("GET", f"/api/v1/namespaces/{NAMESPACE}/secrets/{NAMESPACE}-{name}").body["data"]
            for name in ("postgresql", "tls")
        ]
        hooks = self.cluster.api("GET", f"{HOOKS}/{NAMESPACE}").body["webhooks"]
        return int(entry), secrets, {hook["clientConfig"]["caBundle"] for hook in hooks}

    def token(self, account: str) -> str:
        """Of one of the chart's own service accounts."""
        return self.cluster.service_account(NAMESPACE, account)

    def scale(self, replicas: int) -> Answer:
        """What the API server says to the agent of the trial."""
        path = f"/apis/apps/v1/namespaces/{TRIAL}/deployments/checkout/scale"
        token = self.cluster.service_account(TRIAL, "agent")
        return self.cluster.api("PATCH", path, {"spec": {"replicas": replicas}}, token=token, content_type=MERGE)


@pytest.fixture(scope="module")
def installed(alone: Cluster, server_dsn: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """The trial, with an autoscaler, backups, and tokens of the cluster's service accounts for a way in."""
    cluster, folder = alone, tmp_path_factory.mktemp("pasted")
    values = {
        "autoscaling": {"enabled": True, "minReplicas": 1, "maxReplicas": 2},
        "backup": {"enabled": True},
        "settings": {
            "MFW_AUTH__JWT__ENABLED": "true",
            "MFW_AUTH__JWT__ISSUER": cluster.issuer,
            "MFW_AUTH__JWT__AUDIENCE": AUDIENCE,
            "MFW_AUTH__JWT__JWKS_URL": cluster.jwks_url,
            "MFW_AUTH__JWT__CA_FILE": f"{ACCOUNT}/ca.crt",
            "MFW_AUTH__JWT__TOKEN_FILE": f"{ACCOUNT}/token",
            "MFW_AUTH__JWT__ROLE_RULES": f"agent=sub=system:serviceaccount:{TRIAL}:*",
            "MFW_AUTH__JWT__SUBJECT_CONDITION": f'context.claims.sub == "system:serviceaccount:{TRIAL}:" + subject.id',
            "MFW_SHEDDING__ENABLED": "false",
        },
    }
    _lay(folder, values)
    kinds = [
        *definitions(),
        *(YAML(typ="safe", pure=True).load(path) for path in (ROOT / "k8s" / "crds").glob("*.yaml")),
    ]
    cluster.apply(*kinds)
    with Node(cluster, server_dsn) as node, shell(cluster, folder) as typed:
        made = Installed(cluster, node, typed, [])
        made.types(commands()[0].line)
        waiting = "--wait --wait-for-jobs --timeout 10m"
        made.types(f"helm -n {NAMESPACE} install {NAMESPACE} {PREVIOUS} {waiting}")
        made.before.append(made.what_an_upgrade_keeps())
        made.types(commands()[1].line.replace("--wait ", "-f values.yaml --wait ", 1))
        patient(cluster)
        made.ready()
        yield made
        made.types(f"helm -n {NAMESPACE} uninstall {NAMESPACE}")
        made.types("kubectl delete -f helm/namespace.yaml")
        names = [f"crd/{one['metadata']['name']}" for one in kinds]
        cluster.kubectl("delete", *names)
        until(lambda: cluster.api("GET", f"/api/v1/namespaces/{TRIAL}").status == 404)
        assert node.troubles == []


def _lay(folder: Path, values: dict[str, Any]) -> None:
    """A folder as somebody has it who operates this: the checkout, values, and files of secrets."""
    for name in ("helm", "k8s"):
        (folder / name).symlink_to(ROOT / name)
    # JSON is YAML. What a runbook installs has all values in one file.
    whole = YAML(typ="safe", pure=True).load(QUICKSTART.read_text())
    settings = whole["settings"] | values["settings"]
    (folder / "values.yaml").write_text(json.dumps(whole | values | {"settings": settings}))
    for name in ("database-url", "ledger-signing-key", "redis-url", "bootstrap-key"):
        (folder / name).write_text("secret")


# From the release before


def test_an_upgrade_from_the_release_before_keeps_what_there_was(installed: Installed) -> None:
    """No field that cannot be changed was, or the fixture would have failed; and the same ledger goes on."""
    (entry, secrets, bundles), (next_entry, *kept) = installed.before[0], installed.what_an_upgrade_keeps()
    assert next_entry > entry
    assert kept == [secrets, bundles]
    history = json.loads(installed.types(f"helm -n {NAMESPACE} history {NAMESPACE} -o json"))
    assert (history[0]["status"], history[-1]["status"]) == ("superseded", "deployed")
    # Of both releases one migration ran, that of this one is there.
    jobs = installed.types(f"kubectl -n {NAMESPACE} get jobs -l app.kubernetes.io/component=migration -o name")
    assert len(jobs.splitlines()) == 1


# Accounts


def allowed(installed: Installed, account: str, namespace: str) -> set[str]:
    """VERB RESOURCE[/NAME] of all that an account may do in a namespace beyond what everybody may."""

    def rules(token: str) -> set[str]:
        spec = {"namespace": namespace}
        asked = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": spec}
        said = installed.cluster.api(
            "POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", asked, token=token
        )
        assert said.status == 201, said
        return {
            f"{verb} {resource}" + (f"/{name}" if name else "")
            for rule in said.body["status"]["resourceRules"]
            for verb in rule["verbs"]
            for resource in rule["resources"]
            for name in rule.get("resourceNames", [""])
        }

    return rules(installed.token(account)) - rules(installed.cluster.service_account("nobodys", "nobody"))


def test_its_accounts_may_do_what_they_need_and_nothing_else(installed: Installed) -> None:
    assert allowed(installed, NAMESPACE, NAMESPACE) == set()
    assert allowed(installed, NAMESPACE, TRIAL) == set()
    hook = f"validatingwebhookconfigurations/{NAMESPACE}"
    everywhere = {f"get {hook}", f"patch {hook}"}
    secret = f"secrets/{NAMESPACE}-tls"
    assert allowed(installed, f"{NAMESPACE}-certificates", TRIAL) == everywhere
    assert allowed(installed, f"{NAMESPACE}-certificates", NAMESPACE) == everywhere | {
        f"get {secret}",
        f"update {secret}",
    }


def test_what_is_not_theirs_is_refused(installed: Installed) -> None:
    base = f"/api/v1/namespaces/{NAMESPACE}"
    for account in (NAMESPACE, f"{NAMESPACE}-certificates"):
        token = installed.token(account)
        for method, path in (
            ("GET", f"{base}/secrets"),
            ("GET", f"{base}/secrets/{NAMESPACE}-postgresql"),
            ("GET", f"{base}/pods"),
            ("DELETE", f"{HOOKS}/{NAMESPACE}"),
            ("GET", "/api/v1/nodes"),
            ("POST", f"{base}/serviceaccounts/{NAMESPACE}/token"),
        ):
            told = installed.cluster.api(method, path, {} if method == "POST" else None, token=token)
            assert told.status == 403, (account, method, path, told)


# Tokens


@pytest.fixture(scope="module")
def asking(installed: Installed) -> Callable[[str], httpx.Response]:
    """What the service answers over TLS, by its own certificate, to a decision that is asked for with a token."""
    said = installed.cluster.api("GET", f"{HOOKS}/{NAMESPACE}").body["webhooks"][0]["clientConfig"]["caBundle"]
    context = ssl.create_default_context(cadata=base64.b64decode(said).decode())
    change = {
        "before": {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}, "spec": {"replicas": 2}},
        "after": {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}, "spec": {"replicas": 3}},
    }
    asked = {
        "subject": {"type": "agent", "id": "agent"},
        "action": {"name": "update"},
        "resource": {"type": "apps/Deployment", "id": "a"},
        "change": change,
    }

    def ask(token: str, **other: str) -> httpx.Response:
        where = until(lambda: installed.node.reach(NAMESPACE, "mutation-firewall", 443))
        body = asked | {"subject": {"type": "agent", "id": other.get("subject", "agent")}}
        with httpx.Client(verify=context, timeout=60) as client:
            return client.post(
                f"https://{where}/v1/decisions",
                json=body,
                headers={"Authorization": f"Bearer {token}"},
                extensions={"sni_hostname": f"{NAMESPACE}.{NAMESPACE}.svc"},
            )

    return ask


def test_a_service_account_asks_with_the_token_that_the_cluster_gives_it(
    installed: Installed, asking: Callable[..., httpx.Response]
) -> None:
    token = installed.types(f"kubectl -n {TRIAL} create token agent --audience {AUDIENCE}").strip()
    answer = asking(token)
    assert answer.status_code == 200, answer.text + installed.told()
    assert answer.json()["decision"] in {"allow", "hold", "deny"}
    # For itself alone.
    assert asking(token, subject="another").status_code == 403


def test_tokens_that_are_for_others_or_over_are_refused(
    installed: Installed, asking: Callable[..., httpx.Response]
) -> None:
    def refused(token: str) -> None:
        answer = asking(token)
        assert answer.status_code == 401, answer.text + installed.told()

    refused(installed.types(f"kubectl -n {TRIAL} create token agent --audience another").strip())
    # The API server's own audience is none of ours.
    refused(installed.cluster.service_account(TRIAL, "agent"))
    good = installed.types(f"kubectl -n {TRIAL} create token agent --audience {AUDIENCE}").strip()
    signed, _, signature = good.rpartition(".")
    refused(f"{signed}.{signature[::-1]}")
    # An account that no rule of roles is about is known, and may nothing.
    elsewhere = asking(installed.cluster.service_account("nobodys", "nobody", audiences=[AUDIENCE]))
    assert elsewhere.status_code in {401, 403}, elsewhere.text


# Away


def test_while_it_is_away_its_agents_wait_and_all_others_go_on(installed: Installed) -> None:
    # An autoscaler does not act on a Deployment that somebody has scaled to zero.
    installed.types(f"kubectl -n {NAMESPACE} scale deploy/mutation-firewall --replicas=0")
    until(lambda: installed.node.reach(NAMESPACE, "mutation-firewall", 443) is None)
    # What is connected already is answered until the last replica has drained.
    told = until(lambda: answer if (answer := installed.scale(3)).status == 500 else None)
    assert told.body["reason"] == "InternalError"
    assert 'failed calling webhook "changes.mutationfirewall.io"' in told.body["message"]
    installed.types(f"kubectl -n {TRIAL} scale deploy/checkout --replicas=1")
    installed.types(
        "kubectl -n kube-system create configmap meanwhile && kubectl -n kube-system delete configmap meanwhile"
    )
    # As runbooks/bypass-the-webhook.md has it.
    installed.types(f"kubectl label namespace {TRIAL} mutationfirewall.io/exempt=incident")
    until(lambda: installed.scale(2).status == 200)
    installed.types(f"kubectl label namespace {TRIAL} mutationfirewall.io/exempt-")
    until(lambda: installed.scale(2).status == 500)
    installed.types(f"kubectl -n {NAMESPACE} scale deploy/mutation-firewall --replicas=1")
    installed.ready()
    until(lambda: installed.scale(3).status == 200)
    until(lambda: installed.scale(0).status == 403)


# Pages


def test_what_runbooks_say_for_a_cluster_works_when_it_is_pasted(installed: Installed) -> None:
    """Each line once, in the order of the pages; what takes the service away is put back before the next one."""
    cluster = installed.cluster
    cluster.apply(*_of_the_controller())
    failed: list[str] = []
    for line in dict.fromkeys(line for _, line in RUNBOOKS):
        pasted = line.replace("NAMESPACE", TRIAL)
        if " POD" in pasted:
            pasted = pasted.replace(" POD", f" {installed.types(A_POD).strip()}")
        code, answer = installed.typed(pasted)
        # `grep` finds nothing where all is well, and says so by 1; `can-i` says no by it.
        if code not in ({0, 1} if "| grep" in line or "auth can-i" in line else {0}):
            failed.append(f"$ {line}\n{code}: {answer[-1500:]}")
        if "--replicas=" in line:
            installed.types(f"kubectl -n {NAMESPACE} scale deploy/mutation-firewall --replicas=1")
            installed.ready()
    assert not failed, "\n\n".join(failed)
    installed.types(f"kubectl -n {NAMESPACE} delete deployment,lease {NAMESPACE}-controller --ignore-not-found")
    installed.ready()


def _of_the_controller() -> list[dict[str, Any]]:
    """What pages about the controller look at; it runs in tests of its own."""
    metadata = {"name": f"{NAMESPACE}-controller", "namespace": NAMESPACE}
    pod = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "a"}]}}
    spec = {"replicas": 0, "selector": {"matchLabels": {"a": "b"}}, "template": pod}
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata}
    return [lease, {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}]
