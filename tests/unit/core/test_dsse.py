"""DSSE v1: the bytes that are signed, and envelopes read as every verifier must read them."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core import dsse
from app.core.dsse import Envelope, Signature, pae
from app.errors import FirewallError, Kind

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "policy_set_signature.json").read_text("utf-8"))
GOOD: dict[str, Any] = {"payload": "aGk=", "payloadType": "t", "signatures": [{"keyid": "k", "sig": "c2ln"}]}


@pytest.mark.parametrize(("kind", "body", "encoded"), VECTORS["pae_cases"])
def test_the_encoding(kind, body, encoded):
    assert pae(kind, body.encode()) == encoded.encode()


def test_the_encoding_of_the_vector():
    envelope = dsse.of_tree(VECTORS["envelope"])
    assert envelope.signed == VECTORS["pae"].encode()
    assert envelope.payload == VECTORS["statement"].encode()
    assert dsse.tree_of(envelope) == VECTORS["envelope"]


@given(
    st.tuples(st.text(alphabet="a 1"), st.binary(max_size=5)), st.tuples(st.text(alphabet="a 1"), st.binary(max_size=5))
)
def test_two_messages_never_share_an_encoding(one, other):
    assert (pae(*one) == pae(*other)) == (one == other)


@given(
    st.text(min_size=1, alphabet=st.characters(exclude_categories=["Cs"])), st.binary(min_size=1), st.binary(min_size=1)
)
def test_what_is_written_is_read(kind, payload, signature):
    envelope = Envelope(kind, payload, (Signature("", signature), Signature("k", payload)))
    assert dsse.of_tree(dsse.tree_of(envelope)) == envelope


def test_either_alphabet_is_read():
    content = bytes(range(248, 256)) * 3
    standard, url_safe = base64.b64encode(content).decode(), base64.urlsafe_b64encode(content).decode()
    assert standard != url_safe
    for text in (standard, url_safe):
        envelope = dsse.of_tree({**GOOD, "payload": text, "signatures": [{"sig": text}]})
        assert (envelope.payload, envelope.signatures) == (content, (Signature("", content),))


def test_members_that_nobody_knows_are_left_alone():
    more = {**GOOD, "cert": 1, "signatures": [{**GOOD["signatures"][0], "cert": "x"}]}
    assert dsse.of_tree(more) == dsse.of_tree(GOOD) == dsse.read(json.dumps(more).encode())


def refused(work):
    with pytest.raises(FirewallError) as caught:
        work()
    assert caught.value.kind is Kind.MALFORMED
    return caught.value


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"payload": None}, "/payload"),
        ({"payload": ""}, "/payload"),
        ({"payload": "a"}, "/payload"),
        ({"payload": "aGk"}, "/payload"),
        ({"payload": "aGk=\n"}, "/payload"),
        ({"payload": "ähn="}, "/payload"),
        ({"payload": ["aGk="]}, "/payload"),
        ({"payloadType": 1}, "/payloadType"),
        ({"payloadType": ""}, "/payloadType"),
        ({"signatures": None}, "/signatures"),
        ({"signatures": []}, "/signatures"),
        ({"signatures": {"sig": "c2ln"}}, "/signatures"),
        ({"signatures": [{"sig": "c2ln"}] * (dsse.SIGNATURES_MAX + 1)}, "/signatures"),
        ({"signatures": ["c2ln"]}, "/signatures/0"),
        ({"signatures": [{"sig": "c2ln"}, {"sig": "!"}]}, "/signatures/1/sig"),
        ({"signatures": [{"keyid": "k"}]}, "/signatures/0/sig"),
        ({"signatures": [{"keyid": 1, "sig": "c2ln"}]}, "/signatures/0/keyid"),
        ({"signatures": [{"keyid": None, "sig": "c2ln"}]}, "/signatures/0/keyid"),
    ],
)
def test_what_is_no_envelope(change, pointer):
    assert refused(lambda: dsse.of_tree({**GOOD, **change})).pointer == pointer


def test_what_is_not_even_an_object():
    assert refused(lambda: dsse.of_tree([GOOD])).pointer == ""
    assert "65536" in refused(lambda: dsse.read(b" " * 65_537)).detail
    twice = b'{"payload":"aGk=","payload":"aGk=","payloadType":"t","signatures":[{"sig":"c2ln"}]}'
    assert "twice" in refused(lambda: dsse.read(twice)).detail
    assert refused(lambda: dsse.read(b"{")).pointer == ""
