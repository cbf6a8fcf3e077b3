"""The commands `mfw hook ...`: asking before a tool of an agent is called."""

import os
from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import DEFAULT_URL, ApiKey, Url

hook = typer.Typer(no_args_is_help=True, help="Ask before an agent's tool is called.")


@hook.command(
    "claude-code",
    epilog="Example: `mfw hook claude-code --print-settings > settings.json`. "
    "Exit codes: 0 go on, with the answer on standard output; 2 blocked, with the reason on standard error.",
)
def hook_claude_code(
    *,
    print_settings: Annotated[
        bool, typer.Option("--print-settings", help="Write the fragment of settings.json that sets the hook up.")
    ] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    key_file: Annotated[
        Path | None, typer.Option(envvar="MFW_API_KEY_FILE", show_envvar=True, help="File with the API key.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=50, help="Seconds for all of it; then the call is blocked.")
    ] = 10.0,
    ca_file: Annotated[Path | None, typer.Option(help="Authorities to trust for https.")] = None,
) -> None:
    """Ask about the call that Claude Code writes to standard input, before it is made.

    Whatever goes wrong blocks the call: no answer, a late one, one that cannot be read. The settings that
    --print-settings writes run the same hook without this command, in a fraction of the time.
    """
    from app.client.hook import BLOCK, guard, key_in, run

    if not print_settings:
        guard()
    from app.cli.state import key_file as development_key_file
    from app.cli.state import read_private, state_directory
    from app.client.connection import address, is_local
    from app.client.hook import print_settings as settings_of
    from app.client.problems import ProblemError

    try:
        local = is_local(address(url).hostname or "")
    except ProblemError:
        local = False
    development = development_key_file(state_directory()) if local and not api_key and key_file is None else None
    if print_settings:
        if development is not None and development.exists():
            key_file = development
        typer.echo(settings_of(url=url, key_file=str(key_file) if key_file else None, timeout=timeout))
        return
    try:
        key = api_key or (key_in(str(key_file)) if key_file else None)
        if key is None and development is not None:
            key = read_private(development)
    except Exception as error:  # noqa: BLE001 - whatever it is, nobody allowed the call
        try:
            typer.echo(f"mutation firewall: {error}", err=True)
        finally:
            os._exit(BLOCK)
    # INVARIANT: nothing runs behind the answer: what a clean-up ends with would be another code.
    os._exit(run(url=url, api_key=key, timeout=timeout, ca_file=str(ca_file) if ca_file else None))
