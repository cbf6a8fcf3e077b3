"""The chart as Helm renders it."""

import functools
import json
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from ruamel.yaml import YAML

ROOT: Final = Path(__file__).resolve().parents[2]
CHART: Final = ROOT / "helm" / "mutation-firewall"
BUILD: Final = Path(__file__).parent / "tools" / "build"
# Compiling takes minutes where nothing is in Go's cache.
BUILD_SECONDS: Final = 900
NAMESPACE: Final = "mutation-firewall"
RELEASE: Final = "mutation-firewall"

QUICKSTART: Final = CHART / "values-quickstart.yaml"
MINIMAL: Final = CHART / "ci" / "minimal-values.yaml"
EVERYTHING: Final = CHART / "ci" / "everything-values.yaml"
EXAMPLES: Final = (*sorted((CHART / "ci").glob("*.yaml")), QUICKSTART)

_yaml: Final = YAML(typ="safe", pure=True)

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Pod:
    """The pods of one object: what makes them, their labels, their specification."""

    of: str
    labels: Mapping[str, str]
    spec: Object

    @property
    def containers(self) -> list[Object]:
        """Those that go first as well."""
        return [*self.spec.get("initContainers", ()), *self.spec["containers"]]


@functools.cache
def home() -> str:
    """A home of its own: helm and its client of Kubernetes keep caches there, as root even where there was no folder."""
    return tempfile.mkdtemp(prefix="mfw-helm-")


@functools.cache
def program() -> Path:
    """Where helm is, built if need be."""
    built = subprocess.run(["bash", str(BUILD)], capture_output=True, text=True, check=False, timeout=BUILD_SECONDS)
    if built.returncode != 0:
        pytest.skip(f"no helm here: {built.stderr.strip()[-2000:]}")
    return Path(built.stdout.strip()) / "helm"


def helm(*arguments: str, stdin: str = "", env: Mapping[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    """Run helm to its end."""
    return subprocess.run(
        [str(program()), *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={"PATH": "/usr/bin:/bin", "HOME": home(), **(env or {})},
    )


def template(*files: Path, values: Mapping[str, Any] | None = None, release: str = RELEASE) -> str:
    """What helm renders, as text; the test fails with what helm said where it refuses."""
    done = _template(files, values, release)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refusal(*files: Path, values: Mapping[str, Any], release: str = RELEASE) -> str:
    """What helm says where it refuses, as it must."""
    done = _template(files, values, release)
    assert done.returncode != 0, "it was rendered"
    return done.stderr


def _template(
    files: Sequence[Path], values: Mapping[str, Any] | None, release: str
) -> "subprocess.CompletedProcess[str]":
    named = [argument for file in files for argument in ("-f", str(file))]
    # JSON is YAML.
    given = ["-f", "-"] if values is not None else []
    return helm("template", release, str(CHART), "-n", NAMESPACE, *named, *given, stdin=json.dumps(values))


def read(text: str) -> list[Object]:
    """The objects of a text of several documents."""
    return [document for document in _yaml.load_all(text) if document]


@functools.cache
def text_of(file: Path) -> str:
    """One file of values as it is rendered."""
    return template(file)


@functools.cache
def example(file: Path) -> tuple[Object, ...]:
    """The objects of one file of values; nobody changes them."""
    return tuple(read(text_of(file)))


def render(*files: Path, **values: Any) -> list[Object]:
    """The objects of some values on top of files."""
    return read(template(*files, values=values))


def one(objects: Sequence[Object], kind: str, name: str = RELEASE) -> Object:
    """The object of that kind and name, which is there."""
    (found,) = [document for document in objects if (document["kind"], document["metadata"]["name"]) == (kind, name)]
    return found


def named(objects: Sequence[Object]) -> set[str]:
    """KIND/NAME of each object."""
    return {f"{document['kind']}/{document['metadata']['name']}" for document in objects}


def pods(objects: Sequence[Object]) -> Iterator[Pod]:
    """Every pod that these objects are or make."""
    for document in objects:
        where = f"{document['kind']}/{document['metadata']['name']}"
        match document["kind"]:
            case "Pod":
                yield Pod(where, document["metadata"]["labels"], document["spec"])
            case "Deployment" | "StatefulSet" | "Job":
                template = document["spec"]["template"]
                yield Pod(where, template["metadata"]["labels"], template["spec"])
            case "CronJob":
                template = document["spec"]["jobTemplate"]["spec"]["template"]
                yield Pod(where, template["metadata"]["labels"], template["spec"])
            case _:
                pass


def env(container: Object) -> dict[str, str]:
    """The variables of a container that have a value."""
    return {variable["name"]: variable["value"] for variable in container.get("env", ()) if "value" in variable}
