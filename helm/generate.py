"""Makes what the chart has in two places: `python helm/generate.py`.

`values.schema.json` and the table in the chart's `README.md` come from `values.yaml` and the comments in it; `files/`
is what `alerts/` and `k8s/crds/` have, for Helm reads nothing outside its folder.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML

ROOT: Final = Path(__file__).resolve().parents[1]
CHART: Final = ROOT / "helm" / "mutation-firewall"

_KEY: Final = re.compile(r"( *)([A-Za-z]+):(?: (.*))?$")
_COMMENT: Final = re.compile(r" *# ?(.*)$")

Schema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Value:
    """One value of the chart: its path, its default, and what its comment says."""

    path: str
    default: Any
    meaning: str


def _free(**more: object) -> Schema:
    return {"type": "object", **more}


def _text(pattern: str | None = None) -> Schema:
    return {"type": "string"} if pattern is None else {"type": "string", "pattern": pattern}


def _whole(minimum: int, maximum: int | None = None) -> Schema:
    found: Schema = {"type": "integer", "minimum": minimum}
    return found if maximum is None else {**found, "maximum": maximum}


def _either(*choices: str) -> Schema:
    return {"type": "string", "enum": list(choices)}


def _closed(required: list[str], **properties: Schema) -> Schema:
    return {"type": "object", "additionalProperties": False, "required": required, "properties": properties}


def _each(items: Schema) -> Schema:
    return {"type": "array", "items": items}


_NAME: Final = r"^([a-z0-9]([a-z0-9.-]*[a-z0-9])?)?$"
_TEXTS: Final = _free(additionalProperties=_text())
# What the chart's selectors and labels are made of cannot be said twice.
_LABELS: Final = _free(
    additionalProperties=_text(), propertyNames={"not": {"pattern": "^(app\\.kubernetes\\.io|helm\\.sh)/"}}
)
_CRON: Final = _text(r"^(@(yearly|annually|monthly|weekly|daily|midnight|hourly)|\S+ \S+ \S+ \S+ \S+)$")
_SIZE: Final = _text(r"^[1-9][0-9.]*(k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$")
_DIGEST: Final = _text("^(sha256:[0-9a-f]{64})?$")
_KEY_OF_A_SECRET: Final = _closed(
    ["name", "key"], name=_text(r"^[a-z0-9][a-z0-9.-]*$"), key=_text(r"^[A-Za-z0-9._-]+$")
)
_KEY_OR_NONE: Final[Schema] = {"oneOf": [{"type": "object", "maxProperties": 0}, _KEY_OF_A_SECRET]}
_FILES: Final = _free(additionalProperties=_text(), propertyNames={"pattern": r"^[A-Za-z0-9._-]+\.ya?ml$"})
_QUANTITIES: Final = _free(additionalProperties={"type": ["string", "number"]})
_RESOURCES: Final = _closed([], requests=_QUANTITIES, limits=_QUANTITIES)
_OBJECTS: Final = _each(_free())
_PORT: Final = _whole(1, 65_535)
_VARIABLE: Final = {"pattern": "^MFW_[A-Z0-9_]+$"}

# What a default does not say of itself. `*` stands for one step of the path.
SHAPES: Final[Mapping[str, Schema]] = {
    "nameOverride": _text(_NAME),
    "fullnameOverride": _text(_NAME),
    "commonLabels": _LABELS,
    "image.repository": _text(r"^\S+$"),
    "image.tag": _text(r"^[\w.-]*$"),
    "image.digest": _DIGEST,
    "image.pullPolicy": _either("Always", "IfNotPresent", "Never"),
    "image.pullSecrets": _each(_text(_NAME)),
    "environment": _either("development", "test", "production"),
    # Texts alone: Helm writes a large number as 1e+06.
    "settings": _free(additionalProperties=_text(), propertyNames=_VARIABLE),
    "secretSettings": _free(additionalProperties=_KEY_OF_A_SECRET, propertyNames=_VARIABLE),
    "databaseAuthority": _KEY_OR_NONE,
    "policies.source": _either("starter", "files", "configMap", "database"),
    "policies.files": _FILES,
    "autoscaling.minReplicas": _whole(1),
    "autoscaling.maxReplicas": _whole(1),
    "autoscaling.targetCPUUtilizationPercentage": _whole(1),
    "podDisruptionBudget.maxUnavailable": {"oneOf": [_whole(0), _text(r"^[0-9]{1,3}%$")]},
    "resources.requests": _QUANTITIES,
    "resources.limits": _QUANTITIES,
    "*.resources": _RESOURCES,
    "progressDeadlineSeconds": _whole(1),
    "nodeSelector": _TEXTS,
    "tolerations": _OBJECTS,
    "affinity": _free(),
    "topologySpreadConstraints": _OBJECTS,
    "podAnnotations": _TEXTS,
    "podLabels": _LABELS,
    "extraVolumes": _OBJECTS,
    "extraVolumeMounts": _OBJECTS,
    "serviceAccount.name": _text(_NAME),
    "*.annotations": _TEXTS,
    "service.type": _either("ClusterIP", "NodePort", "LoadBalancer"),
    "service.port": _PORT,
    "service.tlsPort": _PORT,
    "tls.source": _either("none", "secret", "certManager", "own"),
    "tls.issuerRef": _free(additionalProperties=_text(), propertyNames={"enum": ["name", "kind", "group"]}),
    "webhook.failurePolicy": _either("Fail", "Ignore"),
    # As Kubernetes has it.
    "webhook.timeoutSeconds": _whole(1, 30),
    "webhook.rules": _each(
        _closed(
            ["apiGroups", "apiVersions", "operations", "resources"],
            **dict.fromkeys(("apiGroups", "apiVersions", "resources"), _each(_text())),
            operations=_each(_either("*", "CREATE", "UPDATE", "DELETE", "CONNECT")),
            scope=_either("*", "Cluster", "Namespaced"),
        )
    ),
    "webhook.matchConditions": _each(_closed(["name", "expression"], name=_text(), expression=_text())),
    "webhook.exemptNamespaces": _each(_text(_NAME)),
    "controller.apiKey": _KEY_OR_NONE,
    "controller.authority": _KEY_OR_NONE,
    "controller.exceptionNamespaces": _each(_text(r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")),
    "controller.also": _FILES,
    "networkPolicy.ingress": _OBJECTS,
    "networkPolicy.metrics": _OBJECTS,
    "networkPolicy.egress": _OBJECTS,
    "networkPolicy.dns": _OBJECTS,
    "networkPolicy.apiServerPorts": _each(_PORT),
    "metrics.*.interval": _text(r"^[0-9]+(ms|s|m|h)$"),
    "metrics.*.labels": _TEXTS,
    "migrations.databaseUrl": _KEY_OR_NONE,
    "migrations.activeDeadlineSeconds": _whole(1),
    "*.schedule": _CRON,
    "backup.keepDays": _whole(1, 36_500),
    "backup.image": _closed(["repository"], repository=_text(r"^\S+$"), tag=_text(r"^[\w.-]*$"), digest=_DIGEST),
    "backup.size": _SIZE,
    "archive.keepMonths": _whole(1, 1_200),
    "postgresql.size": {"oneOf": [_text("^$"), _SIZE]},
    "extraObjects": _OBJECTS,
}


def values() -> list[Value]:
    """Each value with its default and its comment, in the order of the file."""
    text = (CHART / "values.yaml").read_text()
    content = YAML(typ="safe", pure=True).load(text)
    found: list[Value] = []
    path: list[str] = []
    comment: list[str] = []
    for line in text.splitlines():
        if said := _COMMENT.match(line):
            comment.append(said[1])
            continue
        if key := _KEY.fullmatch(line):
            path = [*path[: len(key[1]) // 2], key[2]]
            at = content
            for step in path:
                at = at[step]
            if key[3] is not None:
                found.append(Value(".".join(path), at, " ".join(comment)))
        comment = []
    return found


def _shape(value: Value) -> Schema:
    """The schema of one value: as it is named above, else by its default."""
    steps = value.path.split(".")
    for path in (value.path, f"*.{steps[-1]}", f"{steps[0]}.*.{steps[-1]}"):
        if path in SHAPES and path.count(".") == value.path.count("."):
            return SHAPES[path]
    match value.default:
        case bool():
            return {"type": "boolean"}
        case int():
            return _whole(0)
        case str():
            return _text()
        case other:
            raise TypeError(f"say in SHAPES what `{value.path}` is: {other!r}")


def schema() -> str:
    """`values.schema.json`: nothing but what there is, and nothing may be null."""

    def section() -> Schema:
        return {"type": "object", "additionalProperties": False, "required": [], "properties": {}}

    whole = section()
    for value in values():
        at = whole
        *above, last = value.path.split(".")
        for step in above:
            if step not in at["properties"]:
                at["required"].append(step)
            at = at["properties"].setdefault(step, section())
        # With a null Helm takes a default away, and what is then missing is refused here.
        at["required"].append(last)
        at["properties"][last] = {"description": value.meaning, **_shape(value), "default": value.default}
    # What Helm itself hands to a chart that another one depends on.
    whole["properties"]["global"] = _free()
    return json.dumps({"$schema": "http://json-schema.org/draft-07/schema#", **whole}, indent=2) + "\n"


def readme() -> str:
    """`README.md`: what people write, and the table of values."""

    def cell(text: str) -> str:
        return text.replace("|", "\\|")

    rows = [
        f"| `{value.path}` | `{cell(json.dumps(value.default, ensure_ascii=False))}` | {cell(value.meaning)} |"
        for value in values()
    ]
    head = (ROOT / "helm" / "README.head.md").read_text()
    return "\n".join([head.rstrip("\n"), "", "| value | default | |", "|---|---|---|", *rows, ""])


def files() -> Iterator[tuple[Path, str]]:
    """Each made file and what is in it."""
    yield CHART / "values.schema.json", schema()
    yield CHART / "README.md", readme()
    for kind in ("rules/*.yaml", "dashboards/*.json"):
        for source in sorted((ROOT / "alerts").glob(kind)):
            yield CHART / "files" / source.relative_to(ROOT / "alerts"), source.read_text()
    for source in sorted((ROOT / "k8s" / "crds").glob("*.yaml")):
        yield CHART / "files" / "crds" / source.name, source.read_text()


def main() -> None:
    """Write them, and take away what is no longer made."""
    made = dict(files())
    for path in (CHART / "files").rglob("*.*"):
        if path not in made:
            path.unlink()
    for path, text in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
