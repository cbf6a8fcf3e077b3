"""`mfw check diff`: diffs from files and from git, whatever lies in the repository."""

import json
import os
import subprocess

import jsonschema
import pytest
from typer.testing import CliRunner

from app.cli import app
from app.cli.checking.commits import read_range
from app.cli.output import Refused
from tests.unit.cli.test_checking import LOCAL, SARIF

DOCS = "diff --git a/README.md b/README.md\nindex 0519f75..45ee5c4 100644\n--- a/README.md\n+++ b/README.md\n@@ -1 +1 @@\n-a\n+b\n"


def run(*arguments, stdin=None):
    command = ["check", "diff", *map(str, arguments), "--id", "example-shop/client#311", *LOCAL]
    return CliRunner().invoke(app, command, input=stdin)


def test_a_diff_of_documentation():
    result = run("-", stdin=DOCS)
    assert result.exit_code == 0, result.output
    assert "modified README.md (+1 -1)" in result.stdout
    assert "ALLOW" in result.stdout


def test_one_mutation_for_the_whole(tmp_path):
    (tmp_path / "change.diff").write_text(DOCS + DOCS.replace("README.md", "src/main.py"))
    result = run(tmp_path / "change.diff", "--format", "json", "--context", "title=x")
    assert result.exit_code == 11
    report = json.loads(result.stdout)
    (one,) = report["results"]
    assert one["resource"] == {"type": "git/PullRequest", "id": "example-shop/client#311"}
    assert (one["action"], one["reasons"][0]["rule"]) == ("merge", "code")


def test_sarif_names_the_files():
    text = DOCS + DOCS.replace("README.md", "src/a b.py") + DOCS.replace("README.md", "../etc/passwd")
    result = run("-", "--format", "sarif", stdin=text)
    assert result.exit_code == 10
    log = json.loads(result.stdout)
    jsonschema.Draft4Validator(SARIF).validate(log)
    first = log["runs"][0]["results"][0]
    assert first["ruleId"] == "pull-request/leaves-the-tree"
    assert first["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "README.md"
    assert [one["physicalLocation"]["artifactLocation"]["uri"] for one in first["relatedLocations"]] == ["src/a%20b.py"]


@pytest.mark.parametrize(
    ("text", "flag"),
    [
        ("diff --git a/x b/x\nold mode 100644\nnew mode 100755\n", "executable"),
        ("diff --git a/x b/x\nnew file mode 120000\n--- /dev/null\n+++ b/x\n@@ -0,0 +1 @@\n+../../etc\n", "symlink"),
        ("diff --git a/x b/x\nindex 0519f75..45ee5c4 100644\nBinary files a/x and b/x differ\n", "binary"),
        ("diff --git a/x b/y\nsimilarity index 100%\nrename from x\nrename to y\n", "renamed y from x"),
        ("--- a/../x\n+++ b/../x\n@@ -1 +1 @@\n-a\n+b\n", "leads out of the repository"),
    ],
)
def test_what_is_unusual_is_told(text, flag):
    result = run("-", stdin=text)
    assert result.exit_code in {10, 11}
    assert flag in result.stdout


@pytest.mark.parametrize(
    "text", ["", "no diff", "--- a/x\n+++ b/x\n", DOCS.replace("+b", "+b\0"), DOCS.encode() + b"\xff"]
)
def test_what_is_no_diff(text):
    result = run("-", "--format", "json", stdin=text)
    assert result.exit_code == 65, result.output
    assert "error" in json.loads(result.stdout)


def test_names_steer_no_terminal():
    result = run(
        "-",
        stdin=DOCS.replace("a/README.md b/README.md", '"a/\\033[31m" "b/\\033[31m"')
        .replace("--- a/README.md", '--- "a/\\033[31m"')
        .replace("+++ b/README.md", '+++ "b/\\033[31m"'),
    )
    assert result.exit_code == 11
    assert "\x1b" not in result.stdout
    assert "\\x1b[31m" in result.stdout


def test_many_files_are_counted():
    text = "".join(DOCS.replace("README.md", f"docs/{number}.md") for number in range(60))
    result = run("-", stdin=text)
    assert result.exit_code == 0
    assert "and 10 more files" in result.stdout


@pytest.mark.parametrize("arguments", [[], ["-", "--git", "a..b"]])
def test_one_source_of_the_two(arguments):
    assert run(*arguments, stdin=DOCS).exit_code == 2


@pytest.fixture
def repository(tmp_path):
    """A repository with a first commit `base`; `commit` adds files and gives the commit."""

    class Repository:
        path = tmp_path / "repository"

        def git(self, *arguments):
            environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
            made = subprocess.run(
                ["git", "-c", "user.name=a", "-c", "user.email=a@example.com", *arguments],
                cwd=self.path,
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            )
            return made.stdout.strip()

        def commit(self, **files):
            for name, text in files.items():
                (self.path / name).write_text(text)
            self.git("add", "-A")
            self.git("commit", "-q", "-m", "c")
            return self.git("rev-parse", "HEAD")

    Repository.path.mkdir()
    made = Repository()
    made.git("init", "-q", "-b", "main")
    made.commit(README="a\n")
    made.git("tag", "base")
    return made


def test_between_two_commits(repository):
    head = repository.commit(README="b\n")
    result = run("--git", "base..main", "-C", repository.path, "--format", "json")
    assert result.exit_code == 0, result.output
    made = read_range("base..", directory=repository.path, most=10_000)
    assert (made.base, made.head) == (repository.git("rev-parse", "base"), head)
    assert b"+b" in made.body


def test_since_the_two_parted(repository):
    repository.git("checkout", "-q", "-b", "feature")
    repository.commit(feature="f\n")
    repository.git("checkout", "-q", "main")
    repository.commit(other="o\n")
    assert b"other" not in read_range("main...feature", directory=repository.path, most=10_000).body
    assert b"other" in read_range("main..feature", directory=repository.path, most=10_000).body


def test_nothing_differs(repository):
    result = run("--git", "base..HEAD", "-C", repository.path)
    assert result.exit_code == 0
    assert "nothing differs" in result.stdout


def test_nothing_in_the_repository_steers_its_diff(repository, monkeypatch):
    marker = repository.path / "ran"
    repository.commit(
        **{".gitattributes": "*.py -diff\n*.sh diff=evil\n", "evil.py": "import os\n", "x.sh": "rm -rf /\n"}
    )
    for name, value in (
        ("diff.external", f"touch {marker}; true"),
        ("diff.evil.textconv", f"touch {marker}; true"),
        ("diff.evil.command", f"touch {marker}; true"),
        ("core.fsmonitor", f"touch {marker}; true"),
        ("core.pager", f"touch {marker}; true"),
        ("color.ui", "always"),
        ("diff.noprefix", "true"),
        ("diff.mnemonicPrefix", "true"),
        ("diff.ignoreSubmodules", "all"),
        ("diff.renames", "false"),
        ("diff.context", "0"),
    ):
        repository.git("config", name, value)
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", f"touch {marker}; true")
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    body = read_range("base...HEAD", directory=repository.path, most=10_000).body
    assert b"+import os" in body
    assert b"+rm -rf /" in body
    assert b"b/evil.py" in body
    assert b"\x1b" not in body
    assert not marker.exists()


@pytest.mark.parametrize(
    ("commits", "code"),
    [
        ("main", 2),
        ("..main", 2),
        ("base..nowhere", 65),
        ("--output=x..main", 65),
        ("base..main^{tree}", 65),
    ],
)
def test_a_range_that_is_none(repository, commits, code):
    with pytest.raises(Refused) as refused:
        read_range(commits, directory=repository.path, most=10_000)
    assert refused.value.code == code
    assert not list(repository.path.glob("x*"))


def test_histories_that_have_nothing_in_common(repository):
    repository.git("checkout", "-q", "--orphan", "alone")
    repository.commit(alone="a\n")
    with pytest.raises(Refused, match="nothing in common"):
        read_range("main...alone", directory=repository.path, most=10_000)


def test_where_there_is_no_repository(tmp_path, monkeypatch):
    for directory, code in ((tmp_path, 65), (tmp_path / "none", 66), (tmp_path / "file", 66)):
        (tmp_path / "file").touch()
        with pytest.raises(Refused) as refused:
            read_range("a..b", directory=directory, most=10_000)
        assert refused.value.code == code
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Refused, match="no program"):
        read_range("a..b", directory=tmp_path, most=10_000)


def test_a_diff_that_is_too_long_or_takes_too_long(repository, monkeypatch):
    repository.commit(README="b\n" * 100)
    with pytest.raises(Refused, match="longer than 50 bytes"):
        read_range("base..HEAD", directory=repository.path, most=50)

    def late(*_arguments, **_options):
        raise subprocess.TimeoutExpired("git", 1)

    monkeypatch.setattr(subprocess, "run", late)
    with pytest.raises(Refused, match="seconds"):
        read_range("base..HEAD", directory=repository.path, most=50)
