"""Who is an agent by a label on its service account, on a real API server."""

import time
from pathlib import Path

from tests.kubernetes.cluster import Cluster
from tests.kubernetes.firewall import STARTER, serving

NAMESPACE = "labelled"


def test_a_label_makes_an_agent_at_once_and_no_longer(cluster: Cluster, database_dsn: str, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(cluster.service_account("mutation-firewall", "reader"))
    rule = {"apiGroups": [""], "resources": ["serviceaccounts"], "verbs": ["list", "watch"]}
    cluster.grant("accounts", "mutation-firewall/reader", rule)
    bot = cluster.service_account(NAMESPACE, "bot")
    cluster.grant("bots", f"{NAMESPACE}/bot", {"apiGroups": [""], "resources": ["pods"], "verbs": ["create"]})
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "a-", "namespace": NAMESPACE}}
    pod["spec"] = {"containers": [{"name": "a", "image": "a"}]}
    account = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/bot"

    with serving(
        cluster,
        database_dsn,
        STARTER,
        MFW_KUBERNETES__AGENTS="label=example.com/agent=*",
        MFW_KUBERNETES__ACCESS__URL=cluster.url,
        MFW_KUBERNETES__ACCESS__TOKEN_FILE=str(token),
        MFW_KUBERNETES__ACCESS__CA_FILE=str(cluster.ca_file),
    ) as firewall:

        def types() -> set[str]:
            """What the account is in everything that was decided about it just now."""
            cluster.api("POST", f"/api/v1/namespaces/{NAMESPACE}/pods", pod, token=bot)
            found = [one["record"]["input"]["subject"] for one in firewall.decided()]
            return {one["type"] for one in found if one["id"].endswith(":bot")}

        def wait(expected: str) -> None:
            deadline = time.monotonic() + 60
            while types() != {expected}:
                assert time.monotonic() < deadline
                time.sleep(0.05)

        with firewall.in_front(firewall.webhook(STARTER, agents=["label=example.com/agent=*"])):
            wait("service")
            for label, expected in (("yes", "agent"), (None, "service")):
                changed = cluster.api(
                    "PATCH",
                    account,
                    {"metadata": {"labels": {"example.com/agent": label}}},
                    content_type="application/merge-patch+json",
                )
                assert changed.status == 200
                wait(expected)
