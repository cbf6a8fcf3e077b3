"""A directory is followed: whole sets only, a mounted ConfigMap's swap included, and never without one."""

import asyncio
import shutil

import pytest

from app.policies.diagnostics import PolicyErrors
from app.policies.distribute import DirectorySource, Failure, SetInForce, SourceState

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
        await source.wait_changed(digest, within=10)
        assert [policy.name for policy in source.current().policies] == ["a", "b"]
        assert 0 <= source.age < 60
    finally:
        await source.stop()
    assert source.in_force is not None


async def test_waiting_ends_with_the_time(tmp_path):
    write(tmp_path, "a")
    source = DirectorySource(tmp_path)
    await source.wait_changed(source.current().digest, within=0.01)
    async with asyncio.timeout(5):
        await source.wait_changed("another", within=600)
