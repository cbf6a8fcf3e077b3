"""What both clients share of HTTP: the address, the headers, what a failed connection means in words."""

import sys
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import SplitResult, urlsplit

from app.client.problems import ProblemError, ProblemKind

if TYPE_CHECKING:
    import httpx

USER_AGENT: Final = "mutation-firewall-python"
# A thousand decisions with their reasons have some megabytes; it guards against an address that is no firewall at all.
ANSWER_BYTES_MAX: Final = 16_777_216


def address(url: str) -> SplitResult:
    """The parts of a service's address. Raises ProblemError for what is none."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        parts = urlsplit("")
    if (
        parts.scheme not in {"http", "https"}
        or not parts.hostname
        or parts.username is not None
        or parts.query
        or parts.fragment
        or not url.isascii()
        or not url.isprintable()
        or " " in url
    ):
        raise ProblemError(
            ProblemKind.INVALID_REQUEST,
            f"`{url}` is no address of a service",
            fix="write it as `https://firewall.example.com`",
        )
    return parts


def is_local(host: str) -> bool:
    """Whether an address is this machine's."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def in_plain_text(url: str, api_key: str | None) -> bool:
    """Whether a key would go to another machine without TLS."""
    parts = address(url)
    return bool(api_key) and parts.scheme == "http" and not is_local(parts.hostname or "")


def options(url: str, api_key: str | None, *, ca_file: str | Path | None, transport: Any) -> dict[str, Any]:
    """How an httpx client is made. Raises ProblemError for an address or a key that cannot be."""
    parts = address(url)
    headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": USER_AGENT}
    if api_key:
        if not api_key.isascii() or not api_key.isprintable() or " " in api_key:
            raise ProblemError(
                ProblemKind.INVALID_REQUEST, "the API key has characters in it that no key has", fix="copy it again"
            )
        headers["Authorization"] = f"Bearer {api_key}"
    verify: Any = False
    if parts.scheme == "https":
        # Imported and loaded only where something is encrypted: the authorities that this machine trusts.
        from app.trust import trust

        verify = trust(ca_file)
    made: dict[str, Any] = {
        "base_url": url,
        "headers": headers,
        # A redirect would carry the key to whoever the answer names.
        "follow_redirects": False,
        "verify": verify,
    }
    if transport is not None:
        made["transport"] = transport
    return made


def headers_of(call_headers: Mapping[str, str], *, body: bytes | None, seconds: float) -> dict[str, str]:
    """The headers of one request: its own, its type, the trace that it belongs to, and how long its answer is waited
    for, so that nothing is done for somebody who has left.
    """
    typed = {} if body is None else {"Content-Type": "application/json"}
    return {**_trace(), **typed, "X-Request-Timeout-Ms": str(max(1, int(seconds * 1000))), **call_headers}


def _trace() -> dict[str, str]:
    """`traceparent` and `tracestate` (W3C Trace Context) of the caller's span, where the caller has OpenTelemetry."""
    api = sys.modules.get("opentelemetry.propagate")
    if api is None:
        return {}
    carrier: dict[str, str] = {}
    api.inject(carrier)
    return {name: value for name, value in carrier.items() if name in {"traceparent", "tracestate"}}


def unreachable(error: "httpx.TransportError", url: str) -> ProblemError:
    """A connection that failed, in words."""
    cause: BaseException | None = error
    words = ""
    while cause is not None and not words:
        words = getattr(cause, "strerror", None) or ""
        cause = cause.__cause__ or cause.__context__
    words = words or str(error) or type(error).__name__
    return ProblemError(ProblemKind.UNREACHABLE, f"cannot reach `{url}`: {words.lower()}", fix="check the address")


def too_long() -> ProblemError:
    """An answer that no firewall gives."""
    return ProblemError(
        ProblemKind.NOT_A_FIREWALL, f"the answer is longer than {ANSWER_BYTES_MAX} bytes", fix="check the address"
    )


def was_sent(error: "httpx.TransportError") -> bool:
    """Whether a byte of the request may have reached the service."""
    import httpx

    return not isinstance(error, httpx.ConnectError | httpx.ProxyError)
