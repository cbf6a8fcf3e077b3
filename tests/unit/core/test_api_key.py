"""The form of an API key, which others rely on to find leaked ones."""

import re
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.api_key import KEY_CHARACTERS, generate, hash_key, is_well_formed

KNOWN_ZEROS = "mfw_00000000000000000000000000000000000000000000nltPU"
KNOWN_ONES = "mfw_yhjskwdA6OZ1AL1YmHWZWm8LLG7HjnuCA2j5rOw8Xp12Lj928"
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def test_known_keys():
    assert generate(bytes(32)) == KNOWN_ZEROS
    assert generate(b"\xff" * 32) == KNOWN_ONES


@given(st.binary(min_size=32, max_size=32))
def test_every_key_has_the_form_that_scanners_look_for(secret):
    key = generate(secret)
    assert re.fullmatch(r"mfw_[0-9A-Za-z]{49}", key)
    assert len(key) == KEY_CHARACTERS
    assert is_well_formed(key)
    number = 0
    for character in key[4:47]:
        number = number * 62 + ALPHABET.index(character)
    assert number.to_bytes(32, "big") == secret


@given(st.binary(min_size=32, max_size=32), st.integers(4, KEY_CHARACTERS - 1), st.sampled_from(ALPHABET))
def test_one_wrong_character_is_noticed(secret, at, character):
    key = generate(secret)
    changed = key[:at] + character + key[at + 1 :]
    assert is_well_formed(changed) is (changed == key)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "mfw_",
        "mfw_" + "0" * 49,
        generate(bytes(32)) + "0",
        "xfw_" + generate(bytes(32))[4:],
        "mfw_" + "é" * 49,
        "mfw_" + "\udc80" * 49,
        "mfw_" + "-" * 49,
    ],
)
def test_what_is_no_key_is_refused(text):
    assert not is_well_formed(text)


@given(st.text(alphabet=st.characters(), max_size=80))
def test_any_text_is_judged_and_hashed(text):
    assert is_well_formed(text) in {True, False}
    assert len(hash_key(text)) == 32


def test_the_digest_is_of_the_whole_key():
    key = generate(bytes(32))
    assert hash_key(key) == sha256(key.encode()).digest()
