"""Step 4 for a request of HTTP that a gateway asks about: host, method, path, headers and body become a mutation."""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple, NoReturn, assert_never
from urllib.parse import unquote_plus

from app.core import strict_json
from app.core.members import refuse_unknown
from app.core.types import Json, JsonObject, Mutation
from app.edge.body import is_json
from app.edge.encoding import coding_of, expand
from app.errors import FirewallError, Kind
from app.surfaces.ext_authz.mapping import (
    BodyUse,
    Gateway,
    GatewayKind,
    GatewayMapping,
    Route,
    SubjectSource,
    Template,
    action_of,
)
from app.surfaces.ext_authz.targets import Target, host_of, method_of, parameters_of, target_of
from app.surfaces.parties import ABSENT, MAX_ID_CHARS, MISSING, action, entity, text

# `true` where Envoy had more of a body than its configuration lets it keep.
PARTIAL: Final = b"x-envoy-auth-partial-body"
# A paragraph for people, as on the native route.
_RATIONALE_CHARS_MAX: Final = 8192
_HEADER_CHARS_MAX: Final = 4096
# A subject with its properties, in a header.
_SUBJECT_BYTES_MAX: Final = 4096

_MEMBERS: Final = ("subject", "action", "resource", "change", "context", "request_id", "rationale")
_REQUIRED: Final = ("action", "resource", "change")
# Headers, and a parameter, that ask a server to take the method or the path for another one. Servers that hand headers
# on as variables (RFC 3875 section 4.1.18) make `-` of `_`.
_METHOD_OVERRIDES: Final = frozenset({b"x-http-method-override", b"x-http-method", b"x-method-override"})
_METHOD_PARAMETER: Final = "_method"
_PATH_OVERRIDES: Final = frozenset({b"x-original-url", b"x-rewrite-url"})
# An id: no list, since a header that came twice is merged into one on its way.
_IDENTIFIER: Final = re.compile(r"[\x21-\x2b\x2d-\x7e](?:[\x20-\x2b\x2d-\x7e]*[\x21-\x2b\x2d-\x7e])?")

_FIX_GATEWAY: Final = "correct the configuration of the gateway; docs/integrations has it for each kind"

Headers = Sequence[tuple[bytes, bytes]]


class Check(NamedTuple):
    """What a gateway asks: a request as it came, with names of headers in lower case.

    `rest` is the path of the check behind the one of this surface, with its query.
    """

    method: str
    host: str | None
    rest: str
    headers: Headers
    body: bytes


def mutation_of(
    check: Check, gateway: Gateway, mapping: GatewayMapping, *, max_bytes: int, request_id: str
) -> Mutation:
    """Make a mutation of a check.

    Raises FirewallError: MALFORMED, UNSUPPORTED_MEDIA_TYPE and TOO_LARGE for what is no clear request, FORBIDDEN for
    one that no route is for. Does not check: that the gateway set the header of the subject itself; who configures it
    does.
    """
    method, host, target = _asked(check, gateway.kind)
    found = mapping.route_of(method, host, target)
    if found is None:
        raise FirewallError(
            Kind.FORBIDDEN,
            "no route of the gateways' mapping is for this request",
            fix="add one to the file that MFW_EXT_AUTHZ__MAPPING names, if this shall be asked for",
        )
    route, values = found
    subject = _subject(check.headers, gateway.subject)
    query = _query(target, route)
    if route.body is BodyUse.MUTATION:
        return _stated(_json(check, max_bytes=max_bytes), subject)
    change: JsonObject = {}
    if route.body is BodyUse.JSON:
        change = {"after": _json(check, max_bytes=max_bytes)}
    http: JsonObject = {"method": method, "host": host, "path": target.path}
    if query:
        http["query"] = query
    if headers := _kept(check.headers, route):
        http["headers"] = headers
    properties = {
        name: one.fill(values) if isinstance(one, Template) else one for name, one in route.properties.items()
    }
    resource = {"type": route.resource_type, "id": route.resource_id.fill(values), "properties": properties}
    return Mutation(
        subject=subject,
        action={"name": route.action or action_of(method), "properties": {}},
        resource=entity(resource, "resource"),
        change=change,
        context={"http": http},
        request_id=request_id,
    )


def header_of(headers: Headers, name: bytes) -> bytes | None:
    """Give the value of a header, None where there is none. Raises FirewallError(MALFORMED) for one that is twice."""
    found = [value for one, value in headers if one == name]
    if len(found) > 1:
        _refuse(f"the header `{name.decode('latin-1')[:64]}` is there twice")
    return found[0] if found else None


def _asked(check: Check, kind: GatewayKind) -> tuple[str, str, Target]:
    """Find out what the gateway itself was asked."""
    match kind:
        case GatewayKind.ENVOY:
            method, host, target = check.method, check.host, check.rest
        case GatewayKind.NGINX:
            method, host, target = _from(check, b"x-original-method", b"x-original-host", b"x-original-uri")
        case GatewayKind.TRAEFIK:
            method, host, target = _from(check, b"x-forwarded-method", b"x-forwarded-host", b"x-forwarded-uri")
        case _:
            assert_never(kind)
    method = method_of(method)
    for name, value in check.headers:
        folded, said = name.replace(b"_", b"-"), value.decode("latin-1")
        if folded in _METHOD_OVERRIDES and said.upper() != method:
            _refuse(f"the header `{folded.decode()}` asks for another method")
        if folded in _PATH_OVERRIDES and said != target:
            _refuse(f"the header `{folded.decode()}` asks for another path")
    if host is None:
        _refuse("the host is missing")
    found = target_of(target)
    for pair in re.split("[&;]", found.query or ""):
        parameter, _, wanted = pair.partition("=")
        if unquote_plus(parameter).lower() == _METHOD_PARAMETER and unquote_plus(wanted).upper() != method:
            _refuse(f"the parameter `{_METHOD_PARAMETER}` asks for another method")
    return method, host_of(host), found


def _from(check: Check, *names: bytes) -> list[str]:
    if check.rest != "/":
        # A gateway of another kind, which puts the path that it was asked for here: its headers are its callers' words.
        _refuse("this gateway says in headers what it was asked, and still asks about a path", fix=_FIX_GATEWAY)
    found = [header_of(check.headers, name) for name in names]
    for name, value in zip(names, found, strict=True):
        if not value:
            _refuse(f"the header `{name.decode()}` is missing", fix=_FIX_GATEWAY)
    return [(value or b"").decode("latin-1") for value in found]


def _subject(headers: Headers, source: SubjectSource) -> JsonObject:
    """Whom the gateway authenticated."""
    value = header_of(headers, source.header.encode())
    if not value:
        _refuse(f"the header `{source.header}` is missing, so nobody knows who asks", fix=_FIX_GATEWAY)
    if sum(name.replace(b"_", b"-") == source.header.encode() for name, _ in headers) > 1:
        _refuse(f"the header `{source.header}` is there in another spelling")
    if source.type is None:
        if len(value) > _SUBJECT_BYTES_MAX:
            _refuse(f"the header `{source.header}` is longer than {_SUBJECT_BYTES_MAX} bytes", fix=_FIX_GATEWAY)
        return entity(strict_json.parse(value).tree, "subject")
    identifier = value.decode("latin-1")
    if not _IDENTIFIER.fullmatch(identifier):
        _refuse(f"the header `{source.header}` is no single id of printable ASCII", fix=_FIX_GATEWAY)
    return entity({"type": source.type, "id": identifier}, "subject")


def _query(target: Target, route: Route) -> JsonObject:
    """The parameters that policies may read. Raises FirewallError for others, unless they may be there."""
    if target.query is None or (route.any_query and not route.query):
        return {}
    found: JsonObject = {}
    for name, value in parameters_of(target.query):
        if name in found:
            _refuse("a parameter of the query is there twice")
        if name in route.query:
            found[name] = value
        elif not route.any_query:
            raise FirewallError(
                Kind.FORBIDDEN,
                "the route is for no request with this parameter of the query",
                fix="name it in the `query` of the route, or `*` for any",
            )
    return found


def _kept(headers: Headers, route: Route) -> JsonObject:
    kept: JsonObject = {}
    for name in sorted(route.headers):
        value = header_of(headers, name.encode())
        if value is None:
            continue
        if len(value) > _HEADER_CHARS_MAX:
            _refuse(f"the header `{name}` is longer than {_HEADER_CHARS_MAX} bytes")
        kept[name] = value.decode("latin-1")
    return kept


def _json(check: Check, *, max_bytes: int) -> Json:
    """The body, whole and as JSON."""
    partial = header_of(check.headers, PARTIAL)
    if partial not in {None, b"false"}:
        raise FirewallError(
            Kind.TOO_LARGE,
            "the gateway sent a part of the body alone, and this route needs the whole",
            fix="send less, or raise `max_request_bytes` of the gateway",
        )
    if not check.body:
        _refuse("this route needs the body, and none was sent", fix="send one, and let the gateway send it on")
    media = header_of(check.headers, b"content-type")
    if media is None or not is_json(media):
        raise FirewallError(
            Kind.UNSUPPORTED_MEDIA_TYPE,
            "the content type is not application/json",
            fix="send `Content-Type: application/json`, and let the gateway send it on",
        )
    coding = header_of(check.headers, b"content-encoding")
    known = None if coding is None else coding_of(coding)
    body = check.body if known is None else expand(check.body, known, max_bytes=max_bytes)
    tree: Json = strict_json.parse(body).tree
    return tree


def _stated(tree: Json, subject: JsonObject) -> Mutation:
    """A mutation as the native route takes it. Whom it names must be whom the gateway authenticated."""
    if not isinstance(tree, dict):
        _refuse("the body is not an object", fix='send `{"action": ..., "resource": ..., "change": ...}`')
    if not tree.keys() <= set(_MEMBERS):
        refuse_unknown(tree, known=_MEMBERS, pointer="")
    for name in _REQUIRED:
        if name not in tree:
            _refuse(f"member `{name}` is missing", pointer=f"/{name}", fix=MISSING.get(name, "say what would change"))
    if "subject" in tree and entity(tree["subject"], "subject") != subject:
        raise FirewallError(
            Kind.FORBIDDEN,
            "the body names another subject than the gateway does",
            pointer="/subject",
            fix="leave `subject` out",
        )
    change, context = tree["change"], tree.get("context", ABSENT)
    if not isinstance(change, dict) or not change:
        _refuse("`change` is no object with anything in it", pointer="/change", fix="say what would be different")
    if context is ABSENT:
        context = {}
    if not isinstance(context, dict):
        _refuse("`context` is not an object", pointer="/context", fix="send an object, or leave it out")
    return Mutation(
        subject=subject,
        action=action(tree["action"]),
        resource=entity(tree["resource"], "resource"),
        change=change,
        context=context,
        request_id=text(tree, "request_id", MAX_ID_CHARS) if "request_id" in tree else None,
        rationale=text(tree, "rationale", _RATIONALE_CHARS_MAX) if "rationale" in tree else None,
    )


def _refuse(detail: str, *, fix: str = "send it once, and plainly", pointer: str | None = None) -> NoReturn:
    raise FirewallError(Kind.MALFORMED, detail, pointer=pointer, fix=fix)
