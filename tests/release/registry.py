"""A `docker` and a `helm` whose registry is a folder: `REGISTRY` names it, and the file `says` in it is all it answers.

They know the words that `release/publish` and `image/build` use, and note each push in `pushed`.
"""

import hashlib
import itertools
import json
import os
import shutil
import sys
import tarfile
from pathlib import Path

FOLDER = Path(os.environ["REGISTRY"])
HERE, THERE = FOLDER / "here", FOLDER / "there"


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def at(folder: Path, reference: str) -> Path:
    return folder / reference.replace("/", "_")


def fetched(reference: str) -> Path:
    """What the registry has, or its answer that it has not."""
    if (FOLDER / "says").exists():
        sys.exit((FOLDER / "says").read_text())
    if not at(THERE, reference).exists():
        sys.exit(f"manifest for {reference} not found: manifest unknown")
    return at(THERE, reference)


def pushed(reference: str, content: Path) -> str:
    shutil.copy(content, at(THERE, reference))
    with (FOLDER / "pushed").open("a") as notes:
        notes.write(f"{reference}\n")
    return digest(content)


def digest(content: Path) -> str:
    return f"sha256:{hashlib.sha256(content.read_bytes()).hexdigest()}"


def after(words: list[str], option: str) -> str:
    return words[words.index(option) + 1]


def docker(words: list[str]) -> None:
    match words:
        case ["pull", "--quiet", reference]:
            shutil.copy(fetched(reference), at(HERE, reference))
        case ["push", "--quiet", reference]:
            pushed(reference, at(HERE, reference))
        case ["build", *_]:
            arguments = dict(
                word.split("=", 1) for option, word in itertools.pairwise(words) if option == "--build-arg"
            )
            image = {"revision": arguments.get("REVISION"), "base": arguments.get("PYTHON")}
            if "IMAGE" in arguments:
                image = json.loads(at(HERE, arguments["IMAGE"]).read_text())
            at(HERE, after(words, "--tag")).write_text(json.dumps(image | {"of": words[-2:]}))
        case ["image", "inspect", "--format", asked, reference]:
            content = at(HERE, reference)
            if "revision" in asked:
                say(str(json.loads(content.read_text())["revision"]))
            elif "RepoDigests" in asked:
                say(f"{reference.rpartition(':')[0]}@{digest(content)}")
            else:
                say("0")
        case ["history", *_]:
            say("1MB\tCOPY")
        case ["run", *_]:
            say("{}")
        case _:
            raise AssertionError(words)


def helm(words: list[str]) -> None:
    match words:
        case ["package", folder, "--destination", target]:
            version = "0.1.0"
            with tarfile.open(Path(target) / f"mutation-firewall-{version}.tgz", "w:gz") as packed:
                packed.add(folder, "mutation-firewall")
        case ["pull", reference, "--version", version, "--destination", target]:
            content = fetched(f"{reference.removeprefix('oci://')}:{version}")
            shutil.copy(content, Path(target) / f"mutation-firewall-{version}.tgz")
            say(f"Pulled: {reference}\nDigest: {digest(content)}")
        case ["push", file, above]:
            version = Path(file).stem.rpartition("-")[2]
            made = pushed(f"{above.removeprefix('oci://')}/mutation-firewall:{version}", Path(file))
            say(f"Pushed: {above}\nDigest: {made}")
        case _:
            raise AssertionError(words)


{"docker": docker, "helm": helm}[sys.argv[1]](sys.argv[2:])
