"""The control plane of the tests is one: what other tests rest on."""

import time

from tests.kubernetes.cluster import Cluster


def test_its_version_is_that_of_the_module(cluster: Cluster) -> None:
    said = cluster.api("GET", "/version").body
    assert (said["gitVersion"], said["major"]) == ("v1.36.3", "1")
    client = cluster.kubectl("version", "-o", "json").json
    assert client["clientVersion"]["gitVersion"] == client["serverVersion"]["gitVersion"] == "v1.36.3"


def test_whoever_has_a_token_is_somebody_and_rbac_holds(cluster: Cluster) -> None:
    token = cluster.service_account("agents", "newcomer")
    who = cluster.kubectl("auth", "whoami", "-o", "jsonpath={.status.userInfo.username}", as_token=token)
    assert who.stdout == "system:serviceaccount:agents:newcomer"
    refused = cluster.kubectl("get", "secrets", "-n", "agents", as_token=token)
    assert refused.returncode == 1
    assert "cannot list resource" in refused.stderr
    assert cluster.api("GET", "/api/v1/namespaces/agents/secrets", token=token).status == 403


def test_the_keys_of_its_tokens_can_be_read(cluster: Cluster) -> None:
    said = cluster.api("GET", "/.well-known/openid-configuration").body
    assert (said["issuer"], said["jwks_uri"]) == (cluster.issuer, cluster.jwks_url)
    assert cluster.api("GET", "/openid/v1/jwks").body["keys"]


def test_changes_are_in_the_audit_log(cluster: Cluster) -> None:
    cluster.namespace("audited")
    made = cluster.kubectl("create", "configmap", "one", "-n", "audited")
    assert made.returncode == 0, made.stderr
    deadline = time.monotonic() + 60
    path = "/api/v1/namespaces/audited/configmaps"
    # Controllers, if they run, put their own into every namespace.
    while not (
        verbs := [
            event["verb"]
            for event in cluster.events()
            if event["requestURI"].startswith(path) and event["user"]["username"] == "admin"
        ]
    ):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert verbs == ["create"]


def test_controllers_clean_up(controllers: Cluster) -> None:
    controllers.namespace("leaving")
    done = controllers.kubectl("delete", "namespace", "leaving", "--timeout=60s")
    assert done.returncode == 0, done.stderr
    assert controllers.api("GET", "/api/v1/namespaces/leaving").status == 404
