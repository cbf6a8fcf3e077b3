"""Everything of a release is published once, however often a workflow that ended half-way is run again."""

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from ruamel.yaml import YAML

OWNER = "registry.example.com/somebody"
IMAGES = [f"{OWNER}/mutation-firewall:0.1.0", f"{OWNER}/mutation-firewall-backup:0.1.0"]
CHART = f"{OWNER}/charts/mutation-firewall:0.1.0"


class Publishing:
    """A checkout, a registry, and programs that reach it."""

    def __init__(self, checkout, folder: Path) -> None:
        self.checkout, self.registry = checkout, folder / "registry"
        for name in ("here", "there", "bin"):
            (self.registry / name).mkdir(parents=True)
        for name in ("docker", "helm"):
            program = self.registry / "bin" / name
            program.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).parent}/registry.py {name} "$@"\n')
            program.chmod(0o755)

    def run(self, what: str) -> "subprocess.CompletedProcess[str]":
        environ = {
            **os.environ,
            "PATH": f"{self.registry / 'bin'}:{os.environ['PATH']}",
            "REGISTRY": str(self.registry),
            "PYTHON_IMAGE": "python@sha256:1",
        }
        return subprocess.run(
            ["bash", "release/publish", what, OWNER],
            cwd=self.checkout.root,
            env=environ,
            capture_output=True,
            text=True,
            check=False,
        )

    def outputs(self, what: str) -> dict[str, str]:
        """What the workflow reads."""
        done = self.run(what)
        assert done.returncode == 0, done.stderr
        return dict(line.split("=", 1) for line in done.stdout.splitlines())

    def pushed(self) -> list[str]:
        notes = self.registry / "pushed"
        return notes.read_text().split() if notes.exists() else []


@pytest.fixture
def publishing(checkout, tmp_path):
    return Publishing(checkout, tmp_path)


def test_images_are_pushed_once(publishing):
    made = publishing.outputs("images")
    assert made.keys() == {"mutation-firewall", "mutation-firewall-backup"}
    assert all(re.fullmatch("sha256:[0-9a-f]{64}", digest) for digest in made.values())
    assert (publishing.checkout.root / "build/release/sbom.cdx.json").exists()
    # The second one was not reached, on a machine that has nothing of this any more.
    (publishing.registry / "there" / IMAGES[1].replace("/", "_")).unlink()
    for image in (publishing.registry / "here").iterdir():
        image.unlink()
    assert publishing.outputs("images") == made
    assert publishing.pushed() == [*IMAGES, IMAGES[1]]


def test_the_chart_is_pushed_once_and_names_the_images_of_the_release(publishing):
    made = publishing.outputs("chart")
    assert made == publishing.outputs("chart")
    assert publishing.pushed() == [CHART]
    with tarfile.open(publishing.checkout.root / "build/release/mutation-firewall-0.1.0.tgz") as packed:
        member = packed.extractfile("mutation-firewall/values.yaml")
        assert member is not None
        values = YAML(typ="safe", pure=True).load(member)
    named = [values["image"], values["backup"]["image"]]
    assert [f"{one['repository']}:0.1.0" for one in named] == IMAGES
    # Nothing in it names an image that nobody published.
    for path in (publishing.checkout.root / "build/chart/now").rglob("*"):
        assert path.is_dir() or b"mutation-firewall/mutation-firewall" not in path.read_bytes()


@pytest.mark.parametrize(("what", "out"), [("images", IMAGES), ("chart", [CHART])])
def test_what_another_commit_published_stays(publishing, what, out):
    publishing.outputs(what)
    publishing.checkout.write("helm/mutation-firewall/values.yaml", lambda text: f"{text}\n# changed\n")
    done = publishing.run(what)
    assert done.returncode == 1
    assert f"{out[0]} is out already" in done.stderr
    assert publishing.pushed() == out


@pytest.mark.parametrize("what", ["images", "chart"])
def test_a_registry_that_does_not_say_is_pushed_nothing(publishing, what):
    (publishing.registry / "says").write_text("503 Service Unavailable")
    done = publishing.run(what)
    assert done.returncode == 1
    assert "not known" in done.stderr
    assert publishing.pushed() == []


def test_what_is_published_is_a_commit(publishing):
    (publishing.checkout.root / "more").write_text("")
    assert "not committed" in publishing.run("images").stderr
