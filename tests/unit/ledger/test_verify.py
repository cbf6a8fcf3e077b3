"""Verify: an untouched export has no finding, and each kind of tampering is named, with the first entry it touched."""

from uuid import UUID

import orjson
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.notes import SignerKey, VerifierKey
from app.errors import FirewallError, Kind
from app.ledger.exported import MANIFEST, Export
from app.ledger.findings import FIXES, NOTES, SHOWN_MAX, Code, Findings
from app.ledger.receipt import EntryKind
from app.ledger.records import read_records
from app.ledger.rows import Activated
from app.ledger.verify import Trust, read_saved, verify
from tests.unit.ledger.made import KEY, SET, SET_DIGEST, WITNESS, Made, alter, relist, row, write_records

TRUST = Trust(keys=(KEY.verifier,))
SIZES = [0, 1, 2, 255, 256, 257, 600]


def verified(directory, *, since=(), trust=TRUST):
    return verify(Export.open(directory), trust=trust, saved=[read_saved(path, trust=trust) for path in since])


def found(directory, **more):
    """Code and entry of what was found."""
    return [(one.code, one.index) for one in verified(directory, **more).findings.listed]


@pytest.fixture(autouse=True, scope="module")
def _in_haste():
    """Nothing here outlives the test, so nothing needs to reach the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        yield


@pytest.fixture
def there(tmp_path):
    return tmp_path / "export"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("records", [True, False], ids=["records", "receipts"])
def test_an_untouched_log(there, size, records):
    made = Made(size)
    made.export(there, records=records)
    trust = TRUST if size else Trust()  # nobody signs an empty log
    result = verified(there, trust=trust)
    assert result.untouched
    assert (result.size, result.root, result.findings.listed) == (size, made.root, ())
    if size:
        assert (result.signers, result.origin) == ((KEY.name,), KEY.name)


def test_an_untouched_log_with_everything_in_it(there, tmp_path):
    made = Made(300)
    made.erase(7)
    made.archived.append((20, 30))
    for idx in range(20, 30):
        made.rows_[idx] = made.rows_[idx]._replace(salt=None, record=None)
    made.put(row(len(made.rows_), kind=EntryKind.ARCHIVE, first_index="20", last_index="29"))
    made.cosigned = True
    made.integrate()
    made.export(there)
    (tmp_path / "kept").write_bytes(made.notes[0][1])
    trust = Trust(keys=(KEY.verifier,), witnesses=(WITNESS.verifier,))
    result = verified(there, since=[tmp_path / "kept", there], trust=trust)
    assert result.findings.listed == ()
    assert result.witnesses == (WITNESS.name,)
    # The two that were given, and the one that the export has of the way.
    assert result.saved == 3


def touched(size, change):
    """An export of a ledger whose entries somebody changed after they were signed."""
    made = Made(size)
    change(made)
    return made


@pytest.mark.parametrize("size", [3, 257, 600])
@pytest.mark.parametrize("place", ["first", "middle", "last", "edge"])
class TestInTheDatabase:
    """Rows that were changed by whoever holds the database; the tree is the one that was published."""

    @pytest.fixture
    def at(self, size, place):
        return {"first": 0, "middle": size // 2, "last": size - 1, "edge": min(255, size - 1)}[place]

    def test_an_altered_receipt(self, there, size, at):
        made = Made(size)
        made.rows_[at] = alter(made.rows_[at], at="2020-01-01T00:00:00.000000Z")
        made.export(there)
        assert found(there)[0] == (Code.ENTRY_ALTERED, at)
        assert set(found(there)) == {(Code.ENTRY_ALTERED, at)}

    def test_a_missing_entry(self, there, size, at):
        made = Made(size)
        del made.rows_[at]
        made.export(there)
        assert (Code.ENTRY_MISSING, at) in found(there)
        assert {code for code, _ in found(there)} <= {Code.ENTRY_MISSING, Code.LIST_ALTERED}

    def test_a_missing_entry_and_the_others_moved_up(self, there, size, at):
        made = Made(size)
        del made.rows_[at]
        made.rows_ = [one._replace(idx=idx) for idx, one in enumerate(made.rows_)]
        made.export(there)
        entries = [one for one in found(there) if one[0] is not Code.LIST_ALTERED]
        assert entries[0] == (Code.ENTRY_MISSING, at)
        # The last index is missing as well, by its number.
        assert set(entries) <= {(Code.ENTRY_MISSING, at), (Code.ENTRY_MISSING, size - 1)}

    def test_an_inserted_entry(self, there, size, at):
        made = Made(size)
        made.rows_.insert(at, row(at, generation=9))
        made.rows_ = [one._replace(idx=idx) for idx, one in enumerate(made.rows_)]
        made.export(there)
        entries = [one for one in found(there) if one[0] is not Code.LIST_ALTERED]
        # At the very end nothing moved that is part of the tree.
        assert entries == [(Code.ENTRY_ALTERED if at == size - 1 else Code.ENTRY_INSERTED, at)]

    def test_two_entries_in_the_others_place(self, there, size, at):
        made = Made(size)
        other = (at + 1) % size
        one, two = made.rows_[at], made.rows_[other]
        made.rows_[at], made.rows_[other] = two._replace(idx=at), one._replace(idx=other)
        made.export(there)
        entries = [one for one in found(there) if one[0] is not Code.LIST_ALTERED]
        if size > 512 and at == size - 1:
            # So far apart that neither is seen in the other's place.
            assert entries == [(Code.ENTRY_ALTERED, 0), (Code.ENTRY_ALTERED, at)]
        else:
            assert {index for _, index in entries} == {at, other}
            assert entries[0][0] in {Code.ENTRY_REORDERED, Code.ENTRY_ALTERED}
            assert Code.ENTRY_REORDERED in {code for code, _ in entries}

    def test_a_record_and_a_salt(self, there, size, at):
        made = Made(size)
        one = made.rows_[at]
        assert one.record is not None
        made.rows_[at] = one._replace(record=one.record.replace(b'"number":', b'"numbeR":'))
        made.export(there)
        assert found(there) == [(Code.RECORD_ALTERED, at)]
        made.rows_[at] = one._replace(salt=bytes(32))
        made.export(there.with_name("salt"))
        assert found(there.with_name("salt")) == [(Code.SALT_ALTERED, at)]

    def test_a_record_that_is_gone(self, there, size, at):
        made = Made(size)
        made.rows_[at] = made.rows_[at]._replace(salt=None, record=None)
        made.export(there)
        assert found(there) == [(Code.RECORD_MISSING, at)]

    def test_columns(self, there, size, at):
        made = Made(size)
        made.rows_[at] = made.rows_[at]._replace(kind="vote")
        made.export(there)
        assert found(there) == [(Code.COLUMN_ALTERED, at)]

    def test_an_id_that_comes_twice(self, there, size, at):
        made = Made(size)
        other = (at + 1) % size
        made.rows_[at] = made.rows_[at]._replace(id=made.rows_[other].id)
        made.export(there)
        assert set(found(there)) == {(Code.COLUMN_ALTERED, at), (Code.ID_REPEATED, max(at, other))}


def test_a_record_that_is_no_json_and_a_salt_of_no_length(there):
    made = Made(5)
    made.rows_[3] = made.rows_[3]._replace(record=b"\xff{")
    made.rows_[4] = made.rows_[4]._replace(salt=b"short")
    made.export(there)
    assert found(there) == [(Code.RECORD_ALTERED, 3), (Code.SALT_ALTERED, 4)]


def test_an_erasure_that_no_entry_says(there):
    made = Made(5)
    made.rows_[3] = made.rows_[3]._replace(salt=None, record=None)
    made.erased[3] = 4
    made.export(there)
    assert found(there) == [(Code.RECORD_MISSING, 3), (Code.LIST_ALTERED, 3)]


def test_an_entry_in_a_file_of_other_entries(there):
    Made(5).export(there)
    manifest = orjson.loads((there / MANIFEST).read_bytes())
    old, new = (f"records/{0:012}-{end:012}.ndjson.zst" for end in (5, 2))
    manifest["files"][new] = manifest["files"].pop(old)
    (there / old).rename(there / new)
    (there / MANIFEST).write_bytes(orjson.dumps(manifest))
    assert found(there) == [(Code.FILE_ALTERED, 2)]


@pytest.mark.parametrize("member", ["id", "recorded_at", "receipt", "record", "salt"])
def test_a_line_with_a_number_where_a_text_should_be(there, member):
    Made(3).export(there)
    (path,) = (there / "records").iterdir()
    lines = [orjson.loads(line) for line in zstandard.decompress(path.read_bytes(), 1_000_000).splitlines()]
    lines[1][member] = 5
    path.write_bytes(zstandard.compress(b"".join(orjson.dumps(line) + b"\n" for line in lines)))
    assert (Code.FILE_ALTERED, None) in found(there)


def test_an_erasure_behind_the_checkpoint(there):
    made = Made(5)
    made.erase(3)
    made.export(there)
    result = verified(there)
    assert [(one.code, one.index) for one in result.findings.listed] == [(Code.ERASURE_PENDING, 3)]
    # Nothing that was signed says so: whoever takes a record out of an export could write this as well.
    assert not result.untouched
    made.integrate()
    made.export(there)
    assert found(there) == []


def test_a_tree_that_was_made_anew_without_the_key(there):
    made = Made(600)
    forged = Made(0, key=None)
    forged.more(600, generation=1)
    forged.notes = made.notes
    forged.export(there)
    assert found(there) == [(Code.ROOT_MISMATCH, None)]


def test_a_whole_log_that_was_made_anew_with_its_key(there, tmp_path):
    made = Made(600)
    made.export(tmp_path / "earlier")
    (tmp_path / "kept").write_bytes(made.notes[-1][1])
    forged = Made()
    forged.more(700, generation=1)
    forged.export(there)
    # By itself it is a log like any other.
    assert found(there) == []
    assert found(there, since=[tmp_path / "kept"]) == [(Code.LOG_REGENERATED, 0)]
    assert found(there, since=[tmp_path / "earlier"]) == [(Code.LOG_REGENERATED, 0)]
    witnessed = Trust(keys=(KEY.verifier,), witnesses=(WITNESS.verifier,))
    assert found(there, trust=witnessed) == [(Code.WITNESS_MISSING, None)]


@pytest.mark.parametrize("fork", [1, 255, 256, 300, 512, 599])
def test_a_log_that_was_forked_with_its_key(there, tmp_path, fork):
    made = Made(fork)
    (tmp_path / "before").write_bytes(made.notes[-1][1])
    forged = Made(fork)
    made.more(600 - fork)
    (tmp_path / "after").write_bytes(made.notes[-1][1])
    made.export(tmp_path / "earlier")
    forged.more(700 - fork, generation=1)
    forged.notes = forged.notes[1:]
    forged.export(there)
    assert found(there, since=[tmp_path / "before"]) == []
    # Exactly, where the tiles of both are there; else by the checkpoints that fit and those that do not.
    assert found(there, since=[tmp_path / "earlier"]) == [(Code.LOG_FORKED, fork)]
    assert found(there, since=[tmp_path / "before", tmp_path / "after"]) == [(Code.LOG_FORKED, fork)]
    assert found(there, since=[tmp_path / "after"]) == [(Code.LOG_REGENERATED, 0)]


def test_a_log_that_was_truncated_with_its_key(there, tmp_path):
    made = Made(600)
    (tmp_path / "kept").write_bytes(made.notes[-1][1])
    Made(500).export(there)
    assert found(there) == []
    assert found(there, since=[tmp_path / "kept"]) == [(Code.LOG_TRUNCATED, 500)]


def test_a_checkpoint_that_the_export_itself_kept(there):
    made = Made(300)
    made.more(300)
    forged = Made()
    forged.more(700, generation=1)
    forged.notes = [*made.notes, *forged.notes]
    forged.export(there)
    assert [code for code, _ in found(there)] == [Code.LOG_REGENERATED] * 2
    (there / "checkpoints" / "300").write_bytes(b"nothing")
    relist(there)
    assert [code for code, _ in found(there)] == [Code.CHECKPOINT_INVALID, Code.LOG_REGENERATED]
    (there / "checkpoints" / "300").unlink()
    assert [code for code, _ in found(there)] == [Code.LOG_REGENERATED, Code.FILE_MISSING]


def test_another_key(there):
    Made(3).export(there)
    private = SignerKey.parse(KEY.text).private
    other = SignerKey.of("log.example/two", private)
    assert (Code.CHECKPOINT_INVALID, None) in found(there, trust=Trust(keys=(other.verifier,)))


def test_the_checkpoint_of_another_log(there):
    made = Made(3)
    made.notes = [(3, made.sign(KEY, origin="log.example/other"))]
    made.export(there)
    assert found(there) == [(Code.CHECKPOINT_OTHER_LOG, None)]
    assert found(there, trust=Trust(keys=(KEY.verifier,), origin="log.example/other")) == []


def test_without_a_checkpoint(there):
    made = Made(3, key=None)
    made.export(there)
    assert found(there) == [(Code.CHECKPOINT_MISSING, None)]
    assert verified(there, trust=Trust()).untouched


def test_without_a_key_the_export_is_compared_with_itself(there, tmp_path):
    made = Made(600)
    made.export(tmp_path / "earlier")
    made.rows_[5] = alter(made.rows_[5], at="2020-01-01T00:00:00.000000Z")
    made.export(there)
    assert found(there, trust=Trust()) == [(Code.ENTRY_ALTERED, 5)]
    made = Made(600, key=None)
    made.export(tmp_path / "unsigned")
    assert found(tmp_path / "earlier", since=[tmp_path / "unsigned"], trust=Trust()) == []


class TestInTheFiles:
    """Files that were changed after the export, with a manifest that fits them."""

    @pytest.fixture
    def at(self, there):
        Made(600).export(there)
        return there

    def change(self, directory, path, content=None):
        file = directory / path
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content)
        relist(directory)
        return found(directory)

    def flipped(self, directory, path, at=40):
        content = (directory / path).read_bytes()
        return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]

    @pytest.mark.parametrize("path", ["tile/0/000", "tile/0/002.p/88", "tile/1/000.p/2"])
    def test_tiles(self, at, path):
        assert self.change(at, path, self.flipped(at, path)) == [(Code.TILE_ALTERED, None)]
        assert self.change(at, path) == [(Code.TILE_MISSING, None)]

    def test_a_tile_that_is_cut_short(self, at):
        assert self.change(at, "tile/0/000", b"x" * 32) == [(Code.TILE_MISSING, None)]

    def test_a_tile_and_an_entry(self, at):
        """The tile above says which of them it is."""
        self.change(at, "tile/0/000", self.flipped(at, "tile/0/000"))
        self.rewrite(at, lambda rows: rows.__setitem__(300, alter(rows[300], record="sha256:" + "0" * 64)))
        assert set(found(at)) == {(Code.TILE_ALTERED, None), (Code.ENTRY_ALTERED, 300), (Code.BUNDLE_ALTERED, 300)}

    def test_the_last_tile_and_an_entry(self, at):
        self.change(at, "tile/0/002.p/88", self.flipped(at, "tile/0/002.p/88"))
        self.rewrite(at, lambda rows: rows.__setitem__(300, alter(rows[300], record="sha256:" + "0" * 64)))
        assert set(found(at)) == {(Code.TILE_ALTERED, None), (Code.ENTRY_ALTERED, 300), (Code.BUNDLE_ALTERED, 300)}

    def rewrite(self, directory, change):
        (chunk,) = Export.open(directory).manifest.chunks
        rows = list(read_records(directory / chunk.path))
        change(rows)
        write_records(directory / chunk.path, rows)
        relist(directory)

    def test_bundles(self, at):
        path = "tile/entries/001"
        assert self.change(at, path, self.flipped(at, path)) == [(Code.BUNDLE_ALTERED, 256)]
        assert self.change(at, path, b"\0") == [(Code.BUNDLE_ALTERED, None)]
        assert self.change(at, path) == [(Code.BUNDLE_MISSING, None)]

    def test_policy_sets(self, at):
        path = f"policy-sets/{SET_DIGEST.removeprefix('sha256:')}.json"
        assert self.change(at, path, SET + b" ") == [(Code.POLICY_SET_ALTERED, 0)]
        assert self.change(at, path) == [(Code.POLICY_SET_MISSING, 0)]

    def test_lists(self, at):
        made_up = [{"index": 3, "digest": "x", "at": "2026-01-01T00:00:00+00:00"}]
        assert self.change(at, "lists/activations-600.json", orjson.dumps(made_up)) == [(Code.LIST_ALTERED, 0)]
        assert self.change(at, "lists/activations-600.json", b"[]") == [(Code.LIST_ALTERED, 0)]
        assert self.change(at, "lists/activations-600.json", b"[{}]") == [(Code.LIST_ALTERED, None)]
        assert self.change(at, "lists/activations-600.json", b"") == [(Code.LIST_ALTERED, None)]

    def test_a_list_of_absent_records_that_is_none(self, at):
        assert self.change(at, "lists/absent-600.json", b"{}") == [(Code.LIST_ALTERED, None)]

    def test_files_of_records(self, at):
        (chunk,) = Export.open(at).manifest.chunks
        content = (at / chunk.path).read_bytes()
        assert (Code.FILE_ALTERED, None) in self.change(at, chunk.path, content[:-20])
        assert (Code.FILE_ALTERED, None) in self.change(at, chunk.path, content + b"x")
        assert self.change(at, chunk.path, b"nonsense")[0] == (Code.ENTRY_MISSING, 0)

    def test_an_entry_twice_and_one_beyond_the_end(self, at):
        self.rewrite(at, lambda rows: rows.insert(5, rows[4]))
        assert found(at) == [(Code.ENTRY_INSERTED, 4)]
        self.rewrite(at, lambda rows: (rows.pop(5), rows.append(row(600))))
        assert found(at) == [(Code.ENTRY_INSERTED, 600)]

    def test_entries_that_are_missing_in_a_row(self, at):
        self.rewrite(at, lambda rows: rows.__delitem__(slice(200, 600)))
        result = verified(at)
        assert [(one.code, one.index) for one in result.findings.listed] == [(Code.ENTRY_MISSING, 200)]
        assert "400 entries" in result.findings.listed[0].detail

    def test_a_receipt_of_no_known_form(self, at):
        self.rewrite(at, lambda rows: rows.__setitem__(9, rows[9]._replace(receipt=b"{}")))
        assert found(at) == [(Code.ENTRY_ALTERED, 9), (Code.BUNDLE_ALTERED, 9)]

    def test_what_does_not_fit_the_manifest(self, at):
        (chunk,) = Export.open(at).manifest.chunks
        rows = list(read_records(at / chunk.path))
        write_records(at / chunk.path, [rows[0]._replace(record=b"{}"), *rows[1:]])
        (at / "lists/absent-600.json").write_bytes(b'{"erased":[],"archived":[] }')
        assert sorted(found(at), key=str) == [
            (Code.FILE_ALTERED, None),
            (Code.FILE_ALTERED, None),
            (Code.RECORD_ALTERED, 0),
        ]
        (at / "lists/absent-600.json").unlink()
        (at / chunk.path).unlink()
        assert [code for code, _ in found(at)].count(Code.FILE_MISSING) == 2

    def test_a_manifest_of_another_size(self, at):
        members = orjson.loads((at / MANIFEST).read_bytes())
        (at / MANIFEST).write_bytes(orjson.dumps(members | {"size": 599}))
        assert found(at)[0] == (Code.CHECKPOINT_MISSING, None)

    def test_a_checkpoint_of_another_size(self, at):
        note = Made(599).notes[0][1]
        (at / "checkpoint").write_bytes(note)
        assert {(Code.ENTRY_INSERTED, 599), (Code.LIST_ALTERED, None)} <= set(self.change(at, "checkpoints/600", note))

    def test_a_checkpoint_that_is_not_the_newest(self, at):
        assert self.change(at, "checkpoint", b"") == [(Code.FILE_ALTERED, None)]


def test_a_set_that_came_from_a_directory(there):
    made = Made(3)
    made.put(row(3, policy_set="sha256:" + "1" * 64))
    made.integrate()
    made.export(there)
    result = verified(there)
    assert result.untouched
    assert [(one.code, one.index) for one in result.findings.listed] == [(Code.POLICY_SET_UNSTORED, 3)]


def test_activations_that_are_not_listed(there):
    made = Made(3)
    made.activated = []
    made.export(there)
    assert found(there) == [(Code.LIST_ALTERED, 0)]
    made.activated = [Activated(0, SET_DIGEST, made.rows_[0].recorded_at), Activated(2, "x", made.rows_[0].recorded_at)]
    made.export(there)
    assert found(there) == [(Code.LIST_ALTERED, 2)]


def test_receipts_that_cannot_be_read_were_signed_by_somebody(there):
    made = Made(3)
    made.put(row(3)._replace(receipt=b'{"at":1}'))
    made.integrate()
    made.export(there)
    assert found(there) == [(Code.RECEIPT_INVALID, 3)]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_byte_of_any_file_is_found(tmp_path_factory, data):
    there = tmp_path_factory.mktemp("any") / "export"
    made = Made(data.draw(st.integers(1, 300)))
    made.export(there)
    files = sorted(path for path in there.rglob("*") if path.is_file() and path.name != MANIFEST)
    file = data.draw(st.sampled_from(files))
    content = file.read_bytes()
    at = data.draw(st.integers(0, len(content) - 1))
    file.write_bytes(content[:at] + bytes([content[at] ^ data.draw(st.integers(1, 255))]) + content[at + 1 :])
    assert not verified(there).untouched


def test_saved_checkpoints_that_are_none(tmp_path):
    with pytest.raises(FirewallError) as error:
        read_saved(tmp_path / "nothing", trust=TRUST)
    assert error.value.kind is Kind.NOT_FOUND
    Made(3, key=None).export(tmp_path / "unsigned")
    with pytest.raises(FirewallError):
        read_saved(tmp_path / "unsigned", trust=TRUST)
    (tmp_path / "forged").write_bytes(Made(3).notes[0][1])
    with pytest.raises(FirewallError) as error:
        read_saved(tmp_path / "forged", trust=Trust(keys=(WITNESS.verifier,)))
    assert error.value.kind is Kind.INVALID_SIGNATURE


def test_every_code_says_what_to_do():
    assert FIXES.keys() == set(Code)
    assert set(Code) > NOTES


def test_lists_are_bounded_and_counts_are_not():
    findings = Findings()
    for idx in range(2 * SHOWN_MAX):
        findings.add(Code.RECORD_ALTERED, "", index=idx)
    findings.leave_out(Code.RECORD_ALTERED, {0, 1})
    assert findings.counts == {Code.RECORD_ALTERED: 2 * SHOWN_MAX - 2}
    assert [one.index for one in findings.listed] == list(range(2, SHOWN_MAX))
    findings.leave_out(Code.RECORD_MISSING, {0})
    assert findings.faults == 2 * SHOWN_MAX - 2


def test_keys_round_trip():
    assert VerifierKey.parse(KEY.verifier.text) == KEY.verifier
    assert UUID(int=0) not in {one.id for one in Made(2).rows_}
