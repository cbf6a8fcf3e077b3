"""No value of the chart is for nothing: each, set to something of its own, stands in what is rendered, or changes it.

Values that are texts, numbers, lists or maps are marked, all at once in a few renderings; what is on or off, or one of
several, is changed by itself, and either something else is rendered or it is refused.
"""

import functools
import re
from pathlib import Path
from typing import Any, Final

import pytest

from helm.generate import values
from tests.helm.chart import EVERYTHING, MINIMAL, NAMESPACE, QUICKSTART, RELEASE, helm, template

# No password is drawn here, by which any two renderings of the trial differ.
WEBHOOK: Final = EVERYTHING.with_name("webhook-own-certificates-values.yaml")

_RULE: Final = {"apiGroups": ["m-group"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["m-resources"]}


def _resources(name: str) -> dict[str, Any]:
    return {"requests": {"cpu": "11m", "memory": f"{name}Mi"}, "limits": {"cpu": "12m", "memory": f"{name}Mi"}}


def _key(name: str) -> dict[str, str]:
    return {"name": name, "key": "k"}


# By rendering: the file below, and of each value what it is set to and what then stands in the objects.
MARKED: Final[dict[Path, dict[str, tuple[Any, str]]]] = {
    EVERYTHING: {
        "nameOverride": ("m-name", 'app.kubernetes.io/name: "m-name"'),
        "fullnameOverride": ("m-full", "name: m-full-integrity"),
        "commonLabels": ({"example.com/c": "m-common"}, "m-common"),
        "image.repository": ("m-repository", "m-repository:m-tag"),
        "image.tag": ("m-tag", "m-repository:m-tag"),
        "image.pullSecrets": (["m-pull"], "m-pull"),
        "settings": ({"MFW_LOGGING__LEVEL": "m-level"}, "m-level"),
        "secretSettings": ({"MFW_GITHUB__TOKEN": _key("m-secret")}, "m-secret"),
        "databaseAuthority": (_key("m-database-ca"), "m-database-ca"),
        "ledgerOrigin": ("m-origin.example.com/l", "m-origin"),
        "autoscaling.minReplicas": (71, "minReplicas: 71"),
        "autoscaling.maxReplicas": (72, "maxReplicas: 72"),
        "autoscaling.targetCPUUtilizationPercentage": (73, "averageUtilization: 73"),
        "autoscaling.targetRequestsUnderWay": (74, 'averageValue: "74"'),
        "podDisruptionBudget.maxUnavailable": (75, "maxUnavailable: 75"),
        "resources.requests": ({"cpu": "76m", "memory": "77Mi"}, "77Mi"),
        "resources.limits": ({"cpu": "78m", "memory": "79Mi"}, "79Mi"),
        "preStopSeconds": (80, "seconds: 80"),
        "progressDeadlineSeconds": (8181, "progressDeadlineSeconds: 8181"),
        "revisionHistoryLimit": (82, "revisionHistoryLimit: 82"),
        "priorityClassName": ("m-priority", "m-priority"),
        "nodeSelector": ({"example.com/n": "m-node"}, "m-node"),
        "tolerations": ([{"key": "m-taint", "operator": "Exists"}], "m-taint"),
        "affinity": ({"podAffinity": {"m-affinity": []}}, "m-affinity"),
        "topologySpreadConstraints": ([{"topologyKey": "m-topology"}], "m-topology"),
        "podAnnotations": ({"example.com/p": "m-annotation"}, "m-annotation"),
        "podLabels": ({"example.com/p": "m-pod-label"}, "m-pod-label"),
        "extraVolumes": ([{"name": "m-volume", "emptyDir": {}}], "m-volume"),
        "extraVolumeMounts": ([{"name": "m-volume", "mountPath": "/m-mount"}], "/m-mount"),
        "serviceAccount.name": ("m-account", 'serviceAccountName: "m-account"'),
        "serviceAccount.annotations": ({"example.com/s": "m-account-note"}, "m-account-note"),
        "service.port": (8383, "port: 8383"),
        "service.tlsPort": (8484, "port: 8484"),
        "service.annotations": ({"example.com/s": "m-service-note"}, "m-service-note"),
        "tls.secretName": ("m-tls", "m-tls"),
        "tls.schedule": ("37 * * * *", "37 * * * *"),
        "webhook.timeoutSeconds": (29, "timeoutSeconds: 29"),
        "webhook.rules": ([_RULE], "m-resources"),
        "webhook.matchConditions": ([{"name": "m-condition", "expression": "true"}], "m-condition"),
        "webhook.exemptNamespaces": (["m-exempt"], "m-exempt"),
        "canary.namespace": ("m-canary", "m-canary"),
        "controller.replicas": (85, "replicas: 85"),
        "controller.apiKey": (_key("m-api-key"), "m-api-key"),
        "controller.authority": (_key("m-authority"), "m-authority"),
        "controller.exceptionNamespaces": (["m-exceptions"], "m-exceptions"),
        "controller.also": ({"m-also.yaml": "a"}, "m-also.yaml"),
        "controller.resources": (_resources("86"), "86Mi"),
        "networkPolicy.ingress": ([{"podSelector": {"matchLabels": {"a": "m-ingress"}}}], "m-ingress"),
        "networkPolicy.metrics": ([{"podSelector": {"matchLabels": {"a": "m-metrics"}}}], "m-metrics"),
        "networkPolicy.egress": ([{"ports": [{"port": 8787}]}], "port: 8787"),
        "networkPolicy.dns": ([{"to": [{"ipBlock": {"cidr": "169.254.20.10/32"}}]}], "cidr: 169.254.20.10/32"),
        "networkPolicy.apiServerPorts": ([16443], "{port: 16443, protocol: TCP}"),
        "metrics.serviceMonitor.interval": ("88s", "interval: 88s"),
        "metrics.serviceMonitor.labels": ({"a": "m-service-monitor"}, "m-service-monitor"),
        "metrics.podMonitor.interval": ("89s", "interval: 89s"),
        "metrics.podMonitor.labels": ({"a": "m-pod-monitor"}, "m-pod-monitor"),
        "metrics.rules.labels": ({"a": "m-rules"}, "m-rules"),
        "metrics.rules.runbooks": ("https://m-runbooks", "https://m-runbooks/"),
        "metrics.dashboards.labels": ({"a": "m-dashboards"}, "m-dashboards"),
        "migrations.databaseUrl": (_key("m-migrations"), "m-migrations"),
        "migrations.activeDeadlineSeconds": (9090, "activeDeadlineSeconds: 9090"),
        "migrations.backoffLimit": (91, "backoffLimit: 91"),
        "migrations.resources": (_resources("912"), "912Mi"),
        "integrity.schedule": ("41 3 * * *", "41 3 * * *"),
        "integrity.resources": (_resources("93"), "93Mi"),
        "partitions.schedule": ("42 3 * * *", "42 3 * * *"),
        "partitions.resources": (_resources("94"), "94Mi"),
        "backup.schedule": ("43 3 * * *", "43 3 * * *"),
        "backup.keepDays": (95, '"--keep-days","95"'),
        "backup.image": ({"repository": "m-backup", "tag": "m-backup-tag", "digest": ""}, "m-backup:m-backup-tag"),
        "backup.size": ("96Gi", "storage: 96Gi"),
        "backup.storageClassName": ("m-class", "m-class"),
        "backup.resources": (_resources("97"), "97Mi"),
        "archive.schedule": ("44 3 * * *", "44 3 * * *"),
        "archive.keepMonths": (98, "-98 months"),
        "archive.resources": (_resources("99"), "99Mi"),
        "extraObjects": ([{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m-extra"}}], "m-extra"),
    },
    MINIMAL: {
        "image.digest": (f"sha256:{'7' * 64}", f"@sha256:{'7' * 64}"),
        "policies.source": ("files", 'configMap: {name: "mutation-firewall-policies"}'),
        "policies.files": ({"m-file.yaml": "m-text"}, "m-text"),
        "autoscaling.enabled": (False, "replicas: 63"),
        "replicas": (63, "replicas: 63"),
        "tls.source": ("certManager", "kind: Certificate"),
        "tls.issuerRef": ({"name": "m-issuer"}, "m-issuer"),
        "backup.enabled": (True, "-backup"),
        "backup.existingClaim": ("m-claim", 'claimName: "m-claim"'),
    },
    QUICKSTART: {
        "policies.source": ("configMap", 'configMap: {name: "m-config-map"}'),
        "policies.configMap": ("m-config-map", "m-config-map"),
        "tls.source": ("secret", "caBundle"),
        "webhook.caBundle": ("m-bundle", "bS1idW5kbGU="),
        "postgresql.image": ("m-postgres:1", "m-postgres:1"),
        "postgresql.size": ("62Gi", "storage: 62Gi"),
    },
}

# What is on or off, or one of several: another value than the file below has.
CHANGED: Final[dict[str, tuple[Path, Any]]] = {
    "image.pullPolicy": (MINIMAL, "Always"),
    "environment": (MINIMAL, "test"),
    "podDisruptionBudget.enabled": (MINIMAL, False),
    "serviceAccount.create": (MINIMAL, False),
    "service.type": (MINIMAL, "NodePort"),
    "webhook.enabled": (WEBHOOK, False),
    "webhook.failurePolicy": (WEBHOOK, "Ignore"),
    "canary.enabled": (EVERYTHING, False),
    "controller.enabled": (EVERYTHING, False),
    "controller.definitions": (EVERYTHING, False),
    "networkPolicy.enabled": (MINIMAL, False),
    "networkPolicy.apiServer": (MINIMAL, True),
    "metrics.serviceMonitor.enabled": (MINIMAL, True),
    "metrics.podMonitor.enabled": (MINIMAL, True),
    "metrics.rules.enabled": (MINIMAL, True),
    "metrics.dashboards.enabled": (MINIMAL, True),
    "migrations.enabled": (MINIMAL, False),
    "migrations.beforeRollout": (MINIMAL, False),
    "migrations.backupBefore": (EVERYTHING, False),
    "integrity.enabled": (MINIMAL, False),
    "partitions.enabled": (MINIMAL, False),
    "archive.enabled": (EVERYTHING, False),
    "postgresql.enabled": (MINIMAL, True),
}
# Looks at what the cluster has: tests/kubernetes asks a cluster.
ELSEWHERE: Final = {"metrics.detect"}


def nested(path: str, value: Any) -> dict[str, Any]:
    """The values in which that one has that value."""
    for step in reversed(path.split(".")):
        value = {step: value}
    return value  # type: ignore[no-any-return]  # a path has a step at least


def merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Both, the second where both have something; what it sets is not looked into below the chart's own values."""
    found = dict(one)
    for name, value in other.items():
        deeper = isinstance(value, dict) and isinstance(found.get(name), dict)
        found[name] = merged(found[name], value) if deeper else value
    return found


@functools.cache
def marked(file: Path) -> str:
    """What is rendered with all of a file's marks."""
    given: dict[str, Any] = {}
    for path, (value, _) in MARKED[file].items():
        given = merged(given, nested(path, value))
    return template(file, values=given)


@functools.cache
def plain(file: Path) -> str:
    """What is rendered of a file alone."""
    return template(file)


def test_every_value_is_tried() -> None:
    tried = set().union(*MARKED.values()) | CHANGED.keys() | ELSEWHERE
    assert {value.path for value in values()} == tried


@pytest.mark.parametrize(
    ("file", "path"),
    [(file, path) for file, marks in MARKED.items() for path in marks],
    ids=lambda one: getattr(one, "stem", one),
)
def test_a_value_stands_in_what_is_rendered(file: Path, path: str) -> None:
    _, wanted = MARKED[file][path]
    assert wanted in marked(file), path
    assert wanted not in plain(file), f"{wanted} stands there without it"


@pytest.mark.parametrize("path", CHANGED)
def test_a_choice_changes_something(path: str) -> None:
    file, value = CHANGED[path]
    assert file != QUICKSTART
    flag = f"{path}={str(value).lower() if isinstance(value, bool) else value}"
    done = helm("template", RELEASE, _chart(), "-n", NAMESPACE, "-f", str(file), "--set", flag)
    if done.returncode != 0:
        assert re.search(r"execution error at \(.*\): \S+", done.stderr), done.stderr
    else:
        assert done.stdout != plain(file)


def _chart() -> str:
    return str(MINIMAL.parents[1])
