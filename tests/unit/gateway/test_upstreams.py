"""In which era a connection to an upstream ends up."""

from typing import Any

import pytest
from mcp.shared.exceptions import MCPError
from mcp_types import METHOD_NOT_FOUND, REQUEST_TIMEOUT, UNSUPPORTED_PROTOCOL_VERSION
from mcp_types.version import LATEST_HANDSHAKE_VERSION, LATEST_MODERN_VERSION

from app.gateway.upstreams import Client, Link, Upstream, own_client

MODERN: dict[str, Any] = {"supportedVersions": [LATEST_MODERN_VERSION], "capabilities": {"tools": {}}}
SHAKEN: dict[str, Any] = {"protocolVersion": LATEST_HANDSHAKE_VERSION, "capabilities": {"tools": {}}}
SHAKING = Client(LATEST_HANDSHAKE_VERSION, {"name": "c"}, {})


class Front:
    """Nobody."""

    async def asked(self, *_: Any) -> dict[str, Any]:
        raise AssertionError

    async def told(self, *_: Any) -> None:
        raise AssertionError


class Answers:
    """An upstream that gives these answers, or errors by their code, in turn."""

    def __init__(self, *turns: tuple[str, dict[str, Any] | int]) -> None:
        self.turns = list(turns)

    async def send_raw_request(self, method: str, *_: Any) -> dict[str, Any]:
        expected, answer = self.turns.pop(0)
        assert method == expected
        if isinstance(answer, int):
            raise MCPError(code=answer, message="no")
        return answer

    async def notify(self, *_: Any) -> None:
        pass


async def agreed(client: Client, *turns: tuple[str, dict[str, Any] | int]) -> str:
    link, answers = Link(Upstream("a"), client, Front(), timeout=1), Answers(*turns)
    await link._agree(answers)  # type: ignore[arg-type]  # as much of a dispatcher as is asked
    assert answers.turns == []
    return link.version


@pytest.mark.parametrize(
    ("client", "turns", "version"),
    [
        (own_client(), [("server/discover", MODERN)], LATEST_MODERN_VERSION),
        (own_client(), [("server/discover", METHOD_NOT_FOUND), ("initialize", SHAKEN)], LATEST_HANDSHAKE_VERSION),
        (SHAKING, [("initialize", SHAKEN)], LATEST_HANDSHAKE_VERSION),
        (SHAKING, [("initialize", UNSUPPORTED_PROTOCOL_VERSION), ("server/discover", MODERN)], LATEST_MODERN_VERSION),
        # It was slow to start, answered when nobody waited any more, and takes no handshake after that.
        (
            own_client(),
            [
                ("server/discover", REQUEST_TIMEOUT),
                ("initialize", UNSUPPORTED_PROTOCOL_VERSION),
                ("server/discover", MODERN),
            ],
            LATEST_MODERN_VERSION,
        ),
    ],
)
async def test_the_era_that_both_know(client, turns, version):
    assert await agreed(client, *turns) == version


@pytest.mark.parametrize(
    ("client", "turns"),
    [
        (own_client(), [("server/discover", REQUEST_TIMEOUT), ("initialize", REQUEST_TIMEOUT)]),
        (SHAKING, [("initialize", REQUEST_TIMEOUT), ("server/discover", UNSUPPORTED_PROTOCOL_VERSION)]),
    ],
)
async def test_none(client, turns):
    with pytest.raises(MCPError):
        await agreed(client, *turns)
