"""`mfw serve` with gRPC beside HTTP: in the worker that gunicorn made, until it is told to go."""

import signal

import grpc
import pytest

from app.surfaces.ext_authz.grpc.messages import CheckRequest, CheckResponse
from tests.integration.cli.test_serve import production

CHECK = "/envoy.service.auth.v3.Authorization/Check"


def test_checks_over_grpc_until_sigterm(commands, database_dsn):
    port = commands.free_port()
    settings = production(database_dsn, commands.free_port(), commands.free_port())
    settings |= {"MFW_EXT_AUTHZ__GRPC_PORT": str(port)}
    key = commands.run("keys", "create", "edge", MFW_DATABASE__URL=database_dsn).stdout.strip()
    request = CheckRequest()
    http = request.attributes.request.http
    http.method, http.path, http.host = "GET", "/v1/orders/7", "api.example.com"
    http.headers["x-agent-id"] = "bot"
    http.headers["x-request-id"] = "from-envoy-7"
    with (
        commands.running("serve", settings=settings) as process,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        process.read_until("Application startup complete")
        call = channel.unary_unary(CHECK, request_serializer=None, response_deserializer=None)
        metadata = (("authorization", f"Bearer {key}"),)
        told = CheckResponse.FromString(call(request.SerializeToString(), metadata=metadata, timeout=60))
        assert (told.status.code, told.dynamic_metadata["effect"]) == (7, "deny")
        assert process.stop(signal.SIGTERM) == 0
        # One line for the check, as for each request, and nothing of the credential.
        assert '"request_id":"from-envoy-7"' in process.output
        assert '"route":"/envoy/v1/check/{path:path}"' in process.output
        assert key not in process.output
        with pytest.raises(grpc.RpcError) as caught:
            call(request.SerializeToString(), metadata=metadata, timeout=60)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
