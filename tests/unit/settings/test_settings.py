"""Every setting: read, checked as a whole, never shown."""

import json
import os
import re
import string
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from app.core.api_key import generate
from app.core.notes import Algorithm, SignerKey
from app.errors import Kind
from app.settings import (
    CLIENT_VARIABLES,
    SECRET_FILE_BYTES_MAX,
    TEST_VARIABLES,
    Environment,
    PolicySource,
    Settings,
    SettingsError,
    advice,
    default_state_dir,
    value_text,
    variables,
    weakness,
)

ROOT = Path(__file__).resolve().parents[3]
PASSWORD = "rT7pw2Kx9QzLm4VbN8sY"
URL = f"postgresql://firewall:{PASSWORD}@db.example.com/firewall?sslmode=verify-full"
ORIGIN = "firewall.example.com/ledger"
KEY, OTHER_KEY = (SignerKey.of(ORIGIN, Ed25519PrivateKey.generate()).text for _ in range(2))
GOOD = {
    "MFW_DATABASE__URL": URL,
    "MFW_POLICIES__DIRECTORY": "/policies",
    "MFW_ERROR_TRACKING": "logs",
    "MFW_LEDGER__ORIGIN": ORIGIN,
    "MFW_LEDGER__SIGNING_KEY": KEY,
}
DEVELOPMENT = {"MFW_ENVIRONMENT": "development"}
HMAC_SECRET = "q3ZBv8nTyX1kLw7RfD5sGh2JmC9pKe4A"


def problems(environ, **more):
    with pytest.raises(SettingsError) as caught:
        Settings.load(environ, **more)
    assert caught.value.kind is Kind.INVALID_SETTINGS
    return {problem.variable: problem for problem in caught.value.problems}


def details(environ):
    return {name: problem.detail for name, problem in problems(environ).items()}


def database(url):
    return GOOD | {"MFW_DATABASE__URL": url}


def jwt(**values):
    given = {"ENABLED": "true", "ISSUER": "https://idp.example.com", "AUDIENCE": "mfw", **values}
    return GOOD | {f"MFW_AUTH__JWT__{name}": value for name, value in given.items()}


class TestReading:
    def test_the_least_that_production_needs(self):
        settings = Settings.load(GOOD)
        assert settings.environment is Environment.PRODUCTION
        assert settings.database.url is not None
        assert settings.database.url.get_secret_value() == URL
        assert settings.policies.directory == Path("/policies")
        assert not settings.embedded_database

    def test_nested_values_of_every_type(self):
        settings = Settings.load(
            GOOD
            | {
                "MFW_HTTP__PORT": "8443",
                "MFW_METRICS__ENABLED": "false",
                "MFW_HTTP__REQUEST_TIMEOUT_SECONDS": "2.5",
                "MFW_AUTH__API_KEYS__REFRESH_SECONDS": "1",
                "MFW_LOGGING__LEVEL": "debug",
                "MFW_HTTP__CORS_ORIGINS": "https://a.example.com, https://b.example.com:8443",
                "MFW_HTTP__TRUSTED_PROXIES": '["10.0.0.0/8", "::1"]',
            }
        )
        assert settings.http.port == 8443
        assert settings.metrics.enabled is False
        assert settings.http.request_timeout_seconds == 2.5
        assert settings.auth.api_keys.refresh_seconds == 1
        assert settings.logging.level == "debug"
        assert settings.http.cors_origins == ("https://a.example.com", "https://b.example.com:8443")
        assert settings.http.trusted_proxies == ("10.0.0.0/8", "::1")

    def test_the_process_environment_is_the_default(self, monkeypatch):
        for name in [name for name in os.environ if name.startswith("MFW_")]:
            monkeypatch.delenv(name)
        for name, value in (GOOD | {"MFW_LIMITS__BURST": "7"}).items():
            monkeypatch.setenv(name, value)
        assert Settings.load().limits.burst == 7

    def test_the_constructor_reads_no_environment(self, monkeypatch):
        monkeypatch.setenv("MFW_HTTP__PORT", "1234")
        assert Settings(environment=Environment.TEST).http.port == 8080

    def test_settings_are_frozen(self):
        settings = Settings.load(GOOD)
        with pytest.raises(ValidationError):
            setattr(settings, "debug", True)  # noqa: B010 - mypy knows that it is frozen
        with pytest.raises(ValidationError):
            setattr(settings.http, "port", 1)  # noqa: B010

    def test_an_empty_variable_counts_as_unset(self):
        settings = Settings.load(GOOD | {"MFW_HTTP__PORT": "", "MFW_AUTH__JWT__ISSUER": "", "MFW_NOT_THERE": ""})
        assert settings.http.port == 8080
        assert settings.auth.jwt.issuer is None

    def test_what_the_tests_and_their_tools_read_is_no_setting(self):
        read = re.compile(r"""(?:environ\.get\(|environ\[|getenv\()["'](MFW_\w+)["']|\$\{(MFW_\w+)[:}]""")
        places = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "tests").rglob("build"), *(ROOT / "image").iterdir()]
        texts = [path.read_text() for path in (*places, ROOT / ".ci" / "run", ROOT / "Makefile") if path.is_file()]
        named = {one or other for text in texts for one, other in read.findall(text)}
        assert named >= {"MFW_REQUIRE_ALL", "MFW_TOOLS_CACHE"}
        assert named - TEST_VARIABLES - CLIENT_VARIABLES <= {variable.name for variable in variables()}
        Settings.load(GOOD | dict.fromkeys(TEST_VARIABLES, "1"))

    def test_other_peoples_variables_are_left_alone(self):
        Settings.load(GOOD | {"PATH": "/bin", "MFWX": "1", "MFW_URL": "http://x", "MFW_API_KEY": "mfw_x"})

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("MFW_SERVICE_HOST", "10.96.0.12"),
            ("MFW_SERVICE_PORT", "8080"),
            ("MFW_SERVICE_PORT_HTTP", "8080"),
            ("MFW_PORT", "tcp://10.96.0.12:8080"),
            ("MFW_PORT_8080_TCP", "tcp://10.96.0.12:8080"),
            ("MFW_PORT_8080_TCP_PROTO", "tcp"),
            ("MFW_PORT_8080_TCP_PORT", "8080"),
            ("MFW_PORT_8080_TCP_ADDR", "10.96.0.12"),
            ("MFW_POSTGRES_RW_SERVICE_HOST", "10.96.0.13"),
            ("MFW_POSTGRES_RW_PORT_5432_TCP_ADDR", "fd00::13"),
        ],
    )
    def test_what_kubernetes_injects_for_a_service_named_mfw_is_no_setting(self, name, value):
        Settings.load(GOOD | {name: value})

    def test_embedded_is_the_default_in_development_without_a_url(self):
        assert Settings.load(DEVELOPMENT).embedded_database
        assert not Settings.load(DEVELOPMENT | {"MFW_DATABASE__URL": "postgresql://a:b@localhost/c"}).embedded_database
        assert Settings.load({"MFW_ENVIRONMENT": "test", "MFW_DATABASE__EMBEDDED": "true"}).embedded_database


class TestUnknown:
    @pytest.mark.parametrize(
        ("name", "near"),
        [
            ("MFW_HTTP_PORT", "MFW_HTTP__PORT"),
            ("MFW_DATABASE_URL", "MFW_DATABASE__URL"),
            ("MFW_DATABASE__URL_FLIE", "MFW_DATABASE__URL_FILE"),
            ("MFW_AUTH__JWT__ISSUR", "MFW_AUTH__JWT__ISSUER"),
            ("mfw_http__port", "MFW_HTTP__PORT"),
            ("MFW_APIKEY", "MFW_API_KEY"),
        ],
    )
    def test_a_misspelt_variable_is_an_error_with_the_nearest_name(self, name, near):
        problem = problems(GOOD | {name: "8080"})[name]
        assert problem.detail == "there is no such setting"
        assert problem.fix == f"did you mean {near}?"

    def test_a_strange_variable_leads_to_the_reference(self):
        assert problems(GOOD | {"MFW_ZZZZZZZZ": "1"})["MFW_ZZZZZZZZ"].fix.startswith("`mfw config reference`")

    def test_a_section_is_no_variable(self):
        assert "MFW_HTTP" in problems(GOOD | {"MFW_HTTP": '{"port": 1}'})

    def test_the_value_of_an_unknown_variable_is_not_shown(self):
        error = problems(GOOD | {"MFW_DATABASE_PASSWORD": "hunter2hunter2"})
        assert "hunter2" not in str(error)

    def test_a_name_cannot_steer_a_terminal(self):
        (name,) = problems(GOOD | {"MFW_\x1b[31m": "1"})
        assert name == "MFW_\\x1b[31m"


class TestAllAtOnce:
    def test_every_fault_is_reported_with_variable_and_fix(self):
        found = problems(
            {
                "MFW_HTTP_PORT": "1",
                "MFW_HTTP__PORT": "eighty",
                "MFW_METRICS__PORT": "70000",
                "MFW_DEBUG": "true",
                "MFW_LOGGING__LEVEL": "loud",
                "MFW_METRICS__ENABLED": "perhaps",
                "MFW_TRACING__SAMPLE_RATIO": "nan",
                "MFW_LEDGER__MAX_BATCH": "9" * 5000,
                "MFW_HTTP__CORS_ORIGINS": "*",
                "MFW_AUTH__UNSAFE_DISABLED": "true",
                "MFW_POLICIES__SOURCE": "directory",
            }
        )
        assert found.keys() == {
            "MFW_HTTP_PORT",
            "MFW_HTTP__PORT",
            "MFW_METRICS__PORT",
            "MFW_DEBUG",
            "MFW_LOGGING__LEVEL",
            "MFW_METRICS__ENABLED",
            "MFW_TRACING__SAMPLE_RATIO",
            "MFW_LEDGER__MAX_BATCH",
            "MFW_HTTP__CORS_ORIGINS",
            "MFW_AUTH__UNSAFE_DISABLED",
            "MFW_DATABASE__URL",
            "MFW_POLICIES__DIRECTORY",
            "MFW_ERROR_TRACKING",
            "MFW_LEDGER__ORIGIN",
            "MFW_LEDGER__SIGNING_KEY",
        }
        assert all(problem.fix for problem in found.values())
        assert found["MFW_HTTP__PORT"].detail == "`eighty` is not a whole number"
        assert found["MFW_HTTP__PORT"].fix == "set it to whole number, 0 to 65535, such as `8080`"
        assert found["MFW_LOGGING__LEVEL"].detail == "`loud` is not one of its values"
        assert len(found["MFW_LEDGER__MAX_BATCH"].detail) < 200

    def test_the_error_says_how_many_and_which(self):
        with pytest.raises(SettingsError) as one:
            Settings.load(GOOD | {"MFW_DEBUG": "true"})
        assert one.value.detail == "1 setting is wrong: MFW_DEBUG (debug is refused in production)"
        with pytest.raises(SettingsError, match="5 settings are wrong"):
            Settings.load({"MFW_POLICIES__SOURCE": "directory"})

    def test_a_value_that_cannot_be_read_is_not_also_reported_as_missing(self):
        found = problems(GOOD | {"MFW_ENVIRONMENT": "prod"})
        assert found.keys() == {"MFW_ENVIRONMENT"}

    @pytest.mark.parametrize("value", ["[1", '["a"', "[}", "[" * 100_000])
    def test_a_list_that_is_no_json(self, value):
        assert "none" in problems(GOOD | {"MFW_HTTP__CORS_ORIGINS": value})["MFW_HTTP__CORS_ORIGINS"].detail

    @pytest.mark.parametrize("value", ["[1]", "[[]]"])
    def test_a_list_of_something_else(self, value):
        assert problems(GOOD | {"MFW_HTTP__CORS_ORIGINS": value}).keys() == {"MFW_HTTP__CORS_ORIGINS"}

    def test_each_variable_is_reported_once_by_shape(self):
        with pytest.raises(SettingsError) as caught:
            Settings.load(GOOD | {"MFW_HTTP__CORS_ORIGINS": "[1, 2, 3]"})
        assert len(caught.value.problems) == 1

    def test_rules_of_other_sections_can_be_left_out_but_not_unreadable_values(self):
        alone = {"MFW_DATABASE__URL": URL}
        assert Settings.load(alone, rules_for={"database"}).policies.directory is None
        assert problems({"MFW_HTTP__PORT": "x"}, rules_for={"database"}).keys() == {
            "MFW_HTTP__PORT",
            "MFW_DATABASE__URL",
        }

    @given(
        st.dictionaries(
            st.sampled_from([variable.name for variable in variables()]),
            st.text(st.characters(exclude_characters="\0"), min_size=1),
            max_size=6,
        )
    )
    def test_whatever_is_set_every_fault_has_a_name_and_a_fix(self, environ):
        settings, findings = Settings.examine(environ)
        for finding in findings:
            problem = finding.problem
            assert problem.variable.startswith("MFW_")
            assert problem.detail
            assert problem.fix
            str(problem).encode()
        if not findings:
            assert Settings.load(environ) == settings


class TestSecrets:
    def test_no_secret_is_ever_shown(self):
        secret = "S3cretS3cretS3cret"
        environ = jwt(ALGORITHMS="HS256", SECRET=secret) | {
            "MFW_DATABASE__URL": f"mysql://u:{secret}@h/d",
            "MFW_DATABASE__POOL_SIZE": "x",
        }
        settings, findings = Settings.examine(environ)
        assert len(findings) >= 3
        shown = f"{settings!r} {settings} {findings} {settings.model_dump()} {settings.model_dump_json()}"
        assert secret not in shown
        with pytest.raises(SettingsError) as caught:
            Settings.load(environ)
        assert secret not in f"{caught.value} {caught.value!r} {caught.value.problems}"

    def test_public_keys_that_are_no_keys_are_not_shown(self):
        found = problems(jwt(PUBLIC_KEYS='{"a": 12345678}'))
        assert "12345678" not in str(found)
        assert "MFW_AUTH__JWT__PUBLIC_KEYS" in found

    def test_a_secret_from_a_file(self, tmp_path):
        file = tmp_path / "url"
        file.write_text(f"{URL}\n")
        without = {name: value for name, value in GOOD.items() if name != "MFW_DATABASE__URL"}
        settings = Settings.load(without | {"MFW_DATABASE__URL_FILE": str(file)})
        assert settings.database.url is not None
        assert settings.database.url.get_secret_value() == URL

    def test_both_are_refused(self, tmp_path):
        file = tmp_path / "url"
        file.write_text(URL)
        found = problems(GOOD | {"MFW_DATABASE__URL_FILE": str(file)})
        assert found["MFW_DATABASE__URL_FILE"].detail == "stands beside MFW_DATABASE__URL"

    @pytest.mark.parametrize(
        ("content", "detail"),
        [
            (None, "cannot be read: no such file or directory"),
            (b"", "is empty"),
            (b"\n", "is empty"),
            (b"\xff\xfe", "cannot be read: not a file of UTF-8 text"),
            (b"x" * (SECRET_FILE_BYTES_MAX + 1), f"is longer than {SECRET_FILE_BYTES_MAX} bytes"),
        ],
    )
    def test_a_file_that_is_no_secret(self, tmp_path, content, detail):
        file = tmp_path / "url"
        if content is not None:
            file.write_bytes(content)
        found = problems({"MFW_DATABASE__URL_FILE": str(file), "MFW_POLICIES__DIRECTORY": "/p"})
        assert found["MFW_DATABASE__URL_FILE"].detail == f"`{str(file)[:80]}` {detail}"

    def test_a_directory_is_no_secret(self, tmp_path):
        assert "directory" in problems({"MFW_DATABASE__URL_FILE": str(tmp_path)})["MFW_DATABASE__URL_FILE"].detail

    def test_only_secrets_come_from_files(self):
        assert "MFW_HTTP__PORT_FILE" in problems(GOOD | {"MFW_HTTP__PORT_FILE": "/x"})


class TestLimits:
    @pytest.mark.parametrize(
        "values",
        [
            {"REPLICAS": "1"},
            {"REPLICAS": "6", "REDIS_URL": f"rediss://mfw:{PASSWORD}@redis:6379/0"},
            {"REDIS_URL": f"rediss://:{PASSWORD}@redis:6379/0?ssl_cert_reqs=required&ssl_check_hostname=True"},
            {"REDIS_URL": f"rediss://:{PASSWORD}@localhost:6379/0?ssl_cert_reqs=none"},
            {"REPLICAS": "6", "REDIS_URL": f"redis://:{PASSWORD}@localhost:6379"},
            {"REDIS_URL": "unix:///run/redis.sock"},
            {"ROLES": "agent:decide=1000/2000, admin:read=60/10"},
        ],
    )
    def test_what_production_accepts(self, values):
        settings = Settings.load(GOOD | {f"MFW_LIMITS__{name}": value for name, value in values.items()})
        assert len(settings.limits.role_limits) == 2 * ("ROLES" in values)

    @pytest.mark.parametrize(
        ("values", "variable", "detail"),
        [
            ({"REPLICAS": "2"}, "REDIS_URL", "each of 2 replicas has buckets of its own"),
            ({"REDIS_URL": "http://redis"}, "REDIS_URL", "is no Redis URL"),
            ({"REDIS_URL": "rediss://redis:port"}, "REDIS_URL", "is no Redis URL"),
            ({"REDIS_URL": f"redis://:{PASSWORD}@redis:6379"}, "REDIS_URL", "plain text"),
            ({"REDIS_URL": "rediss://redis:6379"}, "REDIS_URL", "has no password"),
            ({"REDIS_URL": "rediss://:changeme@redis:6379"}, "REDIS_URL", "the password"),
            ({"ROLES": "boss:decide=1/1"}, "ROLES", "`boss` is no role"),
            ({"ROLES": "admin:decide=fast"}, "ROLES", "is not `ROLE:CLASS=PER_MINUTE/BURST`"),
        ],
    )
    def test_what_production_refuses(self, values, variable, detail):
        found = problems(GOOD | {f"MFW_LIMITS__{name}": value for name, value in values.items()})
        assert found.keys() == {f"MFW_LIMITS__{variable}"}
        assert detail in found[f"MFW_LIMITS__{variable}"].detail

    def test_a_laptop_may_have_several_replicas_without_redis(self):
        Settings.load(GOOD | {"MFW_ENVIRONMENT": "development", "MFW_LIMITS__REPLICAS": "3"})


class TestAuthzen:
    @pytest.mark.parametrize(
        "url", ["http://pdp.example.com", "pdp.example.com", "https://", "https://pdp.example.com?x=1", "https://a/#b"]
    )
    def test_what_is_no_identifier_is_refused(self, url):
        assert problems(GOOD | {"MFW_AUTHZEN__IDENTIFIER": url}).keys() == {"MFW_AUTHZEN__IDENTIFIER"}

    def test_an_https_url_is_taken(self):
        url = "https://pdp.example.com/tenant"
        assert Settings.load(GOOD | {"MFW_AUTHZEN__IDENTIFIER": url}).authzen.identifier == url


class TestExtAuthz:
    @pytest.mark.parametrize("header", ["X Own", "Host", "Cookie", "X-Request-Id", "X-API-Key"])
    def test_what_is_no_header_for_a_credential_is_refused(self, header):
        found = problems(GOOD | {"MFW_EXT_AUTHZ__CREDENTIAL_HEADER": header})
        assert found.keys() == {"MFW_EXT_AUTHZ__CREDENTIAL_HEADER"}

    @pytest.mark.parametrize("header", ["Authorization", "X-Forwarded-Client-Cert"])
    def test_who_says_so_may_use_that_of_others(self, header):
        settings = Settings.load(GOOD | {"MFW_EXT_AUTHZ__CREDENTIAL_HEADER": header})
        assert settings.ext_authz.credential_header == header

    @pytest.mark.parametrize("other", ["MFW_HTTP__PORT", "MFW_METRICS__PORT"])
    def test_grpc_has_a_port_of_its_own(self, other):
        found = problems(GOOD | {other: "9191", "MFW_EXT_AUTHZ__GRPC_PORT": "9191"})
        assert found.keys() == {"MFW_EXT_AUTHZ__GRPC_PORT"}

    def test_grpc_is_off_unless_it_is_asked_for(self):
        assert Settings.load(GOOD).ext_authz.grpc_port is None


class TestMaskKey:
    @pytest.mark.parametrize("key", ["short", "x" * 40, "changeme" * 5])
    def test_what_could_be_guessed_is_refused(self, key):
        assert problems(GOOD | {"MFW_LEDGER__MASK_KEY": key}).keys() == {"MFW_LEDGER__MASK_KEY"}

    def test_a_random_one_is_taken_and_never_shown(self):
        key = "9f2c64b18e7a0d35c1f84b7e62a90d53"
        settings = Settings.load(GOOD | {"MFW_LEDGER__MASK_KEY": key})
        assert key not in repr(settings)


class TestDatabase:
    @pytest.mark.parametrize(
        "url",
        [
            f"postgresql://firewall:{PASSWORD}@db/firewall?sslmode=require",
            f"postgres://firewall:{PASSWORD}@db:5433/firewall?sslmode=verify-ca",
            f"postgresql+asyncpg://firewall:{PASSWORD}@db/firewall?sslmode=verify-full",
            f"postgresql://firewall:{PASSWORD}@localhost/firewall",
            f"postgresql://firewall:{PASSWORD}@127.0.0.1:5432/firewall",
            f"postgresql://firewall:{PASSWORD}@[::1]:5432/firewall",
            f"postgresql:///firewall?host=db&user=firewall&password={PASSWORD}&sslmode=require",
            "postgresql:///firewall?host=/run/postgresql",
            "postgresql://firewall@%2Frun%2Fpostgresql/firewall",
            "postgresql://firewall@db/firewall?sslmode=verify-full&sslcert=/tls/tls.crt&sslkey=/tls/tls.key",
            "postgresql://firewall:Zk%409vQ%2Fw2Lp8%3AxTs4R@db/firewall?sslmode=verify-full",
        ],
    )
    def test_what_production_accepts(self, url):
        Settings.load(database(url))

    @pytest.mark.parametrize(
        ("url", "detail"),
        [
            ("mysql://a:b@c/d", "is no PostgreSQL URL"),
            ("host=db user=x", "is no PostgreSQL URL"),
            (f"postgresql://u:{PASSWORD}@db:port/x", "is no PostgreSQL URL"),
            (f"postgresql://u:{PASSWORD}@db:0/x", "is no PostgreSQL URL"),
            (f"postgresql://u:{PASSWORD}@[::1/x", "is no PostgreSQL URL"),
            ("postgresql:///firewall", "names no host"),
            (f"postgresql://u:{PASSWORD}@a,,b/firewall", "names no host"),
            ("postgresql://firewall@db/x?sslmode=require", "has no password"),
            ("postgresql://u:short@localhost/x", "the password is shorter than 16 characters"),
            ("postgresql://u:aaaaaaaaaaaaaaaaaaaa@localhost/x", "the password has fewer than 8 different characters"),
            ("postgresql://u:rT7pw2Kx9rT7pw2Kx9@localhost/x", "the password repeats a shorter piece"),
            (
                "postgresql://u:changeme-postgres-1234@localhost/x",
                "the password is made of common words or characters in order",
            ),
            (
                "postgresql://u:P%40ssw0rdP%40ssw0rd1!@localhost/x",
                "the password is made of common words or characters in order",
            ),
            (
                "postgresql://u:abcdefghijklmnopqrstuvwxyz@localhost/x",
                "the password is made of common words or characters in order",
            ),
            (
                "postgresql://firewall_owner:firewall_owner@localhost/x",
                "the password is little more than the user name",
            ),
            (
                "postgresql://Mutations_Rw:mutations_rw2024@localhost/x",
                "the password is little more than the user name",
            ),
            (f"postgresql://u:{PASSWORD}@db/x", "the connection to another machine may be in plain text"),
            (
                f"postgresql://u:{PASSWORD}@db/x?sslmode=disable",
                "the connection to another machine may be in plain text",
            ),
            (
                f"postgresql://u:{PASSWORD}@db/x?sslmode=prefer",
                "the connection to another machine may be in plain text",
            ),
            (f"postgresql://u:{PASSWORD}@a:5432,b:5432/x?sslmode=verify-full", "names several hosts"),
        ],
    )
    def test_what_production_refuses(self, url, detail):
        assert details(database(url)) == {"MFW_DATABASE__URL": detail}

    def test_two_faults_of_one_url_are_both_reported(self):
        with pytest.raises(SettingsError) as caught:
            Settings.load(database("postgresql://u:short@db/x"))
        assert len(caught.value.problems) == 2

    def test_development_accepts_a_weak_password_but_no_other_database(self):
        Settings.load(DEVELOPMENT | {"MFW_DATABASE__URL": "postgresql://u:u@db/x"})
        assert "MFW_DATABASE__URL" in problems(DEVELOPMENT | {"MFW_DATABASE__URL": "sqlite:///x"})

    def test_no_database_at_all(self):
        assert "mfw dev" in problems({"MFW_POLICIES__DIRECTORY": "/p"})["MFW_DATABASE__URL"].fix
        assert "EMBEDDED" in problems({"MFW_ENVIRONMENT": "test"})["MFW_DATABASE__URL"].fix

    def test_embedded_is_refused_in_production_and_beside_a_url(self):
        assert "refused in production" in details(GOOD | {"MFW_DATABASE__EMBEDDED": "true"})["MFW_DATABASE__EMBEDDED"]
        both = DEVELOPMENT | {"MFW_DATABASE__EMBEDDED": "true", "MFW_DATABASE__URL": "postgresql://u:u@db/x"}
        assert details(both) == {"MFW_DATABASE__EMBEDDED": "stands beside MFW_DATABASE__URL"}


class TestWeakness:
    @given(st.text(string.ascii_letters + string.digits, max_size=15))
    def test_short_is_weak(self, secret):
        assert weakness(secret) is not None

    @given(st.binary(min_size=24, max_size=48).filter(lambda raw: len(set(raw)) > 16))
    def test_a_random_secret_is_not(self, raw):
        assert weakness(raw.hex()) is None

    @pytest.mark.parametrize(
        "secret",
        [
            "passwordpassword",
            "Passw0rd!Passw0rd!",
            "0123456789abcdef",
            "qwertyuiopasdfghjkl",
            "changeme1234567890",
            "mutation-firewall-secret",
            "supersecretpassword!",
            "correcthorsebatterystaple",
            "your-256-bit-secret-key",
            "zyxwvutsrqponmlk",
            "this-is-a-very-long-secret",
        ],
    )
    def test_what_people_write(self, secret):
        assert weakness(secret) is not None


class TestAuth:
    def test_disabled_is_refused_in_production_only(self):
        assert details(GOOD | {"MFW_AUTH__UNSAFE_DISABLED": "1"}) == {
            "MFW_AUTH__UNSAFE_DISABLED": "is refused in production"
        }
        settings = Settings.load(DEVELOPMENT | {"MFW_AUTH__UNSAFE_DISABLED": "true"})
        assert [hint.variable for hint in advice(settings)] == ["MFW_AUTH__UNSAFE_DISABLED"]

    def test_reviews_of_anybody_are_refused_in_production_only(self):
        given = {"MFW_KUBERNETES__UNSAFE_UNAUTHENTICATED": "1"}
        assert details(GOOD | given) == {"MFW_KUBERNETES__UNSAFE_UNAUTHENTICATED": "is refused in production"}
        settings = Settings.load(DEVELOPMENT | given)
        assert [hint.variable for hint in advice(settings)] == list(given)

    def test_some_way_to_sign_in_is_needed(self):
        assert details(GOOD | {"MFW_AUTH__API_KEYS__ENABLED": "false"}) == {
            "MFW_AUTH__API_KEYS__ENABLED": "nobody could sign in"
        }

    @pytest.mark.parametrize(
        ("values", "variable", "detail"),
        [
            ({"PROXIES": ""}, "PROXIES", "nobody may send"),
            ({"ROLES": ""}, "ROLES", "no certificate may do anything"),
            ({"HEADER": ""}, "PROXIES", "no header is named"),
            ({"HEADER": "X Client"}, "HEADER", "is no header for it"),
            ({"HEADER": "X-Forwarded-For"}, "HEADER", "is no header for it"),
            ({"PROXIES": "10.0.0.1/8"}, "PROXIES", "neither an address nor a network"),
            ({"PROXIES": "10.0.0.0/8,::/0"}, "PROXIES", "`::/0` is everybody"),
            ({"ROLES": "boss=*"}, "ROLES", "`boss=*` is no rule"),
            ({"ROLES": "agent="}, "ROLES", "`agent=` is no rule"),
        ],
    )
    def test_certificates_are_all_or_nothing(self, values, variable, detail):
        given = {"HEADER": "X-Client", "PROXIES": "10.0.0.0/8", "ROLES": "agent=spiffe://example.org/*"} | values
        environ = GOOD | {f"MFW_AUTH__MTLS__{name}": value for name, value in given.items()}
        assert detail in details(environ)[f"MFW_AUTH__MTLS__{variable}"]

    def test_certificates_alone_are_a_way_to_sign_in(self):
        given = {"HEADER": "X-Client", "PROXIES": "10.0.0.0/8", "ROLES": "agent=spiffe://example.org/*"}
        environ = GOOD | {f"MFW_AUTH__MTLS__{name}": value for name, value in given.items()}
        settings = Settings.load(environ | {"MFW_AUTH__API_KEYS__ENABLED": "false"})
        assert settings.auth.mtls.proxies == ("10.0.0.0/8",)
        roles = {"MFW_AUTH__MTLS__ROLES": '["agent=spiffe://example.org/*", "operator=CN=ops,*"]'}
        assert Settings.load(environ | roles).auth.mtls.roles[1] == "operator=CN=ops,*"
        # A laptop may believe everybody.
        Settings.load(environ | DEVELOPMENT | {"MFW_AUTH__MTLS__PROXIES": "0.0.0.0/0"})

    def test_a_bootstrap_key_is_one_that_a_machine_drew(self):
        name = "MFW_AUTH__API_KEYS__BOOTSTRAP"
        random = GOOD | {name: generate(bytes(range(7, 135, 4)))}
        loaded = Settings.load(random).auth.api_keys.bootstrap
        assert loaded is not None
        assert "mfw_" not in repr(loaded)
        assert "no api key" in details(GOOD | {name: random[name][:-1] + "0"})[name]
        assert "no api key" in details(DEVELOPMENT | {name: "mfw_changeme"})[name]
        # Its checksum fits, and everybody can work it out.
        assert "different characters" in details(GOOD | {name: generate(bytes(32))})[name]
        assert Settings.load(DEVELOPMENT | {name: generate(bytes(32))}).auth.api_keys.bootstrap is not None
        off = jwt(SECRET=HMAC_SECRET, ALGORITHMS="HS256") | random | {"MFW_AUTH__API_KEYS__ENABLED": "false"}
        assert "they are off" in details(off)[name]

    def test_tokens_need_issuer_audience_and_a_key(self):
        assert problems(GOOD | {"MFW_AUTH__JWT__ENABLED": "true"}).keys() == {
            "MFW_AUTH__JWT__ISSUER",
            "MFW_AUTH__JWT__AUDIENCE",
        }

    @pytest.mark.parametrize(
        ("values", "variable", "detail"),
        [
            ({}, "ISSUER", None),
            ({"JWKS_URL": "https://keys.example/jwks"}, "JWKS_URL", None),
            ({"JWKS_URL": "http://localhost:9/jwks"}, "JWKS_URL", None),
            ({"JWKS_URL": "http://keys.example/jwks"}, "JWKS_URL", "without TLS"),
            ({"JWKS_URL": "keys.example"}, "JWKS_URL", "is no URL"),
            ({"ISSUER": "acme"}, "ISSUER", "is no URL that keys could be fetched from"),
            ({"ISSUER": "http://id.example"}, "ISSUER", "without TLS"),
            ({"ALGORITHMS": "PS256"}, "ISSUER", None),
        ],
    )
    def test_keys_can_be_fetched(self, values, variable, detail):
        environ = {name: value for name, value in jwt(**values).items() if not name.endswith("PUBLIC_KEYS")}
        if detail is None:
            assert Settings.load(environ).auth.jwt.public_keys == {}
            return
        found = details(environ)
        assert found.keys() == {f"MFW_AUTH__JWT__{variable}"}
        assert detail in found[f"MFW_AUTH__JWT__{variable}"]

    def test_a_previous_secret_has_an_end_and_is_another(self):
        other = HMAC_SECRET[::-1]
        good = {"ALGORITHMS": "HS256", "SECRET": HMAC_SECRET, "PREVIOUS_SECRET": other}
        settings = Settings.load(jwt(**good, PREVIOUS_SECRET_UNTIL="2026-12-01T00:00:00Z"))
        assert settings.auth.jwt.previous_secret_until == datetime(2026, 12, 1, tzinfo=UTC)
        assert problems(jwt(**good)).keys() == {"MFW_AUTH__JWT__PREVIOUS_SECRET_UNTIL"}
        for until in ("tomorrow", "2026-12-01T00:00:00"):
            assert problems(jwt(**good, PREVIOUS_SECRET_UNTIL=until)).keys() == {"MFW_AUTH__JWT__PREVIOUS_SECRET_UNTIL"}
        weak = good | {"PREVIOUS_SECRET": "short", "PREVIOUS_SECRET_UNTIL": "2026-12-01T00:00:00Z"}
        assert details(jwt(**weak)) == {"MFW_AUTH__JWT__PREVIOUS_SECRET": "is shorter than 32 bytes"}
        same = good | {"PREVIOUS_SECRET": HMAC_SECRET, "PREVIOUS_SECRET_UNTIL": "2026-12-01T00:00:00Z"}
        assert details(jwt(**same)) == {"MFW_AUTH__JWT__PREVIOUS_SECRET": "is the secret itself"}

    @pytest.mark.parametrize("rule", ["admin", "admin=groups", "boss=groups=x"])
    def test_a_rule_for_roles_that_cannot_be_read(self, rule):
        assert details(jwt(ROLE_RULES=rule)) == {"MFW_AUTH__JWT__ROLE_RULES": f"`{rule}` is no rule"}

    def test_hmac(self):
        settings = Settings.load(jwt(ALGORITHMS="HS256", SECRET=HMAC_SECRET))
        assert settings.auth.jwt.secret == SecretStr(HMAC_SECRET)

    @pytest.mark.parametrize(
        ("values", "variable", "detail"),
        [
            ({"ALGORITHMS": "HS256"}, "SECRET", "the HMAC algorithms need it"),
            ({"ALGORITHMS": "HS256", "SECRET": HMAC_SECRET[:31]}, "SECRET", "is shorter than 32 bytes"),
            ({"ALGORITHMS": "HS256,HS512", "SECRET": HMAC_SECRET}, "SECRET", "is shorter than 64 bytes"),
            ({"ALGORITHMS": "HS256", "SECRET": "a" * 40}, "SECRET", "has fewer than 8 different characters"),
            (
                {"ALGORITHMS": "HS256,RS256", "SECRET": HMAC_SECRET},
                "ALGORITHMS",
                "mixes HMAC with public-key algorithms",
            ),
            ({"ALGORITHMS": "[]", "SECRET": HMAC_SECRET}, "ALGORITHMS", "is empty"),
            ({"PUBLIC_KEYS": "not a key"}, "PUBLIC_KEYS", "is no PEM public key"),
            ({"PUBLIC_KEYS": '{"one": "not a key"}'}, "PUBLIC_KEYS", "key `one` is no PEM public key"),
            ({"PUBLIC_KEYS": "{"}, "PUBLIC_KEYS", "the value starts like a JSON object but is none"),
            ({"PUBLIC_KEYS": "-----BEGIN PRIVATE KEY-----"}, "PUBLIC_KEYS", "holds a private key"),
        ],
    )
    def test_what_is_refused(self, values, variable, detail):
        assert details(jwt(**values)) == {f"MFW_AUTH__JWT__{variable}": detail}

    def test_no_signature_is_no_algorithm(self):
        assert details(jwt(ALGORITHMS="none"))["MFW_AUTH__JWT__ALGORITHMS"] == "`none` is not one of its values"

    def test_public_keys(self, public_keys):
        good = jwt(ALGORITHMS="RS256,ES256", PUBLIC_KEYS=public_keys(rsa=2048, ec=True))
        assert set(Settings.load(good).auth.jwt.public_keys) == {"rsa", "ec"}

    def test_one_pem_alone(self, public_keys):
        settings = Settings.load(jwt(PUBLIC_KEYS=public_keys.rsa(2048)))
        assert list(settings.auth.jwt.public_keys) == [""]

    def test_keys_from_a_file(self, public_keys, tmp_path):
        (tmp_path / "key.pem").write_text(public_keys.rsa(2048))
        settings = Settings.load(jwt(PUBLIC_KEYS_FILE=str(tmp_path / "key.pem")))
        assert settings.auth.jwt.public_keys[""].startswith("-----BEGIN PUBLIC KEY-----")

    def test_a_short_rsa_key(self, public_keys):
        short = jwt(PUBLIC_KEYS=public_keys.rsa(1024))
        assert details(short) == {"MFW_AUTH__JWT__PUBLIC_KEYS": "has 1024 bits"}
        Settings.load(short | DEVELOPMENT)

    def test_a_key_of_another_kind(self, public_keys):
        assert details(jwt(PUBLIC_KEYS=public_keys.ed25519())) == {
            "MFW_AUTH__JWT__PUBLIC_KEYS": "is neither RSA nor ECDSA"
        }

    def test_an_algorithm_without_a_key(self, public_keys):
        assert details(jwt(ALGORITHMS="RS256,ES256", PUBLIC_KEYS=public_keys.rsa(2048))) == {
            "MFW_AUTH__JWT__ALGORITHMS": "no key is for ES256"
        }


class TestTheRest:
    @pytest.mark.parametrize("origin", ["*", "https://*.example.com"])
    def test_a_wildcard_origin(self, origin):
        environ = {"MFW_HTTP__CORS_ORIGINS": origin}
        assert details(GOOD | environ) == {"MFW_HTTP__CORS_ORIGINS": f"`{origin}` is refused in production"}

    def test_a_wildcard_origin_in_development(self):
        assert Settings.load(DEVELOPMENT | {"MFW_HTTP__CORS_ORIGINS": "*"}).http.cors_origins == ("*",)
        half = DEVELOPMENT | {"MFW_HTTP__CORS_ORIGINS": "https://*.example.com"}
        assert "is no origin" in details(half)["MFW_HTTP__CORS_ORIGINS"]

    @pytest.mark.parametrize(
        "origin", ["example.com", "null", "https://a/path", "ftp://a", "https://u@a", "https://a?b", "https://a:b"]
    )
    def test_what_is_no_origin(self, origin):
        assert details(GOOD | {"MFW_HTTP__CORS_ORIGINS": origin}) == {
            "MFW_HTTP__CORS_ORIGINS": f"`{origin}` is no origin"
        }

    def test_an_origin_in_plain_text(self):
        environ = {"MFW_HTTP__CORS_ORIGINS": "http://localhost:3000"}
        assert "is not https" in details(GOOD | environ)["MFW_HTTP__CORS_ORIGINS"]
        Settings.load(DEVELOPMENT | environ)

    def test_trusted_proxies(self):
        environ = {"MFW_HTTP__TRUSTED_PROXIES": "*"}
        assert "refused" in details(GOOD | environ)["MFW_HTTP__TRUSTED_PROXIES"]
        Settings.load(DEVELOPMENT | environ)
        # Host bits set: most likely not the network that was meant.
        assert "neither" in details(GOOD | {"MFW_HTTP__TRUSTED_PROXIES": "10.0.0.1/8"})["MFW_HTTP__TRUSTED_PROXIES"]

    def test_one_port_for_two(self):
        assert "MFW_METRICS__PORT" in problems(GOOD | {"MFW_METRICS__PORT": "8080"})
        Settings.load(GOOD | {"MFW_METRICS__PORT": "8080", "MFW_METRICS__ENABLED": "false"})
        Settings.load(GOOD | {"MFW_METRICS__PORT": "0", "MFW_HTTP__PORT": "0"})

    @pytest.mark.parametrize("endpoint", ["collector:4318", "grpc://collector:4317", "http://", "http://[::1"])
    def test_a_tracing_endpoint_that_is_none(self, endpoint):
        assert problems(GOOD | {"MFW_TRACING__ENDPOINT": endpoint}).keys() == {"MFW_TRACING__ENDPOINT"}

    def test_traces_without_an_endpoint_track_nothing(self):
        assert problems(DEVELOPMENT | {"MFW_ERROR_TRACKING": "traces"}).keys() == {"MFW_ERROR_TRACKING"}
        environ = {name: value for name, value in GOOD.items() if name != "MFW_ERROR_TRACKING"}
        assert "nobody" in details(environ)["MFW_ERROR_TRACKING"]
        Settings.load(environ | {"MFW_TRACING__ENDPOINT": "http://collector:4318/v1/traces"})
        Settings.load(DEVELOPMENT)

    def test_a_tracing_endpoint(self):
        Settings.load(GOOD | {"MFW_TRACING__ENDPOINT": "http://collector:4318/v1/traces"})

    @pytest.mark.parametrize("host", ["a b", "\t"])
    def test_a_host_with_white_space(self, host):
        assert "white space" in details(GOOD | {"MFW_HTTP__HOST": host})["MFW_HTTP__HOST"]

    def test_encryption_without_identity_is_permitted_with_advice(self):
        settings = Settings.load(database(URL.replace("verify-full", "require")))
        assert [hint.variable for hint in advice(settings)] == ["MFW_DATABASE__URL", "MFW_LEDGER__GUARD_FILE"]
        assert [hint.variable for hint in advice(Settings.load(GOOD))] == ["MFW_LEDGER__GUARD_FILE"]
        assert advice(Settings.load(GOOD | {"MFW_LEDGER__GUARD_FILE": "/guard/checkpoint"})) == ()

    def test_the_state_directory(self, monkeypatch):
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        assert default_state_dir() == Path("/var/lib/mutation-firewall")
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        monkeypatch.setenv("XDG_STATE_HOME", "/state")
        assert default_state_dir() == Path("/state/mutation-firewall")
        monkeypatch.setenv("HOME", "/home/ann")
        for unusable in ("", "relative"):
            monkeypatch.setenv("XDG_STATE_HOME", unusable)
            assert default_state_dir() == Path("/home/ann/.local/state/mutation-firewall")

    def test_a_user_without_a_home(self, monkeypatch):
        def nobody(_cls):
            raise RuntimeError

        monkeypatch.setattr(os, "geteuid", lambda: 65532)
        monkeypatch.delenv("XDG_STATE_HOME", raising=False)
        monkeypatch.setattr(Path, "home", classmethod(nobody))
        assert default_state_dir() == Path("/var/lib/mutation-firewall")

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (None, "unset"),
            (SecretStr("x"), "********"),
            (False, "false"),
            (5.0, "5"),
            (("a", "b"), "a,b"),
            ({"": "pem"}, "one key"),
            ({"k1": "pem", "k2": "pem"}, "k1, k2"),
            (Environment.TEST, "test"),
            (Path("/x"), "/x"),
        ],
    )
    def test_values_as_they_are_shown(self, value, text):
        assert value_text(value) == text


class TestReference:
    def test_every_setting_says_what_it_means(self):
        for variable in variables():
            assert variable.meaning, variable.name
            assert variable.type, variable.name
            assert not variable.meaning.endswith("."), variable.name
            assert "None" not in variable.type, variable.name

    @pytest.mark.parametrize("text", ["nan", "inf", "-inf"])
    def test_a_number_that_is_none_is_refused_by_its_name(self, text):
        numbers = {variable.name for variable in variables() if variable.type.startswith("number")}
        assert len(numbers) > 20
        assert numbers <= problems(dict.fromkeys(numbers, text) | DEVELOPMENT).keys()

    def test_numbers_say_their_limits(self):
        said = {variable.name: variable.type for variable in variables()}
        assert said["MFW_HTTP__PORT"] == "whole number, 0 to 65535"
        assert said["MFW_GITHUB__APP_ID"] == "whole number, 1 or more"

    def test_names_are_unique_and_secrets_come_from_files(self):
        names = [variable.name for variable in variables()]
        assert len(names) == len(set(names))
        assert {variable.name for variable in variables() if variable.secret} == {
            "MFW_DATABASE__URL",
            "MFW_AUTHZEN__SIGNING_KEY",
            "MFW_LEDGER__MASK_KEY",
            "MFW_LEDGER__SIGNING_KEY",
            "MFW_LEDGER__PREVIOUS_SIGNING_KEY",
            "MFW_DATABASE__DIRECT_URL",
            "MFW_AUTH__API_KEYS__BOOTSTRAP",
            "MFW_AUTH__JWT__SECRET",
            "MFW_AUTH__JWT__PREVIOUS_SECRET",
            "MFW_LIMITS__REDIS_URL",
            "MFW_GITHUB__WEBHOOK_SECRET",
            "MFW_GITHUB__PREVIOUS_WEBHOOK_SECRET",
            "MFW_GITHUB__PRIVATE_KEY",
            "MFW_GITHUB__TOKEN",
            "MFW_KUBERNETES__CANARY__KEY",
        }


class TestMetadataOfAuthzen:
    def test_a_key_is_ed25519_in_pem(self):
        from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        good, other = (
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
            for key in (Ed25519PrivateKey.generate(), generate_private_key(SECP256R1()))
        )
        assert Settings.load(GOOD | {"MFW_AUTHZEN__SIGNING_KEY": good}).authzen.signing_key is not None
        for wrong, detail in ((other, "the key is not an Ed25519 key"), ("x", "the key is no PEM private key")):
            with pytest.raises(SettingsError) as caught:
                Settings.load(GOOD | {"MFW_AUTHZEN__SIGNING_KEY": wrong})
            assert [(one.variable, one.detail) for one in caught.value.problems] == [
                ("MFW_AUTHZEN__SIGNING_KEY", detail)
            ]


class TestPolicySource:
    def test_a_directory_is_followed_when_one_is_named_else_the_database(self):
        assert Settings.load(GOOD).policies.chosen_source is PolicySource.DIRECTORY
        alone = {name: value for name, value in GOOD.items() if name != "MFW_POLICIES__DIRECTORY"}
        assert Settings.load(alone).policies.chosen_source is PolicySource.DATABASE
        assert Settings.load(alone | {"MFW_POLICIES__SOURCE": "database"}).policies.directory is None

    def test_what_does_not_go_together(self):
        found = problems(GOOD | {"MFW_POLICIES__DIRECTORY": "", "MFW_POLICIES__SOURCE": "directory"})
        assert found.keys() == {"MFW_POLICIES__DIRECTORY"}
        assert "needs it" in found["MFW_POLICIES__DIRECTORY"].detail
        found = problems(GOOD | {"MFW_POLICIES__SOURCE": "database"})
        assert "not read" in found["MFW_POLICIES__DIRECTORY"].detail
        assert problems(GOOD | {"MFW_POLICIES__SOURCE": "git"}).keys() == {"MFW_POLICIES__SOURCE"}


def pem(private, **more):
    form = {"encoding": Encoding.PEM, "format": PrivateFormat.PKCS8, "encryption_algorithm": NoEncryption()} | more
    return private.private_bytes(**form).decode()


class TestLedgerKeys:
    def test_they_are_read_from_files_and_in_either_form(self, tmp_path):
        for text in (KEY, KEY + "\n", pem(Ed25519PrivateKey.generate())):
            file = tmp_path / "key"
            file.write_text(text)
            unset = {"MFW_LEDGER__SIGNING_KEY": "", "MFW_LEDGER__SIGNING_KEY_FILE": str(file)}
            settings = Settings.load(GOOD | unset | {"MFW_LEDGER__PREVIOUS_SIGNING_KEY": OTHER_KEY})
            assert settings.ledger.signing_key is not None
            assert settings.ledger.signing_key.get_secret_value() == text.rstrip("\n")

    def test_nothing_is_needed_outside_production(self):
        bare = {name: value for name, value in GOOD.items() if "LEDGER" not in name}
        assert details(bare) == {
            "MFW_LEDGER__SIGNING_KEY": "nobody could verify the ledger: it would not be signed",
            "MFW_LEDGER__ORIGIN": "a checkpoint says which log it is of",
        }
        Settings.load(bare | {"MFW_ENVIRONMENT": "test"})

    @pytest.mark.parametrize(
        ("changes", "variable", "detail"),
        [
            ({"ORIGIN": ""}, "ORIGIN", "a checkpoint says which log it is of"),
            ({"ORIGIN": "two words"}, "ORIGIN", "`two words` is no name of a log"),
            ({"ORIGIN": "a+b"}, "ORIGIN", "`a+b` is no name of a log"),
            ({"ORIGIN": "x" * 300}, "ORIGIN", f"`{'x' * 80}` is no name of a log"),
            ({"ORIGIN": "other"}, "SIGNING_KEY", f"the key signs under the name `{ORIGIN}`, and the origin is `other`"),
            (
                {"SIGNING_KEY": "secret-rubbish"},
                "SIGNING_KEY",
                "the key is neither the private key of a signed note nor a PEM private key",
            ),
            (
                {"SIGNING_KEY": KEY[:-8] + "AAAAAAA="},
                "SIGNING_KEY",
                "the key is neither the private key of a signed note nor a PEM private key",
            ),
            (
                {
                    "SIGNING_KEY": SignerKey.of(
                        ORIGIN, Ed25519PrivateKey.generate(), algorithm=Algorithm.COSIGNATURE
                    ).text
                },
                "SIGNING_KEY",
                "the key is that of a witness, and a log does not cosign",
            ),
            (
                {"SIGNING_KEY": pem(rsa.generate_private_key(65537, 2048))},
                "SIGNING_KEY",
                "the key is not an Ed25519 key",
            ),
            (
                {
                    "SIGNING_KEY": pem(
                        Ed25519PrivateKey.generate(), encryption_algorithm=BestAvailableEncryption(b"secret")
                    )
                },
                "SIGNING_KEY",
                "the key is encrypted, and no passphrase was given",
            ),
            ({"PREVIOUS_SIGNING_KEY": KEY}, "PREVIOUS_SIGNING_KEY", "is the signing key itself"),
            (
                {"PREVIOUS_SIGNING_KEY": "rubbish"},
                "PREVIOUS_SIGNING_KEY",
                "the key is neither the private key of a signed note nor a PEM private key",
            ),
            (
                {"SIGNING_KEY": "", "PREVIOUS_SIGNING_KEY": KEY},
                "PREVIOUS_SIGNING_KEY",
                "nothing is signed",
            ),
            ({"SIGNING_KEY": "", "GUARD_FILE": "/guard"}, "GUARD_FILE", "nothing is signed"),
            ({"CHECKPOINT_SECONDS": "0"}, "CHECKPOINT_SECONDS", "`0` should be greater than or equal to 0.1"),
        ],
    )
    def test_what_does_not_fit(self, changes, variable, detail):
        environ = GOOD | {"MFW_ENVIRONMENT": "test"} | {f"MFW_LEDGER__{name}": text for name, text in changes.items()}
        found = details(environ)
        assert found == {f"MFW_LEDGER__{variable}": detail}
        assert "secret" not in json.dumps(found)


class TestSigners:
    def test_one_key_alone(self, public_keys):
        policies = Settings.load(GOOD | {"MFW_POLICIES__SIGNERS": public_keys.ed25519()}).policies
        assert policies.signers == {"signer": public_keys.ed25519()}
        assert policies.signatures_required is None

    def test_several_by_name(self, public_keys, tmp_path):
        file = tmp_path / "security.pem"
        file.write_text(public_keys.ed25519())
        value = json.dumps({"sre": self.another(), "security": str(file)})
        settings = Settings.load(GOOD | {"MFW_POLICIES__SIGNERS": value, "MFW_POLICIES__SIGNATURES_REQUIRED": "1"})
        assert settings.policies.signers["security"] == public_keys.ed25519()
        assert settings.policies.signatures_required == 1
        assert value_text(settings.policies.signers) == "sre, security"

    def test_a_directory(self, public_keys, tmp_path):
        (tmp_path / "sre.pem").write_text(public_keys.ed25519())
        (tmp_path / "security.pem").write_text(self.another())
        (tmp_path / "sre.key").write_text("a private key is no business of ours")
        (tmp_path / ".hidden.pem").write_text("x")
        policies = Settings.load(GOOD | {"MFW_POLICIES__SIGNERS": str(tmp_path)}).policies
        assert policies.signers.keys() == {"sre", "security"}

    def test_from_a_mounted_file(self, public_keys, tmp_path):
        file = tmp_path / "signers"
        file.write_text(json.dumps({"sre": public_keys.ed25519()}))
        policies = Settings.load(GOOD | {"MFW_POLICIES__SIGNERS_FILE": str(file)}).policies
        assert policies.signers == {"sre": public_keys.ed25519()}

    def test_files_that_cannot_be_read_are_told_together(self, tmp_path):
        (tmp_path / "binary.pem").write_bytes(b"\xff")
        value = json.dumps({"a": "/none/a.pem", "b": "/none/b.pem", "c": str(tmp_path / "binary.pem")})
        detail = details(GOOD | {"MFW_POLICIES__SIGNERS": value})["MFW_POLICIES__SIGNERS"]
        assert "`/none/a.pem` (no such file or directory), `/none/b.pem`" in detail
        assert "not a file of utf-8 text" in detail

    def test_an_empty_directory(self, tmp_path):
        detail = details(GOOD | {"MFW_POLICIES__SIGNERS": str(tmp_path)})["MFW_POLICIES__SIGNERS"]
        assert "has no `NAME.pem` in it" in detail

    @pytest.mark.parametrize("value", ["{", '{"sre": 1}', '{"sre": ["x"]}'])
    def test_what_is_no_collection_of_keys(self, value):
        assert details(GOOD | {"MFW_POLICIES__SIGNERS": value}).keys() == {"MFW_POLICIES__SIGNERS"}

    @pytest.mark.parametrize(
        ("make", "detail"),
        [
            (lambda keys: keys.rsa(2048), "is not an Ed25519 key"),
            (lambda keys: keys.ec(), "is not an Ed25519 key"),
            (lambda _: "AAAAC3NzaC1lZDI1NTE5", "is no PEM public key"),
            (lambda _: "-----BEGIN PRIVATE KEY-----\nMC4CAQ\n-----END PRIVATE KEY-----", "is a private key"),
        ],
    )
    def test_other_keys_are_refused(self, public_keys, make, detail):
        value = json.dumps({"sre": public_keys.ed25519(), "security": make(public_keys)})
        found = problems(GOOD | {"MFW_POLICIES__SIGNERS": value})["MFW_POLICIES__SIGNERS"]
        assert found.detail == f"the key of `security` {detail}"
        assert "MC4CAQ" not in str(found)

    def test_everything_at_once(self, public_keys):
        value = json.dumps({"sre": public_keys.ed25519(), "bad name": self.another(), "security": "x"})
        with pytest.raises(SettingsError) as caught:
            Settings.load(GOOD | {"MFW_POLICIES__SIGNERS": value, "MFW_POLICIES__SIGNATURES_REQUIRED": "4"})
        assert [problem.detail for problem in caught.value.problems] == [
            "`bad name` is no name of a signer",
            "the key of `security` is no PEM public key",
            "`4` is more than there are signers (3)",
        ]

    def test_one_key_under_two_names(self, public_keys):
        value = json.dumps({"sre": public_keys.ed25519(), "security": public_keys.ed25519()})
        assert "`sre` and `security` have the same key" in details(GOOD | {"MFW_POLICIES__SIGNERS": value}).values()

    def test_too_many(self):
        value = json.dumps({f"s{number}": self.another() for number in range(33)})
        assert "names more than 32 signers" in details(GOOD | {"MFW_POLICIES__SIGNERS": value}).values()

    @pytest.mark.parametrize("required", ["1", "32"])
    def test_a_number_without_signers(self, required):
        # An empty variable counts as unset: whoever says the number as well is told when the keys get lost.
        given = {"MFW_POLICIES__SIGNATURES_REQUIRED": required, "MFW_POLICIES__SIGNERS": ""}
        assert details(GOOD | given) == {"MFW_POLICIES__SIGNATURES_REQUIRED": "nobody is named who could sign"}

    @pytest.mark.parametrize("required", ["-1", "33", "all", "1.5"])
    def test_a_number_that_is_none(self, required, public_keys):
        given = {"MFW_POLICIES__SIGNATURES_REQUIRED": required, "MFW_POLICIES__SIGNERS": public_keys.ed25519()}
        assert details(GOOD | given).keys() == {"MFW_POLICIES__SIGNATURES_REQUIRED"}

    def test_none_may_be_required(self, public_keys):
        given = {"MFW_POLICIES__SIGNATURES_REQUIRED": "0", "MFW_POLICIES__SIGNERS": public_keys.ed25519()}
        assert Settings.load(GOOD | given).policies.signatures_required == 0
        assert Settings.load(GOOD | {"MFW_POLICIES__SIGNATURES_REQUIRED": "0"}).policies.signers == {}

    @staticmethod
    def another():
        key = Ed25519PrivateKey.generate().public_key()
        return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


class TestWitnesses:
    VKEY = "witness.example.com/w1+5c19fb8e+BGCV6Us7HZCU3txoGxcmH+gYd+ofwCmdBz+xXhEWey5s"
    OTHER = "firewall.example.com/ledger+53462ec3+AXm1Vi6P5lT5QHixEuipi6eQH4U65pW+1+DjkQutBJZk"
    NAME = "MFW_LEDGER__WITNESSES"

    def test_none(self):
        ledger = Settings.load(GOOD | {self.NAME: ""}).ledger
        assert (ledger.witnesses, ledger.cosignatures) == ((), None)

    def test_a_key_and_an_address(self):
        given = {self.NAME: f"{self.VKEY} https://witness.example.com/", "MFW_LEDGER__COSIGNATURES": "1"}
        ledger = Settings.load(GOOD | given).ledger
        assert (ledger.witnesses, ledger.cosignatures) == ((f"{self.VKEY} https://witness.example.com/",), 1)

    @pytest.mark.parametrize(
        ("value", "detail"),
        [
            (VKEY, "`` is no address of the witness `witness.example.com/w1`"),
            (f"{OTHER} https://w", "`firewall.example.com/ledger` is a log's key, not a witness'"),
            (f"{VKEY} https://a,{VKEY} https://b", "`witness.example.com/w1` is named twice"),
            (",".join([f"{VKEY} https://a"] * 17), "more than 16 witnesses"),
        ],
    )
    def test_what_cannot_be(self, value, detail):
        assert details(GOOD | {self.NAME: value}) == {self.NAME: detail}

    def test_more_cosignatures_than_witnesses(self):
        given = {self.NAME: f"{self.VKEY} https://w", "MFW_LEDGER__COSIGNATURES": "2"}
        assert details(GOOD | given) == {"MFW_LEDGER__COSIGNATURES": "2 cosignatures of 1 witnesses"}

    def test_nothing_to_witness(self):
        unsigned = {name: value for name, value in GOOD.items() if not name.startswith("MFW_LEDGER__")}
        given = unsigned | {"MFW_ENVIRONMENT": "test", self.NAME: f"{self.VKEY} https://w"}
        assert details(given) == {self.NAME: "nothing is signed"}


class TestKubernetes:
    def test_what_is_known_of_a_cluster(self):
        said = {
            "MFW_KUBERNETES__AGENTS": "namespace=agents,extra=k=v*",
            "MFW_KUBERNETES__ENVIRONMENTS": "*-staging=staging,*=production",
            "MFW_KUBERNETES__API_SERVERS": "kube-*",
        }
        kubernetes = Settings.load(DEVELOPMENT | said).kubernetes
        assert [rule.glob.text for rule in kubernetes.agent_rules] == ["agents", "v*"]
        assert [rule.environment for rule in kubernetes.environment_rules] == ["staging", "production"]
        assert [glob.text for glob in kubernetes.api_server_globs] == ["kube-*"]

    @pytest.mark.parametrize(
        ("name", "text"), [("AGENTS", "agents"), ("ENVIRONMENTS", "staging"), ("API_SERVERS", "a**b")]
    )
    def test_what_is_no_rule(self, name, text):
        found = details(DEVELOPMENT | {f"MFW_KUBERNETES__{name}": text})
        assert found.keys() == {f"MFW_KUBERNETES__{name}"}
        assert f"`{text}`" in found[f"MFW_KUBERNETES__{name}"]

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("CANARY__KEY", "short"),
            ("CANARY__KEY", "x" * 40),
            ("CANARY__NAMESPACE", "A b"),
            ("CANARY__EVERY_SECONDS", "0"),
            ("ACCESS__URL", "http://10.0.0.1:6443"),
            ("ACCESS__URL", "https://10.0.0.1:port"),
        ],
    )
    def test_what_is_no_canary(self, name, text):
        assert details(DEVELOPMENT | {f"MFW_KUBERNETES__{name}": text}).keys() == {f"MFW_KUBERNETES__{name}"}

    def test_a_canary_has_a_key(self):
        key = "0f6b2c9d" + "4e8a71c35b9d20f7" * 3 + "a1"
        said = {"MFW_KUBERNETES__CANARY__KEY": key, "MFW_KUBERNETES__ACCESS__URL": "https://10.0.0.1:6443"}
        kubernetes = Settings.load(DEVELOPMENT | said).kubernetes
        assert kubernetes.canary.key is not None
        assert key not in repr(kubernetes)
        assert (kubernetes.canary.namespace, kubernetes.access.token_file.name) == ("default", "token")


class TestGithub:
    def test_nothing_is_said(self):
        github = Settings.load(DEVELOPMENT).github
        assert github.webhook_secret is None
        assert github.agent_globs == ()

    def test_a_token_or_an_app(self):
        given = {"MFW_GITHUB__WEBHOOK_SECRET": "x", "MFW_GITHUB__TOKEN": "t", "MFW_GITHUB__AGENTS": "octo-*"}
        github = Settings.load(DEVELOPMENT | given).github
        assert [glob.text for glob in github.agent_globs] == ["octo-*"]
        key = pem(rsa.generate_private_key(65537, 2048))
        app = {"MFW_GITHUB__WEBHOOK_SECRET": "x", "MFW_GITHUB__APP_ID": "1", "MFW_GITHUB__PRIVATE_KEY": key}
        assert Settings.load(DEVELOPMENT | app).github.app_id == 1

    @pytest.mark.parametrize(
        ("given", "name"),
        [
            ({"WEBHOOK_SECRET": "x"}, "APP_ID"),
            ({"WEBHOOK_SECRET": "x", "TOKEN": "t", "APP_ID": "1", "PRIVATE_KEY": "KEY"}, "APP_ID"),
            ({"TOKEN": "t", "APP_ID": "1", "PRIVATE_KEY": "KEY"}, "APP_ID"),
            ({"PRIVATE_KEY": "KEY"}, "APP_ID"),
            ({"APP_ID": "1"}, "PRIVATE_KEY"),
            ({"APP_ID": "1", "PRIVATE_KEY": "pem"}, "PRIVATE_KEY"),
            ({"PREVIOUS_WEBHOOK_SECRET": "x"}, "WEBHOOK_SECRET"),
            ({"API_URL": "ftp://github.example.com"}, "API_URL"),
            ({"API_URL": "https://a@github.example.com"}, "API_URL"),
            ({"API_URL": "https://github.example.com/api?x"}, "API_URL"),
            ({"AGENTS": "a**"}, "AGENTS"),
            ({"TIMEOUT_SECONDS": "10"}, "TIMEOUT_SECONDS"),
        ],
    )
    def test_what_does_not_go_together(self, given, name):
        key = pem(rsa.generate_private_key(65537, 2048))
        given = {f"MFW_GITHUB__{one}": key if text == "KEY" else text for one, text in given.items()}
        assert details(DEVELOPMENT | given).keys() == {f"MFW_GITHUB__{name}"}


class TestTls:
    NAMED: ClassVar = {"MFW_TLS__CERTIFICATE_FILE": "/run/tls/tls.crt", "MFW_TLS__KEY_FILE": "/run/tls/tls.key"}
    CLIENTS: ClassVar = {"MFW_TLS__CLIENT_CA_FILE": "/run/ca.crt", "MFW_AUTH__MTLS__ROLES": "agent=CN=kube-apiserver"}

    def test_off_without_a_certificate(self):
        tls = Settings.load(GOOD).tls
        assert (tls.enabled, tls.files) == (False, None)

    def test_what_is_named_is_listened_with(self):
        settings = Settings.load(GOOD | self.NAMED | self.CLIENTS | {"MFW_TLS__CLIENT_CERTIFICATES": "required"})
        files = settings.tls.files
        assert files is not None
        assert [str(path) for path in files.paths] == ["/run/tls/tls.crt", "/run/tls/tls.key", "/run/ca.crt"]
        assert files.required
        assert settings.tls.plain_http == "health"

    def test_a_certificate_is_a_way_to_sign_in(self):
        Settings.load(GOOD | self.NAMED | self.CLIENTS | {"MFW_AUTH__API_KEYS__ENABLED": "false"})

    @pytest.mark.parametrize(
        ("given", "variable"),
        [
            ({"MFW_TLS__CERTIFICATE_FILE": "c"}, "MFW_TLS__KEY_FILE"),
            ({"MFW_TLS__KEY_FILE": "k"}, "MFW_TLS__CERTIFICATE_FILE"),
            (CLIENTS, "MFW_TLS__CERTIFICATE_FILE"),
            (NAMED | {"MFW_TLS__CLIENT_CERTIFICATES": "required"}, "MFW_TLS__CLIENT_CA_FILE"),
            (NAMED | CLIENTS | {"MFW_AUTH__MTLS__ROLES": ""}, "MFW_AUTH__MTLS__ROLES"),
            (NAMED | CLIENTS | {"MFW_AUTH__MTLS__ROLES": "boss=*"}, "MFW_AUTH__MTLS__ROLES"),
            (NAMED | CLIENTS | {"MFW_AUTH__MTLS__PROXIES": "10.0.0.1"}, "MFW_AUTH__MTLS__PROXIES"),
            (NAMED | {"MFW_TLS__PORT": "8080"}, "MFW_TLS__PORT"),
            (NAMED | {"MFW_TLS__PORT": "9090"}, "MFW_TLS__PORT"),
            (NAMED | {"MFW_TLS__HOST": "a b"}, "MFW_TLS__HOST"),
        ],
    )
    def test_what_does_not_fit_together(self, given, variable):
        assert set(details(GOOD | given)) == {variable}

    def test_a_port_that_nothing_else_has(self):
        Settings.load(GOOD | self.NAMED | {"MFW_TLS__PORT": "8080", "MFW_TLS__PLAIN_HTTP": "none"})
        Settings.load(GOOD | self.NAMED | {"MFW_TLS__PORT": "9090", "MFW_METRICS__ENABLED": "false"})
        Settings.load(GOOD | self.NAMED | {"MFW_TLS__PORT": "0", "MFW_HTTP__PORT": "0"})
