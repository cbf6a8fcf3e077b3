"""A server written by hand, of one era alone, that says things no SDK would: `python raw.py CALLS legacy|modern`."""

import json
import sys
from pathlib import Path
from typing import Any

CALLS, ERA = sys.argv[1:]
CAPABILITIES: dict[str, Any] = {"tools": {}, "tasks": {"list": {}}, "x-unknown": {}}
TOOL = {"name": "odd", "inputSchema": {"type": "object"}, "x-unknown": {"kept": [1]}}


def answer(method: str, params: dict[str, Any]) -> dict[str, Any]:
    """The result of a request, or the error that it is answered with."""
    modern = ERA == "modern"
    match method:
        case "initialize" if not modern:
            return {
                "result": {"protocolVersion": "2025-03-26", "capabilities": CAPABILITIES, "serverInfo": {"name": "raw"}}
            }
        case "server/discover" if modern:
            return {
                "result": {"supportedVersions": ["2026-07-28"], "capabilities": CAPABILITIES, "resultType": "complete"}
            }
        case "tools/list":
            following = {} if params.get("cursor") else {"nextCursor": "more"}
            name = "odd" if following else "second"
            return {
                "result": {
                    "tools": [{**TOOL, "name": name}],
                    **following,
                    **({"resultType": "complete"} if modern else {}),
                }
            }
        case "tools/call":
            with Path(CALLS).open("a") as file:
                file.write(json.dumps({"kind": "call", "params": params}) + "\n")
            if "error" in (params.get("arguments") or {}):
                return {"error": {"code": -32050, "message": "its own error", "data": [1]}}
            return {
                "result": {
                    "content": [{"type": "x-new", "x": 1}],
                    "x-unknown": [None],
                    **({"resultType": "complete"} if modern else {}),
                }
            }
        case _:
            return {"error": {"code": -32601, "message": "Method not found"}}


for line in sys.stdin:
    message = json.loads(line)
    if "id" in message:
        made = answer(message["method"], message.get("params") or {})
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": message["id"], **made}) + "\n")
        sys.stdout.flush()
