"""The commands `mfw mcp ...`."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import DEFAULT_URL, ApiKey, Url
from app.cli.output import reporting

mcp = typer.Typer(no_args_is_help=True, help="Put the firewall between MCP clients and the tools of their servers.")

_Upstreams = Annotated[
    list[str] | None,
    typer.Option(
        "--upstream",
        metavar="[NAME=]URL|COMMAND",
        help="Server behind the gateway: an http(s) address (Streamable HTTP), or a command line; with a name where it "
        "is given several times.",
    ),
]
_Command = Annotated[
    list[str] | None,
    typer.Argument(metavar="[-- COMMAND ...]", help="The one server behind the gateway, as a command."),
]
_Tokens = Annotated[
    list[str] | None,
    typer.Option(
        "--upstream-token-file",
        metavar="[NAME=]FILE",
        help="File with the token that the gateway itself shows to an upstream. Tokens of clients are never passed on.",
    ),
]
_Environment = Annotated[
    list[str] | None,
    typer.Option(
        "--env",
        metavar="VARIABLE",
        help="Variable of this environment that commands behind the gateway may see, beside PATH, HOME and the like; "
        "may be given several times.",
    ),
]


@mcp.command(
    "gateway",
    epilog="Examples: `mfw mcp gateway --agent deploy-bot -- npx -y @modelcontextprotocol/server-everything`; "
    "`mfw mcp gateway --upstream files=http://127.0.0.1:9001/mcp --upstream db='uvx db' --listen 127.0.0.1:9000`.",
)
def gateway(
    *,
    command: _Command = None,
    upstream: _Upstreams = None,
    agent: Annotated[
        str, typer.Option(help="Id of the agent whose calls these are, as policies know it (`subject.id`).")
    ] = "mcp",
    listen: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="Serve Streamable HTTP at `/mcp` there (default: standard input and output)."
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with the token that clients have to show; needed to listen beyond this machine."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Name under which clients know the gateway (`Host`), beside those of the loopback."),
    ] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="Origin from which pages in a browser may use the gateway.")
    ] = None,
    pin: Annotated[
        Path | None,
        typer.Option(help="Refuse every tool whose definition is not the one in this file (see `mfw mcp pin`)."),
    ] = None,
    upstream_token_file: _Tokens = None,
    env: _Environment = None,
    upstream_timeout: Annotated[
        float, typer.Option(min=1, max=86_400, help="Seconds that an upstream may take for an answer.")
    ] = 300.0,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=300, help="Seconds to wait for the firewall; then the tool is not called.")
    ] = 5.0,
) -> None:
    """Pass everything on between clients and servers, and a tool call only if the firewall allows it.

    A call that is denied or held, or that nobody could decide on, is answered with a tool error that says why and what
    to do. Needs the extra `mcp`.
    """
    from app.cli.gateway import Asked, run_gateway

    with reporting():
        run_gateway(
            Asked(
                upstreams=tuple(upstream or ()),
                command=tuple(command or ()),
                tokens=tuple(upstream_token_file or ()),
                environment=tuple(env or ()),
            ),
            agent=agent,
            listen=listen,
            token_file=token_file,
            hosts=allow_host or (),
            origins=allow_origin or (),
            pin=pin,
            upstream_timeout=upstream_timeout,
            url=url,
            api_key=api_key,
            timeout=timeout,
        )


@mcp.command("pin", epilog="Example: `mfw mcp pin pins.json -- npx -y @modelcontextprotocol/server-everything`")
def pin(
    *,
    file: Annotated[Path, typer.Argument(help="Where to write them, for review and `mfw mcp gateway --pin`.")],
    command: _Command = None,
    upstream: _Upstreams = None,
    upstream_token_file: _Tokens = None,
    env: _Environment = None,
) -> None:
    """Write the digests of what the tools say they are now.

    Look at the tools before: this is the moment at which they are trusted.
    """
    from app.cli.gateway import Asked, run_pin

    with reporting():
        run_pin(
            Asked(
                upstreams=tuple(upstream or ()),
                command=tuple(command or ()),
                tokens=tuple(upstream_token_file or ()),
                environment=tuple(env or ()),
            ),
            file,
        )
