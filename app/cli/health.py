"""`mfw health`: every component of a service, as whoever is on call wants to see it."""

import json
from typing import TYPE_CHECKING, Final

import typer

from app.cli.client import call
from app.cli.exits import ExitCode
from app.cli.output import Refused, console, plain, table, write_json

if TYPE_CHECKING:
    from rich.text import Text

_COLOURS: Final = {"healthy": "green", "degraded": "yellow", "unhealthy": "bold red"}


def run_health(*, url: str, api_key: str | None, timeout: float, as_json: bool) -> None:
    """Show the components. Raises `Refused`, and `typer.Exit` with FAILED where no requests are taken."""
    answer = call("/health/detailed", url=url, api_key=api_key, timeout=timeout)
    try:
        told = json.loads(answer)
        ready, status, version = bool(told["ready"]), str(told["status"]), str(told["version"])
        components = {str(name): dict(one) for name, one in told["components"].items()}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise Refused(
            ExitCode.BAD_DATA, "this is not the health of a firewall", fix="see that --url is that of the service"
        ) from error
    if as_json:
        write_json(told)
    else:
        listing = table("component", "status", "ms", "detail")
        # What is wrong first: that is what somebody looks for.
        for name, one in sorted(components.items(), key=lambda item: item[1].get("status") == "healthy"):
            state = str(one.get("status"))
            listing.add_row(
                plain(name), _coloured(state), plain(one.get("latency_ms", "")), plain(one.get("detail", ""))
            )
        console().print(listing)
        taken = "takes requests" if ready else "takes no requests"
        console().print(plain(f"{status}, {taken}, version {version}"))
    if not ready:
        raise typer.Exit(ExitCode.FAILED)


def _coloured(status: str) -> "Text":
    from rich.text import Text

    return Text(plain(status), style=_COLOURS.get(status, ""))
