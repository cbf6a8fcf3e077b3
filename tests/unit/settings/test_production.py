"""Production starts with none of the unsafe values that the reference documents name, and says so of all of them at once."""

from typing import NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.core.api_key import generate
from app.core.notes import SignerKey
from app.settings import Environment, Settings, SettingsError, variables

PASSWORD = "rT7pw2Kx9QzLm4VbN8sY"
URL = f"postgresql://firewall:{PASSWORD}@db.example.com/firewall?sslmode=verify-full"
ORIGIN = "firewall.example.com/ledger"
KEY = SignerKey.of(ORIGIN, Ed25519PrivateKey.generate()).text
SAFE = {
    "MFW_DATABASE__URL": URL,
    "MFW_ERROR_TRACKING": "logs",
    "MFW_LEDGER__ORIGIN": ORIGIN,
    "MFW_LEDGER__SIGNING_KEY": KEY,
}
JWT = {
    "MFW_AUTH__JWT__ENABLED": "true",
    "MFW_AUTH__JWT__ISSUER": "https://idp.example.com",
    "MFW_AUTH__JWT__AUDIENCE": "mfw",
}
SECRET = "MFW_AUTH__JWT__SECRET"
GITHUB = {"MFW_GITHUB__WEBHOOK_SECRET": "q3ZBv8nTyX1kLw7RfD5sGh2JmC9pKe4A", "MFW_GITHUB__TOKEN": "github_pat_x"}
CANARY = {"MFW_KUBERNETES__CANARY__KEY": "7f3c9a1e5b8d2046c7e1f09a3b6d8e25a4c07f19"}
HMAC = JWT | {"MFW_AUTH__JWT__ALGORITHMS": "HS256"}


class Unsafe(NamedTuple):
    """A row of a reference document: the value, and the variable that is named for it."""

    row: str
    environ: dict[str, str]
    variable: str


def database(url: str) -> dict[str, str]:
    return {"MFW_DATABASE__URL": url}


TABLE = [
    # Resilience matrix: "JWT Secret Key: missing or rotated; hardcoded default".
    Unsafe("a default secret", HMAC | {SECRET: "your-secret-key-change-in-production"}, SECRET),
    Unsafe("a short secret", HMAC | {SECRET: "q3ZBv8nTyX1kLw7RfD5sGh2"}, SECRET),
    Unsafe("a secret of few characters", HMAC | {SECRET: "ab" * 32}, SECRET),
    Unsafe("no secret", HMAC, SECRET),
    Unsafe(
        "a previous secret for ever",
        HMAC
        | {
            SECRET: "q3ZBv8nTyX1kLw7RfD5sGh2JmC9pKe4A",
            "MFW_AUTH__JWT__PREVIOUS_SECRET": "x8CvB2nM5kL9pQ4rT7wY1zA6dF3gH0jS",
        },
        "MFW_AUTH__JWT__PREVIOUS_SECRET_UNTIL",
    ),
    Unsafe(
        "a secret beside public keys", JWT | {"MFW_AUTH__JWT__ALGORITHMS": "HS256,RS256"}, "MFW_AUTH__JWT__ALGORITHMS"
    ),
    Unsafe(
        "no audience",
        {name: value for name, value in JWT.items() if "AUDIENCE" not in name},
        "MFW_AUTH__JWT__AUDIENCE",
    ),
    Unsafe(
        "keys fetched without TLS",
        JWT | {"MFW_AUTH__JWT__JWKS_URL": "http://idp.example.com/keys"},
        "MFW_AUTH__JWT__JWKS_URL",
    ),
    # Resilience matrix: "CORS configuration: permissive origins".
    Unsafe("a wildcard origin", {"MFW_HTTP__CORS_ORIGINS": "*"}, "MFW_HTTP__CORS_ORIGINS"),
    Unsafe(
        "a wildcard within an origin", {"MFW_HTTP__CORS_ORIGINS": "https://*.example.com"}, "MFW_HTTP__CORS_ORIGINS"
    ),
    Unsafe("an origin without TLS", {"MFW_HTTP__CORS_ORIGINS": "http://console.example.com"}, "MFW_HTTP__CORS_ORIGINS"),
    # Resilience matrix: "rate limiting in memory, per instance"; "Redis unavailable: require it in production".
    Unsafe("several replicas, each with a limiter of its own", {"MFW_LIMITS__REPLICAS": "2"}, "MFW_LIMITS__REDIS_URL"),
    Unsafe("Redis without a password", {"MFW_LIMITS__REDIS_URL": "rediss://redis:6379/0"}, "MFW_LIMITS__REDIS_URL"),
    Unsafe(
        "Redis with a weak password",
        {"MFW_LIMITS__REDIS_URL": "rediss://:changeme@redis:6379"},
        "MFW_LIMITS__REDIS_URL",
    ),
    Unsafe("Redis without TLS", {"MFW_LIMITS__REDIS_URL": f"redis://:{PASSWORD}@redis:6379"}, "MFW_LIMITS__REDIS_URL"),
    *(
        Unsafe(
            f"Redis whose certificate is not checked: {query}",
            {"MFW_LIMITS__REDIS_URL": f"rediss://:{PASSWORD}@redis:6379/0?{query}"},
            "MFW_LIMITS__REDIS_URL",
        )
        for query in (
            "ssl_cert_reqs=none",
            "ssl_cert_reqs=optional",
            "ssl_check_hostname=false",
            "ssl_cert_reqs=required&ssl_check_hostname=No",
            "db=1&ssl_cert_reqs=n%6Fne",
        )
    ),
    Unsafe("every proxy is believed", {"MFW_HTTP__TRUSTED_PROXIES": "*"}, "MFW_HTTP__TRUSTED_PROXIES"),
    # Resilience matrix: "DSN missing: no error tracking".
    Unsafe("errors that nobody looks at", {"MFW_ERROR_TRACKING": ""}, "MFW_ERROR_TRACKING"),
    # Issue and design: authentication off, embedded database, debug.
    Unsafe("authentication off", {"MFW_AUTH__UNSAFE_DISABLED": "true"}, "MFW_AUTH__UNSAFE_DISABLED"),
    Unsafe(
        "reviews of anybody",
        {"MFW_KUBERNETES__UNSAFE_UNAUTHENTICATED": "true"},
        "MFW_KUBERNETES__UNSAFE_UNAUTHENTICATED",
    ),
    Unsafe("nobody could sign in", {"MFW_AUTH__API_KEYS__ENABLED": "false"}, "MFW_AUTH__API_KEYS__ENABLED"),
    Unsafe(
        "a bootstrap key that anybody can work out",
        {"MFW_AUTH__API_KEYS__BOOTSTRAP": generate(bytes(32))},
        "MFW_AUTH__API_KEYS__BOOTSTRAP",
    ),
    Unsafe(
        "certificates named by everybody",
        {
            "MFW_AUTH__MTLS__HEADER": "X-Client",
            "MFW_AUTH__MTLS__PROXIES": "0.0.0.0/0",
            "MFW_AUTH__MTLS__ROLES": "agent=spiffe://example.org/*",
        },
        "MFW_AUTH__MTLS__PROXIES",
    ),
    Unsafe(
        "a webhook's secret that can be guessed",
        GITHUB | {"MFW_GITHUB__WEBHOOK_SECRET": "It's a Secret to Everybody, to everybody"[:24]},
        "MFW_GITHUB__WEBHOOK_SECRET",
    ),
    Unsafe(
        "an old secret of a webhook that can be guessed",
        GITHUB | {"MFW_GITHUB__PREVIOUS_WEBHOOK_SECRET": "ab" * 32},
        "MFW_GITHUB__PREVIOUS_WEBHOOK_SECRET",
    ),
    Unsafe(
        "a GitHub that is called without TLS",
        GITHUB | {"MFW_GITHUB__API_URL": "http://github.example.com/api/v3"},
        "MFW_GITHUB__API_URL",
    ),
    Unsafe("a canary whose proof everybody may ask for", CANARY, "MFW_KUBERNETES__API_SERVERS"),
    Unsafe(
        "a canary whose proof is for API servers, and everybody is one",
        CANARY | {"MFW_KUBERNETES__API_SERVERS": "kube-apiserver,**"},
        "MFW_KUBERNETES__API_SERVERS",
    ),
    Unsafe("debug", {"MFW_DEBUG": "true"}, "MFW_DEBUG"),
    Unsafe("the embedded database", {"MFW_DATABASE__EMBEDDED": "true"}, "MFW_DATABASE__EMBEDDED"),
    # Issue and design: a ledger that anyone can verify.
    Unsafe("a ledger that nobody signs", {"MFW_LEDGER__SIGNING_KEY": ""}, "MFW_LEDGER__SIGNING_KEY"),
    Unsafe("a ledger without a name", {"MFW_LEDGER__ORIGIN": ""}, "MFW_LEDGER__ORIGIN"),
    # Failure mode matrix, 1, 9 and 16: the database and its credentials, invalid configuration.
    Unsafe("no database", database(""), "MFW_DATABASE__URL"),
    Unsafe("a database without a password", database(URL.replace(f":{PASSWORD}", "")), "MFW_DATABASE__URL"),
    Unsafe(
        "a direct database without TLS",
        {"MFW_DATABASE__DIRECT_URL": URL.replace("verify-full", "disable")},
        "MFW_DATABASE__DIRECT_URL",
    ),
    Unsafe("a weak database password", database(URL.replace(PASSWORD, "postgres123")), "MFW_DATABASE__URL"),
    Unsafe("a database without TLS", database(URL.replace("verify-full", "disable")), "MFW_DATABASE__URL"),
    Unsafe("a database with TLS if it likes", database(URL.partition("?")[0]), "MFW_DATABASE__URL"),
    Unsafe("a misspelt variable", {"MFW_HTTP_PORT": "8080"}, "MFW_HTTP_PORT"),
    Unsafe("a value that cannot be read", {"MFW_HTTP__PORT": "http"}, "MFW_HTTP__PORT"),
]


def refused(environ: dict[str, str]) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        Settings.load(environ)
    assert all(problem.fix for problem in caught.value.problems)
    return [problem.variable for problem in caught.value.problems]


def test_the_safe_ones_are_accepted():
    assert Settings.load(SAFE).environment is Environment.PRODUCTION


@pytest.mark.parametrize("unsafe", TABLE, ids=lambda unsafe: unsafe.row)
def test_each_unsafe_value_is_refused(unsafe):
    assert set(refused(SAFE | unsafe.environ)) == {unsafe.variable}


def test_all_of_them_are_reported_at_once():
    worst = {
        "MFW_DATABASE__URL": URL.replace(PASSWORD, "postgres123"),
        "MFW_AUTH__JWT__ENABLED": "true",
        "MFW_AUTH__JWT__ALGORITHMS": "HS256",
        SECRET: "your-secret-key-change-in-production",
        "MFW_HTTP__CORS_ORIGINS": "*",
        "MFW_HTTP__TRUSTED_PROXIES": "*",
        "MFW_LIMITS__REPLICAS": "6",
        "MFW_AUTH__UNSAFE_DISABLED": "true",
        "MFW_DEBUG": "true",
        "MFW_HTTP_PORT": "8080",
        "MFW_HTTP__PORT": "http",
    }
    missing = {
        "MFW_AUTH__JWT__ISSUER",
        "MFW_AUTH__JWT__AUDIENCE",
        "MFW_LIMITS__REDIS_URL",
        "MFW_ERROR_TRACKING",
        "MFW_LEDGER__ORIGIN",
        "MFW_LEDGER__SIGNING_KEY",
    }
    fine = {"MFW_AUTH__JWT__ENABLED", "MFW_AUTH__JWT__ALGORITHMS", "MFW_LIMITS__REPLICAS"}
    assert sorted(refused(worst)) == sorted(worst.keys() - fine | missing)


def test_every_refusal_that_the_reference_lists_is_in_the_table():
    """A setting with a word about production is refused somewhere above, or here by name."""
    elsewhere = {
        "MFW_AUTH__JWT__PUBLIC_KEYS",  # tests/unit/settings/test_settings.py::TestAuth::test_a_short_rsa_key
        "MFW_AUTH__JWT__PREVIOUS_SECRET",  # as the secret; its end stands above
    }
    limited = {variable.name for variable in variables() if variable.production}
    assert limited - {unsafe.variable for unsafe in TABLE} == elsewhere
