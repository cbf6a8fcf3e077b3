"""What the checks read from the command line: who proposes the change, what is known about it, and files."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from app.cli.exits import ExitCode
from app.cli.output import Refused
from app.core.types import JsonObject

_NAME_MAX_CHARS: Final = 200


@dataclass(frozen=True, slots=True)
class Proposal:
    """Who wants the change, and what the caller says about it: `properties` of the resource, and `context`."""

    subject: JsonObject
    properties: JsonObject
    context: JsonObject

    def mutation(
        self, *, action: JsonObject, resource: JsonObject, change: JsonObject, context: JsonObject
    ) -> JsonObject:
        """A mutation; what was found out about it counts more than what the caller says."""
        return {
            "subject": self.subject,
            "action": action,
            "resource": {**resource, "properties": {**self.properties, **resource["properties"]}},
            "change": change,
            "context": {**self.context, **context},
        }


def read_proposal(subject: str, *, properties: Sequence[str], context: Sequence[str]) -> Proposal:
    """Read `TYPE:ID` and `NAME=VALUE`. Raises `Refused`."""
    kind, colon, name = subject.partition(":")
    if not colon or not kind or not name:
        raise Refused(ExitCode.USAGE, f"`{subject[:80]}` is no subject", fix="write it as `agent:deploy-bot`")
    return Proposal(
        subject={"type": kind, "id": name},
        properties=_pairs(properties, option="--property"),
        context=_pairs(context, option="--context"),
    )


def _pairs(texts: Sequence[str], *, option: str) -> JsonObject:
    pairs: JsonObject = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or len(name) > _NAME_MAX_CHARS:
            detail = f"`{option} {text[:80]}` is no name and value"
            raise Refused(ExitCode.USAGE, detail, fix=f"write it as `{option} NAME=VALUE`")
        if name in pairs:
            raise Refused(ExitCode.USAGE, f"`{option} {name}` stands twice", fix="say it once")
        pairs[name] = value
    return pairs


def read_input(file: str, *, most: int, what: str, example: str) -> bytes:
    """The bytes of a file, or of standard input for `-`. Raises `Refused` for one that is longer than `most`."""
    try:
        if file == "-":
            body = sys.stdin.buffer.read(most + 1)
        else:
            with Path(file).open("rb") as source:
                body = source.read(most + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a file name"
        raise Refused(
            ExitCode.NO_INPUT,
            f"cannot read `{file}`: {reason.lower()}",
            fix=f"name a file, or `-` for standard input: `{example}`",
        ) from error
    if len(body) > most:
        raise Refused(ExitCode.BAD_DATA, f"the {what} is longer than {most} bytes", fix="split it")
    return body
