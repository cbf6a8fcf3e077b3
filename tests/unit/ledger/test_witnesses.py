"""Cosignatures are asked for at each witness' own pace, and whatever a witness does, nobody waits for it."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.cli.witness import Witness
from app.core import merkle
from app.core.merkle import grow, leaf_hash
from app.core.notes import Algorithm, Checkpoint, Note, SignerKey
from app.core.witnessing import WitnessAddress
from app.errors import FirewallError, Kind
from app.ledger import witnesses as module
from app.ledger.witnesses import Reply, WitnessAwayError, Witnesses, WitnessesState

LOG = SignerKey.of("firewall.example.com/ledger", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
KEYS = [
    SignerKey.of(
        f"w.example.com/{n}", Ed25519PrivateKey.from_private_bytes(bytes([n] * 32)), algorithm=Algorithm.COSIGNATURE
    )
    for n in (1, 2)
]
FIRST, SECOND = (WitnessAddress(key.verifier, f"https://{key.name}") for key in KEYS)
LEAVES = [leaf_hash(b"%d" % number) for number in range(600)]
OTHERS = [leaf_hash(b"another %d" % number) for number in range(600)]


@dataclass(frozen=True)
class Signed:
    size: int
    note: bytes


def signed(size, leaves=LEAVES):
    text = Checkpoint(LOG.name, size, merkle.root_of(leaves[:size])).text
    return Signed(size, Note(text, (LOG.sign(text),)).serialise())


class World:
    """A tree, a store and a network, all of which can fail."""

    def __init__(self, directory):
        self.newest = 0
        self.kept = {}
        self.witnesses = {
            address.url: Witness(
                key, logs={LOG.name: (LOG.verifier,)}, directory=directory / key.name.replace("/", "_")
            )
            for key, address in zip(KEYS, (FIRST, SECOND), strict=True)
        }
        self.scripts = {}
        self.requests = []
        self.counts = []
        self.contradictions = 0
        self.now = 1000.0
        self.broken = None
        self.closed = False

    async def tiles(self, wanted):
        if self.broken is not None:
            raise self.broken
        everything = {(tile.level, tile.index): hashes for tile, hashes in grow(0, LEAVES, lambda _: {}).tiles.items()}
        return {tile: everything[tile.level, tile.index] for tile in wanted}

    async def keep(self, checkpoint, cosignature):
        if self.broken is not None:
            raise self.broken
        self.kept[checkpoint.size, cosignature.name] = cosignature

    async def newest_size(self):
        return self.newest

    async def __call__(self, url, body):
        self.requests.append((url, int(body.split(b"\n")[0][4:])))
        script = self.scripts.get(url.removesuffix("/add-checkpoint"))
        if script:
            done = script.pop(0)
            if isinstance(done, BaseException):
                raise done
            if isinstance(done, Reply):
                return done
            done()
        answer = self.witnesses[url.removesuffix("/add-checkpoint")].add_checkpoint(body)
        return Reply(answer.status, answer.media_type.partition(";")[0], answer.body)

    async def close(self):
        self.closed = True

    def contradict(self):
        self.contradictions += 1


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    yield made
    for witness in made.witnesses.values():
        witness.close()


@asynccontextmanager
async def asking(world, addresses=(FIRST, SECOND), **options):
    asked = Witnesses(
        addresses,
        tiles=world.tiles,
        store=world,
        post=world,
        counted=world.counts.append,
        contradicted=world.contradict,
        monotonic=lambda: world.now,
        backoff=(0.0, 0.001),
        **options,
    )
    await asked.start()
    try:
        yield asked
    finally:
        await asked.stop()
        assert world.closed


async def until(condition):
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


async def test_two_witnesses_of_a_log_that_grows(world):
    async with asking(world) as asked:
        assert asked.cosignatures == 0
        for size in (1, 255, 256, 257, 600):
            checkpoint = signed(size)
            asked.hand_over(checkpoint)
            await until(lambda size=size: (size, KEYS[0].name) in world.kept and (size, KEYS[1].name) in world.kept)
            assert asked.cosignatures == 2
            for key in KEYS:
                text = checkpoint.note.decode().partition("\n\n")[0] + "\n"
                assert key.verifier.verify(text, world.kept[size, key.name])
        assert asked.report() == (WitnessesState.CURRENT, "2 of 2 witnesses answer")
    assert world.counts == [True] * 10
    assert all(witness.latest(LOG.name).size == 600 for witness in world.witnesses.values())


async def test_a_replica_that_begins_learns_what_was_cosigned(world):
    async with asking(world) as asked:
        asked.hand_over(signed(5))
        await until(lambda: len(world.kept) == 2)
    world.requests.clear()
    async with asking(world) as asked:
        asked.hand_over(signed(300))
        await until(lambda: len(world.kept) == 4)
        assert asked.cosignatures == 2
    assert sorted(world.requests) == [(f"{one.url}/add-checkpoint", old) for one in (FIRST, SECOND) for old in (0, 5)]


async def test_nobody_is_asked_before_it_starts(world):
    asked = Witnesses([FIRST], tiles=world.tiles, store=world, post=world)
    assert asked.report() == (WitnessesState.CURRENT, "1 witnesses; this replica has signed nothing yet")
    asked.hand_over(signed(7))
    await asked.stop()
    assert (asked.cosignatures, world.requests) == (0, [])


async def test_only_the_newest_is_asked_for(world):
    async with asking(world, (FIRST,)) as asked:
        asked.hand_over(signed(7))
        asked.hand_over(signed(9))
        asked.hand_over(signed(8))
        await until(lambda: world.kept)
        assert set(world.kept) == {(9, KEYS[0].name)}
        asked.hand_over(signed(9))
        await asyncio.sleep(0.01)
        assert len(world.requests) == 1


async def test_a_witness_that_is_away_holds_up_nobody(world, monkeypatch):
    monkeypatch.setattr(module, "RECOVERY_SECONDS", 0.02)
    world.scripts[FIRST.url] = [WitnessAwayError("ConnectError")] * 3 + [OSError("reset"), TimeoutError()]
    async with asking(world, wanted=1) as asked:
        asked.hand_over(signed(7))
        await until(lambda: (7, KEYS[1].name) in world.kept)
        assert asked.cosignatures == 1
        # After five failures it is left alone for a while, and this clock stands still.
        await until(lambda: not world.scripts[FIRST.url])
        await asyncio.sleep(0.05)
        assert len([url for url, _ in world.requests if url.startswith(FIRST.url)]) == 5
        world.now += module.LATE_SECONDS + 1
        assert asked.report()[0] is WitnessesState.CURRENT
        await until(lambda: (7, KEYS[0].name) in world.kept)
        assert asked.cosignatures == 2
    assert world.counts.count(False) == 5


async def test_a_log_that_never_rests_is_not_late(world):
    async with asking(world, (FIRST,)) as asked:

        def meanwhile(size):
            def hand_over():
                world.now += 40
                asked.hand_over(signed(size))

            return hand_over

        world.scripts[FIRST.url] = [meanwhile(size) for size in range(8, 20)]
        asked.hand_over(signed(7))
        await until(lambda: (19, KEYS[0].name) in world.kept)
        assert asked.report()[0] is WitnessesState.CURRENT
        assert [old for _, old in world.requests] == [0, *range(7, 19)]


async def test_too_few_for_too_long(world):
    world.scripts[FIRST.url] = [Reply(503, "text/plain", b"")] * 5
    async with asking(world) as asked:
        asked.hand_over(signed(7))
        await until(lambda: not world.scripts[FIRST.url])
        assert asked.report()[0] is WitnessesState.CURRENT
        world.scripts[FIRST.url] = [Reply(503, "text/plain", b"")] * 100
        world.now += module.LATE_SECONDS + 1
        state, words = asked.report()
        assert (state, words) == (WitnessesState.LATE, "1 of 2 cosignatures; w.example.com/1: it answered 503")


async def test_a_witness_that_never_answered_is_named(world):
    never = asyncio.Event()

    async def silent(_url, _body):
        await never.wait()

    async with asking(world, (FIRST,)) as asked:
        asked._all[0]._post = silent
        asked.hand_over(signed(7))
        await asyncio.sleep(0.01)
        world.now += module.LATE_SECONDS + 1
        assert asked.report()[1] == "0 of 1 cosignatures; w.example.com/1: does not answer"


@pytest.mark.parametrize("status", [400, 403, 404, 413])
async def test_a_refusal_is_logged_once_and_asked_again_later(world, monkeypatch, caplog, status):
    monkeypatch.setattr(module, "REFUSED_SECONDS", 0.0)
    world.scripts[FIRST.url] = [Reply(status, "text/plain", b"unknown\x1b[31m log\n")] * 3
    async with asking(world, (FIRST,)) as asked:
        asked.hand_over(signed(7))
        await until(lambda: world.kept)
        assert asked.report()[0] is WitnessesState.CURRENT
    said = [record.getMessage() for record in caplog.records]
    assert said == ["the witness refuses to cosign", "the witness cosigns again"]
    assert caplog.records[0].fields["reason"] == f"it answered {status}: unknown [31m log"
    assert world.counts == [False, False, False, True]


@pytest.mark.parametrize(
    "reply",
    [
        Reply(200, "text/plain", b""),
        Reply(200, "text/plain", b"rubbish\n"),
        Reply(200, "text/plain", LOG.sign("other\n").line.encode()),
        Reply(200, "text/plain", KEYS[0].sign("other\n", at=1).line.encode()),
        Reply(409, "text/x.tlog.size", b"seven\n"),
        Reply(409, "text/x.tlog.size", b"\xff"),
        Reply(409, "text/x.tlog.size", b"0\n"),
        Reply(409, "text/plain", b"3\n"),
        Reply(302, "text/plain", b""),
        Reply(500, "text/plain", b""),
        ValueError("a defect"),
    ],
)
async def test_answers_that_are_none(world, reply):
    world.scripts[FIRST.url] = [reply]
    async with asking(world, (FIRST,)) as asked:
        asked.hand_over(signed(7))
        await until(lambda: world.kept)
        assert asked.cosignatures == 1
    assert world.contradictions == 0
    assert len(world.requests) == 2


async def test_a_witness_whose_size_never_stays(world):
    world.scripts[FIRST.url] = [Reply(409, "text/x.tlog.size", b"%d\n" % size) for size in (3, 4, 5)]
    async with asking(world, (FIRST,)) as asked:
        asked.hand_over(signed(7))
        await until(lambda: world.kept)
    # Three tries, then the whole once more, from what was said last.
    assert [old for _, old in world.requests] == [0, 3, 4, 5, 0]


@pytest.mark.parametrize(
    ("cosigned", "leaves", "why"),
    [
        (7, OTHERS, "another root of 7 entries"),
        (5, OTHERS, "our tree of 7 entries does not continue"),
        (9, LEAVES, "a tree of 9 entries, and the newest of ours has 7"),
    ],
)
async def test_another_history_is_loud(world, caplog, cosigned, leaves, why):
    other = signed(cosigned, leaves)
    submission = b"old 0\n\n" + other.note
    assert world.witnesses[FIRST.url].add_checkpoint(submission).status == 200
    caplog.clear()
    world.newest = 7
    async with asking(world, (FIRST,)) as asked:
        asked.hand_over(signed(7))
        await until(lambda: world.contradictions)
        state, words = asked.report()
    assert state is WitnessesState.CONTRADICTED
    assert why in words
    assert "another history" in next(r.getMessage() for r in caplog.records if r.name == "mfw.witnesses")
    assert not world.kept


async def test_a_conflict_that_names_the_size_that_we_sent(world):
    assert world.witnesses[FIRST.url].add_checkpoint(b"old 0\n\n" + signed(7).note).status == 200
    # Some witnesses name the size even where the roots differ.
    world.scripts[FIRST.url] = [Reply(409, "text/x.tlog.size", b"7\n")] * 2
    async with asking(world, (FIRST,)) as asked:
        asked.hand_over(signed(7))
        await until(lambda: world.contradictions)
        assert asked.report() == (WitnessesState.CONTRADICTED, "w.example.com/1: it cosigned another root of 7 entries")


async def test_another_replica_that_is_ahead_is_no_contradiction(world):
    assert world.witnesses[FIRST.url].add_checkpoint(b"old 0\n\n" + signed(9).note).status == 200
    world.newest = 9
    async with asking(world, (FIRST,)) as asked:
        asked.hand_over(signed(7))
        await until(lambda: world.requests)
        await until(lambda: asked._all[0].behind == 0)
        assert asked.report()[0] is WitnessesState.CURRENT
        asked.hand_over(signed(300))
        await until(lambda: world.kept)
        assert set(world.kept) == {(300, KEYS[0].name)}


async def test_our_own_database_that_is_away(world):
    async with asking(world, (FIRST,)) as asked:
        world.broken = FirewallError(Kind.UNAVAILABLE, "the database cannot be reached")
        asked.hand_over(signed(7))
        await until(lambda: asked._all[0].trouble)
        assert asked._all[0]._breaker.state.value == "closed"
        world.broken = None
        await until(lambda: world.kept)
    # Cosigned already, so the same again.
    assert [old for _, old in world.requests][-1] in {0, 7}


async def test_a_witness_cannot_be_waited_for(world, monkeypatch):
    monkeypatch.setattr(module, "REQUEST_SECONDS", 0.0)

    async def slow(_url, _body):
        await asyncio.sleep(10)

    async with asking(world, (FIRST,)) as asked:
        asked._all[0]._post = slow
        asked.hand_over(signed(7))
        await until(lambda: asked._all[0].trouble == "TimeoutError")


class TestAddresses:
    def test_a_key_and_a_url(self):
        assert WitnessAddress.parse(f" {FIRST.key.text}  https://w.example.com/1/ ") == FIRST

    @pytest.mark.parametrize(
        "text",
        [
            "",
            FIRST.key.text,
            f"{FIRST.key.text} w.example.com",
            f"{FIRST.key.text} https://",
            f"{FIRST.key.text} ftp://w.example.com",
            f"{FIRST.key.text} https://w.example.com/?a=b",
            f"{FIRST.key.text} https://w.example.com/#a",
            f"{FIRST.key.text} https://w.example.com https://other",
            f"{FIRST.key.text} https://w.exam\x1bple.com",
            f"{LOG.verifier.text} https://w.example.com",
            "rubbish https://w.example.com",
        ],
    )
    def test_what_is_none(self, text):
        with pytest.raises(FirewallError) as caught:
            WitnessAddress.parse(text)
        assert caught.value.kind is Kind.MALFORMED
