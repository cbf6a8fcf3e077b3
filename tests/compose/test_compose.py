"""The trial for a laptop, read as text, and its first start with the command in place of the image."""

import json
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from app.settings import Settings
from tests.alerts.rules import run
from tests.integration.cli.conftest import environment

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "compose"
STATE = ".state/compose"


def read(path: Path) -> Any:
    return YAML(typ="safe", pure=True).load(path.read_text())


FILE = read(ROOT / "compose.yaml")
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
# What is asked once, and ends.
ONCE = {"migrate"}
FIREWALLS = ("migrate", "firewall")


def mounts(service):
    """Source, target and mode of each."""
    return [tuple(mount.split(":")) for mount in SERVICES[service].get("volumes", ())]


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """A copy in which the secrets were made, and a `docker` that answers for the image with this checkout."""
    copy = tmp_path_factory.mktemp("laptop")
    for name in ("compose", "alerts"):
        shutil.copytree(ROOT / name, copy / name)
    for name in ("compose.yaml", "pyproject.toml"):
        shutil.copy(ROOT / name, copy / name)
    programs = copy / "bin"
    programs.mkdir()
    docker = programs / "docker"
    docker.write_text(f"""#!/usr/bin/env bash
set -euo pipefail
mutation-firewall() {{ PYTHONPATH={ROOT} {sys.executable} -m app "$@"; }}
[ "$1" = image ] && exit 0
while [ "$1" != some/image:1 ]; do
  [ "$1" = --entrypoint ] && entrypoint=$2
  shift
done
shift
# What runs is the entrypoint, of which there are two.
if [ -n "${{entrypoint:-}}" ]; then shift; eval "${{1//\\/tmp\\/key/{copy}/key}}"; else mutation-firewall "$@"; fi
""")
    docker.chmod(0o755)

    def up():
        done = subprocess.run(
            ["bash", str(copy / "compose" / "up"), "--secrets"],
            env=environment(FIREWALL_IMAGE="some/image:1") | {"PATH": f"{programs}:/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return {path.name: path.read_text() for path in (copy / STATE).iterdir()}

    return copy / STATE, up(), up


def test_ports_are_of_this_machine_alone():
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert len(ports) == 4
    assert all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_has_no_more_rights_than_it_needs(name):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert int(service["user"].partition(":")[0]) > 0
    assert not {"privileged", "cap_add", "network_mode", "pid", "devices"} & service.keys()
    assert not any("docker.sock" in mount for mount in service.get("volumes", ()))


def test_the_file_is_what_the_specification_of_compose_allows():
    schema = ("--builtin-schema", "vendor.compose-spec")
    told = run(sys.executable, "-m", "check_jsonschema", *schema, str(ROOT / "compose.yaml"))
    assert "validation done" in told


@pytest.mark.parametrize("name", [name for name in SERVICES if name not in ONCE])
def test_each_says_when_it_is_well(name):
    check = SERVICES[name]["healthcheck"]
    assert check["test"][0] == "CMD"
    assert check["retries"] > 1


def test_what_starts_before_what():
    waits = {
        (name, other): rule["condition"]
        for name, service in SERVICES.items()
        for other, rule in service.get("depends_on", {}).items()
    }
    assert waits[("migrate", "postgresql")] == "service_healthy"
    assert waits[("firewall", "migrate")] == "service_completed_successfully"
    assert waits[("firewall", "redis")] == "service_healthy"
    for (_, other), condition in waits.items():
        assert (condition == "service_completed_successfully") == (other in ONCE)


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_mounted_is_there(name, started):
    state, _, _ = started
    for mount in mounts(name):
        source = mount[0]
        if source in FILE["volumes"]:
            continue
        assert source.startswith("./"), source
        assert mount[2] == "ro", mount
        path = state.parents[1] / source if STATE in source else ROOT / source
        assert path.exists(), source
    for secret in SERVICES[name].get("secrets", ()):
        assert secret in FILE["secrets"]


def test_every_volume_and_every_secret_is_used():
    used = {mount[0] for name in SERVICES for mount in mounts(name)}
    assert set(FILE["volumes"]) <= used
    assert set(FILE["secrets"]) == {secret for service in SERVICES.values() for secret in service.get("secrets", ())}


def test_the_first_start_makes_the_secrets(started):
    folder, made, _ = started
    assert set(made) == {*FILE["secrets"], "alertmanager.yaml"}
    assert {one["file"] for one in FILE["secrets"].values()} == {f"{STATE}/{name}" for name in FILE["secrets"]}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in ("postgresql-password", "redis-password", "grafana-password"):
        assert len(made[name]) == 64
    assert len({made[name] for name in made if name.endswith("-password")}) == 3
    assert made["postgresql-password"] in made["database-url"]
    assert f"requirepass {made['redis-password']}\n" in made["redis.conf"]
    assert made["ledger-signing-key"].startswith("PRIVATE+KEY+laptop.example/ledger+")


def test_a_second_start_keeps_them(started):
    _, made, up = started
    assert up() == made


def test_no_secret_stands_in_the_file(started):
    _, made, _ = started
    text = (ROOT / "compose.yaml").read_text()
    assert not any(made[name].strip() in text for name in FILE["secrets"])
    for service in SERVICES.values():
        for name in service.get("environment", {}):
            if any(word in name for word in ("PASSWORD", "KEY", "URL")):
                assert name.endswith("_FILE"), name


@pytest.mark.parametrize("name", FIREWALLS)
def test_the_service_takes_its_settings(name, started):
    folder, _, _ = started
    service = SERVICES[name]
    given = {
        variable: value.replace("/run/secrets", str(folder)).replace(
            "/etc/mutation-firewall/policies", str(ROOT / "policies" / "starter")
        )
        for variable, value in service["environment"].items()
    }
    loaded = Settings.load(given)
    assert loaded.database.url is not None
    assert "@postgresql:5432/firewall" in loaded.database.url.get_secret_value()
    assert loaded.limits.redis_url is not None
    assert loaded.auth.api_keys.bootstrap is not None
    assert ("/etc/mutation-firewall/policies", "ro") in [mount[1:] for mount in mounts(name)]
    assert service["image"].endswith(f":{_version()}}}")
    assert (service["mem_limit"], service["cpus"]) == ("512m", 0.5)


def _version() -> str:
    (line,) = [line for line in (ROOT / "pyproject.toml").read_text().splitlines() if line.startswith("version = ")]
    return line.split('"')[1]


def test_prometheus_reads_its_configuration(tmp_path):
    text = (FOLDER / "prometheus.yaml").read_text()
    here = tmp_path / "prometheus.yaml"
    here.write_text(text.replace("/etc/prometheus/rules", str(ROOT / "alerts" / "rules")))
    told = run("promtool", "check", "config", str(here))
    assert "SUCCESS" in told
    assert told.count("rules found") == len(list((ROOT / "alerts" / "rules").glob("*.yaml")))
    config = read(FOLDER / "prometheus.yaml")
    (target,) = config["scrape_configs"][0]["static_configs"][0]["targets"]
    host, port = target.split(":")
    assert (host, port) == ("firewall", str(Settings(environment="development").metrics.port))
    (manager,) = config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"]
    assert manager.split(":")[0] in SERVICES


def test_alertmanager_tells_nobody_and_routes_as_ours(started):
    folder, _, _ = started
    run("amtool", "check-config", str(folder / "alertmanager.yaml"))
    made, ours = read(folder / "alertmanager.yaml"), read(ROOT / "alerts" / "alertmanager.yaml")
    assert made.pop("receivers") == [{"name": receiver["name"]} for receiver in ours.pop("receivers")]
    assert made == ours


def test_grafana_finds_its_source_and_its_dashboards():
    (source,) = read(FOLDER / "grafana" / "datasources" / "prometheus.yaml")["datasources"]
    assert source["type"] == "prometheus"
    assert source["isDefault"] is True
    assert source["url"] == "http://prometheus:9090"
    (provider,) = read(FOLDER / "grafana" / "dashboards" / "mutation-firewall.yaml")["providers"]
    found = {target: origin for origin, target, *_ in mounts("grafana")}
    assert found[provider["options"]["path"]] == "./alerts/dashboards"
    for target, origin in found.items():
        if target.startswith("/etc/grafana/provisioning/"):
            assert any((ROOT / origin).iterdir())
    # Which source a dashboard takes is chosen in it: the first of this kind.
    for path in (ROOT / "alerts" / "dashboards").glob("*.json"):
        kinds = [
            one["query"] for one in json.loads(path.read_text())["templating"]["list"] if one["type"] == "datasource"
        ]
        assert kinds == [source["type"]]
