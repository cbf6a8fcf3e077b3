"""A directory is followed: whole sets only, a mounted ConfigMap's swap included, and never without one."""

import asyncio
import json
import os
import shutil

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from app.core import dsse
from app.errors import FirewallError, Kind
from app.policies.diagnostics import PolicyErrors
from app.policies.distribute import DirectorySource, Failure, SetInForce, SourceState
from app.policies.load import check_directory
from app.policies.signatures import FILE_NAME, RequiredSigners, merged, sign

POLICY = """\
apiVersion: mutationfirewall.io/v1
kind: MutationPolicy
metadata: {{name: {name}}}
spec:
  rules: [{{name: all, effect: allow}}]
"""


def write(directory, name, **files):
    directory.mkdir(exist_ok=True)
    (directory / f"{name}.yaml").write_text(POLICY.format(name=name))


class ConfigMap:
    """A directory as the kubelet mounts it: files that link through `..data`, which is replaced in one step."""

    def __init__(self, root):
        self.root = root
        self.version = 0
        root.mkdir()

    def publish(self, **texts):
        self.version += 1
        data = self.root / f"..2026_{self.version}"
        data.mkdir()
        for name, text in texts.items():
            (data / f"{name}.yaml").write_text(text)
            visible = self.root / f"{name}.yaml"
            if not visible.is_symlink():
                visible.symlink_to(f"..data/{name}.yaml")
        fresh = self.root / "..data_tmp"
        fresh.symlink_to(data.name)
        fresh.rename(self.root / "..data")
        for name in [path for path in self.root.glob("*.yaml") if not path.exists()]:
            name.unlink()


async def test_a_config_map_that_is_replaced(tmp_path):
    changes: list[SetInForce] = []
    failures: list[Failure] = []
    mount = ConfigMap(tmp_path / "policies")
    mount.publish(a=POLICY.format(name="a"), b=POLICY.format(name="b"))
    source = DirectorySource(mount.root, changed=changes.append, failed=failures.append)
    first = source.current()
    assert [policy.name for policy in first.policies] == ["a", "b"]
    assert source.report().state is SourceState.CURRENT

    # Nothing changed: nothing is read.
    await source.refresh()
    # Only the bytes changed, not the content: the same set stays.
    mount.publish(a="# a comment\n" + POLICY.format(name="a"), b=POLICY.format(name="b"))
    await source.refresh()
    assert source.current() is first
    assert len(changes) == 1

    mount.publish(a=POLICY.format(name="a"), c=POLICY.format(name="c"))
    await source.refresh()
    assert [policy.name for policy in source.current().policies] == ["a", "c"]
    assert [taken.sequence for taken in changes] == [None, None]

    # Half of it is wrong: all of it is refused, once, and said until it is right.
    mount.publish(a="kind: [", c=POLICY.format(name="d"))
    for _ in range(3):
        await source.refresh()
    assert [policy.name for policy in source.current().policies] == ["a", "c"]
    assert source.report().state is SourceState.DOUBTFUL
    assert "a.yaml" in source.report().detail
    assert failures == [Failure.REFUSED]
    assert source.lag == 0

    mount.publish(a=POLICY.format(name="a"), c=POLICY.format(name="c"))
    await source.refresh()
    assert source.report().state is SourceState.CURRENT


async def test_a_directory_that_is_gone_and_comes_back(tmp_path):
    directory = tmp_path / "policies"
    write(directory, "a")
    source = DirectorySource(directory)
    before = source.current()
    shutil.rmtree(directory)
    await source.refresh()
    assert source.current() is before
    assert "cannot be read" in source.report().detail
    directory.mkdir()
    await source.refresh()
    assert source.current() is before
    assert "empty set is refused" in source.report().detail
    write(directory, "a")
    await source.refresh()
    assert source.report().state is SourceState.CURRENT


def test_without_a_set_there_is_no_source(tmp_path):
    with pytest.raises(PolicyErrors):
        DirectorySource(tmp_path)


async def test_it_follows_by_itself(tmp_path):
    write(tmp_path, "a")
    source = DirectorySource(tmp_path, poll_seconds=0.01)
    await source.start()
    try:
        digest = source.current().digest
        write(tmp_path, "b")
        await source.wait_changed(digest, within=60)
        assert [policy.name for policy in source.current().policies] == ["a", "b"]
        assert 0 <= source.age < 60
    finally:
        await source.stop()
    assert source.in_force is not None


async def test_waiting_ends_with_the_time(tmp_path):
    write(tmp_path, "a")
    source = DirectorySource(tmp_path)
    await source.wait_changed(source.current().digest, within=0.01)
    async with asyncio.timeout(60):
        await source.wait_changed("another", within=600)


KEYS = {name: Ed25519PrivateKey.generate() for name in ("sre", "security")}


def required(*names, **more):
    pems = {
        name: KEYS[name].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        for name in names
    }
    return RequiredSigners.of(pems, **more)


def signed(directory, *names):
    policy_set = check_directory(directory).policy_set
    assert policy_set is not None
    (envelope,) = merged(sign(policy_set.digest, KEYS[name]) for name in names)
    (directory / FILE_NAME).write_text(json.dumps(dsse.tree_of(envelope)))


async def test_files_that_nobody_signed_do_not_come_into_force(tmp_path):
    failures: list[Failure] = []
    write(tmp_path, "a")
    with pytest.raises(FirewallError) as caught:
        DirectorySource(tmp_path, signers=required("sre"))
    assert caught.value.kind is Kind.INVALID_SIGNATURE
    signed(tmp_path, "sre")
    source = DirectorySource(tmp_path, signers=required("sre"), failed=failures.append)
    first = source.current()
    assert "signed by sre" in source.report().detail

    # Other policies under the old signature.
    write(tmp_path, "b")
    await source.refresh()
    await source.refresh()
    assert source.current() is first
    assert failures == [Failure.UNSIGNED]
    assert source.report().state is SourceState.DOUBTFUL
    assert "0 of 1 required signatures; missing: `sre`" in source.report().detail

    # The signature comes later: it alone is looked at, without any other change.
    signed(tmp_path, "sre")
    await source.refresh()
    assert [policy.name for policy in source.current().policies] == ["a", "b"]
    assert source.report().state is SourceState.CURRENT

    # And goes: nothing else changed, but a restart would not take this any more.
    (tmp_path / FILE_NAME).unlink()
    await source.refresh()
    assert source.report().state is SourceState.DOUBTFUL
    assert [policy.name for policy in source.current().policies] == ["a", "b"]


async def test_signatures_of_a_config_map(tmp_path):
    mount = ConfigMap(tmp_path / "policies")
    mount.publish(a=POLICY.format(name="a"))
    data = mount.root / "..data"
    signed(mount.root, "sre")
    (mount.root / FILE_NAME).rename(data / FILE_NAME)
    (mount.root / FILE_NAME).symlink_to(f"..data/{FILE_NAME}")
    source = DirectorySource(mount.root, signers=required("sre"))
    mount.publish(a=POLICY.format(name="b"))
    await source.refresh()
    assert [policy.name for policy in source.current().policies] == ["a"]
    assert "required signatures" in source.report().detail


async def test_a_second_signature_is_told(tmp_path):
    write(tmp_path, "a")
    signed(tmp_path, "sre")
    source = DirectorySource(tmp_path, signers=required("sre", "security", required=1))
    before = source.in_force
    signed(tmp_path, "sre", "security")
    await source.refresh()
    assert "signed by security, sre" in source.report().detail
    assert source.in_force is not None
    assert before is not None
    assert source.in_force.policy_set is before.policy_set


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"x" * 70_000, b'{"payload": 1}'])
def test_a_file_of_signatures_that_is_none(tmp_path, content):
    write(tmp_path, "a")
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(FirewallError) as caught:
        DirectorySource(tmp_path, signers=required("sre"))
    assert caught.value.kind is Kind.INVALID_SIGNATURE
    assert "has no signatures in it" in caught.value.detail
    # Where nobody is named who could sign, it is not read.
    assert DirectorySource(tmp_path).in_force is not None


def test_a_file_of_signatures_that_never_ends(tmp_path):
    write(tmp_path, "a")
    os.mkfifo(tmp_path / FILE_NAME)
    with pytest.raises(FirewallError, match="not a regular file"):
        DirectorySource(tmp_path, signers=required("sre"))
    (tmp_path / FILE_NAME).unlink()
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(FirewallError, match=r"is a directory|not a regular file"):
        DirectorySource(tmp_path, signers=required("sre"))


def test_errors_in_the_policies_come_first(tmp_path):
    with pytest.raises(PolicyErrors):
        DirectorySource(tmp_path, signers=required("sre"))
