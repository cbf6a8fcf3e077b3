"""Writes what is installed beside this Python as CycloneDX 1.6: `python image/sbom.py --output sbom.cdx.json`.

It runs inside the build of the image, hence on the standard library and on what the service has anyway. Packages are
those that are there, not those that a lock would like; their hashes are of the very files that pip downloaded.
"""

import argparse
import datetime as dt
import json
import platform
import re
import sys
import uuid
from collections.abc import Iterable, Mapping
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any, Final

from packaging.requirements import InvalidRequirement, Requirement

PROJECT: Final = "mutation-firewall"
# What its own index of licences calls by another name, or by none: the classifiers of the Python Package Index.
CLASSIFIERS: Final = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
}
# Free text that says the same as an identifier of SPDX.
TEXTS: Final = {
    "Apache 2": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "3-Clause BSD License": "BSD-3-Clause",
    "MIT License": "MIT",
}
KNOWN: Final = frozenset({*CLASSIFIERS.values(), *TEXTS.values()})
_SEPARATORS: Final = re.compile(r"[-_.]+")

Component = dict[str, Any]


def name_of(name: str) -> str:
    """The name as package URLs have it."""
    return _SEPARATORS.sub("-", name).lower()


def _said(found: Distribution, member: str) -> str:
    """The first value of a member of its metadata, empty where it has none."""
    return str(next(iter(found.metadata.get_all(member, [])), "")).strip()


def licence(found: Distribution) -> dict[str, Any] | None:
    """What a distribution says of its licence: an expression of SPDX where it is one, else its own words."""
    if text := _said(found, "License-Expression"):
        return _one(text, valid=True)
    classifiers = found.metadata.get_all("Classifier", [])
    kinds = [line.rpartition(" :: ")[2] for line in classifiers if line.startswith("License :: ")]
    if known := sorted({CLASSIFIERS[kind] for kind in kinds if kind in CLASSIFIERS}):
        # Several classifiers are a choice of the reader's.
        return _one(" OR ".join(known), valid=True)
    text = _said(found, "License").partition("\n")[0]
    return _one(TEXTS.get(text, text), valid=False) if text else None


def _one(text: str, *, valid: bool) -> dict[str, Any]:
    if text in KNOWN:
        return {"license": {"id": text, "acknowledgement": "declared"}}
    if valid:
        return {"expression": text, "acknowledgement": "declared"}
    return {"license": {"name": text, "acknowledgement": "declared"}}


def _reference(name: str, version: str) -> str:
    return f"pkg:pypi/{name_of(name)}@{version}"


def downloaded(report: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """The hashes of each file that pip installed, by name of the package, from `pip install --report`."""
    return {
        name_of(one["metadata"]["name"]): one["download_info"].get("archive_info", {}).get("hashes", {})
        for one in report.get("install", ())
    }


def component(found: Distribution, hashes: Mapping[str, str]) -> Component:
    """One distribution."""
    reference = _reference(found.name, found.version)
    made: Component = {
        "type": "library",
        "bom-ref": reference,
        "name": name_of(found.name),
        "version": found.version,
        "purl": reference,
    }
    if summary := _said(found, "Summary"):
        made["description"] = summary
    if (one := licence(found)) is not None:
        made["licenses"] = [one]
    if "sha256" in hashes:
        made["hashes"] = [{"alg": "SHA-256", "content": hashes["sha256"]}]
    return made


def needs(found: Distribution, there: Mapping[str, Distribution]) -> list[str]:
    """What it needs of what is there; an extra counts where all that it names is there."""
    wanted = set()
    for text in found.requires or ():
        try:
            asked = Requirement(text)
        except InvalidRequirement:
            continue
        extras = ["", *found.metadata.get_all("Provides-Extra", [])]
        if any(asked.marker is None or asked.marker.evaluate({"extra": extra}) for extra in extras):
            wanted.add(name_of(asked.name))
    return sorted(_reference(there[name].name, there[name].version) for name in wanted if name in there)


def closure(start: str, there: Mapping[str, Distribution]) -> set[str]:
    """Names of all that one distribution needs, and what those need, extras of these left out."""
    found: set[str] = set()
    left = [name_of(start)]
    while left:
        name = left.pop()
        if name in found or name not in there:
            continue
        found.add(name)
        for text in there[name].requires or ():
            asked = Requirement(text)
            if asked.marker is None or asked.marker.evaluate({"extra": ""}):
                left.append(name_of(asked.name))
    return found


def _system(release: Path) -> list[Component]:
    """The operating system of the base, by its own name; its packages are told by whoever made the base."""
    if not release.exists():
        return []
    pairs = (line.partition("=") for line in release.read_text().splitlines() if "=" in line)
    said = {name: value.strip('"') for name, _, value in pairs}
    name, version = said.get("ID", "linux"), said.get("VERSION_ID", "")
    made: Component = {"type": "operating-system", "bom-ref": f"os:{name}", "name": name}
    if version:
        made["version"] = version
    return [made]


def bill(
    there: Iterable[Distribution],
    *,
    hashes: Mapping[str, Mapping[str, str]],
    created: str | None,
    release: Path = Path("/etc/os-release"),
) -> dict[str, Any]:
    """The whole document. The same content has the same serial number."""
    found = {name_of(one.name): one for one in there}
    own = found.pop(PROJECT)
    root = {**component(own, {}), "type": "application"}
    runtime = {
        "type": "platform",
        "bom-ref": "runtime:python",
        "name": platform.python_implementation(),
        "version": platform.python_version(),
    }
    libraries = [component(one, hashes.get(name, {})) for name, one in sorted(found.items())]
    depends = [{"ref": root["bom-ref"], "dependsOn": needs(own, found)}]
    depends += [
        {"ref": _reference(one.name, one.version), "dependsOn": needs(one, found)} for _, one in sorted(found.items())
    ]
    metadata: dict[str, Any] = {"component": root, "lifecycles": [{"phase": "build"}]}
    if created is not None:
        metadata["timestamp"] = created
    content: dict[str, Any] = {
        "metadata": metadata,
        "components": [*_system(release), runtime, *libraries],
        "dependencies": depends,
    }
    number = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(content, sort_keys=True))
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{number}",
        "version": 1,
        **content,
    }


def _when(text: str) -> str | None:
    """A time as the format wants it, or none where it is not known."""
    try:
        return dt.datetime.fromisoformat(text).isoformat()
    except ValueError:
        return None


def main(arguments: list[str] | None = None) -> None:
    """Write the bill of what is beside this Python."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--report", type=Path, help="what `pip install --report` wrote, for the hashes")
    parser.add_argument("--created", default="unknown", help="when the image was made, RFC 3339")
    parser.add_argument("--output", type=Path, help="where to; standard output unless given")
    given = parser.parse_args(arguments)
    hashes = downloaded(json.loads(given.report.read_text())) if given.report else {}
    text = json.dumps(bill(distributions(), hashes=hashes, created=_when(given.created)), indent=2) + "\n"
    if given.output:
        given.output.write_text(text)
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
