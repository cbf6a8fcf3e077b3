"""A directory loads whole or is refused whole, with every finding of every file."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import ClassVar

import pytest

from app.core import canonical
from app.errors import Kind
from app.policies import load
from app.policies.diagnostics import Diagnostic, PolicyErrors, Severity
from app.policies.load import check_directory, load_directory

STARTER = Path(__file__).parents[3] / "policies" / "starter"
POLICY = """\
apiVersion: mutationfirewall.io/v1
kind: MutationPolicy
metadata: {{name: {name}}}
spec:
  match: {{resources: [{{type: t}}]}}
  rules: [{{name: r, effect: allow}}]
"""


def write(directory: Path, **files: str) -> Path:
    for name, text in files.items():
        directory.joinpath(f"{name}.yaml").write_text(text)
    return directory


def policy(name: str) -> str:
    return POLICY.format(name=name)


def names(directory: Path) -> list[str]:
    return [p.name for p in load_directory(directory).policies]


def refused(directory: Path) -> list[tuple[str, str]]:
    with pytest.raises(PolicyErrors) as caught:
        load_directory(directory)
    assert caught.value.kind is Kind.INVALID_POLICY
    assert all(d.severity is Severity.ERROR for d in caught.value.diagnostics)
    return [(d.file, d.message) for d in caught.value.diagnostics]


def test_the_starter_policies_load_without_a_word():
    checked = check_directory(STARTER)
    assert checked.diagnostics == ()
    assert checked.policy_set is not None
    assert checked.policy_set.digest.startswith("sha256:")


def test_several_files_and_documents(tmp_path):
    write(tmp_path, one=policy("b") + "---\n" + policy("a"), two=policy("c"))
    tmp_path.joinpath("three.yml").write_text(policy("d"))
    tmp_path.joinpath("FOUR.YAML").write_text(policy("e"))
    tmp_path.joinpath("README.md").write_text("not a policy")
    tmp_path.joinpath(".hidden.yaml").write_text("not: a policy")
    write_into = tmp_path / "team"
    write_into.mkdir()
    write(write_into, five=policy("f"))
    assert names(tmp_path) == ["a", "b", "c", "d", "e", "f"]


class TestDigest:
    def digest(self, directory: Path, **files: str) -> str:
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        return load_directory(write(directory, **files)).digest

    def test_it_names_the_content_and_nothing_else(self, tmp_path):
        one = self.digest(tmp_path / "d", x=policy("a"), y=policy("b"))
        assert self.digest(tmp_path / "d", z="# why\n" + policy("b") + "\n---\n" + policy("a")) == one
        assert (
            self.digest(
                tmp_path / "d", x=policy("a").replace("metadata: {name: a}", 'metadata:\n  name: "a"'), y=policy("b")
            )
            == one
        )
        assert self.digest(tmp_path / "d", x=policy("a")) != one
        assert self.digest(tmp_path / "d", x=policy("a"), y=policy("b").replace("allow", "deny, message: m")) != one

    def test_it_is_the_digest_of_the_sorted_documents(self, tmp_path):
        documents = [
            {
                "apiVersion": "mutationfirewall.io/v1",
                "kind": "MutationPolicy",
                "metadata": {"name": name},
                "spec": {"match": {"resources": [{"type": "t"}]}, "rules": [{"name": "r", "effect": "allow"}]},
            }
            for name in ("a", "b")
        ]
        assert self.digest(tmp_path / "d", x=policy("b"), y=policy("a")) == canonical.digest(documents)


class TestRefusals:
    def test_all_findings_of_all_files_at_once(self, tmp_path):
        write(
            tmp_path,
            a=policy("a").replace("effect", "efect"),
            b="a: [",
            c=policy("c") + "---\nkind: Other\n",
            d=policy("c"),
        )
        assert [name for name, _ in refused(tmp_path)] == [
            "a.yaml",
            "a.yaml",
            "b.yaml",
            "c.yaml",
            "c.yaml",
            "c.yaml",
            "c.yaml",
            "d.yaml",
        ]
        assert refused(tmp_path)[-1] == ("d.yaml", "the name `c` is used twice, first in `c.yaml` line 1")

    def test_the_error_is_readable(self, tmp_path):
        write(tmp_path, a=policy("a").replace("effect: allow", "effect: alow"))
        with pytest.raises(PolicyErrors) as caught:
            load_directory(tmp_path)
        assert str(caught.value) == (
            "the policy set is refused with 1 error; the first is a.yaml:6:29: error: spec.rules[0].effect: must be one of "
            "`allow`, `deny`, `hold`, not `alow`; did you mean `allow`?; `mfw policies check DIR` shows all of them"
        )

    def test_no_errors_is_no_reason(self):
        assert "refused" in str(PolicyErrors([]))

    def test_an_empty_directory(self, tmp_path):
        assert "there are no policies" in refused(tmp_path)[0][1]

    def test_files_without_documents(self, tmp_path):
        write(tmp_path, a="# nothing\n")
        checked = check_directory(tmp_path)
        assert [(d.file, d.severity) for d in checked.diagnostics] == [
            ("", Severity.ERROR),
            ("a.yaml", Severity.WARNING),
        ]

    def test_a_warning_alone_does_not_refuse(self, tmp_path):
        write(tmp_path, a="# nothing\n", b=policy("b"))
        checked = check_directory(tmp_path)
        assert checked.policy_set is not None
        assert [d.message for d in checked.diagnostics] == ["has no documents"]

    def test_no_directory(self, tmp_path):
        assert "cannot be read: no such file" in refused(tmp_path / "none")[0][1]
        assert "cannot be read: it is not a directory" in refused(write(tmp_path, a=policy("a")) / "a.yaml")[0][1]

    def test_not_utf8(self, tmp_path):
        tmp_path.joinpath("a.yaml").write_bytes(b"# x\n# \xff\n")
        with pytest.raises(PolicyErrors) as caught:
            load_directory(tmp_path)
        (diagnostic,) = [d for d in caught.value.diagnostics if d.file]
        assert (diagnostic.line, diagnostic.message) == (2, "is not UTF-8")

    def test_a_byte_order_mark_is_no_harm(self, tmp_path):
        tmp_path.joinpath("a.yaml").write_bytes(b"\xef\xbb\xbf" + policy("a").encode())
        assert names(tmp_path) == ["a"]

    def test_too_large(self, tmp_path):
        write(tmp_path, a="#" * (load.FILE_MAX_BYTES + 1))
        assert ("a.yaml", "has more than 1048576 bytes") in refused(tmp_path)

    def test_too_many_files(self, tmp_path, monkeypatch):
        monkeypatch.setattr(load, "FILES_MAX", 1)
        write(tmp_path, a=policy("a"), b=policy("b"))
        assert ("", "there are more than 1 policy files") in refused(tmp_path)

    def test_too_many_policies(self, tmp_path, monkeypatch):
        monkeypatch.setattr(load, "POLICIES_MAX", 1)
        write(tmp_path, a=policy("a") + "---\n" + policy("b"))
        assert ("", "there are more than 1 policies") in refused(tmp_path)

    def test_too_deep(self, tmp_path):
        deep = tmp_path
        for _ in range(10):
            deep /= "d"
            deep.mkdir()
        write(deep, a=policy("a"))
        assert any("nested more than 8 deep" in message for _, message in refused(tmp_path))

    def test_no_regular_file(self, tmp_path):
        tmp_path.joinpath("d.yaml").mkdir()
        os.mkfifo(tmp_path / "f.yaml")
        assert refused(tmp_path)[-2:] == [("d.yaml", "is not a regular file"), ("f.yaml", "is not a regular file")]

    def test_a_file_that_cannot_be_read(self, tmp_path, monkeypatch):
        write(tmp_path, a=policy("a"), b=policy("b"))
        opened = Path.open

        def refuse(self, *args, **kwargs):
            if self.name == "a.yaml":
                raise PermissionError(13, "Permission denied")
            return opened(self, *args, **kwargs)

        monkeypatch.setattr(Path, "open", refuse)
        assert refused(tmp_path) == [("a.yaml", "cannot be read: permission denied")]


class TestLinks:
    def mount(self, directory: Path) -> Path:
        """Lay files out as a kubelet mounts a ConfigMap."""
        version = directory / "..2026_03_14_15_09_26.535897932"
        version.mkdir(parents=True)
        write(version, a=policy("a"), b=policy("b"))
        directory.joinpath("..data").symlink_to(version.name)
        for name in ("a.yaml", "b.yaml"):
            directory.joinpath(name).symlink_to(f"..data/{name}")
        return directory

    def test_a_mounted_config_map_is_loaded_once(self, tmp_path):
        assert names(self.mount(tmp_path / "m")) == ["a", "b"]

    def test_folders_of_a_mounted_config_map(self, tmp_path):
        directory = self.mount(tmp_path / "m")
        (directory / "..data" / "team").mkdir()
        write(directory / "..data" / "team", c=policy("c"))
        directory.joinpath("team").symlink_to("..data/team")
        assert names(directory) == ["a", "b", "c"]

    def test_a_mount_replaced_while_it_is_read_is_refused(self, tmp_path, monkeypatch):
        directory = self.mount(tmp_path / "m")
        read = load._read_file

        def replace(*args):
            found = read(*args)
            directory.joinpath("..data").unlink()
            directory.joinpath("..data").symlink_to("..other")
            return found

        monkeypatch.setattr(load, "_read_file", replace)
        monkeypatch.setattr(load, "_files", lambda root, _, found: [("a.yaml", (root / "a.yaml").resolve())])
        assert ("", "the directory was replaced while it was read") in refused(directory)

    def test_two_names_for_one_file_are_one_file(self, tmp_path):
        write(tmp_path, a=policy("a"))
        tmp_path.joinpath("b.yaml").symlink_to("a.yaml")
        assert names(tmp_path) == ["a"]

    def test_the_directory_itself_may_be_a_link(self, tmp_path):
        real = tmp_path / "real"
        real.mkdir()
        write(real, a=policy("a"))
        tmp_path.joinpath("link").symlink_to(real)
        assert names(tmp_path / "link") == ["a"]

    def test_a_link_that_leads_out(self, tmp_path):
        inside = tmp_path / "inside"
        inside.mkdir()
        write(tmp_path, out=policy("out"))
        write(inside, a=policy("a"))
        inside.joinpath("b.yaml").symlink_to("../out.yaml")
        inside.joinpath("c").symlink_to("..")
        message = "the link leads out of the policy directory"
        assert refused(inside) == [("b.yaml", message), ("c", message)]

    def test_links_that_lead_nowhere(self, tmp_path):
        write(tmp_path, a=policy("a"))
        tmp_path.joinpath("b.yaml").symlink_to("none.yaml")
        tmp_path.joinpath("c.yaml").symlink_to("c.yaml")
        tmp_path.joinpath("README").symlink_to("none")
        assert [name for name, _ in refused(tmp_path)] == ["b.yaml", "c.yaml"]

    def test_a_circle_of_directories_ends(self, tmp_path):
        team = tmp_path / "team"
        team.mkdir()
        write(team, a=policy("a"))
        team.joinpath("again").symlink_to("../team")
        team.joinpath("up").symlink_to("..")
        assert names(tmp_path) == ["a"]


def test_a_diagnostic_is_one_line():
    assert (
        str(Diagnostic("a.yaml", 1, 2, "spec", "is wrong", "do it right"))
        == "a.yaml:1:2: error: spec: is wrong; do it right"
    )
    assert str(Diagnostic("a.yaml", 0, 0, "", "is wrong", severity=Severity.WARNING)) == "a.yaml: warning: is wrong"


class TestTextsAndDocuments:
    """The same content is the same set, wherever it comes from."""

    DOCUMENT: ClassVar = {
        "apiVersion": "mutationfirewall.io/v1",
        "kind": "MutationPolicy",
        "metadata": {"name": "p"},
        "spec": {
            "match": {"resources": [{"type": "t", "properties": {"n": 1.0}}]},
            "rules": [{"name": "r", "effect": "deny", "when": "change.after == 2", "message": "no"}],
        },
    }

    def test_one_digest(self, tmp_path):
        text = json.dumps(self.DOCUMENT)
        (tmp_path / "p.yaml").write_text(text)
        found = [
            load.check_directory(tmp_path),
            load.check_files([tmp_path / "p.yaml"]),
            load.check_text(text, name="body"),
            load.check_documents([self.DOCUMENT]),
        ]
        again = load.check_documents(json.loads(found[0].content))
        digests = {one.policy_set.digest for one in (*found, again) if one.policy_set is not None}
        assert digests == {"sha256:" + hashlib.sha256(found[0].content).hexdigest()}
        assert {one.content for one in (*found, again)} == {found[0].content}

    def test_findings_of_documents_have_their_number(self):
        bad = {**self.DOCUMENT, "spec": {"rules": [{"name": "r", "effect": "deny", "when": "1 +"}]}}
        deep: dict[str, object] = {}
        for _ in range(30):
            deep = {"a": deep}
        checked = load.check_documents([self.DOCUMENT, self.DOCUMENT, bad, deep, 1])
        assert checked.policy_set is None
        assert checked.content == b""
        assert {one.file for one in checked.diagnostics} == {f"documents[{n}]" for n in (1, 2, 3, 4)}
        assert {(one.line, one.column) for one in checked.diagnostics} == {(0, 0)}
        twice = next(one for one in checked.diagnostics if one.file == "documents[1]")
        assert twice.message == "the name `p` is used twice, first in `documents[0]`"

    def test_too_many_rules_end_the_reading(self, monkeypatch):
        monkeypatch.setattr(load, "RULES_MAX", 1)
        other = {**self.DOCUMENT, "metadata": {"name": "q"}}
        checked = load.check_documents([self.DOCUMENT, other])
        assert [one.policy.name for one in checked.documents if one.policy] == ["p"]
        text = json.dumps(self.DOCUMENT) + "\n---\n" + json.dumps(other)
        for refused in (checked, load.check_text(text, name="body")):
            assert refused.policy_set is None
            assert [one.message for one in refused.diagnostics] == ["there are more than 1 rules"]

    def test_what_was_read_is_kept_with_its_text(self, tmp_path):
        text = json.dumps(self.DOCUMENT)
        file = tmp_path / "p.yaml"
        file.write_text(text)
        assert load.check_files([file]).sources == {str(file): text}
        assert load.check_text(text, name="body").sources == {"body": text}
        assert load.check_documents([self.DOCUMENT]).sources == {}
        for checked in (load.check_files([file]), load.check_documents([self.DOCUMENT])):
            assert [one.policy.name for one in checked.documents if one.policy] == ["p"]

    def test_too_many_are_not_even_compiled(self, monkeypatch):
        monkeypatch.setattr(load, "POLICIES_MAX", 1)
        checked = load.check_documents([self.DOCUMENT, self.DOCUMENT])
        assert "more than 1 policies" in checked.diagnostics[0].message

    @pytest.mark.parametrize("text", [False, True])
    def test_reading_stops_and_never_in_silence(self, monkeypatch, text):
        monkeypatch.setattr(load, "FINDINGS_MAX", 2)
        # Allows everything: nothing but a warning each.
        loud = {**self.DOCUMENT, "spec": {"rules": [{"name": "r", "effect": "allow"}]}}
        values = [{**loud, "metadata": {"name": f"p{number}"}} for number in range(5)]
        if text:
            checked = load.check_text("\n---\n".join(json.dumps(value) for value in values), name="body")
        else:
            checked = load.check_documents(values)
        assert checked.policy_set is None
        assert any("reading stopped" in one.message for one in checked.diagnostics)
        assert len(checked.diagnostics) == 4

    def test_a_text_that_is_no_yaml(self):
        checked = load.check_text("a: [", name="body")
        assert [(one.file, one.line) for one in checked.diagnostics] == [("body", 1)]


class TestFingerprint:
    def test_it_changes_with_any_change(self, tmp_path):
        seen = {load.fingerprint(tmp_path)}

        def changed() -> bool:
            fresh = load.fingerprint(tmp_path)
            new = fresh not in seen
            seen.add(fresh)
            return new

        (tmp_path / "a.txt").write_text("x")
        assert not changed()
        (tmp_path / "a.yaml").write_text("x")
        assert changed()
        (tmp_path / "a.yaml").write_text("xy")
        assert changed()
        (tmp_path / "b.yaml").symlink_to("nowhere.yaml")
        assert changed()
        (tmp_path / "b.yaml").unlink()
        (tmp_path / "a.yaml").rename(tmp_path / "c.yaml")
        assert changed()
        assert not changed()

    def test_a_directory_that_is_not_there(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            load.fingerprint(tmp_path / "none")
