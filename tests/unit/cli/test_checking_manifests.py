"""`mfw check manifest`: files by digest, evidence, and signatures that hold or do not."""

import base64
import datetime as dt
import hashlib
import json
import os
import sys

import jsonschema
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from model_signing import hashing, signing
from typer.testing import CliRunner

from app.cli import app
from app.cli.checking.signatures import Keyless, verified
from app.cli.checking.trees import digest_tree
from app.cli.output import Refused
from app.core.canonical import canonical
from tests.corpus.cases import EXAMPLES
from tests.unit.cli.test_checking import LOCAL, SARIF

BETTER = [
    {"suite": "harmful-requests", "metric": "refusal_rate", "base": 0.97, "target": 0.98},
    {"suite": "jailbreaks", "metric": "attack_success_rate", "base": 0.02, "target": 0.01, "higher_is_better": False},
]


def run(*arguments, stdin=None):
    command = ["check", "manifest", *map(str, arguments), "--id", "support-assistant/production", *LOCAL]
    return CliRunner().invoke(app, command, input=stdin)


def asked(monkeypatch, *arguments, stdin=None):
    """The mutation that is asked about."""
    seen = []

    def ask(_self, mutations):
        seen.extend(mutations)
        return []

    monkeypatch.setattr("app.cli.checking.asking.Here.ask", ask)
    result = run(*arguments, stdin=stdin)
    assert result.exit_code == 0, result.output
    (one,) = seen
    return one.mutation


@pytest.fixture
def files(tmp_path):
    """Two versions of a model, and what their evaluation says."""
    for version in ("base", "target"):
        (tmp_path / version / "tokenizer").mkdir(parents=True)
        (tmp_path / version / "model.safetensors").write_bytes(version.encode())
        (tmp_path / version / "tokenizer" / "vocab.json").write_text("{}")
    (tmp_path / "results.json").write_text(json.dumps(BETTER))
    return tmp_path


def model(files, *more):
    return ("--kind", "model", "--base", files / "base", "--target", files / "target", *more)


def test_a_better_model_is_promoted(files):
    result = run(*model(files, "--evaluations", files / "results.json"))
    assert result.exit_code == 0, result.output
    assert "files: 2, 1 changed" in result.stdout
    worse = [{**BETTER[0], "target": 0.9}, BETTER[1]]
    (files / "results.json").write_text(json.dumps({"evaluations": worse}))
    result = run(*model(files, "--evaluations", files / "results.json"))
    assert result.exit_code == 10
    assert "model-promotion/safety-regressed" in result.stdout


def test_digests_are_what_the_page_says(files, monkeypatch):
    mutation = asked(monkeypatch, *model(files))
    manifest = mutation["change"]["manifest"]
    assert (mutation["action"]["name"], mutation["resource"]["type"]) == ("promote", "model/Registry")
    assert manifest["artifacts"] == [
        {"name": "model.safetensors", "digest": f"sha256:{hashlib.sha256(b'target').hexdigest()}"},
        {"name": "tokenizer/vocab.json", "digest": f"sha256:{hashlib.sha256(b'{}').hexdigest()}"},
    ]
    assert manifest["target_digest"] == f"sha256:{hashlib.sha256(canonical(manifest['artifacts'])).hexdigest()}"
    assert manifest["base_digest"] != manifest["target_digest"]
    assert mutation["context"]["signature"] == {"present": False, "verified": False}
    assert "before" not in mutation["change"]


def test_a_manifest_from_a_file(monkeypatch):
    manifest = json.loads((EXAMPLES / "allow-model-promotion-improves.json").read_text())["change"]["manifest"]
    assert run("-", stdin=json.dumps(manifest)).exit_code == 0
    evaluations = manifest.pop("evaluations")
    assert run("-", stdin=json.dumps(manifest)).exit_code == 10
    mutation = asked(monkeypatch, "-", "--type", "model/Other", "--action", "retire", stdin=json.dumps(manifest))
    assert (mutation["action"]["name"], mutation["resource"]["type"]) == ("retire", "model/Other")
    assert "signature" not in mutation["context"]
    assert evaluations


def test_evaluations_beside_a_manifest(files):
    manifest = json.loads((EXAMPLES / "allow-model-promotion-improves.json").read_text())["change"]["manifest"]
    (files / "m.json").write_text(json.dumps(manifest))
    assert run(files / "m.json", "--evaluations", files / "results.json").exit_code == 2
    del manifest["evaluations"]
    (files / "m.json").write_text(json.dumps(manifest))
    assert run(files / "m.json", "--evaluations", files / "results.json").exit_code == 0


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"kind": "model"}', '{"kind": "x", "target_digest": "y"}'])
def test_what_is_no_manifest(text):
    assert run("-", stdin=text).exit_code == 65


def test_a_prompt_comes_with_its_text(files, monkeypatch):
    (files / "was.md").write_text("Be kind.")
    (files / "now.md").write_text("Be quick.")
    mutation = asked(monkeypatch, "--kind", "prompt", "--base", files / "was.md", "--target", files / "now.md")
    assert mutation["resource"]["type"] == "agent/SystemPrompt"
    assert mutation["action"]["name"] == "update"
    assert (mutation["change"]["before"], mutation["change"]["after"]) == (
        {"content": "Be kind."},
        {"content": "Be quick."},
    )
    assert mutation["change"]["manifest"]["artifacts"][0]["name"] == "now.md"


def test_a_tool_and_a_memory_by_the_starter_policies(files):
    tool = {"name": "orders", "permissions": ["orders:read"]}
    (files / "was.json").write_text(json.dumps({**tool, "permissions": ["orders:read", "orders:write"]}))
    (files / "now.json").write_text(json.dumps(tool))
    result = run("--kind", "tool", "--base", files / "was.json", "--target", files / "now.json")
    assert result.exit_code == 0, result.output
    assert "the file differs" in result.stdout
    result = run("--kind", "memory", "--target", files / "now.json")
    assert result.exit_code == 10
    assert "files: 1, compared with nothing" in result.stdout


def test_directories_of_prompts_are_known_by_digest(files, monkeypatch):
    mutation = asked(monkeypatch, "--kind", "prompt", "--target", files / "target")
    assert set(mutation["change"]) == {"manifest"}
    assert mutation["action"]["name"] == "create"


def test_a_text_that_is_none(files):
    (files / "x.md").write_bytes(b"\xff")
    assert run("--kind", "prompt", "--target", files / "x.md").exit_code == 65


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["-", "--kind", "model"],
        ["-", "--public-key", "k"],
        ["-", "--target", "."],
        ["--target", "."],
        ["--kind", "model", "--target", ".", "--public-key", "a", "--certificate", "b"],
        ["--kind", "model", "--target", ".", "--identity", "a"],
        ["--kind", "model", "--target", ".", "--identity", "a", "--issuer", "b"],
        ["--kind", "nothing", "--target", "."],
    ],
)
def test_a_command_line_that_says_nothing(arguments):
    assert run(*arguments, stdin="{}").exit_code == 2


def test_what_is_not_only_files(files):
    (files / "target" / "link").symlink_to("model.safetensors")
    assert run(*model(files)).exit_code == 65
    (files / "target" / "link").unlink()
    os.mkfifo(files / "target" / "fifo")
    with pytest.raises(Refused, match="something else"):
        digest_tree(files / "target")
    with pytest.raises(Refused, match="neither"):
        digest_tree(files / "target" / "fifo")
    (files / "target" / "fifo").unlink()
    for name in ("a\nb", "a\u202eb", "a\\b", "a\x1b[31m"):
        (files / "target" / name).touch()
        with pytest.raises(Refused, match="cannot be shown"):
            digest_tree(files / "target")
        (files / "target" / name).unlink()
    (files / "empty").mkdir()
    with pytest.raises(Refused, match="no files"):
        digest_tree(files / "empty")
    for name in ("nowhere", "a\0b"):
        with pytest.raises(Refused) as refused:
            digest_tree(files / name)
        assert refused.value.code == 66


def test_too_many_files(files, monkeypatch):
    monkeypatch.setattr("app.cli.checking.trees.FILES_MAX", 1)
    with pytest.raises(Refused, match="more than 1"):
        digest_tree(files / "target")


# --- signatures -----------------------------------------------------------------------------------------------------


def pem(key):
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@pytest.fixture
def keys(files):
    """A key in two files, and another that signed nothing."""
    for name in ("key", "other"):
        key = ec.generate_private_key(ec.SECP256R1())
        (files / name).write_bytes(pem(key))
        (files / f"{name}.pub").write_bytes(
            key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
    return files


def ignoring(files, *names):
    target = files / "target"
    return hashing.Config().set_ignored_paths(
        paths=[target / name for name in ("model.sig", *names)], ignore_git_paths=True
    )


def sign(files, *ignored, target="target", signature=None):
    (
        signing.Config()
        .use_elliptic_key_signer(private_key=files / "key")
        .set_hashing_config(ignoring(files, *ignored))
        .sign(files / target, signature or files / "target" / "model.sig")
    )


def checked(files, *more):
    return run(*model(files, "--evaluations", files / "results.json", "--public-key", files / "key.pub", *more))


def test_a_signature_that_holds(keys, monkeypatch):
    sign(keys)
    assert checked(keys).exit_code == 0
    mutation = asked(monkeypatch, *model(keys, "--public-key", keys / "key.pub"))
    told = mutation["context"]["signature"]
    assert (told["present"], told["verified"], told["method"]) == (True, True, "key")
    public = serialization.load_pem_public_key((keys / "key.pub").read_bytes())
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert told["key"] == f"sha256:{hashlib.sha256(der).hexdigest()}"
    # The signature is no part of what it signs.
    assert "model.sig" not in {one["name"] for one in mutation["change"]["manifest"]["artifacts"]}


def test_a_signature_that_nobody_checks_is_told(keys, monkeypatch):
    sign(keys)
    assert "nobody checked the signature" in run(*model(keys)).stdout
    mutation = asked(monkeypatch, *model(keys))
    assert mutation["context"]["signature"] == {"present": True, "verified": False}
    assert "model.sig" in {one["name"] for one in mutation["change"]["manifest"]["artifacts"]}


def test_a_signature_of_one_file(keys):
    sign(keys, target="target/model.safetensors", signature=keys / "target" / "model.safetensors.sig")
    target = keys / "target" / "model.safetensors"
    result = run("--kind", "model", "--target", target, "--public-key", keys / "key.pub", "--format", "json")
    assert "does not hold" not in result.stdout
    target.write_bytes(b"other")
    result = run("--kind", "model", "--target", target, "--public-key", keys / "key.pub", "--format", "json")
    assert "does not hold" in result.stdout


def break_bytes(files):
    (files / "target" / "model.safetensors").write_bytes(b"poisoned")


def add_file(files):
    (files / "target" / "extra.py").write_text("import os")


def remove_file(files):
    (files / "target" / "tokenizer" / "vocab.json").unlink()


def add_git_file(files):
    (files / "target" / ".gitattributes").write_text("ignored by the format")


def no_signature(files):
    (files / "target" / "model.sig").unlink()


def no_json(files):
    (files / "target" / "model.sig").write_text("{")


def another_key(files):
    (files / "other.pub").replace(files / "key.pub")


def edit_bundle(files, edit):
    path = files / "target" / "model.sig"
    bundle = json.loads(path.read_text())
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    edit(statement)
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    path.write_text(json.dumps(bundle))


def another_statement(files):
    break_bytes(files)
    digest = hashlib.sha256(b"poisoned").hexdigest()
    edit_bundle(files, lambda statement: statement["predicate"]["resources"][0].update(digest=digest))


@pytest.mark.parametrize(
    "spoil",
    [
        break_bytes,
        add_file,
        remove_file,
        add_git_file,
        no_signature,
        no_json,
        another_key,
        another_statement,
    ],
)
def test_a_signature_that_does_not_hold_is_denied_and_nobody_is_asked(keys, spoil, monkeypatch):
    sign(keys)
    spoil(keys)

    def never(_self, _asked):
        raise AssertionError

    monkeypatch.setattr("app.cli.checking.asking.Here.ask", never)
    result = checked(keys)
    assert result.exit_code == 10, result.output
    assert "the signature does not hold" in result.stdout
    assert "nobody was asked" in result.stdout
    log = json.loads(checked(keys, "--format", "sarif").stdout)
    jsonschema.Draft4Validator(SARIF).validate(log)
    assert log["runs"][0]["results"][0]["ruleId"] == "mutation-firewall/signature"


def test_a_file_that_the_signer_leaves_out_is_not_covered(keys):
    add_file(keys)
    sign(keys, "extra.py")
    result = checked(keys)
    assert result.exit_code == 10
    assert "files that it does not cover: `extra.py`" in result.stdout


def test_a_signature_over_shards_is_none(keys, monkeypatch):
    # The library of today cannot check what it signs so: a size of shards comes back as a float.
    config = ignoring(keys).use_shard_serialization(shard_size=3)
    config.set_ignored_paths(paths=[keys / "target" / "model.sig"])
    (
        signing.Config()
        .use_elliptic_key_signer(private_key=keys / "key")
        .set_hashing_config(config)
        .sign(keys / "target", keys / "target" / "model.sig")
    )
    assert checked(keys).exit_code == 10
    monkeypatch.setattr("model_signing.verifying.Config.verify", lambda *_: None)
    assert "not over whole files" in checked(keys).stdout


def test_digests_of_another_algorithm_are_left_to_the_library(keys):
    config = ignoring(keys).use_file_serialization(hashing_algorithm="blake3")
    config.set_ignored_paths(paths=[keys / "target" / "model.sig"])
    (
        signing.Config()
        .use_elliptic_key_signer(private_key=keys / "key")
        .set_hashing_config(config)
        .sign(keys / "target", keys / "target" / "model.sig")
    )
    result = checked(keys)
    assert result.exit_code == 0, result.output
    break_bytes(keys)
    assert checked(keys).exit_code == 10


def test_a_file_that_changes_after_it_was_verified(keys, monkeypatch):
    sign(keys)

    def late(_self, _model, _signature):
        """The library looked at the files before."""

    tree = digest_tree(keys / "target", without=keys / "target" / "model.sig")
    assert tree.artifacts
    break_bytes(keys)
    monkeypatch.setattr("model_signing.verifying.Config.verify", late)
    result = checked(keys)
    assert result.exit_code == 10
    assert "files that changed meanwhile" in result.stdout


def test_an_old_statement_is_refused(keys, monkeypatch):
    sign(keys)
    monkeypatch.setattr("model_signing.verifying.Config.verify", lambda *_: None)
    edit_bundle(keys, lambda statement: statement.update(predicateType="https://model_signing/Digests/v0.1"))
    assert "which files it leaves out" in checked(keys, "--format", "json").stdout
    edit_bundle(keys, lambda statement: statement.pop("predicateType"))
    assert "the bundle cannot be read" in checked(keys, "--format", "json").stdout


def test_many_files_are_named_shortly(keys):
    names = [f"extra{number}" for number in range(9)]
    for name in names:
        (keys / "target" / name).touch()
    sign(keys, *names)
    assert "and 4 more" in checked(keys).stdout


def test_a_signature_that_is_too_long(keys, monkeypatch):
    sign(keys)
    monkeypatch.setattr("app.cli.checking.signatures.SIGNATURE_BYTES_MAX", 10)
    # A table folds what does not fit, and how long the path is depends on where the tests run.
    assert "longerthan10bytes" in "".join(checked(keys).stdout.split())


def test_a_key_that_cannot_be_read(keys):
    sign(keys)
    (keys / "key.pub").write_text("no key")
    assert checked(keys).exit_code == 65
    (keys / "key.pub").unlink()
    assert checked(keys).exit_code == 66


def test_without_the_library(keys, monkeypatch):
    sign(keys)
    monkeypatch.setitem(sys.modules, "model_signing.verifying", None)
    result = checked(keys)
    assert result.exit_code == 1
    assert "mutation-firewall[models]" in result.stderr


def certificate(subject, key, *, issuer=None, issuer_key=None, authority=False):
    now = dt.datetime.now(dt.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    usage = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer.subject if issuer else name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=True, key_cert_sign=authority, crl_sign=authority, **usage), critical=True
        )
        .sign(issuer_key or key, hashes.SHA256())
    )


def test_a_certificate_names_the_signer(files, monkeypatch):
    root_key, key, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    root = certificate("models of example shop", root_key, authority=True)
    leaf = certificate("release engineer", key, issuer=root, issuer_key=root_key)
    stranger = certificate("anybody", other, authority=True)
    for name, one in (("root", root), ("leaf", leaf), ("stranger", stranger)):
        (files / f"{name}.pem").write_bytes(one.public_bytes(serialization.Encoding.PEM))
    (files / "leaf.key").write_bytes(pem(key))
    (
        signing.Config()
        .use_certificate_signer(
            private_key=files / "leaf.key",
            signing_certificate=files / "leaf.pem",
            certificate_chain=[files / "root.pem"],
        )
        .set_hashing_config(ignoring(files))
        .sign(files / "target", files / "target" / "model.sig")
    )
    mutation = asked(monkeypatch, *model(files, "--certificate", files / "root.pem"))
    told = mutation["context"]["signature"]
    assert (told["method"], told["subject"]) == ("certificate", "CN=release engineer")
    assert told["issuer"] == "CN=models of example shop"
    assert told["certificate"] == f"sha256:{leaf.fingerprint(hashes.SHA256()).hex()}"
    assert told["not_after"].endswith("Z")
    result = run(*model(files, "--certificate", files / "stranger.pem"))
    assert result.exit_code == 10


def test_sigstore_needs_a_root_of_trust_that_can_be_read(files):
    (files / "trust.json").write_text("{}")
    more = ("--identity", "a@example.com", "--issuer", "https://issuer.example.com")
    (files / "target" / "model.sig").write_text("{}")
    assert run(*model(files, *more, "--trust-config", files / "trust.json")).exit_code == 65
    assert run(*model(files, *more, "--trust-config", files / "none.json")).exit_code == 66


def test_sigstore_names_who_was_asked_for(keys, monkeypatch):
    sign(keys)
    wanted = {}

    class Checker:
        def verify(self, _model, _signature):
            """Everything holds."""

    def configured(_self, **arguments):
        wanted.update(arguments)
        return Checker()

    monkeypatch.setattr("model_signing.verifying.Config.use_sigstore_verifier", configured)
    signature = keys / "target" / "model.sig"
    tree = digest_tree(keys / "target", without=signature)
    trust = Keyless("a@example.com", "https://issuer.example.com", keys / "trust.json")
    assert verified(tree, signature, trust=trust) == {
        "method": "sigstore",
        "identity": "a@example.com",
        "issuer": "https://issuer.example.com",
    }
    assert wanted == {
        "identity": "a@example.com",
        "oidc_issuer": "https://issuer.example.com",
        "trust_config": keys / "trust.json",
    }
