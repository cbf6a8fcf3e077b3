"""This checkout as a repository of its own, as it stands: a test may break what it likes in a clone of it."""

import contextlib
import re
import shutil
import subprocess
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from release.check import CHANGELOG, Asked

ROOT = Path(__file__).resolve().parents[2]
GIT = ("git", "-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false")
TODAY = date(2030, 1, 1)
UNRELEASED = re.compile(r"(^## \[Unreleased\]\n\n).*?(?=^## )", re.MULTILINE | re.DOTALL)


# What tests that run meanwhile make and remove.
NOT_OURS = (
    ".git",
    ".venv",
    "__pycache__",
    ".*_cache",
    ".hypothesis",
    ".coverage*",
    ".state",
    "*.egg-info",
)
# A folder; elsewhere scripts have this name.
BUILT = ROOT / "build"


def left_out(folder: str, names: list[str]) -> set[str]:
    """What is not copied of a folder."""
    built = {name for name in names if Path(folder, name) == BUILT}
    return built | set(shutil.ignore_patterns(*NOT_OURS)(folder, names))


def copied(source: str, target: str) -> None:
    """Copy a file that may be gone since it was seen."""
    with contextlib.suppress(FileNotFoundError):
        shutil.copy2(source, target)


def git(folder: Path, *arguments: str) -> None:
    subprocess.run([*GIT, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="session")
def _repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("release") / "repository"
    shutil.copytree(ROOT, made, ignore=left_out, copy_function=copied)
    # Ready to be released, as the checkout need not be: what is not released yet would be a fault in every test.
    changelog = made / CHANGELOG
    changelog.write_text(UNRELEASED.sub(r"\1", changelog.read_text()))
    git(made, "init", "--quiet", "--initial-branch=main")
    git(made, "add", "--all")
    git(made, "commit", "--quiet", "--message=everything")
    return made


class Checkout:
    """A clone of a test's own."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def asked(self, *, tagged: bool = False) -> Asked:
        return Asked(self.root, TODAY, tagged=tagged, offline=True)

    def write(self, path: str, change: Callable[[str], str]) -> None:
        """Change a file, and commit."""
        file = self.root / path
        text = file.read_text() if file.exists() else ""
        file.write_text(change(text))
        assert file.read_text() != text, "the test changes nothing"
        self.commit()

    def commit(self) -> None:
        git(self.root, "add", "--all")
        git(self.root, "commit", "--quiet", "--message=change")

    def tag(self, name: str) -> None:
        git(self.root, "tag", name)


@pytest.fixture
def checkout(_repository: Path, tmp_path: Path) -> Checkout:
    git(tmp_path, "clone", "--quiet", "--shared", str(_repository), "clone")
    return Checkout(tmp_path / "clone")
