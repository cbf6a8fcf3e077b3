"""Makes `base`, `components` and `overlays` out of the chart: `python k8s/generate.py`, with helm in the PATH.

Each folder says in `values.yaml` which values of the chart it is; what is beside it here is the difference they make.
"""

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML

FOLDER: Final = Path(__file__).resolve().parent
CHART: Final = FOLDER.parent / "helm" / "mutation-firewall"
NAME: Final = "mutation-firewall"
COMPONENTS: Final = ("backups", "canary", "controller", "database-policies", "monitoring", "webhook")
# Without which a component cannot be; they come before it.
NEEDS: Final[Mapping[str, Sequence[str]]] = {"canary": ("webhook",), "controller": ("database-policies",)}
OVERLAYS: Final[Mapping[str, Sequence[str]]] = {
    "dev": (),
    "staging": ("monitoring",),
    "production": ("backups", "database-policies", "monitoring", "webhook", "canary", "controller"),
}

Object = dict[str, Any]

# Which item of a list is which, as Kubernetes merges them; other lists are replaced.
_KEYS: Final = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
}
_PORTS: Final = ("containerPort", "port")
# What Helm is told to leave when a release goes.
_KEPT: Final = ("PersistentVolumeClaim", "CustomResourceDefinition")
_HELMS: Final = ("helm.sh/chart", "app.kubernetes.io/managed-by")
_DIGEST: Final = re.compile("-[0-9a-f]{6}$")


def rendered(*values: Path, helm: str = "helm") -> dict[str, Object]:
    """The chart's objects as `normalised` gives them: without Helm's labels, hooks, and digests in names of Jobs."""
    command = [helm, "template", NAME, str(CHART), "--namespace", NAME, "--no-hooks"]
    done = subprocess.run(
        [*command, *(argument for file in values for argument in ("--values", str(file)))],
        check=True,
        capture_output=True,
        text=True,
    )
    return normalised(done.stdout)


def normalised(text: str) -> dict[str, Object]:
    """Objects by KIND/NAME, those of another namespace than the release's by KIND/NAMESPACE/NAME.

    Raises `ValueError` where two would be one: the first of them would be in no manifest.
    """
    found: dict[str, Object] = {}
    for document in YAML(typ="safe", pure=True).load_all(text):
        if not document or "helm.sh/hook" in document["metadata"].get("annotations", {}):
            continue
        metadata = document["metadata"]
        if document["kind"] == "Job":
            metadata["name"] = _DIGEST.sub("", metadata["name"])
        if document["kind"] in _KEPT:
            metadata.pop("annotations", None)
        _forget(document)
        elsewhere = metadata.get("namespace", NAME) != NAME
        key = "/".join([document["kind"], *([metadata["namespace"]] if elsewhere else []), metadata["name"]])
        if key in found:
            raise ValueError(f"two objects are `{key}`")
        found[key] = document
    return found


def _forget(at: Any) -> None:
    """Take out the labels that say who installed it."""
    if isinstance(at, dict):
        if isinstance(labels := at.get("labels"), dict):
            for label in _HELMS:
                labels.pop(label, None)
        for inner in at.values():
            _forget(inner)
    elif isinstance(at, list):
        for inner in at:
            _forget(inner)


def difference(before: Any, after: Any, key: str = "") -> Any:
    """The strategic merge patch that makes one of the other."""
    if isinstance(before, dict) and isinstance(after, dict):
        changed = {}
        for name, value in after.items():
            old = before.get(name)
            patch = old if old == value else difference(old, value, name)
            # The same in another order says the same, where items are told by a key.
            is_merged = isinstance(old, dict) or (isinstance(old, list) and bool(value) and _key_of(name, value))
            if old != value and (patch or not is_merged):
                changed[name] = patch
        return changed | dict.fromkeys(before.keys() - after.keys())
    if isinstance(before, list) and isinstance(after, list) and (by := _key_of(key, after)) is not None:
        old, new = ({item[by]: item for item in items} for items in (before, after))
        found: list[Object] = []
        for name, item in new.items():
            patch = difference(old.get(name), item) if old.get(name) != item else {}
            if patch or name not in old:
                found.append({by: name, **patch})
        return found + [{by: name, "$patch": "delete"} for name in old if name not in new]
    return after


def merged(before: Any, patch: Any, key: str = "") -> Any:
    """What a strategic merge patch of `difference` makes of something."""
    if isinstance(before, dict) and isinstance(patch, dict):
        whole = {name: merged(before.get(name), value, name) for name, value in patch.items() if value is not None}
        return {name: value for name, value in before.items() if name not in patch} | whole
    if isinstance(before, list) and isinstance(patch, list) and (by := _key_of(key, patch)) is not None:
        items = {item[by]: item for item in before}
        for item in patch:
            if item.get("$patch") == "delete":
                items.pop(item[by], None)
            else:
                items[item[by]] = merged(items.get(item[by]), item)
        return list(items.values())
    return patch


def _key_of(name: str, items: Sequence[Object]) -> str | None:
    """By what the items of a list are told, where they are merged."""
    return _KEYS.get(name) or next((port for port in _PORTS if name == "ports" and port in items[0]), None)


def files(helm: str = "helm") -> dict[Path, str]:
    """Each made file and what is in it."""
    base = FOLDER / "base"
    start = rendered(base / "values.yaml", helm=helm)
    made = {
        base / "kustomization.yaml": _kustomization("Kustomization", namespace=NAME, resources=["objects.yaml"]),
        base / "objects.yaml": _documents(start.values()),
    }
    steps = {}
    for name in COMPONENTS:
        there = FOLDER / "components" / name
        needed = [FOLDER / "components" / one / "values.yaml" for one in NEEDS.get(name, ())]
        below = rendered(base / "values.yaml", *needed, helm=helm) if needed else start
        steps[name] = below, rendered(base / "values.yaml", *needed, there / "values.yaml", helm=helm)
        made |= _step(there, *steps[name], "Component")
    for name, components in OVERLAYS.items():
        there = FOLDER / "overlays" / name
        given = [base / "values.yaml", *(FOLDER / "components" / one / "values.yaml" for one in components)]
        # What two components do to one another is in neither of them: the overlay makes it good.
        before = dict(start)
        for component in components:
            below, above = steps[component]
            for what, document in above.items():
                changed = difference(below.get(what), document)
                before[what] = merged(before[what], changed) if what in below else document
        made |= _step(there, before, rendered(*given, there / "values.yaml", helm=helm), "Kustomization", components)
    return made


def _step(
    there: Path, before: Mapping[str, Object], after: Mapping[str, Object], kind: str, components: Sequence[str] = ()
) -> dict[Path, str]:
    """What one folder adds to, changes in and takes from what is before it."""
    new = [after[name] for name in after if name not in before]
    patches = []
    for name, document in before.items():
        head = {"apiVersion": document["apiVersion"], "kind": document["kind"]}
        named = {key: document["metadata"][key] for key in ("name", "namespace") if key in document["metadata"]}
        if name not in after:
            patches.append({**head, "metadata": named, "$patch": "delete"})
        elif changed := difference(document, after[name]):
            patches.append({**head, **changed, "metadata": {**changed.get("metadata", {}), **named}})
    more: dict[str, Any] = {}
    resources = (["../../base"] if kind == "Kustomization" else []) + (["objects.yaml"] if new else [])
    if resources:
        more["resources"] = resources
    if components:
        more["components"] = [f"../../components/{one}" for one in components]
    if patches:
        more["patches"] = [{"path": "patches.yaml"}]
    made = {there / "kustomization.yaml": _kustomization(kind, **more)}
    if new:
        made[there / "objects.yaml"] = _documents(new)
    if patches:
        made[there / "patches.yaml"] = _documents(patches)
    return made


def _kustomization(kind: str, **members: Any) -> str:
    version = "v1alpha1" if kind == "Component" else "v1beta1"
    return _documents([{"apiVersion": f"kustomize.config.k8s.io/{version}", "kind": kind, **members}])


def _documents(documents: Any) -> str:
    yaml = YAML()
    yaml.width = 120
    yaml.indent(mapping=2, sequence=4, offset=2)
    out = StringIO()
    # Through JSON, so that no two places share an anchor.
    yaml.dump_all([json.loads(json.dumps(document)) for document in documents], out)
    return "# Made by `python k8s/generate.py`.\n" + out.getvalue()


def present() -> set[Path]:
    """The made files that are there."""
    folders = (FOLDER / name for name in ("base", "components", "overlays"))
    return {path for folder in folders for path in folder.rglob("*.yaml") if path.name != "values.yaml"}


def main() -> None:
    """Write them."""
    made = files()
    for path in present() - made.keys():
        path.unlink()
    for path, text in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
