"""`mfw ledger reveal`: show that a value is the one that a record has hidden, and no other of it."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.cli.exits import ExitCode
from app.cli.output import Refused, console, write_json
from app.core import strict_json
from app.core.record_masks import SALT_BYTES, commitment, salt_of
from app.errors import FirewallError
from app.settings import Settings, SettingsError

# What a record may have: a mutation, and what was said about it.
_FILE_MAX_BYTES = 8 * 1024 * 1024
_MASK_KEY = "MFW_LEDGER__MASK_KEY"


def run_reveal(record_file: str, pointer: str, *, value_file: str, salt: str | None, as_json: bool) -> None:
    """Compare a value with its commitment, and print all that another person needs to do the same.

    Raises: Refused, where it is another value as well.
    """
    record = _record(_json(record_file), record_file)
    value = _json(value_file)
    hidden = _hidden(record, pointer)
    drawn = _salt(salt) if salt is not None else salt_of(_key(), str(record.get("id")), pointer)
    if commitment(drawn, value) != hidden:
        raise Refused(
            ExitCode.FAILED,
            f"this is not the value that the record has hidden at `{pointer}`",
            fix="give it as JSON, quotes and number types included; and the key or the salt of that time",
        )
    shown = {"id": record.get("id"), "pointer": pointer, "value": value, "salt": drawn.hex(), "commitment": hidden}
    if as_json:
        write_json(shown)
        return
    out = console()
    out.print(f"this is the value that decision {record.get('id')} has hidden at {pointer}")
    out.print("whoever has the record and the value can check it with")
    out.print(f"  --salt {drawn.hex()}", soft_wrap=True)


def _json(file: str) -> Any:
    try:
        content = sys.stdin.buffer.read(_FILE_MAX_BYTES + 1) if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise Refused(ExitCode.NO_INPUT, f"`{file}` cannot be read: {(error.strerror or '').lower()}") from error
    if len(content) > _FILE_MAX_BYTES:
        raise Refused(ExitCode.BAD_DATA, f"`{file}` has more than {_FILE_MAX_BYTES} bytes")
    try:
        return strict_json.parse(content).tree
    except FirewallError as error:
        raise Refused(ExitCode.BAD_DATA, f"`{file}`: {error.detail}", fix=error.fix) from error


def _record(tree: Any, file: str) -> Mapping[str, Any]:
    """The record itself, or what an API or an export wraps around it."""
    if isinstance(tree, dict) and isinstance(tree.get("record"), dict):
        tree = tree["record"]
    if not isinstance(tree, dict) or not isinstance(tree.get("masked"), list):
        raise Refused(
            ExitCode.BAD_DATA,
            f"`{file}` is no record with something hidden",
            fix="give the JSON of the decision's record: it has `masked`",
        )
    return tree


def _hidden(record: Mapping[str, Any], pointer: str) -> str:
    """The commitment at a place."""
    listed = [one for one in record["masked"] if isinstance(one, dict)]
    for one in listed:
        if one.get("pointer") == pointer:
            if "commitment" in one:
                return str(one["commitment"])
            raise Refused(
                ExitCode.FAILED,
                f"the value at `{pointer}` was erased: nothing was kept to compare with",
                fix="with `action: hash` a mask keeps a commitment, for the decisions to come",
            )
    known = ", ".join(f"`{one.get('pointer')}`" for one in listed[:10])
    raise Refused(ExitCode.USAGE, f"the record has hidden nothing at `{pointer}`", fix=f"it has at {known}")


def _salt(text: str) -> bytes:
    try:
        salt = bytes.fromhex(text)
    except ValueError:
        salt = b""
    if len(salt) != SALT_BYTES:
        raise Refused(ExitCode.USAGE, f"a salt has {2 * SALT_BYTES} hexadecimal digits")
    return salt


def _key() -> bytes:
    # Whoever reveals has this key and no service: nothing is asked of the other settings.
    settings, findings = Settings.examine(os.environ)
    if wrong := [found.problem for found in findings if found.problem.variable == _MASK_KEY]:
        raise SettingsError(wrong)
    key = settings.ledger.mask_key
    if key is None:
        raise Refused(
            ExitCode.BAD_SETTINGS,
            "there is no key to draw the salt with",
            fix=f"set {_MASK_KEY} to that of the service, or give `--salt`",
        )
    return key.get_secret_value().encode()
