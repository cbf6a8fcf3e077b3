"""`make release-check`: each fault is found, and told with what to type."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version as installed
from pathlib import Path

import pytest

from app import bootstrap
from release import check
from release.check import Asked, Fault
from tests.release.conftest import TODAY

ROOT = Path(__file__).resolve().parents[2]
VERSION = Asked(ROOT, TODAY).version


def the_only(found) -> Fault:
    fault: Fault
    (fault,) = found
    return fault


def test_what_is_here_could_be_released(checkout):
    for one in (check.clean, check.version, check.changelog, check.locks, check.schema, check.chart, check.tag):
        assert list(one(checkout.asked())) == [], one.__name__


def test_the_version_is_one():
    assert installed("mutation-firewall") == VERSION, "install again: make .venv/.dev"
    said = subprocess.run(
        [sys.executable, "-m", "app", "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert said.stdout.split() == ["mutation-firewall", VERSION]
    # The document of the API, the metric, and each entry of the ledger.
    assert bootstrap.VERSION == VERSION
    manifests = [path for path in (ROOT / "k8s").rglob("*.yaml") if path.parent.name != "crds"]
    images = [tag for path in manifests for tag in re.findall(r"image: mutation-firewall/\S+:(\S+)", path.read_text())]
    labels = [found for path in manifests for found in re.findall(r"kubernetes.io/version: (\S+)", path.read_text())]
    assert images
    assert labels
    assert set(images + labels) == {VERSION}


def test_what_is_not_committed(checkout):
    (checkout.root / "README.md").write_text("x")
    (checkout.root / "new").write_text("x")
    fault = the_only(check.clean(checkout.asked()))
    assert "README.md, new" in fault.detail


@pytest.mark.parametrize("path", list(check.COPIES))
def test_another_version_somewhere(checkout, path):
    checkout.write(path, lambda text: text.replace(VERSION, "9.8.7"))
    fault = the_only(check.version(checkout.asked()))
    assert path in fault.fix
    assert "`9.8.7`" in fault.detail


def test_a_chart_for_another_release(checkout):
    checkout.write(
        f"{check.CHART}/Chart.yaml", lambda text: text.replace(f'appVersion: "{VERSION}"', 'appVersion: "9"')
    )
    assert f"`{VERSION}`, `9`" in the_only(check.version(checkout.asked())).detail


def with_version(checkout, name):
    checkout.write("pyproject.toml", lambda text: text.replace(f'version = "{VERSION}"', f'version = "{name}"'))


@pytest.mark.parametrize("name", ["1", "1.0", "1.0.0rc1", "01.0.0", "v1.0.0"])
def test_no_semantic_version(checkout, name):
    with_version(checkout, name)
    assert f"`{name}`" in the_only(check.version(checkout.asked())).detail


def test_an_earlier_version_than_the_last(checkout):
    checkout.tag("v10.0.0")
    checkout.tag("v9.0.0")
    checkout.tag("vague")
    assert "earlier than `v10.0.0`" in the_only(check.version(checkout.asked())).detail


HEADING = re.compile(rf"^## \[{re.escape(VERSION)}\] - .*$", re.MULTILINE)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("## [Unreleased]\n", "## [Unreleased]\n\n### Added\n\n- More.\n"), "*Unreleased*"),
        (lambda text: text.replace("## [Unreleased]\n", ""), "does not begin with"),
        (lambda text: HEADING.sub(f"## [{VERSION}]", text), "has no day"),
        (lambda text: HEADING.sub(f"## [{VERSION}] - soon", text), "has no day"),
        (lambda text: HEADING.sub(f"## [{VERSION}] - 2030-01-02", text), "is to come"),
        (lambda text: HEADING.sub("## [0.0.1] - 2026-01-01", text), f"has no `{VERSION}`"),
        (lambda text: HEADING.sub(lambda found: f"## [9.0.0] - 2029-01-01\n\n{found[0]}", text), "not the newest"),
        (lambda text: HEADING.sub(lambda found: f"{found[0]}\n\n## [0.0.1] - 2026-01-01", text), "says nothing"),
    ],
)
def test_a_changelog_that_is_behind(checkout, change, said):
    checkout.write(check.CHANGELOG, change)
    fault = the_only(check.changelog(checkout.asked()))
    assert said in fault.detail
    assert check.CHANGELOG in fault.fix


@pytest.mark.parametrize(
    ("path", "change", "said"),
    [
        ("run.in", lambda text: f"{text}more-itertools\n", "run.lock lacks `more-itertools` of run.in"),
        ("run.in", lambda text: text.replace("orjson\n", ""), "run.lock has `orjson`, which run.in does not name"),
        ("grpc.lock", lambda _: "", "grpc.lock lacks `grpcio`, `protobuf` of grpc.in"),
    ],
)
def test_a_lock_that_is_behind(checkout, path, change, said):
    checkout.write(f"requirements/{path}", change)
    fault = the_only(check.locks(checkout.asked()))
    assert (fault.detail, fault.fix) == (said, "make lock")


def test_locks_that_cannot_be_compared(checkout, monkeypatch):
    for name in os.environ:
        if name.startswith("UV_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("UV_CACHE_DIR", str(checkout.root.parent / "cache"))
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    monkeypatch.setenv("UV_OFFLINE", "1")
    fault = the_only(check.locks(Asked(checkout.root, TODAY)))
    assert "could not be compared" in fault.detail
    assert "--offline" in fault.fix


def test_what_was_generated_is_behind(checkout, monkeypatch):
    commands, grafana = check.GENERATORS[1], check.GENERATORS[4]
    monkeypatch.setattr(check, "GENERATORS", ("python helm/generate.py",))
    assert list(check.generated(checkout.asked())) == []
    monkeypatch.setattr(check, "GENERATORS", (commands, grafana))
    checkout.write("docs/cli.md", lambda text: f"{text}more\n")
    checkout.write("alerts/dashboards/ledger.json", lambda text: json.dumps(json.loads(text) | {"title": "x"}))
    first, second = check.generated(checkout.asked())
    assert ("docs/cli.md" in first.detail, first.fix) == (True, commands)
    assert ("alerts/dashboards/ledger.json" in second.detail, second.fix) == (True, grafana)
    assert "docs/cli.md" not in second.detail
    # A file that is not there at all, and one generator after it.
    (checkout.root / "alerts/dashboards/ledger.json").unlink()
    checkout.commit()
    monkeypatch.setattr(check, "GENERATORS", (grafana, commands))
    first, second = check.generated(checkout.asked())
    assert (first.detail, first.fix) == ("not as it is generated: alerts/dashboards/ledger.json", grafana)
    assert (second.detail, second.fix) == ("not as it is generated: docs/cli.md", commands)
    monkeypatch.setattr(check, "GENERATORS", ("python alerts/no-such-thing.py > docs/cli.md", grafana))
    assert "failed" in the_only(check.generated(checkout.asked())).detail


def test_every_generator_is_there():
    for command in check.GENERATORS:
        words = command.split()
        assert words[:3] == ["python", "-m", "app"] or (ROOT / words[1]).is_file()


POST = 'revision = "0099"\ndown_revision = "{before}"\nneeds = "0099"\ndef upgrade(): pass\ndef downgrade(): pass\n'


def test_a_window_that_is_not_that_of_the_migrations(checkout):
    newest = max((checkout.root / check.MIGRATIONS).glob("*.py")).name[:4]
    checkout.write(f"{check.MIGRATIONS}/0099_post_x.py", lambda _: POST.format(before=newest))
    fault = the_only(check.schema(checkout.asked()))
    assert fault.fix == 'write `MAXIMUM_REVISION = "0099"` in app/persistence/revision.py'
    checkout.write(
        "app/persistence/revision.py",
        lambda text: text.replace(f'MINIMUM_REVISION = "{newest}"', 'MINIMUM_REVISION = "0001"'),
    )
    assert "MINIMUM_REVISION is `0001`" in next(check.schema(checkout.asked())).detail


def test_migrations_that_cannot_be_read(checkout):
    checkout.write(f"{check.MIGRATIONS}/0099_maybe_x.py", lambda _: POST.format(before="0012"))
    assert "is not in a file like" in the_only(check.schema(checkout.asked())).detail


def test_a_released_migration_that_was_touched(checkout):
    checkout.tag("v0.0.1")
    path = f"{check.MIGRATIONS}/0001_pre_ledger.py"
    checkout.write(path, lambda text: f"{text}\n# more\n")
    fault = the_only(check.schema(checkout.asked()))
    assert fault.fix == f"git checkout v0.0.1 -- {path}"


def test_a_chart_that_changed_and_says_the_same(checkout):
    checkout.tag("v0.0.1")
    assert list(check.chart(checkout.asked())) == []
    checkout.write(f"{check.CHART}/values.yaml", lambda text: f"{text}\n# more\n")
    assert "changed since v0.0.1" in the_only(check.chart(checkout.asked())).detail
    checkout.write(f"{check.CHART}/Chart.yaml", lambda text: text.replace(f"version: {VERSION}\n", "version: 9.8.7\n"))
    assert list(check.chart(checkout.asked())) == []


def test_the_tag(checkout):
    assert "not on this commit" in the_only(check.tag(checkout.asked(tagged=True))).detail
    checkout.tag(f"v{VERSION}")
    assert list(check.tag(checkout.asked(tagged=True))) == []
    assert "is taken" in the_only(check.tag(checkout.asked())).detail
    # The tag of this very version is not the release before it.
    assert checkout.asked(tagged=True).last() == ""
    checkout.write("README.md", lambda text: f"{text}\n")
    assert "not on this commit" in the_only(check.tag(checkout.asked(tagged=True))).detail


def test_what_is_said(checkout, monkeypatch, capsys):
    monkeypatch.setattr(check, "CHECKS", (check.clean, check.tag))
    assert check.main(["--root", str(checkout.root)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("ok  clean")
    assert f"git tag -s v{VERSION}" in said
    (checkout.root / "README.md").write_text("x")
    assert check.main(["--root", str(checkout.root)]) == 1
    said = capsys.readouterr().out
    assert "no  clean" in said
    assert "fix: git commit" in said
    assert "next" not in said


def test_git_that_does_not_answer_is_no_consent(checkout, monkeypatch, capsys):
    """As in a checkout that belongs to somebody else: nothing is known of the tree, the tags, what was released."""
    (checkout.root / ".git" / "config").write_text("no configuration")
    monkeypatch.setattr(check, "CHECKS", (check.clean, check.version, check.generated, check.schema, check.tag))
    assert check.main(["--root", str(checkout.root), "--offline", "--tagged"]) == 1
    said = capsys.readouterr().out
    assert re.findall(r"^(ok|no)  ", said, re.MULTILINE) == ["no"] * 5
    assert "`git status --porcelain` failed: fatal: bad config" in said


def test_the_notes_are_what_the_changelog_has(checkout, capsys):
    assert check.main(["--root", str(checkout.root), "--notes"]) == 0
    notes = capsys.readouterr().out
    assert notes.strip() in (ROOT / check.CHANGELOG).read_text()
    assert "## [" not in notes
    with_version(checkout, "9.8.7")
    assert check.main(["--root", str(checkout.root), "--notes"]) == 1
