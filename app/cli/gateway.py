"""`mfw mcp gateway` and `mfw mcp pin`: what was typed becomes upstreams, and runs until it is told to stop."""

import logging
import os
import shlex
import signal
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from app.cli.client import key_for
from app.cli.exits import ExitCode
from app.cli.output import Refused

if TYPE_CHECKING:
    from app.gateway.definitions import Definition
    from app.gateway.upstreams import Upstream

_ONLY: Final = "server"
_TOKEN_CHARS_MIN: Final = 16


@dataclass(frozen=True, slots=True)
class Asked:
    """Which servers are behind the gateway, as they were typed."""

    upstreams: Sequence[str]
    command: Sequence[str]
    tokens: Sequence[str]
    environment: Sequence[str]


def run_gateway(
    asked: Asked,
    *,
    agent: str,
    listen: str | None,
    token_file: Path | None,
    hosts: Sequence[str],
    origins: Sequence[str],
    pin: Path | None,
    upstream_timeout: float,
    url: str,
    api_key: str | None,
    timeout: float,
) -> None:
    """Serve until told to stop. Raises `Refused`."""
    _needs_extra()
    from app.gateway.serving import is_loopback

    upstreams = _upstreams(asked)
    address = None if listen is None else _address(listen)
    token = None if token_file is None else _secret(token_file)
    if address is not None and token is None and not is_loopback(address[0]):
        raise Refused(
            ExitCode.USAGE,
            f"`{listen}` can be reached by others, who would speak as `{agent}`",
            fix="give a --token-file that clients have to know, or listen on 127.0.0.1",
        )
    _log_to_stderr()
    pins = None if pin is None else _pins(pin)
    key = key_for(url, api_key)

    async def serve() -> None:
        from app.client import AsyncFirewall
        from app.gateway.definitions import Definitions
        from app.gateway.judge import Judge
        from app.gateway.relay import Relay
        from app.gateway.serving import application, serve_http, serve_stdio

        # One try: a call waits for it, and what is not known to be allowed is not called.
        async with AsyncFirewall(url, key, timeout=timeout, retries=0, idempotent=False) as firewall:
            judge = Judge(firewall, agent=agent)
            definitions = Definitions(judge.about_definition, pins=pins)
            server = Relay(upstreams, judge=judge, definitions=definitions, timeout=upstream_timeout).server()
            if address is None:
                await serve_stdio(server)
            else:
                host, port = address
                app = application(server, host=host, token=token, hosts=hosts, origins=origins)
                await serve_http(app, host=host, port=port)

    _run(serve)


def run_pin(asked: Asked, file: Path) -> None:
    """List the tools of all upstreams and write their digests. Raises `Refused`."""
    _needs_extra()
    upstreams = _upstreams(asked)
    _log_to_stderr()
    found: list[Definition] = []

    async def look() -> None:
        import anyio
        from mcp.shared.exceptions import MCPError

        from app.gateway.sessions import Session
        from app.gateway.upstreams import CONNECT_SECONDS, AwayError, own_client

        async with anyio.create_task_group() as tasks:
            session = Session(upstreams, own_client(), tasks=tasks, timeout=CONNECT_SECONDS, standing=None)
            try:
                for one in upstreams:
                    found.extend((await session.catalogue(await session.link(one.name))).values())
            except (AwayError, MCPError) as error:
                raise Refused(
                    ExitCode.UNREACHABLE, f"an upstream cannot be asked for its tools: {error}", fix="start it first"
                ) from None
            finally:
                await session.close()

    _run(look)
    from app.gateway.definitions import written_pins

    try:
        file.write_text(written_pins(found))
    except OSError as error:
        words = (error.strerror or str(error)).lower()
        raise Refused(ExitCode.NO_INPUT, f"`{file}` cannot be written: {words}") from None
    sys.stdout.write(f"{len(found)} tools of {len(upstreams)} upstreams are pinned in {file}\n")


def _needs_extra() -> None:
    if find_spec("mcp") is None:
        raise Refused(
            ExitCode.USAGE, "the gateway needs the extra `mcp`", fix="install it: pip install 'mutation-firewall[mcp]'"
        )


def _run(work: Any) -> None:
    """Run it; of several failures at once the first in words counts."""
    import anyio

    try:
        anyio.run(work, backend_options={"use_uvloop": True})
    except KeyboardInterrupt:
        raise typer.Exit(128 + signal.SIGINT) from None
    except BaseExceptionGroup as group:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        if isinstance(first, Refused):
            raise first from None
        raise


def _upstreams(asked: Asked) -> "tuple[Upstream, ...]":
    from app.core.tool_calls.names import skeleton
    from app.gateway.names import is_upstream
    from app.gateway.upstreams import Upstream

    environment = {name: os.environ[name] for name in asked.environment if name in os.environ}
    typed: dict[str, str | Sequence[str]] = {}
    if asked.command:
        typed[_ONLY] = asked.command
    for text in asked.upstreams:
        name, rest = _named(text)
        if name in typed:
            raise Refused(
                ExitCode.USAGE, f"two upstreams are called `{name}`", fix="give each a name: --upstream NAME=URL"
            )
        typed[name] = rest
    if not typed:
        raise Refused(ExitCode.USAGE, "no upstream is given", fix="add --upstream URL, or -- COMMAND")
    tokens = {name: _secret(Path(file)) for name, file in map(_named, asked.tokens)}
    seen: dict[str, str] = {}
    for name in typed:
        if not is_upstream(name):
            raise Refused(ExitCode.USAGE, f"`{name}` is no name of an upstream", fix="use up to 32 of a-z, 0-9 and `-`")
        if (other := seen.setdefault(skeleton(name), name)) != name:
            raise Refused(ExitCode.USAGE, f"`{name}` can be taken for `{other}`", fix="give one of them another name")
    for name in tokens:
        if name not in typed:
            raise Refused(ExitCode.USAGE, f"there is no upstream `{name}` that a token could be for")
    return tuple(
        Upstream(name, token=tokens.get(name), **_target(target, environment)) for name, target in typed.items()
    )


def _named(text: str) -> tuple[str, str]:
    """`NAME=REST`, or what is only a rest: an address may have a `=` in its query, and a command anywhere."""
    name, separator, rest = text.partition("=")
    named = separator and rest and not set(name) & set(" /:.")
    return (name, rest) if named else (_ONLY, text)


def _target(typed: str | Sequence[str], environment: Mapping[str, str]) -> dict[str, Any]:
    if isinstance(typed, str):
        if typed.startswith(("http://", "https://")):
            return {"url": typed}
        try:
            typed = shlex.split(typed)
        except ValueError as error:
            raise Refused(ExitCode.USAGE, f"an upstream's command cannot be read: {str(error).lower()}") from None
    if not typed:
        raise Refused(ExitCode.USAGE, "an upstream has neither an address nor a command")
    return {"command": tuple(typed), "environment": environment}


def _address(listen: str) -> tuple[str, int]:
    host, separator, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not separator or not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise Refused(ExitCode.USAGE, f"`{listen}` is no address to listen on", fix="write it as 127.0.0.1:9000")
    return host, int(port)


def _secret(file: Path) -> str:
    try:
        text = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        words = (getattr(error, "strerror", None) or "it is no text").lower()
        raise Refused(ExitCode.NO_INPUT, f"`{file}` cannot be read: {words}") from None
    if len(text) < _TOKEN_CHARS_MIN or not text.isascii() or not text.isprintable() or " " in text:
        raise Refused(
            ExitCode.BAD_DATA,
            f"`{file}` holds no token",
            fix=f"write one of at least {_TOKEN_CHARS_MIN} characters into it, such as `openssl rand -hex 32` makes",
        )
    return text


def _pins(file: Path) -> dict[tuple[str, str], str]:
    from app.gateway.definitions import PinsError, read_pins

    try:
        return read_pins(file)
    except PinsError as error:
        raise Refused(ExitCode.BAD_DATA, str(error), fix="write it with `mfw mcp pin`") from None


def _log_to_stderr() -> None:
    """Standard output belongs to the protocol."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("mfw mcp: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    # The SDK tells its users what a later version of the protocol leaves out, and clients of this one still use.
    warnings.simplefilter("ignore")
