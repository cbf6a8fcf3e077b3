"""`mfw controller` and `mfw kubernetes controller-rights`: what they are told, and what they refuse."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from app.cli import app
from app.cli.controller import Wanted, _client, _documents, _key, _own_namespace
from app.client import ProblemError
from app.controller.rights import rights
from app.controller.running import Pace
from app.policies.diagnostics import PolicyErrors

MASK = """apiVersion: mutationfirewall.io/v1
kind: RecordMask
metadata: {name: secrets}
spec: {masks: [{pointer: /change/after/data}]}
"""


def test_masks_alone_may_be_beside_the_objects(tmp_path: Path) -> None:
    assert _documents(None) == []
    (tmp_path / "mask.yaml").write_text(MASK)
    assert [one["kind"] for one in _documents(tmp_path)] == ["RecordMask"]


@pytest.mark.parametrize("text", ["a: [", MASK + "---\na: [", MASK.replace("pointer", "pointr"), ""])
def test_a_directory_that_cannot_be_read_whole_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "mask.yaml").write_text(text)
    with pytest.raises(PolicyErrors, match="is refused"):
        _documents(tmp_path)


def test_a_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyErrors, match="cannot be read"):
        _documents(tmp_path / "nowhere")


def test_the_key_is_read_each_time(tmp_path: Path) -> None:
    def wanted(file: Path | None) -> Wanted:
        return Wanted("http://127.0.0.1", "given", file, None, (), None, None, "lease", Pace())

    file = tmp_path / "key"
    assert _key(wanted(None)) == "given"
    with pytest.raises(ProblemError, match="cannot be read: no such file"):
        _key(wanted(file))
    file.write_text("one\n")
    assert _key(wanted(file)) == "one"


@pytest.mark.parametrize("text", [None, "no certificate"])
def test_an_authority_that_cannot_be_read_is_said(text: str | None, tmp_path: Path) -> None:
    """Each look tries again: a Secret may come later."""
    file = tmp_path / "ca.crt"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ProblemError, match="the file of the authority cannot be read"):
        _client(Wanted("https://a", "given", None, file, (), None, None, "lease", Pace()))


def test_the_namespace_is_that_of_the_pod(tmp_path: Path) -> None:
    assert _own_namespace(tmp_path) == "mutation-firewall"
    (tmp_path / "namespace").write_text("firewall\n")
    assert _own_namespace(tmp_path) == "firewall"


def test_rights_are_those_of_the_namespaces_that_are_named() -> None:
    arguments = ["--account", "a/b", "--exceptions-namespace", "payments", "--exceptions-namespace", "default"]
    done = CliRunner().invoke(app, ["kubernetes", "controller-rights", *arguments])
    assert done.exit_code == 0, done.output
    assert "&" not in done.stdout
    roles = [one for one in YAML(typ="safe").load_all(done.stdout) if "rules" in one]
    found = {
        one["metadata"].get("namespace", ""): [
            (resource, *rule["verbs"]) for rule in one["rules"] for resource in rule["resources"]
        ]
        for one in roles
    }
    policies = [("mutationpolicies", "get", "list", "watch"), ("mutationpolicies/status", "patch")]
    exceptions = [("policyexceptions", "get", "list", "watch"), ("policyexceptions/status", "patch")]
    assert found == {
        "": policies,
        "a": [("leases", "create"), ("leases", "get", "update")],
        "default": [*exceptions, ("events", "create")],
        "payments": [*exceptions, ("events", "create")],
    }


def test_it_may_run_in_the_namespace_of_events() -> None:
    made = rights(name="a", namespace="default", account="b", lease="c", exceptions=())
    (role,) = [one for one in made if one["kind"] == "Role"]
    assert [rule["resources"] for rule in role["rules"]] == [["leases"], ["leases"], ["events"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["kubernetes", "controller-rights", "--account", "a"], "`a` is no ServiceAccount"),
        (["kubernetes", "controller-rights", "--exceptions-namespace", "*"], "`*` is no name of a namespace"),
        (["controller", "--exceptions-namespace", "a/b"], "`a/b` is no name of a namespace"),
        (["controller", "--namespace", "A"], "`A` is no name of a namespace"),
        (["controller", "--url", "ftp://a"], "is no address of a service"),
        (["controller", "--server", "https://a"], "needs an address, a token and an authority"),
        (["controller"], "this is no pod"),
    ],
)
def test_what_cannot_be_is_refused(arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code != 0
    assert message in " ".join(done.output.split())
