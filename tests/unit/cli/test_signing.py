"""`mfw policies keygen`, `sign`, `verify`: no service, no surprises, and nothing of yours overwritten."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli import app
from app.cli.exits import ExitCode
from app.core import ed25519
from app.policies.load import load_directory
from app.policies.signatures import FILE_NAME

ROOT = Path(__file__).resolve().parents[3]
STARTER = ROOT / "policies" / "starter"
POLICY = """\
apiVersion: mutationfirewall.io/v1
kind: MutationPolicy
metadata: {name: a}
spec:
  rules: [{name: all, effect: allow}]
"""
OTHER = "sha256:" + "0" * 64


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("MFW_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "a.yaml").write_text(POLICY)
    for name in ("sre", "sec"):
        mfw("keygen", "--out", "keys", "--name", name)
    return tmp_path


def mfw(*arguments, code=ExitCode.OK, stdin=None):
    result = CliRunner().invoke(app, ["policies", *map(str, arguments)], input=stdin)
    assert result.exit_code == code, (result.output, result.exception)
    return result


def answer(*arguments, **more):
    return json.loads(mfw(*arguments, "--json", **more).stdout)


BOTH = ("--signer", "keys/sre.pem", "--signer", "keys/sec.pem")


class TestKeygen:
    def test_a_pair(self, here):
        made = answer("keygen", "--out", "deep/keys", "--name", "ops")
        private, public = Path(made["private_key"]), Path(made["public_key"])
        assert (private, public) == (Path("deep/keys/ops.key"), Path("deep/keys/ops.pem"))
        assert private.stat().st_mode & 0o777 == 0o600
        assert private.parent.stat().st_mode & 0o777 == 0o700
        key = ed25519.public_key(public.read_text())
        assert ed25519.private_key(private.read_bytes()).public_key() == key
        assert made["keyid"] == ed25519.key_id(key)

    @pytest.mark.parametrize("name", ["ops.key", "ops.pem"])
    def test_nothing_is_overwritten(self, here, name):
        (here / "keys" / name).symlink_to("nowhere")
        result = mfw("keygen", "--out", "keys", "--name", "ops", code=ExitCode.NO_INPUT)
        assert "never overwritten" in result.stderr
        assert sorted(path.name for path in (here / "keys").glob("ops.*")) == [name]

    def test_a_directory_that_cannot_be(self, here):
        assert "cannot write" in mfw("keygen", "--out", "policies/a.yaml/x", code=ExitCode.NO_INPUT).stderr
        assert "no name" in mfw("keygen", "--out", "keys", "--name", "../x", code=ExitCode.USAGE).stderr

    def test_with_a_passphrase(self, here, monkeypatch):
        assert "nobody to ask" in mfw("keygen", "--out", "k", "--encrypt", code=ExitCode.NO_INPUT).stderr
        monkeypatch.setenv("MFW_SIGNING_PASSPHRASE", "open sesame")
        mfw("keygen", "--out", "k", "--name", "ops")
        assert "ENCRYPTED" in (here / "k" / "ops.key").read_text()
        mfw("sign", "policies", "--key", "k/ops.key")
        # A key without one is read as it is, whatever the variable says.
        mfw("sign", "policies", "--key", "keys/sre.key")
        monkeypatch.setenv("MFW_SIGNING_PASSPHRASE", "sesame")
        assert "does not open" in mfw("sign", "policies", "--key", "k/ops.key", code=ExitCode.BAD_DATA).stderr
        monkeypatch.delenv("MFW_SIGNING_PASSPHRASE")
        assert "nobody to ask" in mfw("sign", "policies", "--key", "k/ops.key", code=ExitCode.NO_INPUT).stderr

    def test_who_sits_there_is_asked(self, here, monkeypatch):
        asked: list[str] = []

        def prompt(words, **_options):
            asked.append(words)
            return "open sesame"

        monkeypatch.setattr("typer.prompt", prompt)
        monkeypatch.setattr("app.cli.signing._somebody_is_there", lambda: True)
        mfw("keygen", "--out", "k", "--encrypt")
        mfw("sign", "policies", "--key", "k/signer.key")
        assert asked == ["a passphrase for signer.key", "passphrase of k/signer.key"]


class TestSign:
    def test_the_digest_is_the_loaders(self, here):
        made = answer("sign", "policies", "--key", "keys/sre.key")
        assert made["digest"] == load_directory(here / "policies").digest
        assert made["file"] == f"policies/{FILE_NAME}"
        assert made["signatures"] == 1
        # Formatting, comments and the names of files do not count.
        (here / "policies" / "a.yaml").rename(here / "policies" / "b.yaml")
        (here / "policies" / "b.yaml").write_text("# a comment\n" + POLICY)
        assert answer("verify", "policies", "--signer", "keys/sre.pem")["digest"] == made["digest"]

    def test_two_people(self, here):
        said = mfw("sign", "policies", "--key", "keys/sre.key").stdout
        assert "next: mfw policies push policies" in said
        few = mfw("verify", "policies", *BOTH, code=ExitCode.BAD_DATA)
        assert "1 of 2 required signatures; missing: `sec`" in few.stderr
        assert "not by sec" in mfw("verify", "policies", *BOTH, "--required", 1).stdout
        assert answer("sign", "policies", "--key", "keys/sec.key")["signatures"] == 2
        assert answer("sign", "policies", "--key", "keys/sec.key")["signatures"] == 2
        found = answer("verify", "policies", *BOTH)
        assert [one["name"] for one in found["signed"]] == ["sec", "sre"]
        assert found["missing"] == []
        assert [path.name for path in (here / "policies").iterdir() if path.name.startswith(".")] == []

    def test_other_policies_are_signed_anew(self, here):
        mfw("sign", "policies", "--key", "keys/sre.key")
        (here / "policies" / "a.yaml").write_text(POLICY.replace("all,", "everything,"))
        stale = mfw("verify", "policies", "--signer", "keys/sre.pem", code=ExitCode.BAD_DATA)
        assert "says that it is of `sha256:" in stale.stderr
        assert "mfw policies sign policies" in stale.stderr
        result = mfw("sign", "policies", "--key", "keys/sec.key")
        assert "are gone" in result.stdout
        assert [one["name"] for one in answer("verify", "policies", *BOTH, "--required", 1)["signed"]] == ["sec"]

    def test_a_digest(self, here):
        made = answer("sign", OTHER, "--key", "keys/sre.key")
        assert made["file"] == FILE_NAME
        verified = mfw("verify", OTHER, "--signature", FILE_NAME, "--signer", "keys/sre.pem").stdout
        assert "signed by sre" in verified
        assert "--signature" in mfw("sign", OTHER, "--key", "keys/sec.key").stdout
        # Another set's signatures are not thrown away for this one.
        other = OTHER.replace("0", "1")
        kept = mfw("sign", other, "--key", "keys/sre.key", code=ExitCode.NO_INPUT)
        assert "another policy set" in kept.stderr
        mfw("sign", "policies", "--key", "keys/sre.key", "--out", FILE_NAME, code=ExitCode.NO_INPUT)
        mfw("sign", other, "--key", "keys/sre.key", "--out", "x.json")
        mfw("verify", other, "--signature", "x.json", "--signer", "keys/sre.pem")

    def test_another_statement_about_the_same_set(self, here):
        digest = load_directory(here / "policies").digest
        statement: dict[str, object] = {
            "_type": "https://in-toto.io/Statement/v1",
            "predicateType": "https://mutationfirewall.io/policy-set/v1",
        }
        statement["subject"] = [{"digest": {"sha256": digest.removeprefix("sha256:")}}]
        write_envelope(here / "policies" / FILE_NAME, json.dumps(statement).encode(), key=here / "keys" / "sre.key")
        # Made with OpenSSL, and as good as ours.
        assert answer("verify", "policies", "--signer", "keys/sre.pem")["signed"][0]["name"] == "sre"
        result = mfw("sign", "policies", "--key", "keys/sec.key", code=ExitCode.NO_INPUT)
        assert "another statement" in result.stderr

    def test_what_cannot_be_signed(self, here):
        (here / "bad").mkdir()
        (here / "bad" / "a.yaml").write_text(POLICY.replace("rules", "ruels"))
        assert "ruels" in mfw("sign", "bad", "--key", "keys/sre.key", code=ExitCode.BAD_DATA).stderr
        assert answer("sign", "bad", "--key", "keys/sre.key", code=ExitCode.BAD_DATA)["error"]["problems"]
        assert not (here / "bad" / FILE_NAME).exists()
        mfw("sign", "nowhere", "--key", "keys/sre.key", code=ExitCode.NO_INPUT)
        mfw("sign", "sha256:123", "--key", "keys/sre.key", code=ExitCode.NO_INPUT)
        mfw("sign", "policies", "--key", "keys/none.key", code=ExitCode.NO_INPUT)
        assert "no PEM private key" in mfw("sign", "policies", "--key", "keys/sre.pem", code=ExitCode.BAD_DATA).stderr
        mfw("sign", "policies", "--key", "keys/sre.key", "--out", "none/x.json", code=ExitCode.NO_INPUT)
        (here / "policies" / FILE_NAME).write_text("{}")
        unread = mfw("sign", "policies", "--key", "keys/sre.key", code=ExitCode.BAD_DATA)
        assert "has no signatures in it" in unread.stderr


class TestVerify:
    def test_by_the_settings(self, here, monkeypatch):
        mfw("sign", "policies", "--key", "keys/sre.key")
        assert "--signer FILE" in mfw("verify", "policies", code=ExitCode.USAGE).stderr
        monkeypatch.setenv("MFW_POLICIES__SIGNERS", str(here / "keys"))
        assert "1 of 2" in mfw("verify", "policies", code=ExitCode.BAD_DATA).stderr
        monkeypatch.setenv("MFW_POLICIES__SIGNATURES_REQUIRED", "1")
        assert answer("verify", "policies")["required"] == 1
        # A look that asks for nothing would say nothing.
        monkeypatch.setenv("MFW_POLICIES__SIGNATURES_REQUIRED", "0")
        assert "1 of 2" in mfw("verify", "policies", code=ExitCode.BAD_DATA).stderr
        assert "3 signatures" in mfw("verify", "policies", "--required", 3, code=ExitCode.USAGE).stderr
        monkeypatch.setenv("MFW_POLICIES__SIGNERS", "x")
        mfw("verify", "policies", code=ExitCode.BAD_SETTINGS)

    def test_signers_that_cannot_be(self, here):
        mfw("sign", "policies", "--key", "keys/sre.key")
        (here / "other").mkdir()
        shutil.copy("keys/sre.pem", "other/sre.pem")
        shutil.copy("keys/sre.pem", "other/again.pem")
        same = ("--signer", "keys/sre.pem", "--signer")
        assert "two signers are called" in mfw("verify", "policies", *same, "other/sre.pem", code=ExitCode.USAGE).stderr
        assert "the same key" in mfw("verify", "policies", *same, "other/again.pem", code=ExitCode.USAGE).stderr
        private = mfw("verify", "policies", "--signer", "keys/sre.key", code=ExitCode.BAD_DATA)
        assert "is a private key" in private.stderr
        mfw("verify", "policies", "--signer", "keys/none.pem", code=ExitCode.NO_INPUT)
        mfw("verify", "policies", "--signer", "keys/sre.pem", "--required", 2, code=ExitCode.USAGE)

    def test_no_signature_at_all(self, here):
        assert FILE_NAME in mfw("verify", "policies", "--signer", "keys/sre.pem", code=ExitCode.NO_INPUT).stderr

    def test_a_stranger(self, here):
        mfw("sign", "policies", "--key", "keys/sec.key")
        result = mfw("verify", "policies", "--signer", "keys/sre.pem", code=ExitCode.BAD_DATA)
        assert "0 of 1 required signatures; missing: `sre`" in result.stderr


def write_envelope(file, payload, *, key):
    import base64

    kind = "application/vnd.in-toto+json"
    message = file.with_suffix(".message")
    message.write_bytes(b"DSSEv1 %d %b %d %b" % (len(kind), kind.encode(), len(payload), payload))
    command = ["openssl", "pkeyutl", "-sign", "-rawin", "-inkey", str(key), "-in", str(message)]
    signature = subprocess.run(command, check=True, capture_output=True).stdout
    message.unlink()
    texts = [base64.b64encode(content).decode() for content in (payload, signature)]
    file.write_text(json.dumps({"payload": texts[0], "payloadType": kind, "signatures": [{"sig": texts[1]}]}))
