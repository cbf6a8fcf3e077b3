"""Whether this commit can be released: `make release-check`. It changes nothing, and says for each fault what to type.

With `--tagged` for the commit that has its tag already (the workflow), with `--offline` without asking a package index
whether the locks are what it would give; `--notes` prints the changelog's section of this version and nothing else.
"""

import argparse
import datetime as dt
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]

CHANGELOG: Final = "CHANGELOG.md"
CHART: Final = "helm/mutation-firewall"
MIGRATIONS: Final = "migrations/versions"

_VERSION: Final = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
_SECTION: Final = re.compile(r"^## \[([^\]]+)\](?: - (\S+))?[ \t]*$", re.MULTILINE)
_REQUIREMENT: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)")

# Where the version stands beside pyproject.toml, and where in that file.
COPIES: Final[Mapping[str, str]] = {
    f"{CHART}/Chart.yaml": r'^(?:version|appVersion): "?([^"\s]+)"?$',
    "Dockerfile": r"^ARG VERSION=(\S+)$",
}
# What writes the generated files, in the order in which one reads what another wrote; each is what to type as well.
GENERATORS: Final = (
    "python -m app config reference > docs/configuration.md",
    "python -m app commands > docs/cli.md",
    "python -m app policies schema --write docs/schemas",
    "python -m app policies crds --write k8s/crds",
    "python alerts/grafana.py",
    "python helm/generate.py",
    "python k8s/generate.py",
)
# The window of the schema and every migration, as the code of a tree has them.
_SCHEMA: Final = """
import json
from app.migrations.schema import migrations
from app.persistence.revision import MAXIMUM_REVISION, MINIMUM_REVISION
print(json.dumps([MINIMUM_REVISION, MAXIMUM_REVISION, [[one.revision, one.phase] for one in migrations()]]))
"""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that stands in the way of a release, and what to type."""

    detail: str
    fix: str


class GitRefused(Exception):  # noqa: N818 - what happened, not an error of this program's
    """Git gave no answer, so nothing is known of what it was asked about."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is looked at: a checkout, and how."""

    root: Path
    today: dt.date
    tagged: bool = False
    offline: bool = False

    def git(self, *arguments: str, none: Container[int] = ()) -> str:
        """What git says; empty for an exit code that means that there is no such thing.

        Raises `GitRefused` for any other: what is not known must not pass for what is in order.
        """
        done = subprocess.run(["git", *arguments], cwd=self.root, capture_output=True, text=True, check=False)
        if done.returncode != 0 and done.returncode not in none:
            raise GitRefused(f"`git {' '.join(arguments)}` failed: {done.stderr.strip()[-300:]}")
        return done.stdout.rstrip() if done.returncode == 0 else ""

    def text(self, path: str) -> str:
        """A file of the checkout."""
        return (self.root / path).read_text(encoding="utf-8")

    @property
    def version(self) -> str:
        """The one that `pyproject.toml` names."""
        return str(tomllib.loads(self.text("pyproject.toml"))["project"]["version"])

    def last(self) -> str:
        """The tag of the release before this one, empty where there is none."""
        own = f"v{self.version}"
        tags = [tag for tag in self.git("tag", "--list", "v*", "--merged", "HEAD").split() if _of_tag(tag)]
        return max((tag for tag in tags if tag != own), key=_of_tag, default="")


def _of_tag(tag: str) -> tuple[int, ...]:
    """A version's three numbers, none where it is no version."""
    found = _VERSION.fullmatch(tag.removeprefix("v"))
    return () if found is None else tuple(int(number) for number in found.groups())


def clean(asked: Asked) -> Iterator[Fault]:
    """The tree is what is committed."""
    if changed := asked.git("status", "--porcelain"):
        yield Fault(f"not committed: {', '.join(line[3:] for line in changed.splitlines()[:5])}", "git commit")


def version(asked: Asked) -> Iterator[Fault]:
    """A semantic version, later than the last, the same everywhere."""
    own = asked.version
    if not _VERSION.fullmatch(own):
        yield Fault(f"`{own}` is no version of three numbers", "change `version` in pyproject.toml")
        return
    if (last := asked.last()) and _of_tag(own) < _of_tag(last):
        yield Fault(f"`{own}` is earlier than `{last}`", "change `version` in pyproject.toml")
    for path, pattern in COPIES.items():
        said = re.findall(pattern, asked.text(path), re.MULTILINE)
        if not said or set(said) != {own}:
            yield Fault(f"{path} says `{'`, `'.join(said)}`, and pyproject.toml `{own}`", f"write `{own}` in {path}")


def section(changelog: str, name: str) -> tuple[str, str | None] | None:
    """What stands under a version's heading, and the date beside it."""
    found = list(_SECTION.finditer(changelog))
    for one, after in zip(found, [*found[1:], None], strict=True):
        if one[1] == name:
            return changelog[one.end() : after.start() if after else None].strip(), one[2]
    return None


def changelog(asked: Asked) -> Iterator[Fault]:
    """This version is in the changelog with its day, before all others, and nothing was left out."""
    text, own = asked.text(CHANGELOG), asked.version
    names = [found[1] for found in _SECTION.finditer(text)]
    if names[:1] != ["Unreleased"]:
        yield Fault("the changelog does not begin with `## [Unreleased]`", f"add it to {CHANGELOG}")
    elif (left := section(text, "Unreleased")) and left[0]:
        yield Fault(
            "under *Unreleased* stands what this release has",
            f"move it under `## [{own}] - {asked.today}` in {CHANGELOG}",
        )
    if own not in names:
        yield Fault(f"the changelog has no `{own}`", f"write `## [{own}] - {asked.today}` in {CHANGELOG}")
        return
    if next(name for name in names if name != "Unreleased") != own:
        yield Fault(f"`{own}` is not the newest of the changelog", f"put it before the others in {CHANGELOG}")
    content, day = section(text, own) or ("", None)
    try:
        ahead = dt.date.fromisoformat(day or "") > asked.today
    except ValueError:
        yield Fault(f"`{own}` has no day in the changelog", f"write `## [{own}] - {asked.today}` in {CHANGELOG}")
    else:
        if ahead:
            yield Fault(f"`{own}` is of {day}, which is to come", f"write the day of the release in {CHANGELOG}")
    if not content:
        yield Fault(f"the changelog says nothing about `{own}`", f"write in {CHANGELOG} what users see")


def locks(asked: Asked) -> Iterator[Fault]:
    """Each lock is what its list asks for; and, if an index may be asked, what it would give."""
    folder = asked.root / "requirements"
    for wanted in sorted(folder.glob("*.in")):
        lock = wanted.with_suffix(".lock")
        locked = lock.read_text() if lock.exists() else ""
        named = _named(wanted.read_text())
        there = set(re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==", locked, re.MULTILINE))
        direct = _direct(locked, wanted.name)
        if lost := sorted(named - {_normal(name) for name in there}):
            yield Fault(f"{lock.name} lacks `{'`, `'.join(lost)}` of {wanted.name}", "make lock")
        if more := sorted(direct - named):
            yield Fault(f"{lock.name} has `{'`, `'.join(more)}`, which {wanted.name} does not name", "make lock")
    if not asked.offline:
        yield from _resolved(asked)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _named(requirements: str) -> set[str]:
    """The packages that a list names itself, not by way of another list."""
    lines = (line.strip() for line in requirements.splitlines())
    found = (_REQUIREMENT.match(line) for line in lines if not line.startswith(("#", "-")))
    return {_normal(match[1]) for match in found if match}


def _direct(locked: str, list_name: str) -> set[str]:
    """The packages of a lock that are there because a list names them, as the comments under them say."""
    found: set[str] = set()
    package = ""
    for line in locked.splitlines():
        if line and not line[0].isspace() and (match := _REQUIREMENT.match(line)):
            package = _normal(match[1])
        elif line.lstrip("# ").removeprefix("via ").strip() == f"-r {list_name}":
            found.add(package)
    return found


def _resolved(asked: Asked) -> Iterator[Fault]:
    """Resolve everything anew in a copy, with the locks that are there as what is preferred."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch)
        shutil.copytree(asked.root / "requirements", copy / "requirements")
        for name in ("Makefile", "pyproject.toml"):
            shutil.copy(asked.root / name, copy)
        # The recipe of `make lock`, with the tools of this environment.
        (copy / ".venv" / "bin").mkdir(parents=True)
        (copy / ".venv" / "bin" / "uv").symlink_to(Path(sys.executable).parent / "uv")
        for made in (".python", ".dev"):
            (copy / ".venv" / made).touch()
        # Not what the `make` that runs this was given.
        environ = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        done = subprocess.run(["make", "lock"], cwd=copy, capture_output=True, text=True, check=False, env=environ)
        if done.returncode != 0:
            yield Fault(
                f"the locks could not be compared: {done.stderr.strip()[-200:]}",
                "make release-check ARGS=--offline, where there is no package index",
            )
            return
        for lock in sorted((copy / "requirements").glob("*.lock")):
            if lock.read_bytes() != (asked.root / "requirements" / lock.name).read_bytes():
                yield Fault(f"{lock.name} is not what its list gives", "make lock")


def generated(asked: Asked) -> Iterator[Fault]:
    """Generated pages, schemas, dashboards, chart and manifests are what their generators write from this commit."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "clone"
        asked.git("clone", "--quiet", "--shared", str(asked.root), str(copy))
        for command in GENERATORS:
            done = _run_there(copy, command)
            if done.returncode != 0:
                yield Fault(f"`{command}` failed: {done.stderr.strip()[-300:]}", command)
                return
            status = subprocess.run(
                ["git", "status", "--porcelain"], cwd=copy, capture_output=True, text=True, check=True
            ).stdout
            # The second letter is about what is not in the index: that of this generator.
            if changed := [line[3:] for line in status.splitlines() if line[1] != " "]:
                yield Fault(f"not as it is generated: {', '.join(changed[:5])}", command)
                # What comes after is compared with what was written now, new files as well.
                subprocess.run(["git", "add", "--all"], cwd=copy, check=True, capture_output=True)


def _run_there(copy: Path, command: str) -> "subprocess.CompletedProcess[str]":
    """Run a generator in another checkout, with its code and this environment's libraries."""
    words, _, target = command.partition(" > ")
    arguments = [sys.executable, *words.split()[1:]]
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("MFW_")},
        "PYTHONPATH": str(copy),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(arguments, cwd=copy, capture_output=True, text=True, check=False, env=environ)
    if target and done.returncode == 0:
        (copy / target).write_text(done.stdout, encoding="utf-8")
    return done


def schema(asked: Asked) -> Iterator[Fault]:
    """The window is that of the migrations, and no migration that was released was touched."""
    done = subprocess.run(
        [sys.executable, "-c", _SCHEMA],
        cwd=asked.root,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(asked.root)},
    )
    if done.returncode != 0:
        yield Fault(
            f"the migrations cannot be read: {done.stderr.strip()[-300:]}", "see CONTRIBUTING.md, *A migration*"
        )
        return
    minimum, maximum, migrations = json.loads(done.stdout)
    wanted_minimum = max(revision for revision, phase in migrations if phase == "pre")
    wanted_maximum = migrations[-1][0]
    for name, said, wanted in (
        ("MINIMUM_REVISION", minimum, wanted_minimum),
        ("MAXIMUM_REVISION", maximum, wanted_maximum),
    ):
        if said != wanted:
            yield Fault(
                f"{name} is `{said}`, and the migrations say `{wanted}`",
                f'write `{name} = "{wanted}"` in app/persistence/revision.py',
            )
    if last := asked.last():
        touched = asked.git("diff", "--name-status", "--diff-filter=MDRT", last, "HEAD", "--", MIGRATIONS)
        if touched:
            paths = ", ".join(line.split("\t")[1] for line in touched.splitlines())
            yield Fault(
                f"{last} has other migrations than this: {paths}", f"git checkout {last} -- {paths.split(', ')[0]}"
            )


def chart(asked: Asked) -> Iterator[Fault]:
    """A chart that changed has another version than the one that is out."""
    last = asked.last()
    if not last or not asked.git("diff", "--name-only", last, "HEAD", "--", CHART):
        return
    pattern = r'^version: "?([^"\s]+)"?$'
    was = re.findall(pattern, asked.git("show", f"{last}:{CHART}/Chart.yaml", none=(128,)), re.MULTILINE)
    now = re.findall(pattern, asked.text(f"{CHART}/Chart.yaml"), re.MULTILINE)
    if was == now:
        yield Fault(
            f"the chart changed since {last} and is still `{now[0]}`", f"change `version` in {CHART}/Chart.yaml"
        )


def tag(asked: Asked) -> Iterator[Fault]:
    """The tag is not taken; or, if it is asked for, it is on this commit."""
    name = f"v{asked.version}"
    at = asked.git("rev-parse", "--verify", "--quiet", f"refs/tags/{name}^{{commit}}", none=(1,))
    if asked.tagged and at != asked.git("rev-parse", "HEAD"):
        yield Fault(f"`{name}` is not on this commit", f"tag the commit that says `{asked.version}`")
    if not asked.tagged and at:
        yield Fault(f"`{name}` is taken", "change `version` in pyproject.toml")


Check = Callable[[Asked], Iterator[Fault]]
CHECKS: Final[tuple[Check, ...]] = (clean, version, changelog, locks, generated, schema, chart, tag)


def run(asked: Asked, checks: Sequence[Check]) -> bool:
    """Say how each check went; whether all went well."""
    whole = True
    for check in checks:
        try:
            faults = list(check(asked))
        except GitRefused as refused:
            faults = [Fault(str(refused), "what git says, in this folder")]
        whole = whole and not faults
        sys.stdout.write(f"{'no' if faults else 'ok'}  {check.__name__:<10} {(check.__doc__ or '').splitlines()[0]}\n")
        for fault in faults:
            sys.stdout.write(f"      {fault.detail}\n      fix: {fault.fix}\n")
        sys.stdout.flush()
    return whole


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, and give the exit code: 0 if it can be released, 1 if not."""
    parser = argparse.ArgumentParser(prog="make release-check", description=__doc__)
    parser.add_argument("--tagged", action="store_true", help="the tag is there, and has to be on this commit")
    parser.add_argument("--offline", action="store_true", help="ask no package index about the locks")
    parser.add_argument("--notes", action="store_true", help="print the changelog's section, and check nothing")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    asked = Asked(given.root, dt.datetime.now(dt.UTC).date(), tagged=given.tagged, offline=given.offline)
    own = asked.version
    if given.notes:
        found = section(asked.text(CHANGELOG), own)
        if found is None:
            sys.stderr.write(f"the changelog has no `{own}`\n")
            return 1
        sys.stdout.write(f"{found[0]}\n")
        return 0
    if not run(asked, CHECKS):
        return 1
    if not given.tagged:
        sys.stdout.write(f"\nnext:\n  git tag -s v{own} -m 'Mutation Firewall {own}'\n  git push origin v{own}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
