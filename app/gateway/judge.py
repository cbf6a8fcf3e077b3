"""Asking the firewall: about a call before it is passed on, and about a tool whose definition changed."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final
from uuid import uuid4

from app.client.firewall import AsyncFirewall
from app.client.problems import ProblemError
from app.client.tool_calls import check
from app.gateway.definitions import Definition
from app.gateway.verdicts import Verdict, of_check, of_decision, of_problem, refusal

# Hints that can only make a call look worse. A tool that calls itself harmless is not believed.
_RAISING: Final = ("destructiveHint", "openWorldHint")

_log: Final = logging.getLogger("mfw.gateway")


class Judge:
    """Speaks to the firewall for one agent. Never raises: whatever is no allow is a verdict that says so."""

    def __init__(self, firewall: AsyncFirewall, *, agent: str) -> None:
        """`agent` is the subject that policies know; the firewall's key has to be allowed to speak for it."""
        self._firewall = firewall
        self._subject = {"type": "agent", "id": agent}

    async def about_call(
        self, tool: Definition, arguments: bytes, *, beside: Mapping[str, Any], client: Mapping[str, Any]
    ) -> Verdict:
        """Whether a tool may be called with these arguments (JSON, sent as it is).

        `beside` is what else of the call reaches the tool; `client` is what the client calls itself.
        """
        hints = {name: True for name in _RAISING if tool.annotations.get(name) is True}
        around = {
            "definition_digest": tool.digest,
            **({"client": dict(client)} if client else {}),
            **({"beside": dict(beside)} if beside else {}),
        }

        async def ask() -> Verdict:
            # The arguments go in as bytes: what is judged is what is passed on, whatever a writer of JSON would make
            # of them a second time.
            operation = check(
                tool.name,
                arguments,
                server=tool.upstream,
                subject=self._subject,
                annotations=hints,
                context={"mcp": around},
            )
            return of_check(operation.read(await self._firewall.call(operation.call)))

        return await _said(ask)

    async def about_definition(self, before: Definition, after: Definition) -> Verdict:
        """Whether a tool may be what it says now, under a name that said something else."""
        # A definition grants nothing by itself: both lists of permissions are empty, which leaves its meaning.
        told = {
            "request_id": str(uuid4()),
            "subject": self._subject,
            "action": {"name": "update"},
            "resource": {
                "type": "agent/Tool",
                "id": f"{after.upstream}/{after.name}",
                "properties": {"server": after.upstream, "name": after.name},
            },
            "change": {
                "before": {**before.meaning, "permissions": []},
                "after": {**after.meaning, "permissions": []},
                "manifest": {"kind": "tool", "base_digest": before.digest, "target_digest": after.digest},
            },
        }

        async def ask() -> Verdict:
            return of_decision(await self._firewall.decide(told))

        return await _said(ask)


async def _said(ask: Callable[[], Awaitable[Verdict]]) -> Verdict:
    try:
        return await ask()
    except ProblemError as problem:
        return of_problem(problem)
    except Exception as error:  # noqa: BLE001 - doubt denies, whatever it is
        _log.exception("asking the firewall failed")
        return refusal(
            "no-decision", f"asking the firewall failed: {type(error).__name__}", fix="tell whoever runs the gateway"
        )
