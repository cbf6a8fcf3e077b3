"""`mfw mcp`: what cannot be started says so before anything runs."""

import pytest
from typer.testing import CliRunner

from app.cli import app, gateway
from app.cli.exits import ExitCode
from app.cli.gateway import Asked, _named, _upstreams


def run(*arguments: str):
    return CliRunner().invoke(app, ["mcp", *arguments])


def asked(*upstreams: str, command=(), tokens=(), environment=()):
    return Asked(upstreams=upstreams, command=command, tokens=tokens, environment=environment)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://a.example/mcp?x=1", ("server", "https://a.example/mcp?x=1")),
        ("notes=https://a.example/mcp?x=1", ("notes", "https://a.example/mcp?x=1")),
        ("db=uvx db --mode=x", ("db", "uvx db --mode=x")),
        ("uvx db --mode=x", ("server", "uvx db --mode=x")),
        ("./run=1", ("server", "./run=1")),
        ("=x", ("", "x")),
    ],
)
def test_a_name_stands_before_an_address_or_a_command(text, expected):
    assert _named(text) == expected


def test_upstreams(tmp_path, monkeypatch):
    token = tmp_path / "token"
    token.write_text("x" * 16 + "\n")
    monkeypatch.setenv("WANTED", "yes")
    monkeypatch.setenv("OTHER", "no")
    first, second = _upstreams(
        asked("notes=http://a/mcp", "db=uvx 'a b'", tokens=[f"notes={token}"], environment=["WANTED", "ABSENT"])
    )
    assert (first.name, first.url, first.token, first.command) == ("notes", "http://a/mcp", "x" * 16, ())
    assert (second.url, second.command, second.environment) == (None, ("uvx", "a b"), {"WANTED": "yes"})
    assert "x" * 16 not in repr(first)
    (only,) = _upstreams(asked(command=["a", "--b"]))
    assert (only.name, only.command) == ("server", ("a", "--b"))


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["gateway"], ExitCode.USAGE, "no upstream is given"),
        (["gateway", "--upstream", "http://a", "--", "b"], ExitCode.USAGE, "two upstreams are called"),
        (["gateway", "--upstream", "A=http://a"], ExitCode.USAGE, "is no name of an upstream"),
        (["gateway", "--upstream", "prod=http://a", "--upstream", "pr0d=http://b"], ExitCode.USAGE, "can be taken for"),
        (["gateway", "--upstream", "=x"], ExitCode.USAGE, "is no name of an upstream"),
        (["gateway", "--upstream", "a='"], ExitCode.USAGE, "cannot be read"),
        (["gateway", "--upstream", "a= "], ExitCode.USAGE, "neither an address nor a command"),
        (["gateway", "--listen", "9000", "--", "a"], ExitCode.USAGE, "no address to listen on"),
        (["gateway", "--listen", "a:65536", "--", "a"], ExitCode.USAGE, "no address to listen on"),
        (["gateway", "--token-file", "/nowhere", "--", "a"], ExitCode.NO_INPUT, "cannot be read"),
        (["gateway", "--upstream-token-file", "b=/dev/null", "--", "a"], ExitCode.BAD_DATA, "holds no token"),
        (["gateway", "--pin", "/nowhere", "--", "a"], ExitCode.BAD_DATA, "`/nowhere` cannot be read"),
        (["gateway", "--url", "ftp://a", "--", "a"], ExitCode.USAGE, "no address of a service"),
        (["pin", "pins.json"], ExitCode.USAGE, "no upstream is given"),
    ],
)
def test_what_cannot_be_started(arguments, code, says):
    result = run(*arguments)
    assert (result.exit_code, says in result.output) == (code, True), result.output


def test_a_token_for_nobody(tmp_path):
    token = tmp_path / "token"
    token.write_text("x" * 16)
    result = run("gateway", "--upstream-token-file", f"other={token}", "--", "a")
    assert (result.exit_code, "there is no upstream `other`" in result.output) == (ExitCode.USAGE, True)


@pytest.mark.parametrize("listen", ["0.0.0.0:9000", "[::]:9000", "gateway.example:9000"])
def test_beyond_this_machine_a_token_is_needed(listen):
    result = run("gateway", "--listen", listen, "--agent", "bot", "--", "a")
    assert (result.exit_code, "would speak as `bot`" in result.output) == (ExitCode.USAGE, True)


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(gateway, "find_spec", lambda _: None)
    result = run("gateway", "--", "a")
    assert result.exit_code == ExitCode.USAGE
    assert "mutation-firewall[mcp]" in result.output


def test_an_upstream_that_cannot_be_asked_pins_nothing(tmp_path):
    file = tmp_path / "pins.json"
    result = run("pin", str(file), "--", str(tmp_path / "no-such-program"))
    assert (result.exit_code, file.exists()) == (ExitCode.UNREACHABLE, False), result.output
