"""What auditors type, without a ledger."""

import pytest

from app.cli.auditing.replaying import INDEX_VARIABLE, Shard, read_shard
from app.cli.auditing.verifying import read_keys
from app.cli.output import Refused
from app.errors import FirewallError
from tests.unit.ledger.made import KEY, WITNESS


@pytest.mark.parametrize(("text", "shard"), [(None, Shard(0, 1)), ("0/4", Shard(0, 4)), ("3/4", Shard(3, 4))])
def test_shards(text, shard):
    assert read_shard(text) == shard


def test_the_shard_of_a_pod(monkeypatch):
    monkeypatch.setenv(INDEX_VARIABLE, "2")
    assert read_shard("/4") == Shard(2, 4)
    monkeypatch.delenv(INDEX_VARIABLE)
    with pytest.raises(Refused, match="is no shard"):
        read_shard("/4")


@pytest.mark.parametrize("text", ["4/4", "x", "1", "-1/4", "1/0", ""])
def test_shards_that_are_none(text):
    with pytest.raises(Refused, match="is no shard"):
        read_shard(text)


def test_keys(tmp_path):
    (tmp_path / "keys").write_text(f"\n{KEY.verifier.text}\n\n{WITNESS.verifier.text}")
    both = (KEY.verifier, WITNESS.verifier)
    assert read_keys([str(tmp_path / "keys")]) == read_keys([key.text for key in both]) == both
    with pytest.raises(FirewallError, match="is no key, and no file"):
        read_keys(["x"])
