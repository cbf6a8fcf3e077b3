"""Export: what lies there, whole or not at all; going on where it was interrupted; adding what is new."""

import asyncio
import os
import stat
from itertools import count

import orjson
import pytest
import zstandard

from app.errors import FirewallError, Kind
from app.ledger import export as module
from app.ledger import exported
from app.ledger.exported import BEGUN, MANIFEST, Chunk, Export, Manifest, chunks_of, policy_set_path, read_manifest
from app.ledger.files import new_file, read_file, write_file
from app.ledger.records import decode_row, encode_row, read_records
from app.ledger.verify import Trust, verify
from tests.unit.ledger.made import KEY, Made, row, write_records

CHUNK = 256


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    """Files of 256 entries, so that a small ledger has several; and nothing needs to reach the disk."""
    for where in (module, exported):
        monkeypatch.setattr(where, "CHUNK", CHUNK)
    monkeypatch.setattr("os.fsync", lambda _: None)


@pytest.fixture
def there(tmp_path):
    return tmp_path / "export"


def assert_untouched(directory):
    result = verify(Export.open(directory), trust=Trust(keys=(KEY.verifier,)))
    assert result.findings.listed == ()


def names(directory):
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def test_what_lies_there(there):
    made = Made(700)
    exported_ = made.export(there)
    assert (exported_.size, exported_.since, exported_.behind, exported_.chunks, exported_.signed) == (
        700,
        0,
        0,
        3,
        True,
    )
    assert names(there) == {
        "manifest.json",
        "checkpoint",
        "checkpoints/700",
        "lists/activations-700.json",
        "lists/absent-700.json",
        *Export.open(there).manifest.files,
        "tile/0/000",
        "tile/0/001",
        "tile/0/002.p/188",
        "tile/1/000.p/2",
        "tile/entries/000",
        "tile/entries/001",
        "tile/entries/002.p/188",
    }
    assert [chunk.path for chunk in Export.open(there).manifest.chunks] == [
        "records/000000000000-000000000256.ndjson.zst",
        "records/000000000256-000000000512.ndjson.zst",
        "records/000000000512-000000000700.ndjson.zst",
    ]
    assert_untouched(there)


def test_nobody_else_may_read_it(there):
    Made(3).export(there)
    for path in [there, *there.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_without_records(there):
    Made(3).export(there, records=False)
    manifest = Export.open(there).manifest
    assert not manifest.records
    rows = list(read_records(there / manifest.chunks[0].path))
    assert [(one.salt, one.record) for one in rows] == [(None, None)] * 3
    assert_untouched(there)


def test_a_later_export_adds_what_is_new(there):
    made = Made(700)
    made.export(there)
    before = {name: (there / name).stat().st_mtime_ns for name in names(there)}
    made.more(200)
    read: list[int] = []
    made.reading = read.append
    result = made.export(there)
    assert (result.size, result.since, result.chunks) == (900, 700, 2)
    assert read == list(range(512, 900))
    after = names(there)
    kept = {name for name in before if name.startswith(("tile/0/000", "tile/entries/001", "records/000000000256"))}
    assert {name: (there / name).stat().st_mtime_ns for name in kept} == {name: before[name] for name in kept}
    # What is wider now is there once.
    assert not {"tile/0/002.p/188", "tile/entries/002.p/188", "records/000000000512-000000000700.ndjson.zst"} & after
    assert {"checkpoints/700", "checkpoints/900"} <= after
    assert_untouched(there)
    # Nothing new: nothing is read.
    read.clear()
    assert made.export(there).chunks == 0
    assert read == []
    assert_untouched(there)


def test_going_on_from_nothing(there):
    made = Made(0)
    made.export(there)
    made.more(3)
    made.export(there)
    assert_untouched(there)


class Stop(Exception):  # noqa: N818 - no error
    """The power went."""


@pytest.mark.parametrize("when", ["reading", "writing"])
def test_going_on_where_it_was_interrupted(there, monkeypatch, when):
    made = Made(700)
    made.export(there)
    earlier = {name: (there / name).read_bytes() for name in names(there)}
    made.more(600)
    for number in count():
        steps = count()

        def step(*_, last=number, steps=steps):
            if next(steps) == last:
                raise Stop

        with monkeypatch.context() as patch:
            if when == "reading":
                made.reading = lambda idx, last=number: step() if idx % 97 == 0 else None
            else:
                patch.setattr(
                    module, "write_file", lambda path, content, step=step: (step(), write_file(path, content))[1]
                )
            try:
                made.export(there)
            except Stop:
                pass
            else:
                break
        assert_untouched(there)
        if Export.open(there).manifest.size != 700:
            # All but what is taken away at the end.
            continue
        # What was there before is there still, and nothing half.
        assert {name: (there / name).read_bytes() for name in earlier} == earlier
        assert not [name for name in names(there) if name.endswith(".part")]
    assert number > 3
    assert not (there / BEGUN).exists()
    assert Export.open(there).manifest.size == 1300
    assert_untouched(there)


def test_a_first_export_that_was_interrupted_is_no_export(there):
    made = Made(700)
    made.reading = lambda idx: (_ for _ in ()).throw(Stop()) if idx == 450 else None
    with pytest.raises(Stop):
        made.export(there)
    with pytest.raises(FirewallError) as error:
        Export.open(there)
    assert error.value.kind is Kind.NOT_FOUND
    with pytest.raises(FirewallError, match="with records"):
        made.export(there, records=False)
    read: list[int] = []
    made.reading = read.append
    made.export(there)
    # The first file was whole.
    assert read[0] == 256
    assert_untouched(there)


@pytest.mark.parametrize("size", [0, 300], ids=["first", "later"])
def test_nothing_of_an_interrupted_export_outlives_an_erasure(there, size, monkeypatch):
    made = Made(size)
    if size:
        made.export(there)
    made.more(310 - size)
    with monkeypatch.context() as patch:
        # The last file of records is whole, and what comes after it is not.
        patch.setattr(module._Writer, "_rest", lambda *_, **__: (_ for _ in ()).throw(Stop()))
        with pytest.raises(Stop):
            made.export(there)
    assert (there / Chunk(256, 310).path).exists()
    made.erase(305)
    made.more(10)
    made.export(there)
    assert [path.name for path in sorted((there / "records").iterdir())] == [
        chunk.path.removeprefix("records/") for chunk in chunks_of(len(made.rows_))
    ]
    assert_untouched(there)


def test_what_is_erased_goes_from_an_export_as_well(there):
    made = Made(700)
    made.export(there)
    made.erase(5)
    made.integrate()
    assert made.export(there).chunks == 2
    rows = list(read_records(there / Chunk(0, 256).path))
    assert rows[5].record is None
    assert_untouched(there)


def test_what_is_erased_while_it_is_exported(there):
    made = Made(700)

    def erase(idx):
        if idx == 400 and not made.erased:
            made.erase(5)

    made.reading = erase
    made.export(there)
    assert next(one for one in read_records(there / Chunk(0, 256).path) if one.idx == 5).record is None
    made.integrate()
    made.export(there)
    assert_untouched(there)


def test_another_ledger_is_refused(there):
    Made(700).export(there)
    other = Made()
    other.more(900, generation=1)
    for ledger in (other, Made(300)):
        with pytest.raises(FirewallError) as error:
            ledger.export(there)
        assert error.value.kind is Kind.CONFLICT
        assert "continuation" in error.value.detail
    # Its tiles are gone.
    broken = Made(900)
    broken.tiles_.clear()
    with pytest.raises(FirewallError, match="continuation"):
        broken.export(there)
    assert_untouched(there)


def test_another_form_is_refused(there):
    Made(3).export(there)
    with pytest.raises(FirewallError, match="with records"):
        Made(3).export(there, records=False)


def test_a_directory_of_something_else_is_refused(there):
    there.mkdir()
    (there / "thesis.doc").write_text("mine")
    with pytest.raises(FirewallError, match="of no export"):
        Made(3).export(there)
    there.joinpath("thesis.doc").unlink()
    (there / MANIFEST).write_text("{}")
    with pytest.raises(FirewallError, match="is not that of an export"):
        Made(3).export(there)


def test_two_at_a_time_are_refused(there):
    with module._alone(there), pytest.raises(FirewallError, match="somebody else exports"), module._alone(there):
        pass


def test_a_place_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FirewallError, match="cannot be used"):
        Made(3).export(tmp_path / "file" / "below")


def test_a_ledger_with_holes(there):
    made = Made(700)
    del made.rows_[280:290]
    made.sets["sha256:" + "2" * 64] = b"[]"
    assert made.export(there).behind == 0
    assert not (there / "tile/entries/001").exists()
    assert (there / "tile/entries/000").exists()


def test_more_than_is_signed(there):
    made = Made(3)
    made.put(row(3))
    assert made.export(there).behind == 1


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"size": -1},
        {"size": True},
        {"size": "3"},
        {"root": "00"},
        {"root": 1},
        {"files": {"../etc/passwd": {"bytes": 1, "sha256": ""}}},
        {"files": {"a/b/c": {"bytes": 1, "sha256": ""}}},
        {"files": []},
        {"files": {"a": {}}},
    ],
)
def test_manifests_that_are_none(there, change):
    Made(3).export(there)
    members = orjson.loads((there / MANIFEST).read_bytes())
    with pytest.raises(FirewallError) as error:
        Manifest.decode(orjson.dumps(members | change))
    assert error.value.kind is Kind.MALFORMED


def test_a_manifest_and_its_file():
    assert list(chunks_of(700)) == [Chunk(0, 256), Chunk(256, 512), Chunk(512, 700)]
    assert list(chunks_of(700, since=650)) == [Chunk(512, 700)]
    with pytest.raises(ValueError, match="x"):
        policy_set_path("x")


async def test_an_export_is_a_source(there):
    made = Made(5)
    made.erase(2)
    made.integrate()
    await asyncio.to_thread(made.export, there)
    source = Export.open(there)
    assert await source.size() == 6
    assert [one.idx async for one in source.rows(1, 4)] == [1, 2, 3]
    assert [one async for one in source.rows(0, 6)] == made.rows_
    assert await source.activations() == tuple(made.activated)
    assert await source.absent() == await made.absent()
    assert await source.policy_sets() == tuple(made.sets)
    assert [await source.policy_set(name) for name in (*made.sets, "x")] == [*made.sets.values(), None]
    await source.close()
    await asyncio.to_thread(made.export, there.with_name("bare"), records=False)
    with pytest.raises(FirewallError, match="no records"):
        await Export.open(there.with_name("bare")).size()


def test_rows_round_trip():
    one = row(7)
    for changed in (
        one,
        one._replace(salt=None, record=None),
        one._replace(receipt=b"\xff", record=b"\xfe"),
        one._replace(record='"\U0001f600"'.encode()),
    ):
        assert decode_row(encode_row(changed)) == changed


@pytest.mark.parametrize(
    "change",
    [
        {"idx": "1"},
        {"idx": True},
        {"id": "x"},
        {"kind": 1},
        {"recorded_at": "2026-01-01T00:00:00"},
        {"receipt": None},
        {"receipt": 1},
        {"salt": "x"},
        {"salt": 1},
    ],
)
def test_lines_that_are_none(tmp_path, change):
    line = orjson.loads(encode_row(row(7))) | change
    with pytest.raises((AttributeError, KeyError, TypeError, ValueError)):
        decode_row(orjson.dumps(line))


def test_files_of_records_that_are_none(tmp_path):
    file = tmp_path / "records"
    write_records(file, [row(0), row(1)])
    good = file.read_bytes()
    for content, words in (
        (b"nonsense", "damaged"),
        (b"", "ends too early"),
        (good[:-1], "ends too early"),
        (good + b"x", "behind its end"),
        (good + good, "behind its end"),
        (zstandard.compress(b"{}\n"), "line 1"),
        (zstandard.compress(b"[]\n"), "line 1"),
        (zstandard.compress(encode_row(row(0))[:-1]), "inside a line"),
    ):
        file.write_bytes(content)
        with pytest.raises(FirewallError, match=words) as error:
            list(read_records(file))
        assert error.value.kind is Kind.MALFORMED
    with pytest.raises(FirewallError) as error:
        list(read_records(tmp_path / "nothing"))
    assert error.value.kind is Kind.UNAVAILABLE


def test_lines_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("app.ledger.records.LINE_BYTES_MAX", 100)
    file = tmp_path / "records"
    write_records(file, [row(0)._replace(record=os.urandom(400_000).hex().encode())])
    with pytest.raises(FirewallError, match="more than 100 bytes"):
        list(read_records(file))


def test_files_are_whole_or_not_there(tmp_path):
    file = tmp_path / "a" / "b"
    with pytest.raises(Stop), new_file(file) as out:  # noqa: PT012 - what is written is lost
        out.write(b"half")
        raise Stop
    assert names(tmp_path) == set()
    assert write_file(file, b"whole").bytes == 5
    assert read_file(file, max_bytes=5) == b"whole"
    assert read_file(tmp_path / "nothing", max_bytes=5) is None
    with pytest.raises(FirewallError) as error:
        read_file(file, max_bytes=4)
    assert error.value.kind is Kind.TOO_LARGE
    for act in (lambda: read_file(tmp_path, max_bytes=1), lambda: write_file(file / "below", b"")):
        with pytest.raises(FirewallError) as error:
            act()
        assert error.value.kind is Kind.UNAVAILABLE
    assert read_manifest(tmp_path) is None
