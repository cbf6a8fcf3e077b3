"""The file that says which requests of HTTP are about which resources: read strictly, each fault with its line."""

import re
from pathlib import Path
from typing import Final, NoReturn

from app.core.glob import Glob, compile_glob
from app.core.types import Json
from app.errors import FirewallError, Kind
from app.policies.reader import Reader, join
from app.policies.tree import Mapping, Node, Scalar, TreeError, documents
from app.surfaces.ext_authz.mapping import (
    ALWAYS_NAMED,
    DEFAULT_FACTS,
    DEFAULT_SUBJECT,
    NAME,
    REFERENCE,
    BodyUse,
    Fact,
    Gateway,
    GatewayKind,
    GatewayMapping,
    PathPattern,
    Refusals,
    Route,
    SubjectSource,
    Template,
)
from app.surfaces.parties import MAX_ID_CHARS

FILE_BYTES_MAX: Final = 1024 * 1024

API_VERSION: Final = "mutationfirewall.io/v1"
DOCUMENT_KIND: Final = "GatewayMapping"

_ROOT: Final = ("apiVersion", "kind", "gateways", "routes", "answers")
_GATEWAY: Final = ("principals", "kind", "subject", "refusals")
_SUBJECT: Final = ("header", "type", "form")
_ROUTE: Final = ("hosts", "methods", "path", "resource", "action", "body", "query", "headers")
_RESOURCE: Final = ("type", "id", "properties")
_ANSWERS: Final = ("add", "remove")
_ID, _JSON = "id", "json"
_ANY: Final = "*"
_NONE: tuple[str, ...] = ()

_HEADER: Final = re.compile(r"[a-z0-9-]{1,64}")
_METHOD: Final = re.compile(r"[A-Z][A-Z-]{0,31}")
# Credentials are for whom they are sent to, and not for a ledger.
NEVER_KEPT: Final = frozenset(
    {"authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "x-forwarded-client-cert"}
)
# What frames a message, or says where it goes: an answer that set or removed it would change the request itself.
_FRAMING: Final = frozenset(
    {"connection", "content-length", "content-type", "host", "te", "trailer", "transfer-encoding", "upgrade"}
)


def read_mapping(path: Path) -> GatewayMapping:
    """Read a mapping. Raises FirewallError (INVALID_SETTINGS) that says how many faults there are, and the first."""
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        _refuse(f"cannot be read: {(error.strerror or type(error).__name__).lower()}")
    if len(content) > FILE_BYTES_MAX:
        _refuse(f"has more than {FILE_BYTES_MAX} bytes")
    try:
        text = content.decode()
        roots = documents(text)
    except UnicodeDecodeError:
        _refuse("is not UTF-8")
    except TreeError as error:
        _refuse(f"is refused: {path.name}:{error.line}:{error.column}: {error.message}")
    if len(roots) != 1:
        _refuse("is not one document")
    reader = Reader(path.name, text=text)
    mapping = _mapping(reader, roots[0])
    if reader.diagnostics:
        count = len(reader.diagnostics)
        first = min(reader.diagnostics, key=lambda one: (one.line, one.column))
        _refuse(f"is refused with {count} error{'s' if count != 1 else ''}; the first is {first}")
    return mapping


def _mapping(reader: Reader, root: Node) -> GatewayMapping:
    members = reader.mapping(root, "", known=_ROOT, required=("apiVersion", "kind", "gateways", "routes"))
    reader.choice(members.get("apiVersion"), "apiVersion", [API_VERSION])
    reader.choice(members.get("kind"), "kind", [DOCUMENT_KIND])
    gateways = tuple(_gateway(reader, node, at) for node, at in reader.items(members.get("gateways"), "gateways"))
    routes = tuple(_route(reader, node, at) for node, at in reader.items(members.get("routes"), "routes"))
    facts, removed = dict(DEFAULT_FACTS), _NONE
    if (node := members.get("answers")) is not None:
        answers = reader.mapping(node, "answers", known=_ANSWERS)
        if (added := answers.get("add")) is not None:
            facts = _facts(reader, added, "answers.add")
        removed = _headers(reader, answers.get("remove"), "answers.remove", refused=_FRAMING)
    return GatewayMapping(gateways, routes, facts, removed)


def _gateway(reader: Reader, node: Node, path: str) -> Gateway:
    members = reader.mapping(node, path, known=_GATEWAY, required=("kind",))
    kind = reader.choice(members.get("kind"), join(path, "kind"), list(GatewayKind))
    refusals = reader.choice(members.get("refusals"), join(path, "refusals"), list(Refusals))
    subject = DEFAULT_SUBJECT
    if (source := members.get("subject")) is not None:
        subject = _subject(reader, source, join(path, "subject"))
    return Gateway(
        principals=_globs(reader, members.get("principals"), join(path, "principals")),
        kind=GatewayKind(kind or GatewayKind.ENVOY),
        subject=subject,
        refusals=Refusals(refusals or Refusals.OWN),
    )


def _subject(reader: Reader, node: Node, path: str) -> SubjectSource:
    members = reader.mapping(node, path, known=_SUBJECT, required=("header",))
    header = _header(reader, members.get("header"), join(path, "header"), refused=NEVER_KEPT | _FRAMING)
    form = reader.choice(members.get("form"), join(path, "form"), [_ID, _JSON])
    kind = reader.text(members.get("type"), join(path, "type"), max_chars=MAX_ID_CHARS)
    if form == _JSON and "type" in members:
        reader.note(members["type"], join(path, "type"), "stands in the header itself", fix="leave it out")
    return SubjectSource(header or DEFAULT_SUBJECT.header, None if form == _JSON else kind or DEFAULT_SUBJECT.type)


def _route(reader: Reader, node: Node, path: str) -> Route:
    members = reader.mapping(node, path, known=_ROUTE, required=("path",))
    body = BodyUse(reader.choice(members.get("body"), join(path, "body"), list(BodyUse)) or BodyUse.NONE)
    pattern = _pattern(reader, members.get("path"), join(path, "path"))
    resource_type, resource_id = "-", Template("-")
    properties: dict[str, Template | Json] = {}
    stated = [members[name] for name in ("resource", "action", "query", "headers") if name in members]
    if body is BodyUse.MUTATION:
        # The body says all of it, and a second word would be one that nobody listens to.
        for one in stated:
            reader.note(one, path, "the body says what it is about", fix="leave the member out, or `body: mutation`")
    elif "resource" not in members:
        reader.note(node, path, "`resource` is missing", fix="add `resource`")
    else:
        names = {*ALWAYS_NAMED, *pattern.names, *([pattern.rest] if pattern.rest else ())}
        resource_type, resource_id, properties = _resource(
            reader, members["resource"], join(path, "resource"), names=names
        )
    query = _query(reader, members.get("query"), join(path, "query"))
    return Route(
        path=pattern,
        resource_type=resource_type,
        resource_id=resource_id,
        hosts=_globs(reader, members.get("hosts"), join(path, "hosts")),
        methods=frozenset(
            text
            for one, at in reader.items(members.get("methods"), join(path, "methods"))
            if (text := reader.checked(one, at, _check_method, max_chars=32)) is not None
        ),
        action=reader.text(members.get("action"), join(path, "action"), max_chars=MAX_ID_CHARS),
        properties=properties,
        body=body,
        query=query - {_ANY},
        any_query=_ANY in query,
        headers=frozenset(_headers(reader, members.get("headers"), join(path, "headers"), refused=NEVER_KEPT)),
    )


def _pattern(reader: Reader, node: Node | None, path: str) -> PathPattern:
    return _parsed(reader.checked(node, path, _check_pattern, max_chars=MAX_ID_CHARS) or "/")


def _check_pattern(text: str) -> None:
    _parsed(text)


def _parsed(text: str) -> PathPattern:
    """Read `/v1/orders/{order}` or `/files/{rest*}`. Raises ValueError."""
    if not text.startswith("/"):
        raise ValueError("does not begin with `/`; write it as `/v1/orders/{order}`")
    *leading, last = text[1:].split("/")
    segments: list[str | None] = []
    names: list[str] = []
    rest: str | None = None
    parts = [*leading, last]
    for at, part in enumerate(parts):
        if not part.startswith("{"):
            if "{" in part or "}" in part or _ANY in part or "%" in part or part in {".", ".."}:
                raise ValueError(
                    f"`{part}` is no segment; write `{{name}}` for one, and `{{rest*}}` for all that follow"
                )
            if not part and at < len(parts) - 1:
                raise ValueError("has an empty segment; no request with one gets here")
            segments.append(part)
            continue
        name = part.removeprefix("{").removesuffix("}")
        if name.endswith(_ANY) and at == len(parts) - 1:
            rest = name = name.removesuffix(_ANY)
        else:
            segments.append(None)
            names.append(name)
        if not part.endswith("}") or not NAME.fullmatch(name) or name in ALWAYS_NAMED:
            raise ValueError(f"`{part}` is no name; names are lower case, and not {', '.join(ALWAYS_NAMED)}")
        if names.count(name) + (rest == name) > 1:
            raise ValueError(f"has the name `{name}` twice")
    return PathPattern(tuple(segments), tuple(names), rest)


def _resource(
    reader: Reader, node: Node, path: str, *, names: set[str]
) -> tuple[str, Template, dict[str, "Template | Json"]]:
    members = reader.mapping(node, path, known=_RESOURCE, required=("type", "id"))

    def check(text: str) -> None:
        found = REFERENCE.findall(text)
        left = REFERENCE.sub("", text)
        if "{" in left or "}" in left:
            raise ValueError("has a brace that names nothing; write `{name}`")
        unknown = next((name for name in found if name not in names), None)
        if unknown is not None:
            raise ValueError(f"`{{{unknown}}}` is no name of the path; known are {', '.join(sorted(names))}")

    of_type = reader.text(members.get("type"), join(path, "type"), max_chars=MAX_ID_CHARS)
    of_id = reader.checked(members.get("id"), join(path, "id"), check, max_chars=MAX_ID_CHARS)
    properties: dict[str, Template | Json] = {}
    if (given := members.get("properties")) is not None:
        at = join(path, "properties")
        if not isinstance(given, Mapping):
            reader.note(given, at, "must be an object")
        else:
            for name, value in given.items.items():
                if isinstance(value, Scalar) and not isinstance(value.value, str):
                    properties[name] = value.plain()
                elif (text := reader.checked(value, join(at, name), check, max_chars=MAX_ID_CHARS)) is not None:
                    properties[name] = Template(text)
    return of_type or "-", Template(of_id or "-"), properties


def _query(reader: Reader, node: Node | None, path: str) -> frozenset[str]:
    return frozenset(
        text
        for one, at in reader.items(node, path)
        if (text := reader.text(one, at, max_chars=MAX_ID_CHARS)) is not None
    )


def _facts(reader: Reader, node: Node, path: str) -> dict[str, Fact]:
    if not isinstance(node, Mapping):
        reader.note(node, path, "must be an object of headers")
        return {}
    facts: dict[str, Fact] = {}
    for name, value in node.items.items():
        header = _header(reader, node.keys[name], join(path, name), refused=NEVER_KEPT | _FRAMING)
        fact = reader.choice(value, join(path, name), list(Fact))
        if header is not None and fact is not None:
            facts[header] = Fact(fact)
    return facts


def _headers(reader: Reader, node: Node | None, path: str, *, refused: frozenset[str]) -> tuple[str, ...]:
    found = [_header(reader, one, at, refused=refused) for one, at in reader.items(node, path)]
    return tuple(one for one in found if one is not None)


def _header(reader: Reader, node: Node | None, path: str, *, refused: frozenset[str]) -> str | None:
    def check(text: str) -> None:
        if not _HEADER.fullmatch(text.lower()):
            raise ValueError("is no name of a header; write it as `x-agent-id`")
        if text.lower() in refused:
            raise ValueError(f"`{text.lower()}` is not for this; name another header")

    found = reader.checked(node, path, check, max_chars=64)
    return None if found is None else found.lower()


def _globs(reader: Reader, node: Node | None, path: str) -> tuple[Glob, ...]:
    found = [reader.checked(one, at, _check_glob, max_chars=MAX_ID_CHARS) for one, at in reader.items(node, path)]
    return tuple(compile_glob(one) for one in found if one is not None)


def _check_glob(text: str) -> None:
    compile_glob(text)


def _check_method(text: str) -> None:
    if not _METHOD.fullmatch(text):
        raise ValueError("is no method; write it in upper case, as `POST`")


def _refuse(fault: str) -> NoReturn:
    raise FirewallError(
        Kind.INVALID_SETTINGS,
        f"the file of gateways {fault}",
        fix="correct what MFW_EXT_AUTHZ__MAPPING names; docs/integrations/envoy.md has an example",
    )
