"""The chart: what it makes by itself, what each value changes, and what it refuses to make."""

import base64
import functools
import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import pytest
from ruamel.yaml import YAML

from app.controller.rights import rights
from app.core.admission.callers import agent_rule
from app.migrations import apply
from app.policies.custom_resources import RESOURCES
from app.policies.load import load_directory
from app.policies.webhook import Webhook, webhook_configuration
from app.settings import Settings
from tests.helm.chart import (
    CHART,
    EVERYTHING,
    EXAMPLES,
    MINIMAL,
    NAMESPACE,
    QUICKSTART,
    RELEASE,
    ROOT,
    Object,
    Pod,
    env,
    example,
    helm,
    named,
    one,
    pods,
    read,
    refusal,
    render,
    template,
    text_of,
)

WAIT: Final = "MFW_DATABASE__WAIT_SECONDS"
MINORS: Final = ("1.34", "1.36", "1.37")
CONTROLLER: Final = CHART / "ci" / "controller-values.yaml"
# Of operators: their schemas are not Kubernetes' own.
FOREIGN: Final = {"ServiceMonitor", "PodMonitor", "PrometheusRule", "Certificate"}
# Who makes a cluster has these; nothing of the chart's may be called the same in another release.
CLUSTER_WIDE: Final = {"ClusterRole", "ClusterRoleBinding", "ValidatingWebhookConfiguration"}

every_example = pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)


@every_example
def test_helm_finds_nothing_to_say(file: Path) -> None:
    done = helm("lint", "--strict", "--quiet", str(CHART), "-f", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[WARNING]" not in done.stdout


@functools.cache
def _is_known(document: str, minor: str) -> bool:
    """Whether there is a schema; the test fails where it does not fit. Most objects are the same in most examples."""
    try:
        kubernetes_validate.validate(json.loads(document), minor, strict=True)
    except kubernetes_validate.SchemaNotFoundError:
        return False
    return True


@every_example
@pytest.mark.parametrize("minor", MINORS)
def test_every_object_is_one_of_kubernetes(file: Path, minor: str) -> None:
    unknown = set()
    for document in example(file):
        if not _is_known(json.dumps(document), minor):
            unknown.add(document["kind"])
    assert unknown <= FOREIGN


@every_example
def test_pods_are_restricted(file: Path) -> None:
    """Pod Security Standards, level `restricted`, and what goes beyond it: a read-only root, no token, no root group."""
    for pod in pods(example(file)):
        whole = pod.spec["securityContext"]
        assert whole["runAsNonRoot"] is True, pod.of
        assert whole["runAsUser"] > 0, pod.of
        assert whole["runAsGroup"] > 0, pod.of
        assert whole["seccompProfile"] == {"type": "RuntimeDefault"}, pod.of
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.spec.keys(), pod.of
        assert pod.spec["enableServiceLinks"] is False, pod.of
        kinds = {next(iter(volume.keys() - {"name"})) for volume in pod.spec.get("volumes", ())}
        assert kinds <= {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret"}, pod.of
        for container in pod.containers:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, pod.of
            assert all("hostPort" not in port for port in container.get("ports", ()))
            assert container["resources"].keys() == {"requests", "limits"}, pod.of
            assert container["resources"]["limits"].keys() == {"cpu", "memory"}, pod.of


@every_example
def test_no_secret_is_in_it(file: Path) -> None:
    """Names of Secrets and keys alone; the trial's password is drawn by Helm itself, and in a Secret."""
    for document in example(file):
        if document["kind"] == "Secret":
            assert "data" not in document
            assert file == QUICKSTART or "stringData" not in document
    for pod in pods(example(file)):
        for container in pod.containers:
            given = env(container)
            for name in given:
                assert name.endswith("_FILE") or name not in SECRET, f"{pod.of}: {name}"


# Whose objects are no part of the firewall: something that an agent may change.
TRIAL: Final = "firewall-trial"
SECRET: Final = re.findall(r'"(MFW_\w+)"', (CHART / "templates" / "_helpers.tpl").read_text().partition("is secret")[0])


@every_example
def test_no_line_ends_in_blanks(file: Path) -> None:
    assert [line for line in text_of(file).splitlines() if line != line.rstrip()] == []


@every_example
def test_what_selects_finds_its_own_and_nothing_else(file: Path) -> None:
    objects = example(file)
    made = list(pods(objects))

    def found(selector: Mapping[str, str]) -> set[str]:
        return {pod.of for pod in made if selector.items() <= pod.labels.items()}

    for document in objects:
        metadata = document["metadata"]
        if metadata["name"].endswith("-extra") or TRIAL in {metadata["name"], metadata.get("namespace")}:
            continue
        assert document["metadata"]["labels"]["app.kubernetes.io/instance"] == RELEASE
        spec = document.get("spec", {})
        match document["kind"]:
            case "Deployment" | "StatefulSet":
                mine = spec["selector"]["matchLabels"]
                assert found(mine) == {f"{document['kind']}/{document['metadata']['name']}"}
                assert "helm.sh/chart" not in mine
            case "PodDisruptionBudget" | "PodMonitor":
                assert found(spec["selector"]["matchLabels"]) == {f"Deployment/{document['metadata']['name']}"}
            case "Service":
                stateful = spec["selector"]["app.kubernetes.io/component"] == "postgresql"
                assert found(spec["selector"]) == (
                    {f"StatefulSet/{RELEASE}-postgresql"} if stateful else {f"Deployment/{RELEASE}"}
                )
                ports = {
                    port["name"]
                    for pod in made
                    if pod.of in found(spec["selector"])
                    for container in pod.containers
                    for port in container["ports"]
                }
                assert {port.get("targetPort", port["name"]) for port in spec["ports"]} <= ports
            case "ServiceMonitor":
                wanted = spec["selector"]["matchLabels"].items()
                (service,) = [
                    other
                    for other in objects
                    if other["kind"] == "Service" and wanted <= other["metadata"]["labels"].items()
                ]
                assert service["metadata"]["name"] == f"{RELEASE}-metrics"
            case "HorizontalPodAutoscaler":
                assert f"Deployment/{spec['scaleTargetRef']['name']}" in named(objects)
            case "NetworkPolicy":
                assert spec["policyTypes"] == ["Ingress", "Egress"]
                assert found(spec["podSelector"].get("matchLabels", {}))
            case _:
                pass


@every_example
def test_every_name_that_is_used_is_there(file: Path) -> None:
    """Accounts, claims and ConfigMaps of the release, and a mount for each volume and a volume for each mount."""
    objects = example(file)
    there = named(objects)
    foreign = {"ConfigMap/firewall-policies", "ServiceAccount/firewall", "PersistentVolumeClaim/guard"}
    for pod in pods(objects):
        account = f"ServiceAccount/{pod.spec.get('serviceAccountName', 'default')}"
        assert account in there | foreign or pod.spec.get("automountServiceAccountToken") is False, pod.of
        volumes = {volume["name"] for volume in pod.spec.get("volumes", ())}
        mounted = {mount["name"] for container in pod.containers for mount in container.get("volumeMounts", ())}
        assert volumes == mounted, pod.of
        for volume in pod.spec.get("volumes", ()):
            if "configMap" in volume:
                assert f"ConfigMap/{volume['configMap']['name']}" in there | foreign, pod.of
            if "persistentVolumeClaim" in volume:
                assert f"PersistentVolumeClaim/{volume['persistentVolumeClaim']['claimName']}" in there | foreign
    for document in objects:
        if document["kind"] in {"RoleBinding", "ClusterRoleBinding"}:
            ref = document["roleRef"]
            assert f"{ref['kind']}/{ref['name']}" in there
            for subject in document["subjects"]:
                assert f"ServiceAccount/{subject['name']}" in there
                assert subject["namespace"] == (TRIAL if document["metadata"].get("namespace") == TRIAL else NAMESPACE)


def test_without_a_cluster_the_same_is_made_each_time() -> None:
    """Who renders a repository every few minutes would else change pods each time, and Secrets below them."""
    assert tuple(read(template(EVERYTHING))) == example(EVERYTHING)


def test_two_releases_share_no_name() -> None:
    second = read(template(EVERYTHING, release="second"))
    ours = {name for name in named(example(EVERYTHING)) if name.partition("/")[0] in CLUSTER_WIDE}
    assert ours
    assert not ours & named(second)


@every_example
def test_names_that_look_like_numbers_stay_names(file: Path) -> None:
    """Namespaces that are called after a project's number, releases after a commit; `true` is no name to YAML."""
    done = helm("template", "7", str(CHART), "-n", "456", "-f", str(file), "--set-string", "fullnameOverride=true")
    assert done.returncode == 0, done.stderr
    objects = read(done.stdout)
    for document in objects:
        _is_known(json.dumps(document), MINORS[-1])
        labels = document["metadata"].get("labels", {})
        assert all(isinstance(value, str) for value in [document["metadata"]["name"], *labels.values()])
    spaces = {document["metadata"].get("namespace") for document in objects}
    assert spaces <= {None, "456", "default", "payments", TRIAL}
    assert one(objects, "Deployment", "true")["metadata"]["labels"]["app.kubernetes.io/instance"] == "7"


class TestDefaults:
    """What there is without saying anything."""

    def test_objects(self) -> None:
        found = named(example(MINIMAL))
        (job,) = [name for name in found if name.startswith("Job/")]
        assert re.fullmatch(rf"Job/{RELEASE}-migrate-0-1-0-[0-9a-f]{{6}}", job)
        assert found - {job} == {
            *(f"{kind}/{RELEASE}" for kind in ("Deployment", "Service", "ServiceAccount", "NetworkPolicy")),
            *(f"{kind}/{RELEASE}" for kind in ("HorizontalPodAutoscaler", "PodDisruptionBudget")),
            f"Service/{RELEASE}-metrics",
            f"CronJob/{RELEASE}-integrity",
            f"CronJob/{RELEASE}-partitions",
            f"NetworkPolicy/{RELEASE}-test",
            f"Pod/{RELEASE}-test",
        }

    def test_the_figures_of_the_failure_matrix(self) -> None:
        spec = one(example(MINIMAL), "Deployment")["spec"]
        assert spec["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
        assert spec["progressDeadlineSeconds"] == 600
        assert "replicas" not in spec, "the autoscaler has the say"
        (container,) = spec["template"]["spec"]["containers"]
        assert container["resources"]["limits"] == {"cpu": "500m", "memory": "512Mi"}
        paths = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
        assert paths == {"startup": "/health/startup", "liveness": "/health/live", "readiness": "/health/ready"}
        assert one(example(MINIMAL), "PodDisruptionBudget")["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
        assert one(example(EVERYTHING), "CronJob", f"{RELEASE}-backup")["spec"]["jobTemplate"]["spec"]["template"][
            "spec"
        ]["containers"][0]["command"][-2:] == ["--keep-days", "30"]

    @pytest.mark.parametrize(
        ("pre_stop", "settings"),
        [
            (5, {}),
            (0, {"MFW_HTTP__DRAIN_SECONDS": "0", "MFW_HTTP__SHUTDOWN_GRACE_SECONDS": "0"}),
            (15, {"MFW_HTTP__DRAIN_SECONDS": "7.5", "MFW_HTTP__SHUTDOWN_GRACE_SECONDS": "60"}),
        ],
        ids=str,
    )
    def test_nobody_is_killed_before_the_end(self, pre_stop: int, settings: dict[str, str]) -> None:
        http = Settings.load({"MFW_ENVIRONMENT": "development", **settings}).http
        spec = one(render(MINIMAL, preStopSeconds=pre_stop, settings=settings), "Deployment")["spec"]["template"][
            "spec"
        ]
        assert spec["terminationGracePeriodSeconds"] > pre_stop + http.drain_seconds + http.shutdown_grace_seconds
        (container,) = spec["containers"]
        assert ("lifecycle" in container) is bool(pre_stop)


def _container(objects: list[Object]) -> Object:
    (found,) = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


CONTROLLED: Final[dict[str, Any]] = {
    "policies": {"source": "database"},
    "controller": {"enabled": True, "apiKey": {"name": "a", "key": "b"}},
}
DEFINITIONS: Final = {f"CustomResourceDefinition/{resource.name}" for resource in RESOURCES}
OF_THE_CONTROLLER: Final = {
    *DEFINITIONS,
    *(f"{kind}/{RELEASE}-controller" for kind in ("Deployment", "ServiceAccount", "NetworkPolicy")),
    f"PodDisruptionBudget/{RELEASE}-controller",
    *(
        f"{kind}/{NAMESPACE}-{RELEASE}-controller"
        for kind in ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
    ),
}

# What a toggle takes away, or adds, by itself.
TOGGLES: Final[list[tuple[dict[str, Any], set[str], set[str]]]] = [
    ({"autoscaling": {"enabled": False}}, set(), {f"HorizontalPodAutoscaler/{RELEASE}"}),
    ({"podDisruptionBudget": {"enabled": False}}, set(), {f"PodDisruptionBudget/{RELEASE}"}),
    ({"networkPolicy": {"enabled": False}}, set(), {f"NetworkPolicy/{RELEASE}", f"NetworkPolicy/{RELEASE}-test"}),
    ({"serviceAccount": {"create": False}}, set(), {f"ServiceAccount/{RELEASE}"}),
    ({"integrity": {"enabled": False}}, set(), {f"CronJob/{RELEASE}-integrity"}),
    ({"partitions": {"enabled": False}}, set(), {f"CronJob/{RELEASE}-partitions"}),
    ({"metrics": {"serviceMonitor": {"enabled": True}}}, {f"ServiceMonitor/{RELEASE}"}, set()),
    ({"metrics": {"podMonitor": {"enabled": True}}}, {f"PodMonitor/{RELEASE}"}, set()),
    ({"metrics": {"rules": {"enabled": True}}}, {f"PrometheusRule/{RELEASE}"}, set()),
    (
        {"metrics": {"dashboards": {"enabled": True}}},
        {f"ConfigMap/{RELEASE}-dashboard-{file.stem}" for file in (ROOT / "alerts" / "dashboards").glob("*.json")},
        set(),
    ),
    (
        {"backup": {"enabled": True}},
        {f"CronJob/{RELEASE}-backup", f"PersistentVolumeClaim/{RELEASE}-backups"},
        set(),
    ),
    ({"backup": {"enabled": True, "existingClaim": "guard"}}, {f"CronJob/{RELEASE}-backup"}, set()),
    (
        {"backup": {"enabled": True}, "archive": {"enabled": True}},
        {f"CronJob/{RELEASE}-{job}" for job in ("backup", "archive")} | {f"PersistentVolumeClaim/{RELEASE}-backups"},
        set(),
    ),
    (
        {"tls": {"source": "own"}},
        {f"{kind}/{RELEASE}-certificates" for kind in ("ServiceAccount", "Role", "RoleBinding", "CronJob")}
        | {f"Secret/{RELEASE}-tls"},
        set(),
    ),
    ({"tls": {"source": "certManager", "issuerRef": {"name": "a"}}}, {f"Certificate/{RELEASE}"}, set()),
    ({"tls": {"source": "secret"}}, set(), set()),
    ({"policies": {"source": "files", "files": {"a.yaml": "b"}}}, {f"ConfigMap/{RELEASE}-policies"}, set()),
    ({"policies": {"source": "database"}}, set(), set()),
    (CONTROLLED, OF_THE_CONTROLLER, set()),
    (
        {**CONTROLLED, "controller": {**CONTROLLED["controller"], "definitions": False, "also": {"a.yaml": "b"}}},
        (OF_THE_CONTROLLER | {f"ConfigMap/{RELEASE}-controller"}) - DEFINITIONS,
        set(),
    ),
    (
        {**CONTROLLED, "metrics": {"serviceMonitor": {"enabled": True}}, "podDisruptionBudget": {"enabled": False}},
        (OF_THE_CONTROLLER | {f"ServiceMonitor/{RELEASE}", f"PodMonitor/{RELEASE}-controller"})
        - {f"PodDisruptionBudget/{RELEASE}-controller"},
        {f"PodDisruptionBudget/{RELEASE}"},
    ),
    (
        {**CONTROLLED, "metrics": {"podMonitor": {"enabled": True}}, "networkPolicy": {"enabled": False}},
        (OF_THE_CONTROLLER | {f"PodMonitor/{RELEASE}", f"PodMonitor/{RELEASE}-controller"})
        - {f"NetworkPolicy/{RELEASE}-controller"},
        {f"NetworkPolicy/{RELEASE}", f"NetworkPolicy/{RELEASE}-test"},
    ),
]


@pytest.mark.parametrize(
    ("values", "more", "less"), TOGGLES, ids=lambda value: str(sorted(value) if isinstance(value, set) else value)[:60]
)
def test_each_toggle(values: dict[str, Any], more: set[str], less: set[str]) -> None:
    before, after = (
        {name for name in named(objects) if not re.match(r"Job/", name)}
        for objects in (example(MINIMAL), render(MINIMAL, **values))
    )
    assert (after - before, before - after) == (more, less)


def test_migrations_off() -> None:
    assert not [name for name in named(render(MINIMAL, migrations={"enabled": False})) if name.startswith("Job/")]


def test_what_the_release_before_cannot_live_with_is_left_for_later() -> None:
    def job(**values: Any) -> tuple[str, list[str]]:
        (found,) = [document for document in render(MINIMAL, **values) if document["kind"] == "Job"]
        (container,) = found["spec"]["template"]["spec"]["containers"]
        return found["metadata"]["name"], container["command"]

    before, after = job(), job(migrations={"beforeRollout": False})
    apply = ["python", "-m", "app.migrations.apply", "--wait", "300"]
    assert before[1] == [*apply, "--before-rollout"]
    assert after[1] == apply
    assert before[0] != after[0], "a Job that is done is not run again"


def test_another_release_or_another_database_migrate_in_another_job() -> None:
    def job(**values: Any) -> Object:
        made = render(MINIMAL, **{"backup": {"enabled": True}, **values})
        (found,) = [document for document in made if document["kind"] == "Job"]
        return found

    # What its programs do not read is not in it: another backup and another migration would be for nothing.
    for values in (
        {"webhook": {"timeoutSeconds": 5}},
        {"settings": {"MFW_LOGGING__LEVEL": "debug"}},
        {"secretSettings": {"MFW_GITHUB__TOKEN": A_SECRET}},
        {"policies": {"source": "database"}, "autoscaling": {"maxReplicas": 7}},
    ):
        assert job(**values) == job(), values
    others: list[dict[str, Any]] = [
        {},
        {"image": {"tag": "0.1.1"}},
        {"settings": {"MFW_DATABASE__POOL_SIZE": "5"}},
        {"secretSettings": {"MFW_DATABASE__DIRECT_URL": A_SECRET}},
        {"databaseAuthority": A_SECRET},
        {"migrations": {"databaseUrl": A_SECRET}},
        {"backup": {"enabled": False}},
    ]
    assert len({job(**values)["metadata"]["name"] for values in others}) == len(others)
    # The same Job under one name is one that cannot be changed.
    assert job()["spec"] == job(settings={"MFW_LOGGING__LEVEL": "debug"})["spec"]
    for container in Pod("", {}, job()["spec"]["template"]["spec"]).containers:
        assert env(container).keys() == {"MFW_ENVIRONMENT", "MFW_LEDGER__ORIGIN", "MFW_DATABASE__URL_FILE"}


class TestValues:
    """Zero, false and empty are values."""

    def test_zero(self) -> None:
        objects = render(
            MINIMAL,
            autoscaling={"enabled": False},
            replicas=0,
            revisionHistoryLimit=0,
            migrations={"backoffLimit": 0},
            podDisruptionBudget={"maxUnavailable": 0},
        )
        spec = one(objects, "Deployment")["spec"]
        assert (spec["replicas"], spec["revisionHistoryLimit"]) == (0, 0)
        assert one(objects, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 0
        (job,) = [document for document in objects if document["kind"] == "Job"]
        assert job["spec"]["backoffLimit"] == 0
        assert env(_container(objects))["MFW_LIMITS__REPLICAS"] == "1"

    def test_empty(self) -> None:
        objects = render(MINIMAL, networkPolicy={"egress": [], "ingress": [], "metrics": []}, settings={})
        policy = one(objects, "NetworkPolicy")["spec"]
        assert all("from" not in rule for rule in policy["ingress"])
        assert [rule["ports"][0]["port"] for rule in policy["egress"]] == [53]

    def test_who_must_get_through_the_network_policy_does(self) -> None:
        """Both ways: `helm test` to the service, whoever else may ask; and by default PostgreSQL and Redis."""
        closed = render(MINIMAL, networkPolicy={"ingress": [{"podSelector": {"matchLabels": {"a": "b"}}}]})
        policy = one(closed, "NetworkPolicy")["spec"]
        tester = one(closed, "Pod", f"{RELEASE}-test")["metadata"]["labels"].items()
        served = one(closed, "Deployment")["spec"]["template"]["metadata"]["labels"].items()
        allowed = [peer["podSelector"]["matchLabels"].items() for peer in policy["ingress"][0]["from"]]
        assert any(peer <= tester for peer in allowed)
        # What lets it out is its own: no other pod of the release asks the service.
        out = one(closed, "NetworkPolicy", f"{RELEASE}-test")["spec"]
        ways = [rule for rule in out["egress"] if rule["ports"][0]["port"] == "http"]
        assert [rule["to"][0]["podSelector"]["matchLabels"].items() <= served for rule in ways] == [True]
        assert {port["port"] for rule in policy["egress"] for port in rule["ports"]} == {53, 5432, 6379}

    def test_false_is_a_text(self) -> None:
        given = env(_container(render(MINIMAL, settings={"MFW_AUTH__API_KEYS__ENABLED": "false"})))
        assert given["MFW_AUTH__API_KEYS__ENABLED"] == "false"

    def test_large_numbers_stay_whole(self) -> None:
        objects = render(MINIMAL, migrations={"activeDeadlineSeconds": 10_000_000}, progressDeadlineSeconds=10_000_000)
        (job,) = [document for document in objects if document["kind"] == "Job"]
        assert job["spec"]["activeDeadlineSeconds"] == 10_000_000
        assert one(objects, "Deployment")["spec"]["progressDeadlineSeconds"] == 10_000_000

    @pytest.mark.parametrize(
        ("image", "wanted"),
        [
            ({}, "mutation-firewall/mutation-firewall:0.1.0"),
            ({"repository": "r.example/a", "tag": "2"}, "r.example/a:2"),
            ({"tag": "2", "digest": f"sha256:{'0' * 64}"}, f"mutation-firewall/mutation-firewall@sha256:{'0' * 64}"),
        ],
        ids=["default", "tag", "digest"],
    )
    def test_the_image(self, image: dict[str, str], wanted: str) -> None:
        objects = render(MINIMAL, image=image)
        assert {container["image"] for pod in pods(objects) for container in pod.containers} == {wanted}

    def test_names(self) -> None:
        assert "Deployment/other" in named(render(MINIMAL, fullnameOverride="other"))
        assert f"Deployment/{RELEASE}-shield" in named(render(MINIMAL, nameOverride="shield"))
        assert "Deployment/a-mutation-firewall" in named(read(template(MINIMAL, release="a")))
        longest = named(read(template(EVERYTHING, release="r" * 53)))
        assert max(len(name.partition("/")[2]) for name in longest if name.startswith("CronJob/")) <= 52

    @pytest.mark.parametrize(
        ("release", "values"),
        [
            ("fw.eu-1", {}),
            (f"{'r' * 38}.eu", {}),
            ("fw", {"nameOverride": "shield.eu"}),
            ("fw", {"fullnameOverride": f"{'r' * 38}.eu"}),
        ],
        ids=["release", "cut", "name", "full name"],
    )
    def test_names_with_dots(self, release: str, values: dict[str, str]) -> None:
        """Releases may be called so, Services may not."""
        for document in read(template(EVERYTHING, values=values, release=release)):
            if document["kind"] == "Service":
                assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", document["metadata"]["name"])
            for value in document["metadata"].get("labels", {}).values():
                assert re.fullmatch(r"[A-Za-z0-9]([-._A-Za-z0-9]{0,61}[A-Za-z0-9])?", value)

    @pytest.mark.parametrize(
        ("release", "values"),
        [
            ("7", {}),
            ("2.fw", {"nameOverride": "shield"}),
            ("fw", {"fullnameOverride": "12e4"}),
            ("fw", {"fullnameOverride": "7.eu"}),
        ],
    )
    def test_names_that_no_service_may_have(self, release: str, values: dict[str, str]) -> None:
        """RFC 1035, section 2.3.1: an API server refuses such a Service, after it made half of the release."""
        assert "set fullnameOverride to one that can" in refusal(MINIMAL, values=values, release=release)
        rest = {**values, "fullnameOverride": "shield"}
        assert "Service/shield" in named(read(template(MINIMAL, values=rest, release=release)))

    def test_the_longest_name_of_a_job_is_a_label(self, tmp_path: Path) -> None:
        """Its pods are labelled with it; whoever packages the chart may give it a version with a commit in it."""
        copy = tmp_path / CHART.name
        shutil.copytree(CHART, copy)
        text = (copy / "Chart.yaml").read_text()
        (copy / "Chart.yaml").write_text(
            re.sub(r"^appVersion: .*$", 'appVersion: "10.11.12-RC0.abcdef0"', text, flags=re.MULTILINE)
        )
        done = helm("template", "r" * 53, str(copy), "-n", NAMESPACE, "-f", str(EVERYTHING))
        assert done.returncode == 0, done.stderr
        jobs = [document["metadata"]["name"] for document in read(done.stdout) if document["kind"] == "Job"]
        assert len(jobs) == 3
        assert all(re.fullmatch(r"[a-z0-9-]{1,62}[a-z0-9]", name) for name in jobs), jobs

    def test_notes_say_what_has_to_be_there_before_anything_is_applied(self, tmp_path: Path) -> None:
        """Without a set in force, the webhook would refuse the first policy that is applied."""
        copy = tmp_path / CHART.name
        shutil.copytree(CHART, copy)
        (copy / "templates" / "NOTES.txt").rename(copy / "notes")
        # Helm shows notes where there is a cluster alone.
        (copy / "templates" / "notes.yaml").write_text('{{ fail (tpl (.Files.Get "notes") .) }}')
        own = CHART / "ci" / "webhook-own-certificates-values.yaml"
        # Whoever makes the certificate writes its authority into the webhook, when it is time; nobody else does.
        again = f"create job --from=cronjob/{RELEASE}-certificates {RELEASE}-certificates-again"
        told = (
            "Until a policy set is in force",
            "mfw policies push",
            "kubectl delete validatingwebhookconfiguration",
            again,
        )
        for source, said in (("database", True), ("files", False)):
            given = json.dumps({"policies": {"source": source}})
            done = helm("template", RELEASE, str(copy), "-n", NAMESPACE, "-f", str(own), "-f", "-", stdin=given)
            assert "say in networkPolicy.dns where it is" in done.stderr
            assert [words in done.stderr for words in told] == [said] * len(told), done.stderr
        issued = CHART / "ci" / "webhook-cert-manager-values.yaml"
        of_the_api_server, of_pods = {"webhook": {"caBundle": "a"}}, {"controller": {"authority": A_SECRET}}
        for authorities, warned in (
            ({}, "WARNING: controller.authority and webhook.caBundle: taken from `ca.crt`"),
            (of_the_api_server, "WARNING: controller.authority: taken from `ca.crt`"),
            (of_pods, "WARNING: webhook.caBundle: taken from `ca.crt`"),
            (of_the_api_server | of_pods, None),
        ):
            values = ("-f", str(issued), "-f", "-")
            done = helm("template", RELEASE, str(copy), "-n", NAMESPACE, *values, stdin=json.dumps(authorities))
            assert "Make a key and ask" in done.stderr
            assert ("taken from `ca.crt`" in done.stderr) is (warned is not None), done.stderr
            assert warned is None or warned in done.stderr

    def test_a_label_that_is_given_twice_stands_once(self) -> None:
        """What is said of pods and monitors goes before what is said of everything; a strict reader refuses two."""
        mine, all_ = {"example.com/team": "mine"}, {"example.com/team": "all"}
        metrics = {name: {"enabled": True, "labels": mine} for name in ("serviceMonitor", "podMonitor", "rules")}
        objects = render(EVERYTHING, commonLabels=all_, podLabels=mine, metrics=metrics)
        said = {
            document["kind"]: document["metadata"]["labels"]["example.com/team"]
            for document in objects
            if document["metadata"]["name"].startswith(RELEASE) and document["kind"] != "ConfigMap"
        }
        special = {"ServiceMonitor", "PodMonitor", "PrometheusRule"}
        assert {kind for kind, value in said.items() if value == "mine"} == special
        for name in (RELEASE, f"{RELEASE}-controller"):
            pod = one(objects, "Deployment", name)["spec"]["template"]["metadata"]["labels"]
            assert pod["example.com/team"] == "mine"

    def test_everything_reaches_the_pods(self) -> None:
        whole = one(example(EVERYTHING), "Deployment")
        metadata, spec = whole["spec"]["template"]["metadata"], whole["spec"]["template"]["spec"]
        assert metadata["annotations"] == {"example.com/a": "b"}
        assert metadata["labels"]["example.com/team"] == "platform"
        assert metadata["labels"]["example.com/owner"] == "platform"
        assert spec["priorityClassName"] == "system-cluster-critical"
        assert spec["nodeSelector"] == {"kubernetes.io/os": "linux"}
        assert spec["imagePullSecrets"] == [{"name": "registry"}]
        assert spec["tolerations"] == [{"key": "dedicated", "operator": "Exists"}]
        assert {"name": "guard", "mountPath": "/guard"} in spec["containers"][0]["volumeMounts"]
        assert "ConfigMap/mutation-firewall-extra" in named(example(EVERYTHING))

    def test_every_pod_has_what_its_image_is_pulled_with_and_runs_where_it_may(self) -> None:
        placed: dict[str, Any] = {
            "imagePullSecrets": [{"name": "registry"}],
            "priorityClassName": "critical",
            "nodeSelector": {"kubernetes.io/os": "linux"},
            "tolerations": [{"key": "dedicated", "operator": "Exists"}],
        }
        values = {name: placed[name] for name in ("priorityClassName", "nodeSelector", "tolerations")}
        for file in (EVERYTHING, QUICKSTART):
            # Without what somebody brings along: `extraObjects` are as they are.
            objects = render(file, image={"pullSecrets": ["registry"]}, extraObjects=[], **values)
            made = list(pods(objects))
            assert {pod.of for pod in made} >= {f"Deployment/{RELEASE}", f"Pod/{RELEASE}-test"}
            for pod in made:
                assert {name: pod.spec.get(name) for name in placed} == placed, pod.of

    def test_what_starts_beside_the_database_waits_for_it(self) -> None:
        """Everything of a release is made at once; whoever gave up meanwhile would be tried ever more rarely."""
        objects = example(QUICKSTART)
        (job,) = [document for document in objects if document["metadata"]["name"].startswith(f"{RELEASE}-migrate-")]
        command = job["spec"]["template"]["spec"]["containers"][0]["command"]
        given = apply.parsed(command[command.index("app.migrations.apply") + 1 :])
        assert 60 < given.wait < job["spec"]["activeDeadlineSeconds"]
        (container,) = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
        settings = Settings.load({"MFW_ENVIRONMENT": "development", "MFW_DATABASE__WAIT_SECONDS": env(container)[WAIT]})
        probe = container["startupProbe"]
        assert 60 < settings.database.wait_seconds < probe["periodSeconds"] * probe["failureThreshold"]
        other = _container(render(MINIMAL, settings={WAIT: "7"}))
        assert [variable["value"] for variable in other["env"] if variable["name"] == WAIT] == ["7"]

    def test_the_data_of_the_trial_lie_in_no_folder_of_the_image(self) -> None:
        """From 18 on the image does not start where something is mounted at the folder that was that of 17."""
        (container,) = one(example(QUICKSTART), "StatefulSet", f"{RELEASE}-postgresql")["spec"]["template"]["spec"][
            "containers"
        ]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert not mounts["data"].startswith("/var/lib/postgresql")
        # Below the mount: the file system of a volume has a `lost+found`, and `initdb` wants an empty folder.
        assert env(container)["PGDATA"].startswith(f"{mounts['data']}/")

    def test_only_who_needs_a_token_has_one(self) -> None:
        having = {
            pod.of for pod in pods(example(EVERYTHING)) if pod.spec.get("automountServiceAccountToken") is not False
        }
        assert {re.sub("-[0-9a-f]{6}$", "", name) for name in having} == {
            f"Deployment/{RELEASE}",
            f"Deployment/{RELEASE}-controller",
            f"Job/{RELEASE}-cleanup",
            f"Job/{RELEASE}-certificates",
            f"CronJob/{RELEASE}-certificates",
        }
        assert {
            pod.of for pod in pods(example(MINIMAL)) if pod.spec.get("automountServiceAccountToken") is not False
        } == set()

    def test_jobs_are_another_role_of_the_database(self) -> None:
        for pod in pods(example(CHART / "ci" / "pooler-values.yaml")):
            secrets = [volume for volume in pod.spec.get("volumes", ()) if volume["name"] == "secrets"]
            if not secrets:
                continue
            keys = {
                item["path"]: item["key"]
                for source in secrets[0]["projected"]["sources"]
                for item in source["secret"]["items"]
            }
            given = env(pod.containers[-1])
            assert {name.removesuffix("_FILE") for name in given if name.endswith("_FILE")} == keys.keys()
            if pod.of.startswith("Deployment"):
                assert keys["MFW_DATABASE__URL"] == "database-url"
                assert "MFW_DATABASE__DIRECT_URL" not in keys
            else:
                assert keys["MFW_DATABASE__URL"] == keys["MFW_DATABASE__DIRECT_URL"] == "migrations-database-url"

    def test_whoever_asks_the_database_knows_its_authority(self) -> None:
        """The service, its jobs, and the backup before a migration: by `PGSSLROOTCERT`, which drivers and programs read."""
        ca = "/run/secrets/mfw/database-ca.crt"
        asked = set()
        for pod in pods(render(EVERYTHING, databaseAuthority={"name": "pg-ca", "key": "ca.crt"})):
            for container in pod.containers:
                given = env(container)
                if "MFW_DATABASE__URL_FILE" not in given:
                    continue
                asked.add(pod.of.partition("/")[0])
                assert given["PGSSLROOTCERT"] == ca
                (mount,) = [one for one in container["volumeMounts"] if ca.startswith(f"{one['mountPath']}/")]
                (volume,) = [one for one in pod.spec["volumes"] if one["name"] == mount["name"]]
                wanted = {"name": "pg-ca", "items": [{"key": "ca.crt", "path": "database-ca.crt"}]}
                assert {"secret": wanted} in volume["projected"]["sources"]
        assert asked == {"Deployment", "Job", "CronJob"}
        assert all("PGSSLROOTCERT" not in env(one) for pod in pods(example(EVERYTHING)) for one in pod.containers)


class TestNetwork:
    """Who may speak to whom, where somebody sees to it."""

    @staticmethod
    def _of(objects: Sequence[Object], labels: Mapping[str, str]) -> list[Object]:
        """The specifications of the policies that select a pod of these labels."""

        def selects(selector: Object) -> bool:
            wanted = selector.get("matchLabels", {}).items()
            return wanted <= labels.items() and not any(
                labels.get(term["key"]) in term["values"] for term in selector.get("matchExpressions", ())
            )

        policies = [document["spec"] for document in objects if document["kind"] == "NetworkPolicy"]
        return [spec for spec in policies if selects(spec["podSelector"])]

    def _reaches(self, objects: Sequence[Object], source: Pod, target: Pod, port: str) -> bool:
        """Whether a pod may open a connection to a port of another one, by its name."""

        def open_to(rules: Iterable[Object], end: str, peer: Pod) -> bool:
            return any(
                any(opened["port"] == port for opened in rule.get("ports", ()))
                and (
                    end not in rule
                    or any(
                        peer_of["podSelector"].get("matchLabels", {"": ""}).items() <= peer.labels.items()
                        for peer_of in rule[end]
                        if "namespaceSelector" not in peer_of and "podSelector" in peer_of
                    )
                )
                for rule in rules
            )

        out = self._of(objects, source.labels)
        into = self._of(objects, target.labels)
        assert out
        assert into
        return any(open_to(spec.get("egress", ()), "to", target) for spec in out) and any(
            open_to(spec.get("ingress", ()), "from", source) for spec in into
        )

    @pytest.mark.parametrize("peers", [[], [{"podSelector": {"matchLabels": {"app": "agent"}}}]], ids=["all", "some"])
    def test_helm_test_reaches_the_service(self, peers: list[Object]) -> None:
        objects = render(MINIMAL, networkPolicy={"ingress": peers}, tls={"source": "own"})
        of = {pod.of: pod for pod in pods(objects)}
        test, service = of[f"Pod/{RELEASE}-test"], of[f"Deployment/{RELEASE}"]
        assert self._reaches(objects, test, service, "http")
        assert self._reaches(objects, test, service, "https")
        assert not self._reaches(objects, test, service, "metrics") or not peers
        assert not self._reaches(objects, service, test, "http")

    def test_the_webhook_stays_open_to_the_api_server(self) -> None:
        """Which is no pod: where a selector shut it out, every change would be refused."""
        peers = [{"podSelector": {"matchLabels": {"app": "agent"}}}]
        file = CHART / "ci" / "webhook-own-certificates-values.yaml"
        for webhook in (True, False):
            values = {
                "networkPolicy": {"ingress": peers},
                "webhook": {"enabled": webhook},
                "canary": {"enabled": False},
            }
            objects = render(file, **values)
            rules = one(objects, "NetworkPolicy")["spec"]["ingress"]
            everybody = [opened["port"] for rule in rules if "from" not in rule for opened in rule["ports"]]
            assert everybody == (["https", "metrics"] if webhook else ["metrics"])


def test_whatever_python_is_in_a_template_believes_authorities_without_key_identifiers() -> None:
    """Those of many clusters have none, and Python demands them since 3.13."""
    scripts = [
        text
        for pod in pods(example(EVERYTHING))
        for container in pod.containers
        for text in container.get("command", ())
        if "create_default_context" in text
    ]
    assert scripts
    assert all("verify_flags &= ~ssl.VERIFY_X509_STRICT" in script for script in scripts)


def test_the_certificates_account_may_touch_one_secret() -> None:
    role = one(example(EVERYTHING), "Role", f"{RELEASE}-certificates")
    assert role["rules"] == [
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": [f"{RELEASE}-tls"], "verbs": ["get", "update"]}
    ]
    cluster = one(example(EVERYTHING), "ClusterRole", f"{NAMESPACE}-{RELEASE}-certificates")
    assert [rule.get("resourceNames") for rule in cluster["rules"]] == [[RELEASE]]


@pytest.mark.parametrize(
    ("file", "announced"), [(EVERYTHING, f"--webhook={RELEASE}"), (CONTROLLER, "--no-webhook")], ids=["webhook", "none"]
)
def test_the_certificate_is_announced_where_its_account_may(file: Path, announced: str) -> None:
    """Without a webhook, nothing that is in no namespace is asked for: nobody granted it."""
    objects = example(file)
    made = [pod for pod in pods(objects) if pod.labels.get("app.kubernetes.io/component") == "certificates"]
    assert len(made) == 2
    assert all(announced in pod.containers[0]["args"] for pod in made)
    granted = {name for name in named(objects) if name == f"ClusterRole/{NAMESPACE}-{RELEASE}-certificates"}
    assert bool(granted) is announced.startswith("--webhook=")


class TestWebhook:
    """What the API server is told."""

    @pytest.mark.parametrize("kind", ["own-certificates", "cert-manager", "given-certificate"])
    def test_it(self, kind: str) -> None:
        objects = example(CHART / "ci" / f"webhook-{kind}-values.yaml")
        configuration = one(objects, "ValidatingWebhookConfiguration")
        for webhook in configuration["webhooks"]:
            assert webhook["failurePolicy"] == "Fail"
            assert webhook["timeoutSeconds"] == 3
            assert webhook["sideEffects"] == "NoneOnDryRun"
            where = webhook["clientConfig"]["service"]
            service = one(objects, "Service", where["name"])
            assert where["port"] in {port["port"] for port in service["spec"]["ports"] if port["name"] == "https"}
            assert ("caBundle" in webhook["clientConfig"]) is (kind == "given-certificate")
        first = configuration["webhooks"][0]
        (exempt,) = [
            one["values"] for one in first["namespaceSelector"]["matchExpressions"] if one["operator"] == "NotIn"
        ]
        assert {"kube-system", "kube-public", "kube-node-lease", NAMESPACE} <= set(exempt)
        assert ("cert-manager.io/inject-ca-from" in configuration["metadata"].get("annotations", {})) is (
            kind == "cert-manager"
        )

    def test_an_authority_that_the_values_name_goes_before_what_an_issuer_writes(self) -> None:
        """Some issuers write none: nothing would be injected, and the API server go by its own machine's."""
        objects = render(CHART / "ci" / "webhook-cert-manager-values.yaml", webhook={"caBundle": "m-authority"})
        configuration = one(objects, "ValidatingWebhookConfiguration")
        assert "annotations" not in configuration["metadata"]
        bundles = {hook["clientConfig"]["caBundle"] for hook in configuration["webhooks"]}
        assert bundles == {base64.b64encode(b"m-authority").decode()}
        # Who makes the certificate announces its authority: a bundle of the values would take that back each time.
        own = render(CHART / "ci" / "webhook-own-certificates-values.yaml", webhook={"caBundle": "m-authority"})
        hooks = one(own, "ValidatingWebhookConfiguration")["webhooks"]
        assert not [hook for hook in hooks if "caBundle" in hook["clientConfig"]]

    @pytest.mark.parametrize("canary", [False, True])
    @pytest.mark.parametrize("resources", [["deployments"], ["*"]])
    def test_it_is_what_the_command_renders(self, canary: bool, resources: list[str], tmp_path: Path) -> None:
        """`mfw kubernetes webhook-config` makes the rules; all else is the same, however it is installed."""
        about = "apps/Deployment" if resources != ["*"] else "*"
        (tmp_path / "all.yaml").write_text(
            "apiVersion: mutationfirewall.io/v1\nkind: MutationPolicy\nmetadata: {name: all}\n"
            f"spec: {{match: {{resources: [{{type: '{about}'}}]}}, rules: [{{name: all, effect: allow}}]}}\n"
        )
        wanted = webhook_configuration(
            load_directory(tmp_path),
            Webhook(
                name=RELEASE,
                client={},
                exempt_namespaces=[NAMESPACE],
                agents=[agent_rule("namespace=agents")],
                canary=canary,
            ),
        )
        changes, guard = wanted["webhooks"]
        rules = changes["rules"][:-1] if canary and resources != ["*"] else changes["rules"]
        (condition,) = [one for one in guard["matchConditions"] if one["name"] == "agents"]
        rendered = one(
            render(
                CHART / "ci" / "webhook-own-certificates-values.yaml",
                webhook={"rules": rules, "matchConditions": [condition]},
                canary={"enabled": canary},
            ),
            "ValidatingWebhookConfiguration",
        )
        for webhook in (*wanted["webhooks"], *rendered["webhooks"]):
            del webhook["clientConfig"]
            for expression in webhook.get("namespaceSelector", {}).get("matchExpressions", ()):
                expression.get("values", []).sort()
        assert rendered["webhooks"] == wanted["webhooks"]


class TestController:
    """What the controller may do, whom it reaches, and what it brings."""

    FILE: Final = CHART / "ci" / "controller-values.yaml"
    NAME: Final = f"{RELEASE}-controller"

    @pytest.mark.parametrize("exceptions", [[], ["payments"], ["payments", "default", "shop", NAMESPACE, "payments"]])
    def test_its_rights_are_those_of_the_command(self, exceptions: list[str]) -> None:
        """`mfw kubernetes controller-rights`, object by object and rule by rule."""
        objects = render(self.FILE, controller={"exceptionNamespaces": exceptions})
        wanted = rights(
            name=f"{NAMESPACE}-{self.NAME}",
            namespace=NAMESPACE,
            account=self.NAME,
            lease=self.NAME,
            exceptions=exceptions,
        )
        bound = {
            (document["kind"], document["metadata"].get("namespace"))
            for document in objects
            for subject in document.get("subjects", ())
            if subject["name"] == self.NAME
        }
        assert bound == {(one["kind"], one["metadata"].get("namespace")) for one in wanted if "subjects" in one}
        for one_ in wanted:
            (found,) = [
                document
                for document in objects
                if (document["kind"], document["metadata"]["name"], document["metadata"].get("namespace"))
                == (one_["kind"], one_["metadata"]["name"], one_["metadata"].get("namespace"))
            ]
            assert found.get("rules") == one_.get("rules")
            assert found.get("roleRef") == one_.get("roleRef")
            assert found.get("subjects") == one_.get("subjects")
            assert one_["metadata"]["labels"].items() <= found["metadata"]["labels"].items()

    def test_a_release_in_the_namespace_of_events(self) -> None:
        done = helm("template", RELEASE, str(CHART), "-n", "default", "-f", str(self.FILE))
        wanted = rights(
            name=f"default-{self.NAME}",
            namespace="default",
            account=self.NAME,
            lease=self.NAME,
            exceptions=["default"],
        )
        roles = [document for document in read(done.stdout) if document["kind"] == "Role"]
        for role in wanted:
            if role["kind"] == "Role":
                assert role["rules"] in [found["rules"] for found in roles]

    def test_the_definitions_are_those_that_the_command_writes_and_stay(self) -> None:
        objects = example(self.FILE)
        for resource in RESOURCES:
            found = one(objects, "CustomResourceDefinition", resource.name)
            file = ROOT / "k8s" / "crds" / f"{resource.plural}.yaml"
            (wanted,) = read(file.read_text())
            assert found["spec"] == wanted["spec"]
            assert found["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
            assert wanted["metadata"]["labels"].items() <= found["metadata"]["labels"].items()

    def test_whom_it_reaches(self) -> None:
        """DNS, the service and the API server; and the service lets it in whomever else it lets in."""
        objects = render(self.FILE, networkPolicy={"ingress": [{"namespaceSelector": {}}]})
        spec = one(objects, "NetworkPolicy", self.NAME)["spec"]
        assert [rule["ports"][0]["port"] for rule in spec["egress"]] == [53, "https", 443]
        (service,) = spec["egress"][1]["to"]
        labels = service["podSelector"]["matchLabels"]
        assert labels.items() <= one(objects, "Deployment")["spec"]["template"]["metadata"]["labels"].items()
        assert [rule["ports"][0]["port"] for rule in spec["ingress"]] == ["metrics"]
        own = one(objects, "Deployment", self.NAME)["spec"]["template"]["metadata"]["labels"]
        mine = one(objects, "NetworkPolicy")["spec"]
        assert own["app.kubernetes.io/component"] in mine["podSelector"]["matchExpressions"][0]["values"]
        allowed = [peer["podSelector"]["matchLabels"] for peer in mine["ingress"][0]["from"] if "podSelector" in peer]
        assert sum(peer.items() <= own.items() for peer in allowed) == 1
        plain = render(MINIMAL, **CONTROLLED)
        egress = one(plain, "NetworkPolicy", self.NAME)["spec"]["egress"]
        assert [rule["ports"][0]["port"] for rule in egress] == [53, "http", 443]

    def test_where_dns_and_the_api_server_are_elsewhere(self) -> None:
        """Every policy of the release goes by it: none may cut a pod off that the others let out."""
        cache = [{"to": [{"ipBlock": {"cidr": "169.254.20.10/32"}}], "ports": [{"port": 53, "protocol": "UDP"}]}]
        objects = render(self.FILE, networkPolicy={"dns": cache, "apiServerPorts": [16443]})
        policies = {
            document["metadata"]["name"]: document["spec"]["egress"]
            for document in objects
            if document["kind"] == "NetworkPolicy"
        }
        assert set(policies) == {RELEASE, self.NAME, f"{RELEASE}-test"}
        for egress in policies.values():
            assert egress[0] == cache[0]
        for name in (RELEASE, self.NAME):
            assert {"ports": [{"port": 16443, "protocol": "TCP"}]} in policies[name]
        nowhere = render(self.FILE, networkPolicy={"apiServerPorts": []})
        for document in nowhere:
            if document["kind"] == "NetworkPolicy":
                assert all(rule.get("ports") for rule in document["spec"]["egress"])

    def test_a_rollout_and_a_node_that_goes(self) -> None:
        spec = one(example(self.FILE), "Deployment", self.NAME)["spec"]
        assert spec["replicas"] == 2
        assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
        pod = spec["template"]["spec"]
        assert {one["topologyKey"] for one in pod["topologySpreadConstraints"]} == {
            "topology.kubernetes.io/zone",
            "kubernetes.io/hostname",
        }
        (container,) = pod["containers"]
        paths = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
        assert paths == {"startup": "/health/live", "liveness": "/health/live", "readiness": "/health/ready"}
        budget = one(example(self.FILE), "PodDisruptionBudget", self.NAME)["spec"]
        assert (budget["maxUnavailable"], budget["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow")
        everything = one(example(EVERYTHING), "Deployment", self.NAME)["spec"]["template"]["spec"]
        assert everything["priorityClassName"] == "system-cluster-critical"
        assert everything["imagePullSecrets"] == [{"name": "registry"}]

    def test_none_is_a_number_of_replicas(self) -> None:
        objects = render(self.FILE, controller={"replicas": 0})
        assert one(objects, "Deployment", self.NAME)["spec"]["replicas"] == 0

    @pytest.mark.parametrize(
        ("values", "wanted"),
        [
            ({}, {"key": ("mutation-firewall-controller", "api-key"), "authority": (f"{RELEASE}-tls", "ca.crt")}),
            (
                {"tls": {"source": "secret"}, "controller": {"authority": {"name": "authority", "key": "a.pem"}}},
                {"key": ("mutation-firewall-controller", "api-key"), "authority": ("authority", "a.pem")},
            ),
            ({"tls": {"source": "none"}}, {"key": ("mutation-firewall-controller", "api-key")}),
        ],
        ids=["own", "given", "none"],
    )
    def test_what_it_reads_of_secrets(self, values: dict[str, Any], wanted: dict[str, tuple[str, str]]) -> None:
        """One key of each, and never the key of the certificate."""
        pod = one(render(self.FILE, **values), "Deployment", self.NAME)["spec"]["template"]["spec"]
        found = {
            volume["name"]: (volume["secret"]["secretName"], volume["secret"]["items"][0]["key"])
            for volume in pod["volumes"]
            if "secret" in volume and len(volume["secret"]["items"]) == 1
        }
        assert found == wanted
        assert sum("secret" in volume for volume in pod["volumes"]) == len(wanted)
        assert not [volume for volume in pod["volumes"] if "projected" in volume]


class TestMonitoring:
    """What Prometheus and Grafana get is what `alerts/` has."""

    def test_rules(self) -> None:
        wanted = [
            group
            for file in sorted((ROOT / "alerts" / "rules").glob("*.yaml"))
            for group in YAML(typ="safe", pure=True).load(file.read_text())["groups"]
        ]
        rendered = one(render(MINIMAL, metrics={"rules": {"enabled": True}}), "PrometheusRule")["spec"]["groups"]
        assert rendered == wanted

    @pytest.mark.parametrize("name", ["shield", RELEASE], ids=["other", "usual"])
    def test_what_is_called_otherwise_is_looked_for_too(self, name: str) -> None:
        """Else a rollout that stands still, a migration that failed, a controller that is away would be told to nobody."""
        objects = render(EVERYTHING, fullnameOverride=name)
        rules = one(objects, "PrometheusRule", name)["spec"]["groups"]
        patterns = {
            kind: found
            for group in rules
            for rule in group["rules"]
            for kind, found in re.findall(r'\b(deployment|job_name|job)=~"([^"]*mutation-firewall[^"]*)"', rule["expr"])
        }
        (migration,) = [one for one in named(objects) if one.startswith(f"Job/{name}-migrate")]
        names = {"deployment": f"{name}-controller", "job_name": migration.partition("/")[2], "job": f"{name}-metrics"}
        assert patterns.keys() == names.keys()
        for kind, found in patterns.items():
            assert re.fullmatch(found, names[kind]), (kind, found)
            assert not re.fullmatch(found, f"a-{names[kind]}".replace(RELEASE, "b"))
        # Prometheus' operator calls what a PodMonitor finds after its namespace as well.
        for monitor in named(objects):
            if monitor.startswith("PodMonitor/"):
                assert re.fullmatch(patterns["job"], f"elsewhere/{monitor.partition('/')[2]}"), monitor

    def test_runbooks_of_ones_own(self) -> None:
        given = {"rules": {"enabled": True, "runbooks": "https://example.com/r"}}
        rules = one(render(MINIMAL, metrics=given), "PrometheusRule")
        urls = [
            rule["annotations"]["runbook_url"]
            for group in rules["spec"]["groups"]
            for rule in group["rules"]
            if "alert" in rule
        ]
        assert urls
        assert all(url.startswith("https://example.com/r/") for url in urls)

    def test_dashboards(self) -> None:
        objects = render(MINIMAL, metrics={"dashboards": {"enabled": True}})
        for file in (ROOT / "alerts" / "dashboards").glob("*.json"):
            data = one(objects, "ConfigMap", f"{RELEASE}-dashboard-{file.stem}")["data"]
            assert data == {file.name: file.read_text()}


A_SECRET: Final = {"name": "a", "key": "b"}
RULE: Final = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
HOOK: Final = {"enabled": True, "rules": [RULE]}


def _without(name: str) -> Callable[[dict[str, Any]], None]:
    def take(values: dict[str, Any]) -> None:
        del values["secretSettings"][name]

    return take


def _with(**more: Any) -> Callable[[dict[str, Any]], None]:
    return lambda values: values.update(more)


def _also_secret(name: str) -> Callable[[dict[str, Any]], None]:
    def add(values: dict[str, Any]) -> None:
        values["secretSettings"][name] = A_SECRET

    return add


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ([_with(fullnameOverride="7")], "`7` cannot be the name of a Service"),
        ([_without("MFW_DATABASE__URL")], "secretSettings.MFW_DATABASE__URL is needed"),
        ([_with(postgresql={"enabled": True})], "postgresql.enabled is for trials"),
        ([_with(environment="development", postgresql={"enabled": True})], "both name a database"),
        ([_without("MFW_LEDGER__SIGNING_KEY")], "secretSettings.MFW_LEDGER__SIGNING_KEY is needed in production"),
        ([_with(ledgerOrigin="")], "ledgerOrigin is needed in production"),
        ([_with(autoscaling={"minReplicas": 11})], "autoscaling.minReplicas is more than"),
        ([_without("MFW_LIMITS__REDIS_URL")], "secretSettings.MFW_LIMITS__REDIS_URL is needed"),
        ([_with(settings={"MFW_GITHUB__TOKEN": "a"})], "settings.MFW_GITHUB__TOKEN is secret"),
        ([_with(settings={"MFW_HTTP__PORT": "80"})], "settings.MFW_HTTP__PORT is set by the chart"),
        ([_with(policies={"source": "files"})], "policies.files is empty"),
        ([_with(policies={"source": "configMap"})], "policies.configMap is needed"),
        ([_with(webhook=HOOK)], "webhook.enabled needs TLS"),
        ([_with(webhook={"enabled": True}, tls={"source": "own"})], "webhook.rules is empty"),
        ([_with(webhook=HOOK, tls={"source": "secret"})], "webhook.caBundle is needed"),
        ([_with(tls={"source": "certManager"})], "tls.issuerRef is needed"),
        (
            [_with(webhook=HOOK, tls={"source": "own"}, canary={"enabled": True})],
            "secretSettings.MFW_KUBERNETES__CANARY__KEY is needed",
        ),
        (
            [_also_secret("MFW_KUBERNETES__CANARY__KEY"), _with(canary={"enabled": True})],
            "settings.MFW_KUBERNETES__API_SERVERS is needed",
        ),
        (
            [
                _also_secret("MFW_KUBERNETES__CANARY__KEY"),
                _with(settings={"MFW_KUBERNETES__API_SERVERS": "kube-apiserver"}, canary={"enabled": True}),
            ],
            "set webhook.enabled",
        ),
        ([_with(controller={"enabled": True})], "set policies.source to database"),
        ([_with(policies={"source": "database"}, controller={"enabled": True})], "controller.apiKey is needed"),
        ([_with(**CONTROLLED, tls={"source": "secret"})], "controller.authority is needed for tls.source secret"),
        ([_with(**CONTROLLED, settings={"MFW_TLS__CLIENT_CERTIFICATES": "required"})], "shows no certificate"),
        (
            [_with(settings={"MFW_TLS__PLAIN_HTTP": "none"}, tls={"source": "own"})],
            "would close the port of the probes",
        ),
        ([_with(archive={"enabled": True})], "archive.enabled needs backup.enabled"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_work_is_refused(changes: list[Callable[[dict[str, Any]], None]], said: str) -> None:
    values = YAML(typ="safe", pure=True).load(MINIMAL.read_text())
    for change in changes:
        change(values)
    assert said in refusal(values=values)


def test_every_refusal_is_tried() -> None:
    helpers = (CHART / "templates" / "_helpers.tpl").read_text()
    assert helpers.count("{{- fail ") == 25
    assert not [path for path in CHART.rglob("*.yaml") if "{{- fail " in path.read_text()]


class TestDetection:
    """`metrics.detect` makes what the cluster can have."""

    def test_without_the_operator_the_pods_are_annotated(self) -> None:
        objects = render(MINIMAL, metrics={"detect": True}, podAnnotations={"prometheus.io/port": "1", "a": "b"})
        annotated = one(objects, "Deployment")["spec"]["template"]["metadata"]["annotations"]
        # What somebody says goes before what is found.
        ours = {"prometheus.io/scrape": "true", "prometheus.io/path": "/metrics"}
        assert annotated == {**ours, "prometheus.io/port": "1", "a": "b"}
        assert not {name for name in named(objects) if name.startswith(("ServiceMonitor", "PrometheusRule"))}

    def test_with_the_operator_its_kinds_are_made(self) -> None:
        done = helm(
            *("template", RELEASE, str(CHART), "-n", NAMESPACE, "-f", str(MINIMAL), "--set", "metrics.detect=true"),
            *("--api-versions", "monitoring.coreos.com/v1"),
        )
        assert done.returncode == 0, done.stderr
        objects = read(done.stdout)
        assert {f"ServiceMonitor/{RELEASE}", f"PrometheusRule/{RELEASE}"} <= named(objects)
        assert "annotations" not in one(objects, "Deployment")["spec"]["template"]["metadata"]

    def test_the_controller_is_looked_at_as_well(self) -> None:
        """Else `ControllerAbsent` would fire for ever where kube-state-metrics knows how many there should be."""
        pods = [
            document["spec"]["template"]["metadata"]["annotations"]
            for document in render(MINIMAL, **CONTROLLED, metrics={"detect": True})
            if document["kind"] == "Deployment"
        ]
        assert [pod["prometheus.io/scrape"] for pod in pods] == ["true", "true"]
        done = helm(
            *("template", RELEASE, str(CHART), "-n", NAMESPACE, "-f", str(MINIMAL), "--set", "metrics.detect=true"),
            *("--set", "policies.source=database,controller.enabled=true"),
            *("--set", "controller.apiKey.name=a,controller.apiKey.key=b"),
            *("--api-versions", "monitoring.coreos.com/v1"),
        )
        assert done.returncode == 0, done.stderr
        objects = read(done.stdout)
        assert f"PodMonitor/{RELEASE}-controller" in named(objects)
        deployments = [document for document in objects if document["kind"] == "Deployment"]
        assert len(deployments) == 2
        assert not [one for one in deployments if "annotations" in one["spec"]["template"]["metadata"]]

    def test_it_is_not_looked_for_unless_asked(self) -> None:
        assert "annotations" not in one(example(MINIMAL), "Deployment")["spec"]["template"]["metadata"]


def test_who_fetches_keys_of_tokens_with_its_own_has_one() -> None:
    """The token of the account is mounted for what needs it alone: here an issuer that is the cluster itself."""
    own = "/var/run/secrets/kubernetes.io/serviceaccount/token"
    pod = one(render(MINIMAL, settings={"MFW_AUTH__JWT__TOKEN_FILE": own}), "Deployment")["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is True
    pod = one(render(MINIMAL, settings={"MFW_AUTH__JWT__TOKEN_FILE": "/etc/token"}), "Deployment")["spec"]["template"]
    assert pod["spec"]["automountServiceAccountToken"] is False
