"""Kustomize makes of `k8s/` what Helm makes of the chart, object by object."""

import functools
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from app.controller.rights import rights
from k8s.generate import COMPONENTS, FOLDER, NEEDS, OVERLAYS, Object, files, normalised, present, rendered
from tests.helm.chart import CHART, NAMESPACE, RELEASE, env, pods, program
from tests.kubernetes.cluster import NotHereError, programs

# Lists whose order says nothing, and by what their items are told.
_UNORDERED = {"env": "name", "volumes": "name", "volumeMounts": "mountPath", "containers": "name"}

BASE = FOLDER / "base"


@functools.cache
def kustomized(folder: Path) -> dict[str, Object]:
    """What kustomize makes of a folder; nobody changes it."""
    try:
        kubectl = programs()[0] / "kubectl"
    except NotHereError as error:
        pytest.skip(str(error))
    done = subprocess.run(
        [str(kubectl), "kustomize", str(folder)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return normalised(done.stdout)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The folder as it is, for overlays that are none of it: others read it meanwhile."""
    return Path(shutil.copytree(FOLDER, tmp_path / FOLDER.name))


def sorted_lists(at: Any, key: str = "") -> Any:
    """The same with lists in one order, where Kubernetes merges by key."""
    if isinstance(at, Mapping):
        return {name: sorted_lists(value, name) for name, value in at.items()}
    if isinstance(at, Sequence) and not isinstance(at, str):
        items = [sorted_lists(item) for item in at]
        by = _UNORDERED.get(key)
        if key == "ports" and items:
            by = next((port for port in ("containerPort", "port") if port in items[0] and "name" in items[0]), None)
        return sorted(items, key=lambda item: item[by]) if by else items
    return at


def test_modes_of_files_are_written_in_decimal() -> None:
    """`0440` is octal to Kubernetes, and 440 to YAML 1.2: what reads one and writes the other changes it."""
    texts = [
        path.read_text() for above in (FOLDER, CHART / "templates") for path in above.rglob("*.*") if path.is_file()
    ]
    modes = [mode for text in texts for mode in re.findall(r"defaultMode: ?(\w+)", text)]
    assert modes
    assert set(modes) == {str(0o440)}


def test_everything_is_generated() -> None:
    made = files(helm=str(program()))
    there = {path: path.read_text() for path in present()}
    assert there == made, "run: python k8s/generate.py"


@pytest.mark.parametrize("name", [*OVERLAYS, "base"])
def test_parity_with_the_chart(name: str) -> None:
    components = [FOLDER / "components" / one / "values.yaml" for one in OVERLAYS.get(name, ())]
    folder = BASE if name == "base" else FOLDER / "overlays" / name
    own = [] if name == "base" else [folder / "values.yaml"]
    wanted = rendered(BASE / "values.yaml", *components, *own, helm=str(program()))
    found = kustomized(folder)
    assert found.keys() == wanted.keys()
    for what, document in wanted.items():
        assert sorted_lists(found[what]) == sorted_lists(document), what


@pytest.mark.parametrize("name", COMPONENTS)
def test_each_component_alone(name: str, copied: Path) -> None:
    """On the base, with no more of the others than it cannot be without: each is one feature."""
    components = [*NEEDS.get(name, ()), name]
    folder = copied / "overlays" / "alone"
    folder.mkdir()
    listed = "".join(f"  - ../../components/{one}\n" for one in components)
    (folder / "kustomization.yaml").write_text(f"resources: [../../base]\ncomponents:\n{listed}")
    found = kustomized(folder)
    values = [FOLDER / "components" / one / "values.yaml" for one in components]
    wanted = rendered(BASE / "values.yaml", *values, helm=str(program()))
    assert sorted_lists(found) == sorted_lists(wanted)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_of_ones_own_as_the_page_has_it(overlay: str, copied: Path) -> None:
    """Every image is another one, and every process that knows the ledger knows its new name."""
    (text,) = re.findall(r"```yaml\n(.*?)```", (FOLDER / "README.md").read_text(), re.DOTALL)
    text = text.replace("../production", f"../{overlay}")
    if "backups" not in OVERLAYS[overlay]:
        (line,) = re.findall(r".*initContainers.*\n", text)
        text = text.replace(line, "")
    folder = copied / "overlays" / "own"
    folder.mkdir()
    (folder / "kustomization.yaml").write_text(text)
    found = kustomized(folder)
    for pod in pods(list(found.values())):
        for container in pod.containers:
            assert container["image"].startswith("registry.example.com/"), pod.of
            assert env(container).get("MFW_LEDGER__ORIGIN") in {None, "firewall.bank.example/ledger"}, pod.of


def test_whoever_applies_production_as_it_is_stops_nobody_else() -> None:
    """The webhook asks about agents alone, and the service knows the same ones."""
    found = kustomized(FOLDER / "overlays" / "production")
    for hook in found[f"ValidatingWebhookConfiguration/{RELEASE}"]["webhooks"]:
        assert any("system:serviceaccount:agents:" in one["expression"] for one in hook["matchConditions"])
    (container,) = found[f"Deployment/{RELEASE}"]["spec"]["template"]["spec"]["containers"]
    assert env(container)["MFW_KUBERNETES__AGENTS"] == "namespace=agents"


def test_objects_of_one_name_in_two_namespaces_are_two() -> None:
    """The controller's Role is one in the namespace of its Lease, and one where its events are."""
    found = kustomized(FOLDER / "overlays" / "production").values()
    wanted = rights(
        name=f"{NAMESPACE}-{RELEASE}-controller",
        namespace=NAMESPACE,
        account=f"{RELEASE}-controller",
        lease=f"{RELEASE}-controller",
        exceptions=[],
    )
    for role in wanted:
        same = [
            one
            for one in found
            if one["kind"] == role["kind"]
            and all(one["metadata"].get(key) == role["metadata"].get(key) for key in ("name", "namespace"))
        ]
        (one,) = same
        assert one.get("rules") == role.get("rules")
        assert one.get("subjects") == role.get("subjects")
    twice = "kind: Role\nmetadata: {name: a, namespace: b}\n"
    with pytest.raises(ValueError, match="two objects are `Role/b/a`"):
        normalised(f"{twice}---\n{twice}")


@pytest.mark.parametrize("minor", ["1.34", "1.36", "1.37"])
def test_production_is_valid(minor: str) -> None:
    unknown = set()
    for document in kustomized(FOLDER / "overlays" / "production").values():
        try:
            kubernetes_validate.validate(document, minor, strict=True)
        except kubernetes_validate.SchemaNotFoundError:
            unknown.add(document["kind"])
    assert unknown == {"ServiceMonitor", "PodMonitor", "PrometheusRule"}
