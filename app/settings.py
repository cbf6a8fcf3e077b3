"""Every setting of the firewall: read from the environment once, checked as a whole, frozen."""

import difflib
import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_network
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, Literal, Self, Union, get_args, get_origin
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from app.core.admission.callers import AgentRule, EnvironmentRule, agent_rule, environment_rule
from app.core.api_key import CHECKSUM_CHARACTERS, is_well_formed
from app.core.api_key import PREFIX as API_KEY_PREFIX
from app.core.glob import Glob, compile_glob
from app.core.principal import Role
from app.core.quota import RoleLimit, role_limit
from app.core.tls_files import TlsFiles
from app.errors import FirewallError, Kind

PREFIX: Final = "MFW_"
NESTED: Final = "__"
FILE_SUFFIX: Final = "_FILE"

# Read by commands such as `mfw decide`, not by the service: known, so that they are not reported as misspelt settings.
CLIENT_VARIABLES: Final = frozenset({"MFW_URL", "MFW_API_KEY", "MFW_SUBJECT", "MFW_SIGNING_PASSPHRASE"})
# Read by the test suite and what it builds, whose services are started with the environment of the tests.
TEST_VARIABLES: Final = frozenset(
    {
        "MFW_CEL_CASES",
        "MFW_CEL_SPEC",
        "MFW_IMAGE_CHECK",
        "MFW_INDEX_CASES",
        "MFW_REQUIRE_ALL",
        "MFW_SHARING_CASES",
        "MFW_TEST_CONTAINER_NETWORK",
        "MFW_TEST_CRASHES",
        "MFW_TEST_CRASH_FACTOR",
        "MFW_TEST_DATABASE",
        "MFW_TEST_NEXT_RELEASE",
        "MFW_TEST_POSTGRES_IMAGE",
        "MFW_TOOLS_CACHE",
    }
)

# A Kubernetes Service named `mfw` or `mfw-...` makes the kubelet inject variables with our prefix into every pod of the
# namespace. They are no settings. A `*_PORT` counts as one of them only with the value that the kubelet gives it, so
# that `MFW_HTTP_PORT=8080` (one underscore short) is still reported.
_SERVICE_LINK: Final = re.compile(r"MFW_(\w+_)?SERVICE_(HOST|PORT(_\w+)?)")
_SERVICE_LINK_PORT: Final = re.compile(r"MFW_(\w+_)?PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?")
_SERVICE_LINK_VALUE: Final = re.compile(r"(tcp|udp|sctp)(://.*)?|\d{1,5}|[0-9a-fA-F.:]+")

# A mounted secret is a password, a URL or a PEM key; a larger file is a wrong path.
SECRET_FILE_BYTES_MAX: Final = 65_536
# What a generated password has at the least; NIST SP 800-63B rev. 4 asks for 15 where it is the only factor.
PASSWORD_CHARACTERS_MIN: Final = 16
# As many as HMAC-SHA-256 has bytes (RFC 2104 section 3).
MASK_KEY_CHARACTERS_MIN: Final = 32
# RFC 7518 section 3.2: a key of the size of the hash output or larger MUST be used with HMAC.
HMAC_SECRET_BYTES_MIN: Final = {"HS256": 32, "HS384": 48, "HS512": 64}
# RFC 7518 section 3.3: a key of size 2048 bits or larger MUST be used with RSA.
RSA_BITS_MIN: Final = 2048
# Below eight different characters, 16 of them carry fewer than 48 bits: a machine did not draw this.
DISTINCT_CHARACTERS_MIN: Final = 8
# The one signer of a setting that gives no names.
SIGNER_NAME: Final = "signer"
# Each signature is tried with the key of each signer; and nobody knows more people who all may change everything.
SIGNERS_MAX: Final = 32
# Each gets every checkpoint; nobody knows more teams that do not trust one another.
WITNESSES_MAX: Final = 16
# What is left of a secret once well-known words, digits in order and punctuation are taken out.
UNCOMMON_CHARACTERS_MIN: Final = 8

_COMMON_WORDS: Final = (
    "mutationfirewall", "mutation", "firewall", "postgresql", "postgres", "password", "passw0rd", "passwd", "changeme",
    "changethis", "replaceme", "letmein", "welcome", "default", "database", "production", "secret", "admin", "example",
    "development", "testing", "master", "qwerty", "qwertyuiop", "asdfghjkl", "zxcvbnm", "mfw", "root", "user", "test",
    "dev", "prod", "change", "please", "must", "this", "pass", "key", "jwt", "token", "super", "very", "strong", "long",
    "iloveyou", "monkey", "dragon", "correct", "horse", "battery", "staple", "abc", "the", "not", "for", "your", "my",
)  # fmt: skip
_RUNS: Final = "0123456789012345678909876543210987654321abcdefghijklmnopqrstuvwxyzzyxwvutsrqponmlkjihgfedcba"

# As they stand in messages, in problems and in the names of files.
_SIGNER_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
# What means something else: a certificate in it would be read from where clients write.
_OTHER_HEADERS: Final = frozenset(
    {"authorization", "x-api-key", "x-forwarded-for", "forwarded", "host", "cookie", "content-type", "x-request-id"}
)
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
# libpq's modes in which a connection is encrypted or fails; `prefer` (the default) falls back to plain text in silence.
_ENCRYPTED: Final = frozenset({"require", "verify-ca", "verify-full"})


class Environment(StrEnum):
    """Where this runs. Production refuses what the other two permit."""

    DEVELOPMENT = "development"
    TEST = "test"
    PRODUCTION = "production"


class Pooler(StrEnum):
    """What stands between the service and PostgreSQL."""

    NONE = "none"  # nothing, or a pooler in session mode
    TRANSACTION = "transaction"  # each transaction may get another connection of the server: PgBouncer's usual mode


class PlainHttp(StrEnum):
    """What is answered without TLS, where there is a port with it."""

    ALL = "all"
    HEALTH = "health"  # probes alone
    NONE = "none"  # the port is closed


class ClientCertificate(StrEnum):
    """Whether a client has to show a certificate."""

    OPTIONAL = "optional"
    REQUIRED = "required"


class LogFormat(StrEnum):
    """`json` is one object per line; `text` is for a person at a terminal."""

    JSON = "json"
    TEXT = "text"


class LogLevel(StrEnum):
    """The levels of Python's logging, lower case."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class ErrorTracking(StrEnum):
    """Where somebody looks at errors that nobody foresaw. There is no third place, and no default for production."""

    TRACES = "traces"  # what collects OpenTelemetry spans; of sampled requests
    LOGS = "logs"  # whoever reads the lines of level `error`: every one of them


class Gateway(StrEnum):
    """Kinds of gateways, by where they say what they were asked (app/surfaces/ext_authz/mapping.py)."""

    ENVOY = "envoy"
    NGINX = "nginx"
    TRAEFIK = "traefik"


class JwtAlgorithm(StrEnum):
    """What can be pinned. `none` is not among them, and HMAC is never accepted beside a public-key algorithm."""

    RS256 = "RS256"
    RS384 = "RS384"
    RS512 = "RS512"
    PS256 = "PS256"
    PS384 = "PS384"
    PS512 = "PS512"
    ES256 = "ES256"
    ES384 = "ES384"
    ES512 = "ES512"
    HS256 = "HS256"
    HS384 = "HS384"
    HS512 = "HS512"

    @property
    def symmetric(self) -> bool:
        """Whether the key that checks a token can also make one."""
        return self.value.startswith("HS")


@dataclass(frozen=True, slots=True)
class SettingsProblem:
    """One thing that is wrong: the variable to look at, what is wrong with it (never a secret's value), what to do."""

    variable: str
    detail: str
    fix: str

    def __str__(self) -> str:
        return f"{self.variable}: {self.detail}; {self.fix}"


class SettingsError(FirewallError):
    """Everything that is wrong with the settings, at once."""

    __slots__ = ("problems",)

    def __init__(self, problems: Sequence[SettingsProblem]) -> None:
        """`problems` is not empty."""
        self.problems = tuple(problems)
        count = "1 setting is wrong" if len(self.problems) == 1 else f"{len(self.problems)} settings are wrong"
        super().__init__(
            Kind.INVALID_SETTINGS,
            f"{count}: " + "; ".join(f"{problem.variable} ({problem.detail})" for problem in self.problems),
            fix="`mfw config check` shows each with its fix",
        )


@dataclass(frozen=True, slots=True)
class _Production:
    """What production asks of a field, in words: a column of the reference."""

    text: str


@dataclass(frozen=True, slots=True)
class _DefaultText:
    """How the reference writes a default that is worked out at run time."""

    text: str


def _items(value: object) -> object:
    """A list as it is written in a variable: `a,b`, or a JSON array."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError("starts like a JSON array but is none") from None
    return [item.strip() for item in value.split(",") if item.strip()]


def _keys(value: object) -> object:
    """Public keys as they are written in a variable: one PEM block, or a JSON object of key id to PEM block."""
    if not isinstance(value, str):
        return value
    if not value.lstrip().startswith("{"):
        return {"": value}
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise ValueError("starts like a JSON object but is none") from None


def _signers(value: object) -> object:
    """Public keys of signers: a PEM block, a JSON object of name to PEM block, or where these lie as files.

    A path may stand wherever a PEM block may. A directory holds one `NAME.pem` for each signer.
    """
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("{"):
        given = _keys(value)
    elif _is_path(value) and Path(value).is_dir():
        files = sorted(file for file in Path(value).glob("*.pem") if not file.name.startswith("."))
        if not files:
            raise ValueError(f"the directory `{_shown(value)}` has no `NAME.pem` in it")
        given = {file.stem: str(file) for file in files}
    else:
        given = {SIGNER_NAME: value}
    if not isinstance(given, dict):
        return given
    found: dict[object, object] = {}
    unreadable: list[str] = []
    for name, key in given.items():
        found[name] = key
        if isinstance(key, str) and _is_path(key):
            try:
                with Path(key).open("rb") as file:
                    found[name] = file.read(SECRET_FILE_BYTES_MAX).decode()
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or "not a file of UTF-8 text"
                unreadable.append(f"`{_shown(key)}` ({reason.lower()})")
    if unreadable:
        raise ValueError(f"names files that cannot be read: {', '.join(unreadable)}")
    return found


def _is_path(text: str) -> bool:
    return text.startswith(("/", "./", "../")) and "-----BEGIN" not in text


def _no_blank(value: object) -> object:
    if isinstance(value, str) and (not value or any(character.isspace() for character in value)):
        raise ValueError("has white space in it or is empty")
    return value


Host = Annotated[str, BeforeValidator(_no_blank)]
Port = Annotated[int, Field(ge=0, le=65_535)]
Items = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_items)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class HttpSettings(_Section):
    """The port that answers decisions."""

    host: Annotated[Host, Field(description="address to listen on; `0.0.0.0` in a container")] = "127.0.0.1"
    port: Annotated[Port, Field(description="port to listen on; 0 takes a free one")] = 8080
    max_body_bytes: Annotated[
        int, Field(ge=1024, le=16_777_216, description="longest request body that is read; longer is answered with 413")
    ] = 1_048_576
    max_batch_body_bytes: Annotated[
        int,
        Field(ge=1024, le=67_108_864, description="longest body of a batch that is read; longer is answered with 413"),
    ] = 8_388_608
    max_admission_body_bytes: Annotated[
        int,
        Field(
            ge=1024,
            le=16_777_216,
            description="longest review of Kubernetes that is read: two objects as large as etcd takes them, and what "
            "is around them",
        ),
    ] = 4_194_304
    request_timeout_seconds: Annotated[
        float, Field(gt=0, le=300, description="longest time that one request may take; then 504")
    ] = 30.0
    max_connections: Annotated[
        int, Field(ge=1, le=1_000_000, description="open connections at most; further ones get 503 and are closed")
    ] = 4096
    cors_origins: Annotated[
        Items,
        _Production("no `*`, https only"),
        Field(description="origins of browsers that may call, such as `https://console.example.com`; none by default"),
    ] = ()
    trusted_proxies: Annotated[
        Items,
        _Production("no `*`"),
        Field(description="addresses or networks whose `X-Forwarded-For` is believed, such as `10.0.0.0/8`"),
    ] = ()
    drain_seconds: Annotated[
        float,
        Field(
            ge=0,
            le=300,
            description="seconds after SIGTERM in which readiness is false and requests are still accepted, so that "
            "load balancers notice; they come before `MFW_HTTP__SHUTDOWN_GRACE_SECONDS`",
        ),
    ] = 5.0
    shutdown_grace_seconds: Annotated[
        int,
        Field(
            ge=0,
            le=600,
            description="seconds from there to the end; the last 5 close the ledger, requests get the others",
        ),
    ] = 25


class TlsSettings(_Section):
    """The port that answers with TLS; off unless a certificate is named."""

    certificate_file: Annotated[
        Path | None,
        Field(
            description="PEM file of the certificate, and of those between it and its authority: `tls.crt` of a "
            "Secret. What lies there later is taken into use for new connections"
        ),
    ] = None
    key_file: Annotated[Path | None, Field(description="PEM file of its private key, without a passphrase")] = None
    host: Annotated[
        str | None,
        BeforeValidator(_no_blank),
        _DefaultText("that of `MFW_HTTP__HOST`"),
        Field(description="address to listen on"),
    ] = None
    port: Annotated[Port, Field(description="port to listen on; 0 takes a free one")] = 8443
    plain_http: Annotated[
        PlainHttp,
        Field(
            description="what `MFW_HTTP__PORT` answers beside it, without TLS: `health` for probes, `none` to close it"
        ),
    ] = PlainHttp.HEALTH
    client_ca_file: Annotated[
        Path | None,
        Field(
            description="PEM file of the authorities whose client certificates are taken for a principal, with the "
            "roles of `MFW_AUTH__MTLS__ROLES`; without it none is asked for"
        ),
    ] = None
    client_certificates: Annotated[
        ClientCertificate,
        Field(description="`required` refuses connections without a certificate, those of probes as well"),
    ] = ClientCertificate.OPTIONAL
    poll_seconds: Annotated[float, Field(gt=0, le=3600, description="how often the files are looked at")] = 5.0

    @property
    def enabled(self) -> bool:
        """Whether there is a port with TLS."""
        return self.files is not None

    @property
    def files(self) -> TlsFiles | None:
        """Where the files lie, None without TLS."""
        if self.certificate_file is None or self.key_file is None:
            return None
        return TlsFiles(
            self.certificate_file,
            self.key_file,
            self.client_ca_file,
            required=self.client_certificates is ClientCertificate.REQUIRED,
        )


class MetricsSettings(_Section):
    """The port that Prometheus reads."""

    enabled: Annotated[bool, Field(description="serve `/metrics` on a port of its own")] = True
    host: Annotated[Host, Field(description="address to listen on; `0.0.0.0` in a container")] = "127.0.0.1"
    port: Annotated[Port, Field(description="port to listen on; 0 takes a free one")] = 9090


class DatabaseSettings(_Section):
    """PostgreSQL: the ledger, the API keys, the policy sets."""

    url: Annotated[
        SecretStr | None,
        _Production(
            "required; a password of 16 or more characters that is no common word; TLS unless the host is local"
        ),
        Field(
            description="`postgresql://user:password@host:5432/name?sslmode=verify-full`",
        ),
    ] = None
    embedded: Annotated[
        bool | None,
        _Production("refused"),
        _DefaultText("`true` in development when no URL is set"),
        Field(description="start the PostgreSQL that comes with this package, with its data under the state directory"),
    ] = None
    pooler: Annotated[
        Pooler,
        Field(
            description="`transaction` when the URL leads to a pooler in transaction mode, such as PgBouncer with "
            "`pool_mode = transaction`; `none` for PostgreSQL itself or a pooler in session mode"
        ),
    ] = Pooler.NONE
    direct_url: Annotated[
        SecretStr | None,
        _Production("as the URL"),
        Field(
            description="PostgreSQL itself, past a pooler in transaction mode: for migrations and other commands, and "
            "for hearing of changes at once; without it the service asks for them instead, and commands refuse",
        ),
    ] = None
    pool_size: Annotated[int, Field(ge=2, le=200, description="connections that one process keeps at most")] = 10
    connect_timeout_seconds: Annotated[
        float, Field(gt=0, le=60, description="longest wait for a connection to open")
    ] = 5.0
    statement_timeout_seconds: Annotated[
        float, Field(gt=0, le=300, description="longest time that one statement may run; then 504")
    ] = 30.0
    lock_timeout_seconds: Annotated[
        float, Field(gt=0, le=300, description="longest wait for a lock held by somebody else")
    ] = 5.0
    wait_seconds: Annotated[
        float,
        Field(
            ge=0,
            le=3600,
            description="how long `mfw serve` waits for a database that is away, or whose migrations are not through, "
            "before it ends",
        ),
    ] = 0.0

    @property
    def pooled(self) -> bool:
        """Whether the URL leads to a pooler in transaction mode."""
        return self.pooler is Pooler.TRANSACTION

    @property
    def session_url(self) -> str | None:
        """Where a session of one's own is to be had; None when there is no database, or none but behind a pooler."""
        url = self.direct_url or (None if self.pooled else self.url)
        return None if url is None else url.get_secret_value()

    def command_url(self) -> str | None:
        """Give the URL for a command, None when there is no database.

        Raises FirewallError (INVALID_SETTINGS) when there is none but behind a pooler in transaction mode.
        """
        if self.url is not None and self.session_url is None:
            raise FirewallError(
                Kind.INVALID_SETTINGS,
                "this needs a session of its own, which a pooler in transaction mode does not give",
                fix="set MFW_DATABASE__DIRECT_URL to PostgreSQL itself",
            )
        return None if self.url is None else self.session_url


class ApiKeySettings(_Section):
    """Keys made with `mfw keys create`."""

    enabled: Annotated[bool, Field(description="accept API keys")] = True
    refresh_seconds: Annotated[
        float, Field(gt=0, le=300, description="longest time until a revoked key is refused by every replica")
    ] = 1.0
    bootstrap: Annotated[
        SecretStr | None,
        _Production("random: `mfw keys generate`"),
        Field(description="a key that is stored as an administrator's at the start, unless there is one that works"),
    ] = None


class JwtSettings(_Section):
    """Bearer tokens (RFC 7519) of an identity provider."""

    enabled: Annotated[bool, Field(description="accept bearer tokens")] = False
    algorithms: Annotated[
        tuple[JwtAlgorithm, ...],
        NoDecode,
        BeforeValidator(_items),
        Field(description="signature algorithms that are accepted; HMAC and public-key ones never together"),
    ] = (JwtAlgorithm.RS256,)
    issuer: Annotated[str | None, Field(description="required value of `iss`; needed when tokens are on")] = None
    audience: Annotated[str | None, Field(description="required value in `aud`; needed when tokens are on")] = None
    public_keys: Annotated[
        dict[str, str],
        NoDecode,
        BeforeValidator(_keys),
        _Production("RSA of 2048 bits or more"),
        Field(description="one PEM public key, or a JSON object of key id (`kid`) to PEM public key"),
    ] = Field(default_factory=dict)
    secret: Annotated[
        SecretStr | None,
        _Production("at least 32 random bytes (48 for HS384, 64 for HS512)"),
        Field(description="the shared secret of the HMAC algorithms"),
    ] = None
    secret_id: Annotated[str, Field(max_length=200, description="key id (`kid`) of that secret; unset fits all")] = ""
    previous_secret: Annotated[
        SecretStr | None,
        _Production("as the secret; with an end"),
        Field(description="the secret before this one, while tokens of it are still about"),
    ] = None
    previous_secret_id: Annotated[str, Field(max_length=200, description="key id (`kid`) of the previous secret")] = ""
    previous_secret_until: Annotated[
        AwareDatetime | None,
        Field(
            description="until when the previous secret is good, as `2026-12-01T00:00:00Z`; `mfw tokens rotate` says it"
        ),
    ] = None
    jwks_url: Annotated[
        str | None,
        _Production("https, unless the host is local"),
        Field(
            description="where the provider publishes its keys; without it, and without public keys, "
            "its discovery document (`ISSUER/.well-known/openid-configuration`) says"
        ),
    ] = None
    ca_file: Annotated[
        Path | None, Field(description="PEM file of the authorities that the provider's certificate is checked by")
    ] = None
    token_file: Annotated[
        Path | None,
        Field(
            description="file of a bearer token to fetch the keys with, such as a pod's own for a Kubernetes cluster"
        ),
    ] = None
    keys_keep_seconds: Annotated[
        float, Field(ge=60, le=2_592_000, description="how long fetched keys hold while the provider is away")
    ] = 86_400.0
    leeway_seconds: Annotated[
        int, Field(ge=0, le=60, description="clock difference that `exp` and `nbf` are forgiven")
    ] = 10
    roles_claim: Annotated[
        str, Field(min_length=1, description="claim that lists the caller's roles; `a.b` is member `b` of claim `a`")
    ] = "roles"
    role_rules: Annotated[
        Items,
        Field(
            description="roles by claims, each as `ROLE=CLAIM=GLOB`, such as `admin=groups=platform-admins` or "
            "`agent=sub=system:serviceaccount:agents:*`"
        ),
    ] = ()
    subject_condition: Annotated[
        str | None,
        Field(
            description="CEL: whom a token may speak for, such as `subject.id == context.claims.sub`; "
            "without it a token may speak for every subject"
        ),
    ] = None


class MtlsSettings(_Section):
    """Client certificates that a proxy in front verified; off unless a header and proxies are named."""

    header: Annotated[
        str | None,
        Field(
            description="header in which the proxy names the client: `X-Forwarded-Client-Cert` as Envoy writes it, or "
            "another one that holds the SPIFFE ID or the subject alone"
        ),
    ] = None
    proxies: Annotated[
        Items,
        _Production("no network that is the whole world"),
        Field(
            description="addresses or networks of these proxies, which must remove the header of their clients; "
            "anybody else who sends it gets a 400"
        ),
    ] = ()
    roles: Annotated[
        Items,
        Field(
            description="roles by identity, each as `ROLE=GLOB`, such as `agent=spiffe://example.org/ns/agents/*`; as "
            'a JSON array where a subject has commas: `["operator=CN=ops,*"]`'
        ),
    ] = ()
    subject_condition: Annotated[
        str | None,
        Field(
            description="CEL: whom a certificate may speak for, such as "
            "`context.claims.identity.endsWith('/sa/' + subject.id)`; without it it may speak for every subject"
        ),
    ] = None


class AuthSettings(_Section):
    """Who may ask."""

    unsafe_disabled: Annotated[
        bool,
        _Production("refused"),
        Field(description="answer anybody without asking who they are; for experiments on a machine of your own"),
    ] = False
    api_keys: ApiKeySettings = ApiKeySettings()
    jwt: JwtSettings = JwtSettings()
    mtls: MtlsSettings = MtlsSettings()


_PerMinute = Annotated[int, Field(ge=1, le=100_000_000)]
_Burst = Annotated[int, Field(ge=1, le=10_000_000)]


class SheddingSettings(_Section):
    """What is refused with 503 while not everything can be answered in time."""

    enabled: Annotated[bool, Field(description="refuse what is too much, the least important first")] = True
    decisions_min: Annotated[
        int,
        Field(ge=1, le=10_000, description="single decisions under way that are always let in, however slow they are"),
    ] = 16
    decisions_max: Annotated[
        int,
        Field(
            ge=1,
            le=10_000,
            description="single decisions under way at most; in between the limit follows their latency",
        ),
    ] = 1024
    batches_max: Annotated[int, Field(ge=1, le=1_000, description="batches under way at most")] = 4
    others_max: Annotated[
        int, Field(ge=1, le=10_000, description="readings and changes under way at most, long polls among them")
    ] = 256
    lag_seconds: Annotated[
        float,
        Field(
            gt=0,
            le=60,
            description="average lag of the event loop from which only decisions are let in; from four times this on, "
            "only health",
        ),
    ] = 0.5
    memory_share: Annotated[
        float,
        Field(
            gt=0,
            le=1,
            description="share of the container's memory from which only decisions are let in; from 0.97 on, "
            "only health",
        ),
    ] = 0.9


class LimitSettings(_Section):
    """How often one caller may ask."""

    per_minute: Annotated[
        _PerMinute, Field(description="single decisions that one principal may ask for in a minute; then 429")
    ] = 250
    burst: Annotated[_Burst, Field(description="of them, how many may come at once before the rate counts")] = 500
    batch_per_minute: Annotated[
        _PerMinute, Field(description="mutations in batches that one principal may send in a minute")
    ] = 5_000
    batch_burst: Annotated[
        _Burst, Field(description="of them, how many at once; less than a batch holds makes such a batch impossible")
    ] = 10_000
    read_per_minute: Annotated[_PerMinute, Field(description="readings of policy sets, ledger and health")] = 250
    read_burst: Annotated[_Burst, Field(description="of them, how many at once")] = 500
    admin_per_minute: Annotated[_PerMinute, Field(description="changes of keys, policy sets and switches")] = 60
    admin_burst: Annotated[_Burst, Field(description="of them, how many at once")] = 120
    roles: Annotated[
        Items,
        Field(
            description="limits of a role, each as `ROLE:CLASS=PER_MINUTE/BURST` with a class of `decide`, `batch`, "
            "`read` and `admin`; a caller has the most generous one of its roles"
        ),
    ] = ()
    redis_url: Annotated[
        SecretStr | None,
        _Production("needed with more than one replica; a strong password; checked TLS unless the host is local"),
        Field(
            description="Redis or Valkey that all replicas share their buckets in, "
            "`rediss://user:password@host:6379/0`; without it every replica has buckets of its own"
        ),
    ] = None
    redis_prefix: Annotated[
        str, Field(min_length=1, max_length=64, description="what the names of all keys in Redis begin with")
    ] = "mfw"
    replicas: Annotated[
        int,
        Field(
            ge=1,
            le=1000,
            description="how many replicas there are at most: each has that part of a limit while Redis is away",
        ),
    ] = 1
    failures_per_minute_per_ip: Annotated[
        int, Field(ge=1, le=100_000, description="failed sign-ins from one address in a minute; then 429")
    ] = 20

    @property
    def role_limits(self) -> tuple[RoleLimit, ...]:
        """`roles`, read. Raises ValueError where the rules found something."""
        return tuple(role_limit(text) for text in self.roles)


class PolicySource(StrEnum):
    """Where a replica gets its policy set: files of its own, or the set that was activated in PostgreSQL."""

    DIRECTORY = "directory"
    DATABASE = "database"


class PolicySettings(_Section):
    """Where the policy set comes from."""

    source: Annotated[
        PolicySource | None,
        _DefaultText("`directory` when one is named, else `database`"),
        Field(description="follow the files of a directory, or the policy set that was activated in the database"),
    ] = None
    directory: Annotated[
        Path | None,
        Field(description="directory with the policy YAML files; an empty one is refused"),
    ] = None
    poll_seconds: Annotated[
        float,
        Field(ge=0.1, le=300, description="longest time until changed files, or an unheard activation, are noticed"),
    ] = 5.0
    max_lag_seconds: Annotated[
        float,
        Field(gt=0, le=3600, description="how long a replica may be behind the database before it turns unready"),
    ] = 30.0
    cache_directory: Annotated[
        Path | None,
        Field(
            description="where to keep the last set from the database, to start with while PostgreSQL is away; "
            "whoever can write there can change the policies, unless signatures are required"
        ),
    ] = None
    signers: Annotated[
        dict[str, str],
        NoDecode,
        BeforeValidator(_signers),
        Field(
            description="Ed25519 public keys of those who sign policy sets: a PEM block, a JSON object of name to PEM "
            "block, or a path, also of a directory with a `NAME.pem` for each"
        ),
    ] = Field(default_factory=dict)
    signatures_required: Annotated[
        int | None,
        _DefaultText("all signers"),
        Field(
            ge=0,
            le=SIGNERS_MAX,
            description="how many of the signers must have signed a set before it comes into force; "
            "0 verifies and shows signatures and requires none",
        ),
    ] = None

    @property
    def chosen_source(self) -> PolicySource:
        """The source, worked out where it is not named."""
        if self.source is not None:
            return self.source
        return PolicySource.DATABASE if self.directory is None else PolicySource.DIRECTORY


class LedgerSettings(_Section):
    """The group commit, and what is signed of the ledger."""

    queue_size: Annotated[
        int,
        Field(ge=1, le=1_000_000, description="decisions that may wait for their commit; more are answered with 503"),
    ] = 4096
    deadline_seconds: Annotated[
        float, Field(gt=0, le=60, description="longest wait of one decision for its commit; then 504")
    ] = 5.0
    max_batch: Annotated[int, Field(ge=1, le=10_000, description="entries in one commit at most")] = 512
    origin: Annotated[
        str | None,
        _Production("required"),
        Field(
            description="what the log is called in its checkpoints, for good: a URL without its scheme, such as "
            "`firewall.example.com/ledger`"
        ),
    ] = None
    signing_key: Annotated[
        SecretStr | None,
        _Production("required"),
        Field(
            description="private key that signs the checkpoints, as `mfw ledger keygen` makes it, or Ed25519 in PEM; "
            "without it the tree is made and nothing is signed"
        ),
    ] = None
    previous_signing_key: Annotated[
        SecretStr | None,
        Field(
            description="the key before it, while there are verifiers that do not know the new one: it signs as well"
        ),
    ] = None
    guard_file: Annotated[
        Path | None,
        Field(
            description="file, outside the database and its backups, in which the last checkpoint is remembered: what "
            "contradicts it is never signed"
        ),
    ] = None
    checkpoint_seconds: Annotated[
        float, Field(ge=0.1, le=3600, description="least time between two checkpoints, whichever replica signs")
    ] = 1.0
    mask_key: Annotated[
        SecretStr | None,
        Field(
            description="32 random characters or more: who has them can show a single value that a `RecordMask` with "
            "`hash` hid; without them nobody ever can"
        ),
    ] = None
    public: Annotated[
        bool,
        Field(
            description="everybody may read `/ledger/`: receipts and hashes, no records; else the scope `ledger:read` "
            "is needed"
        ),
    ] = False
    witnesses: Annotated[
        Items,
        Field(
            description="who cosigns the checkpoints, each as `VKEY URL`: the key as `mfw witness keygen` shows it, "
            "and where it answers"
        ),
    ] = ()
    cosignatures: Annotated[
        int | None,
        _DefaultText("all witnesses"),
        Field(
            ge=0,
            le=WITNESSES_MAX,
            description="how many cosignatures a checkpoint should have; with fewer for a minute health is `degraded`",
        ),
    ] = None


class LoggingSettings(_Section):
    """What is written to standard error."""

    level: Annotated[LogLevel, Field(description="least level that is written")] = LogLevel.INFO
    format: Annotated[LogFormat, Field(description="one JSON object per line, or text for a person")] = LogFormat.JSON


class TracingSettings(_Section):
    """OpenTelemetry; off unless an endpoint is set."""

    endpoint: Annotated[
        str | None,
        Field(description="OTLP over HTTP, such as `http://collector:4318/v1/traces`; unset turns tracing off"),
    ] = None
    sample_ratio: Annotated[float, Field(ge=0, le=1, description="share of the requests that are traced")] = 0.01


class AuthzenSettings(_Section):
    """OpenID AuthZEN, `/access/v1/...`."""

    identifier: Annotated[
        str | None,
        Field(
            description="https URL under which clients know this service, such as `https://firewall.example.com`; in "
            "development it is what a client asks for, in production there is no metadata without it"
        ),
    ] = None
    signing_key: Annotated[
        SecretStr | None,
        Field(
            description="private key, Ed25519 in PEM (`mfw policies keygen` makes one), that signs the metadata; "
            "without it there is no `signed_metadata`"
        ),
    ] = None
    entities: Annotated[
        Path | None,
        Field(description="YAML file with `subjects`, `resources` and `actions` that searches look among"),
    ] = None


class KubernetesAccessSettings(_Section):
    """How the service reaches the API server itself; as the pod that it runs in unless told otherwise."""

    url: Annotated[
        str | None,
        _DefaultText("that of the pod"),
        Field(description="https URL of the API server, for a firewall outside of the cluster"),
    ] = None
    token_file: Annotated[Path, Field(description="file of the token that is sent there")] = Path(
        "/var/run/secrets/kubernetes.io/serviceaccount/token"
    )
    ca_file: Annotated[Path, Field(description="PEM file of its authority")] = Path(
        "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"
    )


class CanarySettings(_Section):
    """A change that the webhook must deny, tried again and again; off unless there is a key."""

    key: Annotated[
        SecretStr | None,
        Field(
            description="secret of all replicas, by which a denial proves that it is the firewall's: "
            "`openssl rand -hex 32`; without it there is no canary"
        ),
    ] = None
    namespace: Annotated[
        str,
        Field(
            pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
            description="namespace that the webhook is asked about, in which nothing is made: it is a dry run",
        ),
    ] = "default"
    every_seconds: Annotated[float, Field(gt=0, le=3600, description="how often it is tried")] = 60.0


class KubernetesSettings(_Section):
    """The admission webhook, `/kubernetes/v1/validate`."""

    agents: Annotated[
        Items,
        Field(
            description="which callers of the API server are AI agents, each as `user=GLOB`, `group=GLOB`, "
            "`namespace=GLOB` (of a service account), `label=KEY=GLOB` (on a service account, which the service then "
            "lists and watches) or `extra=KEY=GLOB`, such as `namespace=agents`"
        ),
    ] = ()
    environments: Annotated[
        Items,
        Field(
            description="`resource.properties.environment` by namespace, each as `GLOB=ENVIRONMENT`, the first that "
            "fits, such as `*-staging=staging,*=production`; `*` alone fits what lives in none as well"
        ),
    ] = ()
    cluster: Annotated[
        str | None, Field(min_length=1, max_length=253, description="`resource.properties.cluster` of every review")
    ] = None
    api_servers: Annotated[
        Items,
        Field(
            description="principals, as globs of their ids, whose reviews are answered; without any those of "
            "everybody with the scope `decide`"
        ),
        _Production("needed with a canary; no `*`"),
    ] = ()
    unsafe_unauthenticated: Annotated[
        bool,
        _Production("refused"),
        Field(
            description="answer reviews that come without a credential, as of an API server that cannot be given one; "
            "whoever reaches the port can then ask, and fill the ledger: for trials"
        ),
    ] = False
    timeout_seconds: Annotated[
        float,
        Field(
            gt=0,
            le=30,
            description="longest time that one review may take, then it is denied; less where the API server waits "
            "for less",
        ),
    ] = 2.5
    accounts_max_age_seconds: Annotated[
        float,
        Field(
            ge=10,
            le=3600,
            description="for how long labels of service accounts are believed that could not be confirmed; after that "
            "every service account counts as an agent, where a rule asks for labels",
        ),
    ] = 60.0
    access: KubernetesAccessSettings = KubernetesAccessSettings()
    canary: CanarySettings = CanarySettings()

    @property
    def agent_rules(self) -> tuple[AgentRule, ...]:
        """`agents`, read. Raises ValueError where the rules found something, as the two below do."""
        return tuple(agent_rule(text) for text in self.agents)

    @property
    def environment_rules(self) -> tuple[EnvironmentRule, ...]:
        """`environments`, read."""
        return tuple(environment_rule(text) for text in self.environments)

    @property
    def api_server_globs(self) -> tuple[Glob, ...]:
        """`api_servers`, read."""
        return tuple(compile_glob(text) for text in self.api_servers)


class ExtAuthzSettings(_Section):
    """Gateways that ask before they let a request through, `/envoy/v1/check/...`."""

    mapping: Annotated[
        Path | None,
        Field(
            description="YAML file that says which requests are about which resources, and who asks; without it every "
            "request is about the resource `http` with its host and path for an id"
        ),
    ] = None
    gateway: Annotated[
        Gateway,
        Field(description="how gateways say what they were asked, where no file says it"),
    ] = Gateway.ENVOY
    credential_header: Annotated[
        str,
        Field(
            description="header in which a gateway sends its own credential, as `Bearer ...`; `Authorization` may be "
            "that of its caller, and is not looked at unless it is named here"
        ),
    ] = "X-Mfw-Authorization"
    timeout_seconds: Annotated[
        float, Field(gt=0, le=300, description="longest time that one check may take, then nothing is let through")
    ] = 5.0
    grpc_port: Annotated[
        int | None,
        Field(
            ge=0,
            le=65_535,
            description="port of the gRPC service `envoy.service.auth.v3.Authorization`, with the TLS of "
            "`MFW_TLS__...`; 0 takes a free one, none by default; needs the extra `grpc`",
        ),
    ] = None
    grpc_host: Annotated[
        str | None,
        BeforeValidator(_no_blank),
        _DefaultText("that of `MFW_HTTP__HOST`"),
        Field(description="address that it listens on"),
    ] = None


class GithubSettings(_Section):
    """The webhook of a GitHub App, `/github/v1/webhook`."""

    webhook_secret: Annotated[
        SecretStr | None,
        _Production("at least 32 characters that are no common words"),
        Field(description="the secret of the webhook; without it no delivery is believed"),
    ] = None
    previous_webhook_secret: Annotated[
        SecretStr | None,
        _Production("as the secret"),
        Field(description="the secret before this one, until GitHub signs with the new one"),
    ] = None
    app_id: Annotated[int | None, Field(ge=1, description="number of the GitHub App that answers")] = None
    private_key: Annotated[
        SecretStr | None, Field(description="private key of that App, as the PEM file that GitHub gave")
    ] = None
    token: Annotated[
        SecretStr | None,
        Field(
            description="in place of an App: a token that can read contents and write commit statuses; deployments "
            "need an App"
        ),
    ] = None
    api_url: Annotated[
        str,
        _Production("https"),
        Field(description="GitHub's API; of GitHub Enterprise Server `https://HOST/api/v3`"),
    ] = "https://api.github.com"
    private_addresses: Annotated[
        bool, Field(description="that API may be at an address that is not public: GitHub within your network")
    ] = False
    proxy_environment: Annotated[
        bool, Field(description="use the proxy that `HTTPS_PROXY` names; it then decides which address is called")
    ] = False
    ca_file: Annotated[
        Path | None, Field(description="PEM file of the authorities to believe instead of the system's")
    ] = None
    check_name: Annotated[
        str,
        Field(
            min_length=1,
            max_length=100,
            description="name of the check run that branch protection requires; `{base}` is the branch, and without it "
            "what may go into one branch passes for every other",
        ),
    ] = "mutation-firewall/{base}"
    agents: Annotated[
        Items,
        Field(description="logins, as globs, that are AI agents though GitHub takes them for people; every bot is one"),
    ] = ()
    forks: Annotated[
        bool, Field(description="allow pull requests from forks where the policies do; else they need somebody's act")
    ] = False
    timeout_seconds: Annotated[
        float, Field(gt=0, le=8.5, description="longest time that one delivery may take; GitHub waits for 10 s")
    ] = 8.0
    replay_hours: Annotated[
        int,
        Field(ge=1, le=720, description="oldest event that is decided; GitHub delivers again for three days"),
    ] = 72

    @property
    def agent_globs(self) -> tuple[Glob, ...]:
        """`agents`, read. Raises ValueError where the rules found something."""
        return tuple(compile_glob(text) for text in self.agents)


def default_state_dir() -> Path:
    """Where the embedded database and the development key live when nothing else is said."""
    system = Path("/var/lib/mutation-firewall")
    if os.geteuid() == 0:
        return system
    base = os.environ.get("XDG_STATE_HOME")
    # The XDG Base Directory Specification: a relative path is invalid and must be ignored.
    if base and Path(base).is_absolute():
        return Path(base) / "mutation-firewall"
    try:
        return Path.home() / ".local" / "state" / "mutation-firewall"
    except RuntimeError:
        # A container: a number for a user, no entry in /etc/passwd, no HOME.
        return system


class Settings(BaseSettings):
    """The settings of one process.

    `load()` reads the environment and applies every rule; the constructor takes plain values and checks shapes only.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter=NESTED,
        env_ignore_empty=True,
        case_sensitive=False,
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
    )

    environment: Annotated[
        Environment,
        Field(description="where this runs; production, the default, refuses what is unsafe"),
    ] = Environment.PRODUCTION
    debug: Annotated[
        bool,
        _Production("refused"),
        Field(description="the answer to an unforeseen error (500) names the exception and its text"),
    ] = False
    error_tracking: Annotated[
        ErrorTracking | None,
        _DefaultText("`traces` when MFW_TRACING__ENDPOINT is set"),
        _Production("required, unless MFW_TRACING__ENDPOINT is set"),
        Field(
            description="where unforeseen errors are looked at: in traces (of sampled requests), or in the log; "
            "`logs` acknowledges that somebody is alerted to its lines of level `error`"
        ),
    ] = None
    state_dir: Annotated[
        Path,
        _DefaultText(
            "`/var/lib/mutation-firewall` for root, else `mutation-firewall` in `$XDG_STATE_HOME` or `~/.local/state`"
        ),
        Field(description="what the development service keeps: the embedded database, its API key"),
    ] = Field(default_factory=default_state_dir)
    http: HttpSettings = HttpSettings()
    tls: TlsSettings = TlsSettings()
    metrics: MetricsSettings = MetricsSettings()
    database: DatabaseSettings = DatabaseSettings()
    auth: AuthSettings = AuthSettings()
    limits: LimitSettings = LimitSettings()
    shedding: SheddingSettings = SheddingSettings()
    policies: PolicySettings = PolicySettings()
    ledger: LedgerSettings = LedgerSettings()
    authzen: AuthzenSettings = AuthzenSettings()
    kubernetes: KubernetesSettings = KubernetesSettings()
    ext_authz: ExtAuthzSettings = ExtAuthzSettings()
    github: GithubSettings = GithubSettings()
    logging: LoggingSettings = LoggingSettings()
    tracing: TracingSettings = TracingSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is pydantic-settings'
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The constructor reads nothing by itself: `load()` is the way in, and sees every fault."""
        return (init_settings,)

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, *, rules_for: Collection[str] | None = None) -> Self:
        """Read the variables `MFW_*` and refuse every fault at once.

        `environ` is the process environment unless given. `rules_for` names the sections whose safety rules count
        (`{"database"}` for a migration job, which has no policies to read); values that cannot be read are refused in
        every section. Raises `SettingsError`.
        """
        settings, problems = cls.examine(os.environ if environ is None else environ)
        if rules_for is not None:
            wanted = {f"{PREFIX}{section.upper()}" for section in rules_for}
            problems = [
                found for found in problems if found.breaks_shape or found.problem.variable.split(NESTED)[0] in wanted
            ]
        if problems:
            raise SettingsError([found.problem for found in problems])
        return settings

    @classmethod
    def examine(cls, environ: Mapping[str, str]) -> "tuple[Self, list[Finding]]":
        """The settings as far as they can be read, and everything that is wrong with them; never raises.

        A value that cannot be read counts as unset in the settings returned.
        """
        findings: list[Finding] = []
        given = _given(environ, findings)
        try:
            settings = cls(**_nest(cls, given))
        except ValidationError as error:
            faulty = _shape_findings(error, given, findings)
            given = {name: value for name, value in given.items() if name not in faulty}
            settings = cls(**_nest(cls, given))
        reported = {finding.problem.variable for finding in findings}
        findings += [
            Finding(problem, breaks_shape=False) for problem in _rules(settings) if problem.variable not in reported
        ]
        return settings, findings

    @property
    def embedded_database(self) -> bool:
        """Whether this process is to start the PostgreSQL that comes with the package."""
        if self.database.embedded is not None:
            return self.database.embedded
        return self.environment is Environment.DEVELOPMENT and self.database.url is None


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem, and whether it is a value that cannot be read at all (else: one that is not safe or not complete)."""

    problem: SettingsProblem
    breaks_shape: bool


@dataclass(frozen=True, slots=True)
class Variable:
    """One row of the reference. `path` leads to the value inside `Settings`."""

    name: str
    path: tuple[str, ...]
    type: str
    default: str
    meaning: str
    production: str
    secret: bool
    from_file: bool


def variables() -> tuple[Variable, ...]:
    """Every setting there is, in the order of the reference."""
    return tuple(_walk(Settings, ()))


def _walk(model: type[BaseModel], above: tuple[str, ...]) -> Iterator[Variable]:
    for name, field in model.model_fields.items():
        path = (*above, name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _walk(field.annotation, path)
            continue
        secret = SecretStr in _parts(field.annotation)
        yield Variable(
            name=PREFIX + NESTED.join(path).upper(),
            path=path,
            type=_type_text(field, secret=secret),
            default=_default_text(field),
            meaning=field.description or "",
            production=next((item.text for item in field.metadata if isinstance(item, _Production)), ""),
            secret=secret,
            from_file=secret or name in {"public_keys", "signers"},
        )


def _parts(annotation: Any) -> tuple[Any, ...]:
    """A union's members; the annotation itself where it is none."""
    return get_args(annotation) if get_origin(annotation) in {Union, UnionType} else (annotation,)


def _type_text(field: FieldInfo, *, secret: bool) -> str:
    """A field's type in words that a person can follow."""
    if secret:
        return "secret"
    kind = next(part for part in _parts(field.annotation) if part is not type(None))
    if get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        return f"list of {_choices(inner)}" if _is_enum(inner) else "list: `a,b` or a JSON array"
    if get_origin(kind) is dict:
        return "PEM, or JSON object"
    if _is_enum(kind):
        return _choices(kind)
    words = {
        bool: "`true` or `false`",
        int: "whole number",
        float: "number",
        Path: "path",
        str: "text",
        AwareDatetime: "instant",
    }[kind]
    return words + _range_text(field)


def _is_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, StrEnum)


def _choices(kind: Any) -> str:
    return ", ".join(f"`{member.value}`" for member in kind)


def _range_text(field: FieldInfo) -> str:
    """The limits of a number: `, 1 to 10`, `, 1 or more`, `, above 0 up to 60`."""
    low = next((item.ge for item in field.metadata if hasattr(item, "ge")), None)
    above = next((item.gt for item in field.metadata if hasattr(item, "gt")), None)
    high = next((item.le for item in field.metadata if hasattr(item, "le")), None)
    if low is not None:
        return f", {low} or more" if high is None else f", {low} to {high}"
    if above is not None:
        return f", above {above}" if high is None else f", above {above} up to {high}"
    return ""


def _default_text(field: FieldInfo) -> str:
    """A field's default as it would be written in the variable."""
    for item in field.metadata:
        if isinstance(item, _DefaultText):
            return item.text
    value = field.get_default(call_default_factory=True)
    if value is None or value in ((), {}):
        return "unset"
    return f"`{value_text(value)}`"


def value_text(value: object) -> str:
    """A setting's value as it would be written in its variable; a secret is masked."""
    match value:
        case None:
            return "unset"
        case SecretStr():
            return "********"
        case bool():
            return str(value).lower()
        case StrEnum():
            return value.value
        case float():
            return f"{value:g}"
        case tuple():
            return ",".join(value_text(item) for item in value)
        case dict():
            return ", ".join(f"{key or 'one key'}" for key in value)
        case _:
            return str(value)


def _given(environ: Mapping[str, str], findings: list[Finding]) -> dict[str, str]:
    """The variables of ours that are set, with `*_FILE` replaced by what the file says."""
    known = {variable.name: variable for variable in variables()}
    files = {name + FILE_SUFFIX: name for name, variable in known.items() if variable.from_file}
    given: dict[str, str] = {}
    for name, value in sorted(environ.items()):
        # An empty variable counts as unset: it is what a chart writes for a value that nobody gave.
        if (
            not name.upper().startswith(PREFIX)
            or not value
            or name in CLIENT_VARIABLES
            or name in TEST_VARIABLES
            or _is_service_link(name, value)
        ):
            continue
        if name in known:
            given[name] = value
        elif name in files:
            content = _read_secret(name, value, findings)
            if files[name] in environ and environ[files[name]]:
                fix = f"unset {files[name]} or {name}"
                findings.append(Finding(SettingsProblem(name, f"stands beside {files[name]}", fix), breaks_shape=True))
            elif content:
                given[files[name]] = content
        else:
            findings.append(_unknown(name, {*known, *files, *CLIENT_VARIABLES}))
    return given


def _is_service_link(name: str, value: str) -> bool:
    return bool(_SERVICE_LINK.fullmatch(name)) or bool(
        _SERVICE_LINK_PORT.fullmatch(name)
        and _SERVICE_LINK_VALUE.fullmatch(value)
        and (value.startswith(("tcp", "udp", "sctp")) or re.search(r"_PORT_\d+_", name))
    )


def _unknown(name: str, known: Collection[str]) -> Finding:
    """A variable with our prefix that nobody reads: most likely a misspelt one, so refused, never with its value."""
    near = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.6)
    fix = f"did you mean {near[0]}?" if near else "`mfw config reference` lists every variable"
    return Finding(SettingsProblem(_shown(name), "there is no such setting", fix), breaks_shape=True)


def _shown(text: str) -> str:
    """Text from outside as it may be shown: short, and without what moves a terminal's cursor."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text[:80]
    )


def _read_secret(name: str, where: str, findings: list[Finding]) -> str | None:
    """What a mounted secret file says, without the newline that editors leave at its end."""
    text, detail, fix = "", "", "mount the secret there, readable by this user"
    try:
        with Path(where).open("rb") as file:
            content = file.read(SECRET_FILE_BYTES_MAX + 1)
        text = content.decode().rstrip("\r\n")
        if len(content) > SECRET_FILE_BYTES_MAX:
            detail, fix = f"is longer than {SECRET_FILE_BYTES_MAX} bytes", "name the file of the secret"
        elif not text:
            detail, fix = "is empty", "write the secret into it"
    except OSError as error:
        detail = f"cannot be read: {(error.strerror or 'unknown reason').lower()}"
    except ValueError:  # no UTF-8 in the file, or a NUL in its name
        detail = "cannot be read: not a file of UTF-8 text"
    if detail:
        findings.append(Finding(SettingsProblem(name, f"`{_shown(where)}` {detail}", fix), breaks_shape=True))
        return None
    return text


def _nest(settings_cls: type[Settings], given: Mapping[str, str]) -> dict[str, Any]:
    """Flat variables as the tree that pydantic checks, taken apart by pydantic-settings itself."""
    source = EnvSettingsSource(settings_cls)
    source.env_vars = {name.lower(): value for name, value in given.items()}
    return source()


# pydantic's words for the commonest faults, in ours; the limits of a number stand in the fix.
_REFUSALS: Final = {
    "bool_parsing": "is neither true nor false",
    "enum": "is not one of its values",
    "float_parsing": "is not a number",
    "int_parsing": "is not a whole number",
    "int_parsing_size": "is too large",
}


def _shape_findings(error: ValidationError, given: Mapping[str, str], findings: list[Finding]) -> set[str]:
    """Each value that pydantic refused, in our words; returns the names of the variables at fault."""
    rows = {variable.path: variable for variable in variables()}
    faulty: set[str] = set()
    for item in error.errors(include_url=False, include_input=False, include_context=False):
        location = tuple(str(step) for step in item["loc"])
        variable = next(rows[location[:end]] for end in range(len(location), 0, -1) if location[:end] in rows)
        if variable.name in faulty:
            continue
        faulty.add(variable.name)
        text = _REFUSALS.get(item["type"]) or item["msg"].removeprefix("Value error, ").removeprefix("Input ")
        seen = "the value" if variable.from_file else f"`{_shown(given.get(variable.name, ''))}`"
        fix = f"set it to {variable.type}" + (f", such as {variable.default}" if variable.default != "unset" else "")
        findings.append(
            Finding(SettingsProblem(variable.name, f"{seen} {text[:1].lower()}{text[1:]}", fix), breaks_shape=True)
        )
    return faulty


def weakness(secret: str, *, minimum: int = PASSWORD_CHARACTERS_MIN) -> str | None:
    """Why a secret could be guessed, in words that do not give it away; None where nothing speaks against it.

    Does not check: lists of leaked passwords. The rule is meant for secrets that a machine drew.
    """
    if len(secret) < minimum:
        return f"is shorter than {minimum} characters"
    if len(set(secret)) < DISTINCT_CHARACTERS_MIN:
        return f"has fewer than {DISTINCT_CHARACTERS_MIN} different characters"
    # A string is a repetition of a shorter one exactly when it stands inside its own doubling, ends cut off.
    if secret in (secret + secret)[1:-1]:
        return "repeats a shorter piece"
    rest = re.sub(r"[^a-z0-9]", "", secret.lower().translate(str.maketrans("@$!013457", "asioieast")))
    plain = re.sub(r"[^a-z0-9]", "", secret.lower())
    return "is made of common words or characters in order" if _is_common(rest) or _is_common(plain) else None


def _is_common(text: str) -> bool:
    """Whether too little is left once words and runs that everybody tries are taken out."""
    for word in sorted(_COMMON_WORDS, key=len, reverse=True):
        text = text.replace(word, " ")
    for size in range(8, 2, -1):
        for start in range(len(_RUNS) - size + 1):
            text = text.replace(_RUNS[start : start + size], " ")
    return len(text.replace(" ", "")) < UNCOMMON_CHARACTERS_MIN


def _rules(settings: Settings) -> Iterator[SettingsProblem]:
    """What no single value shows: what does not fit together anywhere, and what production refuses."""
    production = settings.environment is Environment.PRODUCTION
    yield from _database_rules(settings, production=production)
    yield from _tls_rules(settings)
    yield from _auth_rules(settings, production=production)
    yield from _cors_rules(settings.http.cors_origins, production=production)
    yield from _proxy_rules(settings.http.trusted_proxies, production=production)
    yield from _endpoint_rules(settings)
    yield from _policy_rules(settings.policies)
    yield from _signer_rules(settings.policies)
    yield from _mask_rules(settings.ledger.mask_key)
    yield from _witness_rules(settings.ledger)
    yield from _limit_rules(settings.limits, production=production)
    yield from _kubernetes_rules(settings.kubernetes, production=production)
    yield from _github_rules(settings.github, production=production)
    yield from _ledger_rules(settings.ledger, production=production)
    yield from _error_rules(settings, production=production)
    if not production:
        return
    if settings.debug:
        yield SettingsProblem("MFW_DEBUG", "debug is refused in production", "unset it")


def _tls_rules(settings: Settings) -> Iterator[SettingsProblem]:
    tls, http = settings.tls, settings.http
    name = "MFW_TLS__"
    for there, missing, value, other in (
        ("CERTIFICATE_FILE", "KEY_FILE", tls.certificate_file, tls.key_file),
        ("KEY_FILE", "CERTIFICATE_FILE", tls.key_file, tls.certificate_file),
        ("CLIENT_CA_FILE", "CERTIFICATE_FILE", tls.client_ca_file, tls.certificate_file),
    ):
        if value is not None and other is None:
            yield SettingsProblem(f"{name}{missing}", f"{name}{there} stands without it", "set it, or unset the other")
    if tls.client_certificates is ClientCertificate.REQUIRED and tls.client_ca_file is None:
        yield SettingsProblem(
            f"{name}CLIENT_CA_FILE", "no certificate could be checked", "name the authority of your clients"
        )
    if tls.client_ca_file is not None and not settings.auth.mtls.roles:
        yield SettingsProblem(
            "MFW_AUTH__MTLS__ROLES", "no certificate may do anything", "write it as `agent=CN=kube-apiserver*`"
        )
    if not tls.enabled or tls.port == 0:
        return
    taken = {"MFW_METRICS__PORT": settings.metrics.port} if settings.metrics.enabled else {}
    if tls.plain_http is not PlainHttp.NONE:
        taken["MFW_HTTP__PORT"] = http.port
    for other_name, port in taken.items():
        if port == tls.port:
            yield SettingsProblem(f"{name}PORT", f"`{port}` is {other_name} as well", "give it one of its own")


def _error_rules(settings: Settings, *, production: bool) -> Iterator[SettingsProblem]:
    name, endpoint = "MFW_ERROR_TRACKING", settings.tracing.endpoint
    if settings.error_tracking is ErrorTracking.TRACES and endpoint is None:
        yield SettingsProblem(name, "`traces` need a place to go to", "set MFW_TRACING__ENDPOINT, or `logs`")
    elif production and settings.error_tracking is None and endpoint is None:
        yield SettingsProblem(
            name,
            "nobody is named who would learn of an unforeseen error",
            "set MFW_TRACING__ENDPOINT, or this to `logs` if you are alerted to log lines of level `error`",
        )


def _policy_rules(policies: PolicySettings) -> Iterator[SettingsProblem]:
    match policies.chosen_source, policies.directory:
        case PolicySource.DIRECTORY, None:
            yield SettingsProblem(
                "MFW_POLICIES__DIRECTORY",
                "the source `directory` needs it",
                "name the directory that holds the policy files, or set MFW_POLICIES__SOURCE to `database`",
            )
        case PolicySource.DATABASE, Path():
            yield SettingsProblem(
                "MFW_POLICIES__DIRECTORY",
                "is not read when the source is `database`",
                "unset it, and `mfw policies push` its files",
            )
        case _:
            pass


def _mask_rules(key: SecretStr | None) -> Iterator[SettingsProblem]:
    if key is not None and (why := weakness(key.get_secret_value(), minimum=MASK_KEY_CHARACTERS_MIN)) is not None:
        yield SettingsProblem("MFW_LEDGER__MASK_KEY", f"the key {why}", "make one: `openssl rand -hex 32`")


def _witness_rules(ledger: LedgerSettings) -> Iterator[SettingsProblem]:
    if len(ledger.witnesses) > WITNESSES_MAX:
        yield SettingsProblem(
            "MFW_LEDGER__WITNESSES", f"more than {WITNESSES_MAX} witnesses", f"name {WITNESSES_MAX} at most"
        )
        return
    if ledger.cosignatures is not None and ledger.cosignatures > len(ledger.witnesses):
        yield SettingsProblem(
            "MFW_LEDGER__COSIGNATURES",
            f"{ledger.cosignatures} cosignatures of {len(ledger.witnesses)} witnesses",
            "name more of them with MFW_LEDGER__WITNESSES, or lower it",
        )
    if not ledger.witnesses:
        return
    if ledger.signing_key is None:
        yield SettingsProblem("MFW_LEDGER__WITNESSES", "nothing is signed", "set MFW_LEDGER__SIGNING_KEY, or unset it")
    # Imported here, as above: it brings cryptography, which most commands do without.
    from app.core.witnessing import WitnessAddress

    keys: set[tuple[str, int]] = set()
    for text in ledger.witnesses:
        try:
            key = WitnessAddress.parse(text).key
        except FirewallError as error:
            yield SettingsProblem("MFW_LEDGER__WITNESSES", error.detail, error.fix or "write `VKEY https://...`")
            continue
        if (key.name, key.key_id) in keys:
            # It would count as two.
            yield SettingsProblem("MFW_LEDGER__WITNESSES", f"`{_shown(key.name)}` is named twice", "name it once")
        keys.add((key.name, key.key_id))


def _signer_rules(policies: PolicySettings) -> Iterator[SettingsProblem]:
    if not policies.signers:
        if policies.signatures_required:
            yield SettingsProblem(
                "MFW_POLICIES__SIGNATURES_REQUIRED",
                "nobody is named who could sign",
                "name them with MFW_POLICIES__SIGNERS, or unset it",
            )
        return
    # Imported here, as above: most environments name no signers.
    from app.core import ed25519

    name = "MFW_POLICIES__SIGNERS"
    owners: dict[str, str] = {}
    if len(policies.signers) > SIGNERS_MAX:
        yield SettingsProblem(name, f"names more than {SIGNERS_MAX} signers", "name fewer")
    for signer, pem in policies.signers.items():
        if not _SIGNER_NAME.fullmatch(signer):
            yield SettingsProblem(
                name, f"`{_shown(signer)}` is no name of a signer", "use letters, digits and `.`, `_`, `@`, `-`"
            )
        try:
            key = ed25519.key_id(ed25519.public_key(pem))
        except FirewallError as error:
            yield SettingsProblem(name, f"the key of `{_shown(signer)}` {error.detail}", str(error.fix))
            continue
        if key in owners:
            # One person would count as two.
            yield SettingsProblem(
                name, f"`{_shown(owners[key])}` and `{_shown(signer)}` have the same key", "name each key once"
            )
        owners.setdefault(key, signer)
    if policies.signatures_required is not None and policies.signatures_required > len(policies.signers):
        yield SettingsProblem(
            "MFW_POLICIES__SIGNATURES_REQUIRED",
            f"`{policies.signatures_required}` is more than there are signers ({len(policies.signers)})",
            "name more signers, or require fewer",
        )


def _ledger_rules(ledger: LedgerSettings, *, production: bool) -> Iterator[SettingsProblem]:
    name = "MFW_LEDGER__"
    make = "make one: `mfw ledger keygen --origin ORIGIN --out FILE`"
    if ledger.signing_key is None:
        if production:
            yield SettingsProblem(f"{name}SIGNING_KEY", "nobody could verify the ledger: it would not be signed", make)
        for what, value in (
            ("PREVIOUS_SIGNING_KEY", ledger.previous_signing_key),
            ("GUARD_FILE", ledger.guard_file),
        ):
            if value is not None:
                yield SettingsProblem(f"{name}{what}", "nothing is signed", f"set {name}SIGNING_KEY, or unset it")
    if ledger.origin is None:
        if production or ledger.signing_key is not None:
            yield SettingsProblem(
                f"{name}ORIGIN", "a checkpoint says which log it is of", "set it to the name of the key, for good"
            )
        return
    # Imported here, as above: it brings cryptography, which most commands do without.
    from app.core.log_keys import is_origin, log_key

    if not is_origin(ledger.origin):
        yield SettingsProblem(
            f"{name}ORIGIN",
            f"`{_shown(ledger.origin)}` is no name of a log",
            "take a URL without its scheme, such as `firewall.example.com/ledger`: no spaces, no `+`",
        )
        return
    ids = []
    for what, secret in (("SIGNING_KEY", ledger.signing_key), ("PREVIOUS_SIGNING_KEY", ledger.previous_signing_key)):
        if secret is None:
            continue
        try:
            ids.append(log_key(secret.get_secret_value(), origin=ledger.origin).verifier.key_id)
        except FirewallError as error:
            yield SettingsProblem(f"{name}{what}", f"the key {error.detail}", error.fix or make)
    if len(ids) > len(set(ids)):
        yield SettingsProblem(
            f"{name}PREVIOUS_SIGNING_KEY",
            "is the signing key itself",
            f"unset it, or set {name}SIGNING_KEY to a new one",
        )


def _limit_rules(limits: LimitSettings, *, production: bool) -> Iterator[SettingsProblem]:
    for text in limits.roles:
        try:
            role_limit(text)
        except ValueError as error:
            yield SettingsProblem(
                "MFW_LIMITS__ROLES", f"`{_shown(text)}`: {error}", "write it as `agent:decide=1000/2000`"
            )
    name = "MFW_LIMITS__REDIS_URL"
    if limits.redis_url is None:
        if production and limits.replicas > 1:
            yield SettingsProblem(
                name,
                f"without it each of {limits.replicas} replicas has buckets of its own, and callers a multiple of them",
                "set it to the Redis or Valkey that all replicas reach",
            )
        return
    parts = _split(limits.redis_url.get_secret_value())
    example = "write it as `rediss://user:password@host:6379/0`"
    if parts is None or parts.scheme not in {"redis", "rediss", "unix"} or not (parts.hostname or parts.path):
        yield SettingsProblem(name, "is no Redis URL", example)
    elif production and parts.scheme == "redis" and parts.hostname not in _LOOPBACK:
        yield SettingsProblem(name, "the connection to another machine is in plain text", "use `rediss://`")
    elif (
        production
        and parts.scheme == "rediss"
        and parts.hostname not in _LOOPBACK
        and (unchecked := _unchecked(parts.query))
    ):
        yield SettingsProblem(
            name,
            f"with `{unchecked}` anybody on the way may answer in the server's place",
            f"leave `{unchecked}` out; `ssl_ca_certs` names the file of an authority of your own",
        )
    elif production and parts.scheme != "unix" and not parts.password:
        yield SettingsProblem(name, "has no password", "give the server one: whoever reaches it can lift every limit")
    elif production and parts.password and (why := weakness(unquote(parts.password))):
        yield SettingsProblem(name, f"the password {why}", "generate one: `openssl rand -hex 24`")


def _unchecked(query: str) -> str | None:
    """Which member of a Redis URL's query lets a certificate pass that is not the server's."""
    members = parse_qs(query)
    if set(members.get("ssl_cert_reqs", [])) - {"required"}:
        return "ssl_cert_reqs"
    # The library takes `off` for true; who writes it means it no more than `false`.
    if {value.lower() for value in members.get("ssl_check_hostname", [])} - {"true", "1", "t", "y", "yes", "on"}:
        return "ssl_check_hostname"
    return None


def _kubernetes_rules(kubernetes: KubernetesSettings, *, production: bool) -> Iterator[SettingsProblem]:
    if kubernetes.unsafe_unauthenticated and production:
        yield SettingsProblem(
            "MFW_KUBERNETES__UNSAFE_UNAUTHENTICATED",
            "is refused in production",
            "unset it, and give the API server a key: docs/integrations/kubernetes.md",
        )
    readers: tuple[tuple[str, Sequence[str], Callable[[str], object], str], ...] = (
        ("AGENTS", kubernetes.agents, agent_rule, "namespace=agents"),
        ("ENVIRONMENTS", kubernetes.environments, environment_rule, "*-staging=staging"),
        ("API_SERVERS", kubernetes.api_servers, compile_glob, "kube-apiserver-*"),
    )
    for name, texts, read, example in readers:
        for text in texts:
            try:
                read(text)
            except ValueError as error:
                yield SettingsProblem(
                    f"MFW_KUBERNETES__{name}", f"`{_shown(text)}`: {error}", f"write it as `{example}`"
                )
    key, url = kubernetes.canary.key, kubernetes.access.url
    if key is not None and (why := weakness(key.get_secret_value(), minimum=MASK_KEY_CHARACTERS_MIN)) is not None:
        yield SettingsProblem("MFW_KUBERNETES__CANARY__KEY", f"the key {why}", "make one: `openssl rand -hex 32`")
    if production and key is not None and not (kubernetes.api_servers and all(map(_narrow, kubernetes.api_servers))):
        # Whoever may ask for a review of the canary is told its proof, with which a webhook that is none of ours can
        # deny in our place.
        yield SettingsProblem(
            "MFW_KUBERNETES__API_SERVERS",
            "everybody with the scope `decide` could ask for the proof of the canary",
            "name the principal of the API server's credential, such as `kube-apiserver`",
        )
    if url is not None:
        parts = _split(url)
        if parts is None or parts.scheme != "https" or not parts.hostname or parts.query or parts.fragment:
            # A token is sent there.
            yield SettingsProblem(
                "MFW_KUBERNETES__ACCESS__URL", "is no https URL", "write it as `https://10.0.0.1:6443`"
            )


def _narrow(glob: str) -> bool:
    """Whether a glob is not one for everything."""
    return bool(glob.strip("*"))


def _github_rules(github: GithubSettings, *, production: bool) -> Iterator[SettingsProblem]:
    name = "MFW_GITHUB__"
    current, previous = github.webhook_secret, github.previous_webhook_secret
    for which, secret in (("WEBHOOK_SECRET", current), ("PREVIOUS_WEBHOOK_SECRET", previous)):
        if secret is not None and production:
            why = weakness(secret.get_secret_value(), minimum=MASK_KEY_CHARACTERS_MIN)
            if why is not None:
                yield SettingsProblem(f"{name}{which}", f"the secret {why}", "make one: `openssl rand -hex 32`")
    if current is None and previous is not None:
        yield SettingsProblem(f"{name}WEBHOOK_SECRET", "there is a previous secret but none", "set it, or unset both")
    app = (github.app_id, github.private_key)
    if None in app and app != (None, None):
        which = "APP_ID" if github.app_id is None else "PRIVATE_KEY"
        yield SettingsProblem(f"{name}{which}", "an App has a number and a key", "set both, or neither")
    elif (github.app_id is None) is (github.token is None) and (current, github.token) != (None, None):
        yield SettingsProblem(
            f"{name}APP_ID",
            "answers are given as an App or with a token",
            f"set {name}APP_ID with {name}PRIVATE_KEY_FILE, or {name}TOKEN alone",
        )
    if github.app_id is not None and github.private_key is not None:
        yield from _app_key_rules(github.private_key, f"{name}PRIVATE_KEY")
    parts = _split(github.api_url)
    if parts is None or not _is_web_url(github.api_url) or parts.query or parts.fragment or "@" in parts.netloc:
        yield SettingsProblem(
            f"{name}API_URL", "is no URL of an API", "write it as `https://github.example.com/api/v3`"
        )
    elif production and parts.scheme != "https":
        yield SettingsProblem(f"{name}API_URL", "would be called without TLS", "use https")
    for text in github.agents:
        try:
            compile_glob(text)
        except ValueError as error:
            yield SettingsProblem(f"{name}AGENTS", f"`{_shown(text)}`: {error}", "write it as `octo-agent-*`")


def _app_key_rules(key: SecretStr, name: str) -> Iterator[SettingsProblem]:
    # Imported here, as above: most commands do without.
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        found = load_pem_private_key(key.get_secret_value().encode(errors="surrogateescape"), password=None)
    except (ValueError, TypeError):
        found = None
    if not isinstance(found, RSAPrivateKey):
        yield SettingsProblem(name, "is no RSA private key in PEM", f"set {name}_FILE to the file that GitHub gave")


def _endpoint_rules(settings: Settings) -> Iterator[SettingsProblem]:
    http, metrics = settings.http, settings.metrics
    if metrics.enabled and http.port == metrics.port != 0:
        yield SettingsProblem(
            "MFW_METRICS__PORT",
            f"`{metrics.port}` is the port of the service as well",
            "give the metrics one of their own",
        )
    identifier = settings.authzen.identifier
    if identifier is not None:
        parts = _split(identifier)
        if parts is None or parts.scheme != "https" or not parts.hostname or parts.query or parts.fragment:
            yield SettingsProblem(
                "MFW_AUTHZEN__IDENTIFIER",
                "is no https URL without query and fragment",
                "write it as `https://firewall.example.com`",
            )
    secret = settings.authzen.signing_key
    if secret is not None:
        # Here, since most services have no such key, and the library takes a tenth of a second to import.
        from app.core.ed25519 import private_key

        try:
            private_key(secret.get_secret_value().encode())
        except FirewallError as error:
            fix = error.fix or "make a pair: `mfw policies keygen --out DIR`"
            yield SettingsProblem("MFW_AUTHZEN__SIGNING_KEY", f"the key {error.detail}", fix)
    grpc_port = settings.ext_authz.grpc_port
    others = (
        http.port,
        *([metrics.port] if metrics.enabled else ()),
        *([settings.tls.port] if settings.tls.enabled else ()),
    )
    if grpc_port and grpc_port in others:
        yield SettingsProblem(
            "MFW_EXT_AUTHZ__GRPC_PORT", f"`{grpc_port}` is taken by another port of ours", "give it one of its own"
        )
    header = settings.ext_authz.credential_header
    if not _HEADER_NAME.fullmatch(header) or header.lower() in _OTHER_HEADERS - {"authorization"}:
        yield SettingsProblem(
            "MFW_EXT_AUTHZ__CREDENTIAL_HEADER",
            f"`{_shown(header)}` is no header for it",
            "name one that the gateway alone sets, such as `X-Mfw-Authorization`",
        )
    endpoint = settings.tracing.endpoint
    if endpoint is not None and not _is_web_url(endpoint):
        yield SettingsProblem(
            "MFW_TRACING__ENDPOINT", "is no http or https URL", "write it as `http://collector:4318/v1/traces`"
        )


def _is_web_url(text: str) -> bool:
    parts = _split(text)
    return parts is not None and parts.scheme in {"http", "https"} and bool(parts.hostname)


def _split(text: str) -> SplitResult | None:
    """The parts of a URL, None where it has none; reading `.port` is what raises for a port that is no number."""
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return None
    return parts


def _cors_rules(origins: Sequence[str], *, production: bool) -> Iterator[SettingsProblem]:
    name = "MFW_HTTP__CORS_ORIGINS"
    for origin in origins:
        parts = _split(origin)
        if "*" in origin:
            if production:
                yield SettingsProblem(
                    name, f"`{_shown(origin)}` is refused in production", "list the origins one by one"
                )
            elif origin != "*":
                yield SettingsProblem(name, f"`{_shown(origin)}` is no origin", "write `*` or whole origins")
        elif parts is None or not _is_web_url(origin) or parts.path or parts.query or parts.fragment or parts.username:
            yield SettingsProblem(name, f"`{_shown(origin)}` is no origin", "write it as `https://console.example.com`")
        elif production and parts.scheme != "https":
            yield SettingsProblem(name, f"`{_shown(origin)}` is not https", "serve the console over https")


def _proxy_rules(proxies: Sequence[str], *, production: bool) -> Iterator[SettingsProblem]:
    name = "MFW_HTTP__TRUSTED_PROXIES"
    for proxy in proxies:
        if proxy == "*":
            if production:
                # Then anybody names the address that the limits count by.
                yield SettingsProblem(name, "`*` is refused in production", "list the networks of your load balancers")
            continue
        try:
            ip_network(proxy)
        except ValueError:
            yield SettingsProblem(
                name, f"`{_shown(proxy)}` is neither an address nor a network", "write it as `10.0.0.0/8` or `10.1.2.3`"
            )


def _database_rules(settings: Settings, *, production: bool) -> Iterator[SettingsProblem]:
    name, url = "MFW_DATABASE__URL", settings.database.url
    if settings.embedded_database:
        if production:
            yield SettingsProblem(
                "MFW_DATABASE__EMBEDDED", "the embedded PostgreSQL is refused in production", f"unset it and set {name}"
            )
        elif url is not None:
            yield SettingsProblem("MFW_DATABASE__EMBEDDED", f"stands beside {name}", "unset one of the two")
        return
    if url is None:
        fix = "set it, or MFW_DATABASE__URL_FILE" + ("" if production else ", or MFW_DATABASE__EMBEDDED=true")
        hint = "; to try the firewall out: `mfw dev`" if production else ""
        yield SettingsProblem(name, "there is no database to write the ledger to", fix + hint)
        return
    yield from _database_url_rules(name, url, production=production)
    if settings.database.direct_url is not None:
        yield from _database_url_rules("MFW_DATABASE__DIRECT_URL", settings.database.direct_url, production=production)


def _database_url_rules(name: str, url: SecretStr, *, production: bool) -> Iterator[SettingsProblem]:
    example = "write it as `postgresql://user:password@host:5432/name`, with `%40` for an `@` in the password"
    parts = _database_parts(url.get_secret_value())
    if parts is None:
        yield SettingsProblem(name, "is no PostgreSQL URL", example)
    elif not all(parts.hosts):
        yield SettingsProblem(name, "names no host", example)
    elif len(parts.hosts) > 1:
        yield SettingsProblem(
            name, "names several hosts", "name one: the address that your PostgreSQL keeps for its primary"
        )
    elif production:
        yield from _database_strength(name, parts)


@dataclass(frozen=True, slots=True)
class _DatabaseParts:
    user: str
    password: str
    hosts: tuple[str, ...]
    query: Mapping[str, str]

    @property
    def all_sockets(self) -> bool:
        return all(host.startswith("/") for host in self.hosts)

    @property
    def leaves_the_machine(self) -> bool:
        return any(not host.startswith("/") and host not in _LOOPBACK for host in self.hosts)


def _database_parts(text: str) -> _DatabaseParts | None:
    """A libpq URL taken apart, with a socket directory for a host as well; None where it is none."""
    try:
        parts = urlsplit(text)
        query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        account, _, places = parts.netloc.rpartition("@")
        hosts = []
        for place in (places or query.get("host", "")).split(","):
            where = urlsplit(f"//{place}")
            if where.port == 0:
                return None
            hosts.append(unquote(place if place.startswith("/") else where.hostname or ""))
    except ValueError:  # a port that is no number, a bracket left open
        return None
    if parts.scheme not in {"postgresql", "postgres", "postgresql+asyncpg"}:
        return None
    user, _, password = account.partition(":")
    return _DatabaseParts(
        user=unquote(user) or query.get("user", ""),
        password=unquote(password) or query.get("password", ""),
        hosts=tuple(hosts),
        query=query,
    )


def _database_strength(name: str, parts: _DatabaseParts) -> Iterator[SettingsProblem]:
    user, password = parts.user, parts.password
    generate = "generate one: `openssl rand -hex 24`"
    if not password:
        # Over a socket PostgreSQL asks the kernel who we are (peer); with a client certificate the key is the secret.
        if not parts.all_sockets and "sslcert" not in parts.query:
            yield SettingsProblem(name, "has no password", "give the role a generated password and put it into the URL")
    elif _mostly(password.lower(), user.lower()):
        yield SettingsProblem(name, "the password is little more than the user name", generate)
    elif why := weakness(password):
        yield SettingsProblem(name, f"the password {why}", generate)
    if parts.leaves_the_machine and parts.query.get("sslmode", "prefer") not in _ENCRYPTED:
        yield SettingsProblem(
            name,
            "the connection to another machine may be in plain text",
            "add `sslmode=verify-full` (or `verify-ca`, `require`) to the URL",
        )


def _mostly(password: str, user: str) -> bool:
    return bool(user) and user in password and len(password.replace(user, "")) < UNCOMMON_CHARACTERS_MIN


def _auth_rules(settings: Settings, *, production: bool) -> Iterator[SettingsProblem]:
    auth, shown = settings.auth, settings.tls.client_ca_file is not None
    if auth.unsafe_disabled:
        if production:
            yield SettingsProblem("MFW_AUTH__UNSAFE_DISABLED", "is refused in production", "unset it")
    elif not auth.api_keys.enabled and not auth.jwt.enabled and not auth.mtls.header and not shown:
        yield SettingsProblem(
            "MFW_AUTH__API_KEYS__ENABLED", "nobody could sign in", "set it, or MFW_AUTH__JWT__ENABLED, to true"
        )
    yield from _bootstrap_rules(auth.api_keys, production=production)
    yield from _mtls_rules(auth.mtls, shown=shown, production=production)
    jwt = auth.jwt
    if not jwt.enabled:
        return
    yield from _claim_rules(jwt)
    for variable, value in (("ISSUER", jwt.issuer), ("AUDIENCE", jwt.audience)):
        if value is None:
            # Without them a token that the same provider made for somebody else would be good here (CVE-2026-55689).
            yield SettingsProblem(
                f"MFW_AUTH__JWT__{variable}", "is needed when tokens are on", "set it to what your provider writes"
            )
    symmetric = [algorithm for algorithm in jwt.algorithms if algorithm.symmetric]
    if not jwt.algorithms:
        yield SettingsProblem("MFW_AUTH__JWT__ALGORITHMS", "is empty", "name the algorithm of your provider")
    elif not symmetric:
        if jwt.public_keys:
            yield from _public_key_rules(jwt, production=production)
        else:
            yield from _issuer_rules(jwt, production=production)
    elif len(symmetric) < len(jwt.algorithms):
        # CVE-2015-9235 and its kin: a public key, known to all, would be taken for the HMAC secret.
        yield SettingsProblem(
            "MFW_AUTH__JWT__ALGORITHMS", "mixes HMAC with public-key algorithms", "keep the one that your provider uses"
        )
    elif jwt.secret is None:
        yield SettingsProblem("MFW_AUTH__JWT__SECRET", "the HMAC algorithms need it", "set it, or use RS256 or ES256")
    else:
        yield from _secret_rules(jwt, production=production)


def _bootstrap_rules(keys: ApiKeySettings, *, production: bool) -> Iterator[SettingsProblem]:
    if keys.bootstrap is None:
        return
    key, fix = keys.bootstrap.get_secret_value(), "make one: `mfw keys generate`"
    if not keys.enabled:
        yield SettingsProblem(
            "MFW_AUTH__API_KEYS__BOOTSTRAP", "is an api key, and they are off", "unset it, or accept API keys"
        )
    elif not is_well_formed(key):
        yield SettingsProblem("MFW_AUTH__API_KEYS__BOOTSTRAP", "is no api key: its checksum does not fit", fix)
    # The checksum is made of the rest, and adds nothing to it.
    elif production and (why := weakness(key[len(API_KEY_PREFIX) : -CHECKSUM_CHARACTERS])):
        yield SettingsProblem("MFW_AUTH__API_KEYS__BOOTSTRAP", why, fix)


def _mtls_rules(mtls: MtlsSettings, *, shown: bool, production: bool) -> Iterator[SettingsProblem]:
    """A header and those who may send it: one without the other is a mistake, and half of it would be a hole.

    `shown` are certificates on connections to us: the roles are theirs as well.
    """
    name = "MFW_AUTH__MTLS__"
    for text in mtls.roles:
        role, _, pattern = text.partition("=")
        if role not in tuple(Role) or not pattern:
            yield SettingsProblem(
                f"{name}ROLES",
                f"`{_shown(text)}` is no rule",
                f"write it as `agent=spiffe://example.org/ns/agents/*`; roles are {', '.join(Role)}",
            )
    if mtls.header is None:
        for what, values in (("PROXIES", mtls.proxies), ("ROLES", () if shown else mtls.roles)):
            if values:
                yield SettingsProblem(f"{name}{what}", "no header is named", f"set {name}HEADER, or unset it")
        return
    if not _HEADER_NAME.fullmatch(mtls.header) or mtls.header.lower() in _OTHER_HEADERS:
        yield SettingsProblem(
            f"{name}HEADER",
            f"`{_shown(mtls.header)}` is no header for it",
            "name the one that your proxy sets, such as `X-Forwarded-Client-Cert`",
        )
    if not mtls.proxies:
        yield SettingsProblem(f"{name}PROXIES", "nobody may send the header", "name the networks of your proxies")
    if not mtls.roles:
        yield SettingsProblem(f"{name}ROLES", "no certificate may do anything", "write it as `agent=spiffe://...`")
    for text in mtls.proxies:
        try:
            network = ip_network(text)
        except ValueError:
            yield SettingsProblem(
                f"{name}PROXIES",
                f"`{_shown(text)}` is neither an address nor a network",
                "write it as `10.0.0.0/8` or `10.1.2.3`",
            )
            continue
        if production and network.prefixlen == 0:
            # Then anybody names who they are.
            yield SettingsProblem(
                f"{name}PROXIES", f"`{_shown(text)}` is everybody", "name the networks of your proxies alone"
            )


def _claim_rules(jwt: JwtSettings) -> Iterator[SettingsProblem]:
    for text in jwt.role_rules:
        if text.count("=") < 2 or text.partition("=")[0] not in tuple(Role):
            yield SettingsProblem(
                "MFW_AUTH__JWT__ROLE_RULES",
                f"`{_shown(text)}` is no rule",
                f"write it as `admin=groups=platform-admins`; roles are {', '.join(Role)}",
            )


def _secret_rules(jwt: JwtSettings, *, production: bool) -> Iterator[SettingsProblem]:
    """HMAC secrets: the current one, and the previous one for as long as its tokens are about."""
    minimum = max(HMAC_SECRET_BYTES_MIN[algorithm] for algorithm in jwt.algorithms if algorithm.symmetric)
    for name, secret in (("SECRET", jwt.secret), ("PREVIOUS_SECRET", jwt.previous_secret)):
        if secret is None or not production:
            continue
        text = secret.get_secret_value()
        size = len(text.encode(errors="surrogateescape"))
        why = f"is shorter than {minimum} bytes" if size < minimum else weakness(text)
        if why:
            yield SettingsProblem(f"MFW_AUTH__JWT__{name}", why, f"generate one: `openssl rand -hex {minimum}`")
    previous = jwt.previous_secret
    if previous is None:
        return
    if jwt.secret is not None and previous.get_secret_value() == jwt.secret.get_secret_value():
        yield SettingsProblem(
            "MFW_AUTH__JWT__PREVIOUS_SECRET",
            "is the secret itself",
            "unset it, or set MFW_AUTH__JWT__SECRET to a new one",
        )
    if production and jwt.previous_secret_until is None:
        yield SettingsProblem(
            "MFW_AUTH__JWT__PREVIOUS_SECRET_UNTIL",
            "a previous secret without an end is a second secret",
            "set it to when the last token of the old secret expires, such as `2026-12-01T00:00:00Z`",
        )


def _issuer_rules(jwt: JwtSettings, *, production: bool) -> Iterator[SettingsProblem]:
    """Keys that are fetched: from the key set's address, or from where the issuer's discovery document says."""
    name, url = ("JWKS_URL", jwt.jwks_url) if jwt.jwks_url is not None else ("ISSUER", jwt.issuer)
    if url is None:
        return
    parts = _split(url)
    if parts is None or not _is_web_url(url):
        yield SettingsProblem(
            f"MFW_AUTH__JWT__{name}",
            "is no URL that keys could be fetched from",
            "set MFW_AUTH__JWT__JWKS_URL, or MFW_AUTH__JWT__PUBLIC_KEYS to the PEM key of your provider",
        )
    elif production and parts.scheme != "https" and parts.hostname not in _LOOPBACK:
        yield SettingsProblem(
            f"MFW_AUTH__JWT__{name}", "would be fetched without TLS: anybody between could send keys", "use https"
        )


def _public_key_rules(jwt: JwtSettings, *, production: bool) -> Iterator[SettingsProblem]:
    # Imported here: the command line reads settings without tokens many times more often than with them.
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    name = "MFW_AUTH__JWT__PUBLIC_KEYS"
    families: set[Literal["RS", "ES"]] = set()
    for kid, pem in jwt.public_keys.items():
        which = f"key `{kid}` " if kid else ""
        if "PRIVATE KEY" in pem:
            yield SettingsProblem(
                name, f"{which}holds a private key", "set the public half, and count the private one as leaked"
            )
            families |= {"RS", "ES"}
            continue
        try:
            key = load_pem_public_key(pem.encode())
        except (ValueError, UnsupportedAlgorithm):
            yield SettingsProblem(
                name,
                f"{which}is no PEM public key",
                "it starts with `-----BEGIN PUBLIC KEY-----`; keep its line breaks",
            )
            families |= {"RS", "ES"}
            continue
        if isinstance(key, RSAPublicKey):
            families.add("RS")
            if production and key.key_size < RSA_BITS_MIN:
                yield SettingsProblem(
                    name, f"{which}has {key.key_size} bits", f"ask your provider for {RSA_BITS_MIN} or more"
                )
        elif isinstance(key, EllipticCurvePublicKey):
            families.add("ES")
        else:
            yield SettingsProblem(name, f"{which}is neither RSA nor ECDSA", "use a key for RS256 or ES256")
            families |= {"RS", "ES"}
    unused = sorted({algorithm.value for algorithm in jwt.algorithms if algorithm.value[:2] not in families})
    if unused:
        yield SettingsProblem(
            "MFW_AUTH__JWT__ALGORITHMS", f"no key is for {', '.join(unused)}", "name the algorithms that fit the keys"
        )


def advice(settings: Settings) -> tuple[SettingsProblem, ...]:
    """What is permitted but could be better: shown by `mfw config check`, never refused."""
    found: list[SettingsProblem] = []
    if settings.auth.unsafe_disabled:
        found.append(SettingsProblem("MFW_AUTH__UNSAFE_DISABLED", "anybody is answered", "unset it"))
    if settings.kubernetes.unsafe_unauthenticated:
        found.append(
            SettingsProblem(
                "MFW_KUBERNETES__UNSAFE_UNAUTHENTICATED",
                "reviews are answered whoever sends them",
                "unset it, and give the API server a key: docs/integrations/kubernetes.md",
            )
        )
    url = settings.database.url
    parts = _database_parts(url.get_secret_value()) if url else None
    if parts is not None and parts.query.get("sslmode") == "require":
        found.append(
            SettingsProblem(
                "MFW_DATABASE__URL",
                "`sslmode=require` encrypts but does not check who answers",
                "use `verify-full` with `sslrootcert`",
            )
        )
    if settings.environment is Environment.PRODUCTION and settings.ledger.guard_file is None:
        found.append(
            SettingsProblem(
                "MFW_LEDGER__GUARD_FILE",
                "an older backup of the database would be signed once every replica was restarted",
                "name a file on a volume that no backup of the database brings back",
            )
        )
    return tuple(found)
