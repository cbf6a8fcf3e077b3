"""Asking the firewall: about a call before it is passed on, and about a tool whose definition changed."""

import json
from collections.abc import Mapping
from typing import Any, Final
from uuid import uuid4

from app.client.firewall import AsyncFirewall
from app.client.problems import ProblemError
from app.gateway.definitions import Definition
from app.gateway.verdicts import Verdict, of_decision, of_problem, refusal

# Hints that can only make a call look worse. A tool that calls itself harmless is not believed.
_RAISING: Final = ("destructiveHint", "openWorldHint")


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
        hints = {name: tool.annotations[name] for name in _RAISING if tool.annotations.get(name) is True}
        told = {
            "request_id": str(uuid4()),
            "subject": self._subject,
            "action": {"name": "call", **({"properties": {"hints": hints}} if hints else {})},
            "resource": {
                "type": "tool",
                "id": f"{tool.upstream}/{tool.name}",
                "properties": {"server": tool.upstream, "name": tool.name},
            },
            "context": {
                "tool": {"definition_digest": tool.digest},
                **({"client": dict(client)} if client else {}),
                **({"beside": dict(beside)} if beside else {}),
            },
        }
        return await self._ask(told, change=b'{"after":' + arguments + b"}")

    async def about_definition(self, before: Definition, after: Definition) -> Verdict:
        """Whether a tool may be what it says now, under a name that said something else."""
        told = {
            "request_id": str(uuid4()),
            "subject": self._subject,
            "action": {"name": "update"},
            "resource": {
                "type": "agent/Tool",
                "id": f"{after.upstream}/{after.name}",
                "properties": {"server": after.upstream, "name": after.name},
            },
            "context": {},
        }
        # A definition grants nothing by itself: both lists of permissions are empty, which leaves its meaning.
        change = {
            "before": {**before.meaning, "permissions": []},
            "after": {**after.meaning, "permissions": []},
            "manifest": {"kind": "tool", "base_digest": before.digest, "target_digest": after.digest},
        }
        return await self._ask(told, change=json.dumps(change, separators=(",", ":")).encode())

    async def _ask(self, told: Mapping[str, Any], *, change: bytes) -> Verdict:
        try:
            # The arguments go in as bytes: what is judged is what is passed on, whatever a writer of JSON would make
            # of them a second time.
            body = json.dumps(told, allow_nan=False, separators=(",", ":")).encode()
            body = body[:-1] + b',"change":' + change + b"}"
            decision = await self._firewall.decide(body)
            if decision.request_id != told["request_id"]:
                return refusal(
                    "no-decision",
                    "what answered for the firewall answered another request",
                    fix="tell whoever runs the gateway: something between it and the firewall mixes answers up",
                )
            return of_decision(decision)
        except ProblemError as problem:
            return of_problem(problem)
        except (ValueError, RecursionError):
            return refusal("malformed", "the call cannot be written as JSON", fix="send JSON values only")
        except Exception as error:  # noqa: BLE001 - doubt denies, whatever it is
            return refusal(
                "no-decision",
                f"asking the firewall failed: {type(error).__name__}",
                fix="tell whoever runs the gateway",
            )
