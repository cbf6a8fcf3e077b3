"""One reading of a path and a host, or none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import FirewallError, Kind
from app.surfaces.ext_authz.targets import host_of, method_of, parameters_of, target_of


@pytest.mark.parametrize(
    ("sent", "path", "query"),
    [
        ("/", "/", None),
        ("/v1/orders/7", "/v1/orders/7", None),
        ("/v1/orders/", "/v1/orders/", None),
        ("/caf%C3%A9", "/café", None),
        ("/~a%20b%7E", "/~a b~", None),
        ("/100%25", "/100%", None),
        ("/a:b@c,d", "/a:b@c,d", None),
        ("/a?", "/a", ""),
        ("/a?b=c?d=/e", "/a", "b=c?d=/e"),
    ],
)
def test_a_plain_path_is_the_path(sent, path, query):
    target = target_of(sent)
    assert (target.path, target.query) == (path, query)
    assert "/" + "/".join(target.segments) == path


@pytest.mark.parametrize(
    "sent",
    [
        "",
        "*",
        "orders",
        "http://api.example.com/orders",
        "//orders",
        "/a//b",
        "/a/./b",
        "/a/../b",
        "/..",
        "/a/%2e%2e/b",
        "/a/%2E%2e/b",
        "/a/.%2e/b",
        "/a%2fb",
        "/a%2Fb",
        "/a%5cb",
        "/a\\b",
        "/a%252fb",
        "/a%25%32%66b",
        "/a%2525",
        "/%61dmin",
        "/%41",
        "/%30",
        "/a%2db",
        "/a%5fb",
        "/a;x=1/b",
        "/a;/b",
        "/a%3bx/b",
        "/a%3fx",
        "/a%23x",
        "/a#x",
        "/a%00",
        "/a\0",
        "/a%0d%0ax",
        "/a%7f",
        "/a b",
        "/a\tb",
        "/a%",
        "/a%2",
        "/a%zz",
        "/a%ff",
        "/a%c0%af",
        "/a%ed%a0%80",
        "/%EF%BC%8F",
        "/%EF%BC%8E%EF%BC%8E/b",
        "/%E2%80%AE",
        "/é",
        "/a?b=\0",
        "/a?b c",
        "/a?b#c",
        "/" + "a" * 9000,
        "/" + "a/" * 64,
    ],
)
def test_what_two_servers_read_differently_is_no_path(sent):
    with pytest.raises(FirewallError) as caught:
        target_of(sent)
    assert caught.value.kind is Kind.MALFORMED
    assert caught.value.fix


@given(st.text(alphabet="/.%2eEfF5cC;\\?#a0\0é~", max_size=24))
def test_what_is_taken_has_nothing_to_resolve(sent):
    try:
        target = target_of("/" + sent)
    except FirewallError:
        return
    assert "//" not in target.path
    assert not {".", ".."}.intersection(target.segments)
    assert not set("\\;#?\0").intersection(target.path)


@pytest.mark.parametrize(
    ("sent", "host"),
    [
        ("API.example.com", "api.example.com"),
        ("api.example.com:8443", "api.example.com"),
        ("10.0.0.1:80", "10.0.0.1"),
        ("[::1]:80", "[::1]"),
        ("my_service", "my_service"),
        ("a", "a"),
    ],
)
def test_a_host_is_a_name(sent, host):
    assert host_of(sent) == host


@pytest.mark.parametrize(
    "sent",
    [
        "",
        "a..b",
        "a.",
        ".a",
        "-a",
        "a-",
        "u@a",
        "a/b",
        "a b",
        "a,b",
        "a:b",
        "a:123456",
        "é",
        "a%2e",
        "[::1",
        "x" * 300,
        "a\r\nb",
    ],
)
def test_what_is_no_host(sent):
    with pytest.raises(FirewallError, match="host"):
        host_of(sent)


def test_methods():
    assert method_of("M-SEARCH") == "M-SEARCH"
    for sent in ("", "get", "GET ", "A" * 40, "1"):
        with pytest.raises(FirewallError, match="method"):
            method_of(sent)


def test_parameters():
    assert parameters_of("") == []
    assert parameters_of("a=1&b=%C3%A9+x&c&d=a=b") == [("a", "1"), ("b", "é x"), ("c", ""), ("d", "a=b")]
    for sent in ("a;b", "a=%", "a=%ff", "a=%00", "&".join(["a"] * 200)):
        with pytest.raises(FirewallError) as caught:
            parameters_of(sent)
        assert caught.value.kind is Kind.MALFORMED
