"""The workflows run what everybody can run, with no more rights than they need, and nothing that may change under them."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".github" / "workflows"
FILES = {path.name: path for path in sorted(FOLDER.iterdir())}
READS = {"contents": "read"}
# What publishes may write, and why it has to: comments in the file say so.
WRITES = {"contents", "packages", "id-token", "attestations"}


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = YAML(typ="safe", pure=True).load(FILES[name])
    # YAML 1.1 takes `on` for a boolean; this reader does not.
    assert set(found) >= {"name", "on", "permissions", "concurrency", "jobs"}
    return found


def steps(name: str) -> list[dict[str, Any]]:
    return [step for job in read(name)["jobs"].values() for step in job["steps"]]


def test_there_are_two():
    assert list(FILES) == ["ci.yml", "release.yml"]


def test_ci_is_dot_ci_run_and_nothing_else():
    (job,) = read("ci.yml")["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == ["bash .ci/run"]
    assert [step["uses"].partition("@")[0] for step in job["steps"] if "uses" in step] == ["actions/checkout"]
    # Nothing that would make it another run than on a machine of one's own, but the variables that say that it is CI.
    assert "env" not in job
    assert all("env" not in step for step in job["steps"])


def test_ci_has_the_oldest_and_the_newest_python():
    (job,) = read("ci.yml")["jobs"].values()
    (oldest,) = re.findall(r'^requires-python = ">=([\d.]+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    (image,) = re.findall(r"^ARG PYTHON=python:([\d.]+)-", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert job["strategy"]["matrix"]["python"] == [oldest, image]


def test_a_release_is_checked_as_a_commit_is_before_anything_is_made():
    jobs = read("release.yml")["jobs"]
    runs = [step["run"] for step in jobs["check"]["steps"] if "run" in step]
    ours = 'git config --global --add safe.directory "$GITHUB_WORKSPACE"'
    assert runs == ["bash .ci/run", ours, "make release-check ARGS=--tagged"]
    assert jobs["publish"]["needs"] == "check"
    assert jobs["publish"]["environment"] == "release"


@pytest.mark.parametrize(
    ("schema", "files"),
    [("github-workflows", list(FILES.values())), ("dependabot", [ROOT / ".github" / "dependabot.yml"])],
)
def test_each_file_is_one_that_the_host_reads(schema, files):
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", *map(str, files)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", FILES)
def test_rights_are_to_read_unless_a_job_says_otherwise(name):
    workflow = read(name)
    assert workflow["permissions"] == READS
    asked = {job: found["permissions"] for job, found in workflow["jobs"].items() if "permissions" in found}
    if name == "release.yml":
        assert asked.keys() == {"publish"}
        assert asked["publish"] == dict.fromkeys(WRITES, "write")
    else:
        assert asked == {}
    for step in steps(name):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


@pytest.mark.parametrize("name", FILES)
def test_actions_are_pinned_by_commit_and_say_their_version(name):
    lines = re.findall(r"^ +- uses: (.*)$", FILES[name].read_text(), re.MULTILINE)
    assert len(lines) == len([step for step in steps(name) if "uses" in step]) > 0
    for line in lines:
        assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line


@pytest.mark.parametrize("name", FILES)
def test_every_job_ends_and_says_where_it_runs(name):
    workflow = read(name)
    for job in workflow["jobs"].values():
        assert 0 < job["timeout-minutes"] <= 90
        assert re.fullmatch(r"ubuntu-\d\d\.04", job["runs-on"]), "a label that moves is another machine tomorrow"
    assert workflow["concurrency"]["group"]


@pytest.mark.parametrize("name", FILES)
def test_nothing_that_somebody_sends_is_put_into_a_script(name):
    for step in steps(name):
        # Expressions are filled in before the shell reads: what they give belongs into variables.
        assert "${{" not in step.get("run", "")
    events = read(name)["on"]
    assert set(events) <= {"push", "pull_request"}, "other events run with secrets on the code of strangers"


@pytest.mark.parametrize(
    "step", [step for name in FILES for step in steps(name) if "run" in step], ids=lambda step: step["run"][:30]
)
def test_scripts_can_be_read_and_name_what_is_there(step):
    done = subprocess.run(["bash", "-n"], input=step["run"], text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    for path in re.findall(r"(?:bash|python3) ([\w./-]+/[\w./-]+)", step["run"]):
        assert (ROOT / path).is_file(), path
    for target in re.findall(r"^make ([a-z-]+)", step["run"], re.MULTILINE):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target


def test_what_was_made_is_signed_and_attested_by_digest():
    publish = read("release.yml")["jobs"]["publish"]["steps"]
    (signing,) = [step["run"] for step in publish if "cosign sign" in step.get("run", "")]
    for line in signing.splitlines():
        if line.startswith("cosign"):
            assert re.search(r'@\$[A-Z]+"$', line), line
    attested = [step["with"] for step in publish if "attest" in step.get("uses", "")]
    assert len(attested) == 4
    for one in attested:
        assert one["subject-digest"].startswith("${{ steps.")
        assert one["push-to-registry"] is True


def test_a_run_that_ended_half_way_is_run_again():
    publish = read("release.yml")["jobs"]["publish"]["steps"]
    # Whatever is pushed is looked for first, which test_publish.py tries.
    scripts = "\n".join(step.get("run", "") for step in publish)
    assert re.findall(r"\b(?:docker|helm) (?:push|build|package)\b", scripts) == []
    assert re.findall(r"release/publish (\w+)", scripts) == ["images", "chart"]
    # A page is made where there is none, and filled while nobody sees it.
    (page,) = [step["run"] for step in publish if "gh release" in step.get("run", "")]
    assert (
        page.index("release view") < page.index("release create") < page.index("isDraft") < page.index("release upload")
    )


def test_what_is_pinned_is_renewed():
    updates = YAML(typ="safe", pure=True).load(ROOT / ".github" / "dependabot.yml")["updates"]
    looked_at = {
        (one["package-ecosystem"], folder)
        for one in updates
        for folder in one.get("directories", [one.get("directory")])
    }
    modules = {f"/{path.parent.relative_to(ROOT)}" for path in ROOT.glob("tests/*/tools/go.mod")}
    assert looked_at == {("github-actions", "/"), ("docker", "/"), *(("gomod", folder) for folder in modules)}
