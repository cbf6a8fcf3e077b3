"""The file of entities that searches look among."""

from pathlib import Path
from typing import Any, Final, NoReturn

from app.errors import FirewallError, Kind
from app.policies.tree import TreeError, documents
from app.service.search import Entities
from app.surfaces.parties import action, entity

FILE_BYTES_MAX: Final = 4 * 1024 * 1024

_MEMBERS: Final = ("subjects", "resources", "actions")


def read_entities(path: Path) -> Entities:
    """Read a YAML or JSON file with `subjects`, `resources` (`type`, `id`, `properties`) and `actions` (`name`).

    Raises FirewallError (INVALID_SETTINGS) that says which entry is at fault.
    """
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        _refuse(f"cannot be read: {(error.strerror or type(error).__name__).lower()}")
    if len(content) > FILE_BYTES_MAX:
        _refuse(f"has more than {FILE_BYTES_MAX} bytes")
    try:
        roots = documents(content.decode())
    except UnicodeDecodeError:
        _refuse("is not UTF-8")
    except TreeError as error:
        _refuse(f"line {error.line}: {error.message}")
    if len(roots) != 1:
        _refuse("is not one document")
    tree = roots[0].plain()
    if not isinstance(tree, dict) or not tree.keys() <= set(_MEMBERS):
        _refuse(f"is not an object of {', '.join(f'`{name}`' for name in _MEMBERS)}")
    listed: dict[str, list[Any]] = {}
    for name in _MEMBERS:
        found = tree.get(name, [])
        if not isinstance(found, list):
            _refuse(f"`{name}` is not a list")
        listed[name] = found
    return Entities(
        subjects=tuple(_entry("subjects", at, one) for at, one in enumerate(listed["subjects"])),
        resources=tuple(_entry("resources", at, one) for at, one in enumerate(listed["resources"])),
        actions=tuple(_entry("actions", at, one)["name"] for at, one in enumerate(listed["actions"])),
    )


def _entry(name: str, position: int, value: Any) -> dict[str, Any]:
    try:
        return action(value) if name == "actions" else entity(value, name.removesuffix("s"))
    except FirewallError as error:
        _refuse(f"`{name}[{position}]`: {error.detail}")


def _refuse(fault: str) -> NoReturn:
    raise FirewallError(
        Kind.INVALID_SETTINGS,
        f"the file of entities {fault}",
        fix="correct what MFW_AUTHZEN__ENTITIES names; docs/integrations/authzen.md has an example",
    )
