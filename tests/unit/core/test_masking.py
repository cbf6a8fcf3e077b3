"""Secrets are known by their names, by what stands beside them, and by the kind of document they are in."""

import pytest

from app.core.masking import MASK, about_secrets, hides, is_secret, masked

# fmt: off
SECRETS = [
    "password", "PASSWORD", "db_passwd", "passphrase", "clientSecret", "access-token", "apiKey", "api_key", "API-KEY", "api key",
    "privateKey", "private_key", "accessKeyId", "awsCredentials", "Authorization", "set-cookie", "connectionString", "dsn",
    "x" * 200 + "password",
]
# fmt: on


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_by_name(name):
    assert is_secret(name)


@pytest.mark.parametrize("name", ["name", "replicas", "pass", "key", "author", "cook", "keys", "x" * 200])
def test_no_secret(name):
    assert not is_secret(name)


def test_masks_go_by_name():
    assert masked(
        {
            "password": "x",
            "apiKey": {"a": [1, None, True]},
            "env": [{"name": "DB_PASSWORD", "value": "x"}, {"name": "LEVEL", "value": "info"}],
            "object": {"kind": "Secret", "data": {"a": "x"}, "type": "Opaque"},
            "plain": 1,
        }
    ) == {
        "password": MASK,
        "apiKey": {"a": [MASK, None, True]},
        "env": [{"name": "DB_PASSWORD", "value": MASK}, {"name": "LEVEL", "value": "info"}],
        "object": {"kind": "Secret", "data": {"a": MASK}, "type": "Opaque"},
        "plain": 1,
    }


@pytest.mark.parametrize(
    ("container", "member", "hidden"),
    [
        ({"name": "DB_PASSWORD", "value": "x"}, "value", True),
        ({"key": "token", "value": "x"}, "value", True),
        ({"op": "add", "path": "/spec/password", "value": "x"}, "value", True),
        ({"name": "LEVEL", "value": "x"}, "value", False),
        ({"name": 7, "value": "x"}, "value", False),
        ({"kind": "Secret", "data": {}}, "data", True),
        ({"kind": "Secret", "stringData": {}}, "stringData", True),
        ({"kind": "ConfigMap", "data": {}}, "data", False),
        ({"password": "x"}, "password", True),
        (["password"], 0, False),
        (["password"], "password", False),
    ],
)
def test_what_stands_beside_it(container, member, hidden):
    assert hides(container, member) is hidden


@pytest.mark.parametrize(
    ("inputs", "about"),
    [
        ({"resource": {"type": "core/Secret"}, "change": {}}, True),
        ({"resource": {"type": "secrets"}, "change": {}}, True),
        ({"resource": {"type": "x"}, "change": {"after": {"kind": "Secret"}}}, True),
        ({"resource": {"type": "x"}, "change": {"before": {"kind": "Secret"}, "after": None}}, True),
        ({"resource": {"type": "core/ConfigMap"}, "change": {"after": {"kind": "ConfigMap"}}}, False),
        ({"resource": {"type": 1}, "change": []}, False),
        ({}, False),
    ],
)
def test_whether_a_change_is_one_of_a_secret(inputs, about):
    assert about_secrets(inputs) is about
