"""`mfw policies schema` and `mfw policies crds`: the documents as editors and as Kubernetes read them."""

import json
from difflib import get_close_matches
from pathlib import Path

from app.cli.exits import ExitCode
from app.cli.output import Refused, console, write_json
from app.cli.policy_sets import to_yaml
from app.policies.custom_resources import RESOURCES, Resource, definition
from app.policies.kinds import KINDS
from app.policies.schema import file_name, schema


def run_schema(kind: str | None, *, write: Path | None) -> None:
    """Write the schema of one kind to standard output, or those of all kinds into a directory."""
    if kind is not None and kind not in KINDS:
        near = get_close_matches(kind, KINDS, n=1)
        fix = f"did you mean `{near[0]}`?" if near else "there are " + ", ".join(f"`{name}`" for name in KINDS)
        raise Refused(ExitCode.USAGE, f"there is no kind `{kind}`", fix=fix)
    kinds = [kind] if kind is not None else list(KINDS)
    if write is None:
        write_json(schema(kinds[0]) if kind is not None else {name: schema(name) for name in kinds})
        return
    for name in kinds:
        _write(write / file_name(name), json.dumps(schema(name), indent=2) + "\n")


def run_crds(*, write: Path | None) -> None:
    """Write the CustomResourceDefinitions as YAML to standard output, or one file each into a directory."""
    if write is None:
        console().file.write("---\n".join(_crd(resource) for resource in RESOURCES))
        return
    for resource in RESOURCES:
        _write(write / f"{resource.plural}.yaml", _crd(resource))


def _crd(resource: Resource) -> str:
    return to_yaml(definition(resource))


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise Refused(ExitCode.NO_INPUT, f"cannot write `{file}`: {reason}", fix="name a directory") from error
    console().file.write(f"{file}\n")
