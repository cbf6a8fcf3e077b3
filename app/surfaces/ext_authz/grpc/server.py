"""gRPC in front of the one endpoint of checks: a message becomes the request of HTTP that it describes, and back.

Everything that is done for a request of HTTP is done for it as well, by the same code: credentials, limits, shedding,
metrics, the line in the log, the mapping, the decision.
"""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

import grpc
from google.protobuf.message import DecodeError
from starlette.types import ASGIApp, Message, Scope

from app.core.tls_files import TlsFiles
from app.edge.context import PEER, fresh_request_id
from app.edge.peer import Peer
from app.errors import FirewallError, Kind
from app.surfaces.answering import too_late
from app.surfaces.ext_authz.grpc.messages import (
    AUTH,
    CheckRequest,
    CheckResponse,
    HealthCheckRequest,
    HealthCheckResponse,
)
from app.surfaces.ext_authz.routes import ANSWERED, PREFIX
from app.surfaces.problems import Problem, internal_problem, problem

AUTHORIZATION: Final = f"{AUTH}.Authorization"
HEALTH: Final = "grpc.health.v1.Health"

# Headers and attributes of a request, beside its body.
MESSAGE_SLACK_BYTES: Final = 262_144
METADATA_BYTES_MAX: Final = 16_384

_SERVING, _NOT_SERVING = 1, 2
# Of `envoy.config.core.v3.HeaderValueOption`: what a caller sent under the same name does not stay beside it.
_OVERWRITE: Final = 2
# What describes the request that carries a check, or is worked out anew for it.
_DROPPED: Final = frozenset({b"host", b"content-length", b"transfer-encoding", b"connection", b"expect", b"upgrade"})
# Of the headers of an answer, beside those that the mapping names.
_TOLD: Final = frozenset({b"content-type", b"retry-after", b"x-request-id"})

_log: Final = logging.getLogger("mfw.gateway")


class Answered(NamedTuple):
    """What became of a check that ran as a request of HTTP."""

    status: int
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes
    scope: Scope


class CheckServer:
    """The server. `app` is the whole application of HTTP; `ready` tells whether requests should be sent here.

    `credential_header` is where that application expects what a gateway sends as the metadata `authorization`.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        host: str,
        port: int,
        tls: TlsFiles | None,
        credential_header: str,
        max_body_bytes: int,
        concurrent_max: int,
        timeout_seconds: float,
        ready: Callable[[], Awaitable[bool]],
    ) -> None:
        self._app = app
        self._address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._tls = tls
        self._credential_header = credential_header.lower().encode()
        self._max_bytes = max_body_bytes + MESSAGE_SLACK_BYTES
        self._concurrent_max = concurrent_max
        self._timeout_seconds = timeout_seconds
        self._ready = ready
        self._server: Any = None
        self.port = 0

    async def start(self) -> None:
        """Listen from now on. Raises FirewallError (INVALID_SETTINGS) where nobody can listen there."""
        self._server = grpc.aio.server(
            maximum_concurrent_rpcs=self._concurrent_max,
            options=[
                ("grpc.max_receive_message_length", self._max_bytes),
                ("grpc.max_metadata_size", METADATA_BYTES_MAX),
                # Two processes that share a port by mistake would each answer some.
                ("grpc.so_reuseport", 0),
            ],
        )
        unary = grpc.unary_unary_rpc_method_handler
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(AUTHORIZATION, {"Check": unary(self.check)}),
                grpc.method_handlers_generic_handler(HEALTH, {"Check": unary(self.health)}),
            )
        )
        try:
            if self._tls is None:
                self.port = self._server.add_insecure_port(self._address)
            else:
                self.port = self._server.add_secure_port(self._address, _credentials(self._tls))
        except RuntimeError:
            raise FirewallError(
                Kind.INVALID_SETTINGS,
                f"nobody can listen on `{self._address}`",
                fix="name another port in MFW_EXT_AUTHZ__GRPC_PORT",
            ) from None
        await self._server.start()

    async def stop(self, grace: float) -> None:
        """Take no more checks, and end those that are under way after `grace` seconds."""
        await self._server.stop(grace)

    async def health(self, request: bytes, context: Any) -> bytes:
        """`grpc.health.v1.Health/Check`, of the server as a whole and of its one service."""
        service = None
        with contextlib.suppress(DecodeError):
            service = HealthCheckRequest.FromString(request).service
        if service not in {"", AUTHORIZATION}:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such service here")
        answer: bytes = HealthCheckResponse(
            status=_SERVING if await self._ready() else _NOT_SERVING
        ).SerializeToString()
        return answer

    async def check(self, request: bytes, context: Any) -> bytes:
        """`envoy.service.auth.v3.Authorization/Check`.

        Whatever goes wrong is a response that denies: an error of gRPC is let through by who set `failure_mode_allow`.
        """
        try:
            http = _http_of(request)
            async with asyncio.timeout(self._seconds(context)):
                answered = await self._run(http, context)
        except FirewallError as error:
            return _refused(problem(error, fresh_request_id()))
        except TimeoutError:
            return _refused(problem(too_late(), fresh_request_id()))
        except Exception:  # noqa: BLE001 - it is logged, and it denies; an error of gRPC would be nobody's answer
            request_id = fresh_request_id()
            _log.exception("check failed", extra={"fields": {"request": request_id}})
            return _refused(internal_problem(request_id))
        return _response(answered)

    def _seconds(self, context: Any) -> float:
        remaining = context.time_remaining()
        return self._timeout_seconds if remaining is None else min(self._timeout_seconds, max(remaining, 0.0))

    async def _run(self, http: Any, context: Any) -> Answered:
        body: bytes = http.raw_body or http.body.encode()
        scope = self._scope(http, context, size=len(body))
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            sent.append(message)

        await self._app(scope, receive, send)
        start, *parts = sent
        return Answered(start["status"], start["headers"], b"".join(part.get("body", b"") for part in parts), scope)

    def _scope(self, http: Any, context: Any, *, size: int) -> Scope:
        """The request that a message describes, as the server of HTTP would hand it on."""
        peer = _peer(context)
        path, _, query = http.path.partition("?")
        own = self._credential_header
        headers = [
            (name, value)
            for name, value in _headers(http)
            # Pseudo-headers say again what the attributes say.
            if name not in _DROPPED and name != own and not name.startswith(b":")
        ]
        headers += [(own, value) for value in _metadata(context, "authorization")]
        headers += [(b"host", http.host.encode()), (b"content-length", b"%d" % size)]
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "2",
            "method": http.method,
            "scheme": "http" if self._tls is None else "https",
            # Only where it goes: what was asked is in the raw path, as everywhere.
            "path": PREFIX,
            "raw_path": PREFIX.removesuffix("/").encode() + path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": headers,
            "client": (peer.address, 0),
            "server": None,
            PEER: peer,
        }


def _http_of(content: bytes) -> Any:
    """The request in a message. Raises FirewallError(MALFORMED) for what is none, or says one thing twice."""
    try:
        http = CheckRequest.FromString(content).attributes.request.http
    except DecodeError:
        raise FirewallError(Kind.MALFORMED, "the message is not a CheckRequest") from None
    if (http.headers and http.HasField("header_map")) or (http.body and http.raw_body):
        raise FirewallError(Kind.MALFORMED, "the request has its headers or its body twice", fix="send one of the two")
    # Envoy leaves both empty: all of it is in the path. What another sender means by them nobody would be asked about.
    if http.fragment or http.query not in {"", http.path.partition("?")[2]}:
        raise FirewallError(
            Kind.MALFORMED,
            "the request has a query or a fragment that is not in its path",
            fix="send all of it in `path`, as Envoy does",
        )
    return http


def _headers(http: Any) -> list[tuple[bytes, bytes]]:
    """Headers as they were sent where Envoy was told to, and else as it merged them."""
    if http.HasField("header_map"):
        return [(one.key.lower().encode(), one.raw_value or one.value.encode()) for one in http.header_map.headers]
    return [(name.lower().encode(), value.encode()) for name, value in http.headers.items()]


def _metadata(context: Any, key: str) -> list[bytes]:
    return [
        value if isinstance(value, bytes) else value.encode()
        for name, value in context.invocation_metadata() or ()
        if name == key
    ]


def _peer(context: Any) -> Peer:
    """The other end, with its certificate where one was asked for and verified."""
    kind, _, rest = context.peer().partition(":")
    address = unquote(rest.rpartition(":")[0]).strip("[]") if kind in {"ipv4", "ipv6"} else kind
    pem = context.auth_context().get("x509_pem_cert", ())
    return Peer(address, ssl.PEM_cert_to_DER_cert(pem[0].decode()) if pem else None)


def _response(answered: Answered) -> bytes:
    exchange = answered.scope.get(ANSWERED)
    facts = {} if exchange is None else exchange.facts()
    if answered.status != HTTPStatus.OK:
        named = {name for name, _ in answered.headers} & (_TOLD | {name.encode() for name in facts})
        headers = [(name, value) for name, value in answered.headers if name in named]
        return _denied(answered.status, headers, answered.body, metadata=_told(exchange))
    if exchange is None or exchange.decision is None:
        # INVARIANT: only a recorded decision lets a request through, whatever else answers 200.
        return _refused(internal_problem(fresh_request_id()))
    response = CheckResponse()
    response.status.SetInParent()
    response.ok_response.SetInParent()
    for name, value in facts.items():
        _add(response.ok_response.headers, name, value)
    response.ok_response.headers_to_remove.extend(exchange.removed)
    response.dynamic_metadata.update(_told(exchange))
    answer: bytes = response.SerializeToString()
    return answer


def _refused(told: Problem) -> bytes:
    return _denied(told.status, [one for one in told.headers if one[0] in _TOLD], told.body)


def _denied(
    status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes, *, metadata: "dict[str, str] | None" = None
) -> bytes:
    response = CheckResponse()
    away = status >= HTTPStatus.INTERNAL_SERVER_ERROR
    response.status.code = (grpc.StatusCode.UNAVAILABLE if away else grpc.StatusCode.PERMISSION_DENIED).value[0]
    response.denied_response.status.code = int(status)
    response.denied_response.body = body.decode()
    for name, value in headers:
        _add(response.denied_response.headers, name.decode("latin-1"), value.decode("latin-1"))
    if metadata:
        response.dynamic_metadata.update(metadata)
    answer: bytes = response.SerializeToString()
    return answer


def _told(exchange: Any) -> dict[str, str]:
    """What filters behind this one may read: of a decision all facts, whatever headers say."""
    return {} if exchange is None else exchange.metadata()


def _add(options: Any, name: str, value: str) -> None:
    option = options.add(append_action=_OVERWRITE)
    option.header.key, option.header.value = name, value


def _credentials(files: TlsFiles) -> Any:
    """Certificates from disk; each handshake gets those that lie there now, or the last good ones.

    Clients are asked for a certificate only where one is required: gRPC has no way to ask and not to insist.
    """
    contents = _read(files)

    def fetch() -> Any:
        nonlocal contents
        try:
            found = _read(files)
            if found == contents:
                return None
            # Files are replaced one after the other: a key that is not this certificate's is not shown to anybody.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(files.certificate, files.key)
        except OSError:
            return None
        contents = found
        return _configuration(found)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(contents), fetch, require_client_authentication=files.required
    )


def _read(files: TlsFiles) -> list[bytes]:
    return [path.read_bytes() for path in files.paths]


def _configuration(contents: Sequence[bytes]) -> Any:
    certificate, key, *roots = contents
    return grpc.ssl_server_certificate_configuration(
        [(key, certificate)], root_certificates=roots[0] if roots else None
    )
