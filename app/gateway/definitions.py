"""What a tool says it is: told apart by a digest, remembered, pinned, and refused where it changed without a yes.

A server can list a harmless tool, wait until it is trusted, and then describe another under the same name. What the
model reads is the definition; so one that changed is a change of its own, and the firewall is asked about it.
"""

import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final

import anyio

from app.core.canonical import digest
from app.core.tool_calls.names import skeleton
from app.errors import FirewallError
from app.gateway.names import is_name
from app.gateway.verdicts import Verdict, refusal

# What a model or a client acts on. `_meta` and icons are neither.
_MEANING: Final = ("name", "title", "description", "inputSchema", "outputSchema", "annotations", "execution")
# How long a no about a changed definition holds before the firewall is asked again: people may have agreed meanwhile.
ASK_AGAIN_SECONDS: Final = 15.0
PINS_VERSION: Final = 1
_CHANGING: Final = refusal(
    "changing",
    "the tool was not the one that was listed before, and is another again",
    fix="let the owner of the gateway look at the tool",
)


class PinsError(Exception):
    """A file of pins that cannot be used."""


class Doubt(Enum):
    """Why a listed tool is not offered."""

    NAME = "its name is none: use letters, digits, `_`, `-` and `.`"
    ALIKE = "another tool has a name that can be taken for it"
    MALFORMED = "its definition cannot be read"


@dataclass(frozen=True, slots=True)
class Definition:
    """One tool of one upstream, as it was listed; `meaning` and its digest leave out what nobody acts on."""

    upstream: str
    name: str
    listed: Mapping[str, Any]
    meaning: Mapping[str, Any]
    digest: str

    @property
    def promises_output(self) -> bool:
        """Whether it says of what shape its structured content is."""
        return self.listed.get("outputSchema") is not None

    @property
    def annotations(self) -> Mapping[str, Any]:
        """What the tool says of itself. Believed only where it raises the risk."""
        found = self.listed.get("annotations")
        return found if isinstance(found, dict) else {}


def read(upstream: str, listed: Any) -> Definition | None:
    """A definition from what a server listed; None for what is none."""
    if not isinstance(listed, dict) or not isinstance(name := listed.get("name"), str):
        return None
    meaning = {member: listed[member] for member in _MEANING if listed.get(member) is not None}
    try:
        return Definition(upstream, name, listed, meaning, digest(meaning))
    except FirewallError:
        return None


def sorted_out(upstream: str, listed: list[Any]) -> tuple[dict[str, Definition], list[tuple[str, Doubt]]]:
    """The tools of a list that can be told apart, and the others with the doubt; of two alike neither is kept."""
    kept: dict[str, Definition] = {}
    doubted: list[tuple[str, Doubt]] = []
    first: dict[str, str] = {}
    clashing: set[str] = set()
    for one in listed:
        name = one.get("name") if isinstance(one, dict) else None
        shown = name if isinstance(name, str) else "?"
        definition = read(upstream, one)
        if definition is None:
            doubted.append((shown, Doubt.MALFORMED))
        elif not is_name(definition.name):
            doubted.append((shown, Doubt.NAME))
        elif (other := first.setdefault(skeleton(definition.name), definition.name)) in kept:
            clashing.add(other)
            doubted.append((shown, Doubt.ALIKE))
        else:
            kept[definition.name] = definition
    for name in clashing:
        del kept[name]
        doubted.append((name, Doubt.ALIKE))
    return kept, doubted


def read_pins(path: Path) -> dict[tuple[str, str], str]:
    """The digests that a file pins, by upstream and tool. Raises PinsError."""
    try:
        document = json.loads(path.read_bytes())
        if document["version"] != PINS_VERSION:
            raise PinsError(f"`{path}` is of version {document['version']}, and this release reads {PINS_VERSION}")
        return {
            (str(upstream), str(tool)): str(pinned)
            for upstream, tools in document["tools"].items()
            for tool, pinned in tools.items()
        }
    except OSError as error:
        raise PinsError(f"`{path}` cannot be read: {(error.strerror or str(error)).lower()}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise PinsError(f"`{path}` is no file of pins") from None


def written_pins(definitions: list[Definition]) -> str:
    """A file of pins, the same for the same tools, so that a review sees what changed."""
    tools: dict[str, dict[str, str]] = {}
    for one in definitions:
        tools.setdefault(one.upstream, {})[one.name] = one.digest
    return json.dumps({"version": PINS_VERSION, "tools": tools}, indent=2, sort_keys=True) + "\n"


Ask = Callable[[Definition, Definition], Awaitable[Verdict]]


class Definitions:
    """The definitions that this gateway goes by; one memory for all its sessions.

    The first definition of a tool is taken as it is, unless pins say which it must be. INVARIANT: another one takes
    its place only on an allow of the firewall, and never against a pin.
    """

    def __init__(
        self,
        ask: Ask,
        *,
        pins: Mapping[tuple[str, str], str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`ask` asks the firewall about a change from one definition to another."""
        self._ask = ask
        self._pins = pins
        self._clock = clock
        self._accepted: dict[tuple[str, str], Definition] = {}
        self._refused: dict[tuple[str, str], tuple[float, str, Verdict]] = {}
        self._lock = anyio.Lock()

    async def doubt(self, found: Definition) -> Verdict | None:
        """None for a definition to go by, else why the tool must not be used."""
        key = (found.upstream, found.name)
        if self._pins is not None and self._pins.get(key) != found.digest:
            pinned = "its definition is not the one that was pinned" if key in self._pins else "it is not pinned"
            return refusal(
                "pinned",
                f"the tool `{found.name}` is refused: {pinned}",
                fix="let the owner of the gateway look at the tool, and write the pins again with `mfw mcp pin`",
                facts={"definition_digest": found.digest},
            )
        if (accepted := self._accepted.setdefault(key, found)).digest == found.digest:
            return None
        async with self._lock:
            accepted = self._accepted[key]
            if accepted.digest == found.digest:
                return None
            # One answer for each tool: a server that changes all the time fills neither this memory nor the ledger.
            until, refused, verdict = self._refused.get(key, (0.0, "", _CHANGING))
            if self._clock() < until:
                return verdict if refused == found.digest else _CHANGING
            verdict = await self._ask(accepted, found)
            if verdict.allowed:
                self._accepted[key] = found
                self._refused.pop(key, None)
                return None
            self._refused[key] = (self._clock() + ASK_AGAIN_SECONDS, found.digest, verdict)
            return verdict
