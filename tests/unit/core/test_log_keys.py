"""The key of a log, as a secret has it."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from app.core.log_keys import is_origin, log_key
from app.core.notes import Algorithm, SignerKey
from app.errors import FirewallError, Kind

ORIGIN = "log.example.com/1"
# The same in every process that collects these tests: they are named after it.
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@pytest.mark.parametrize("text", [SignerKey.of(ORIGIN, KEY).text, f"  {SignerKey.of(ORIGIN, KEY).text}\n", PEM])
def test_both_forms_are_the_same_key(text):
    key = log_key(text, origin=ORIGIN)
    assert key.verifier == SignerKey.of(ORIGIN, KEY).verifier
    assert key.sign("x\n") == SignerKey.of(ORIGIN, KEY).sign("x\n")


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("", "is neither"),
        ("PRIVATE+KEY+x", "is neither"),
        (SignerKey.of(ORIGIN, KEY).verifier.text, "is neither"),
        (SignerKey.of(ORIGIN, KEY, algorithm=Algorithm.COSIGNATURE).text, "is that of a witness"),
        (SignerKey.of("other", KEY).text, "signs under the name `other`"),
        (PEM[:-40], "is no PEM private key"),
    ],
)
def test_what_is_no_key_of_this_log(text, detail):
    with pytest.raises(FirewallError) as caught:
        log_key(text, origin=ORIGIN)
    assert caught.value.kind is Kind.MALFORMED
    assert caught.value.detail.startswith(detail)
    assert caught.value.fix


@pytest.mark.parametrize(
    ("text", "good"),
    [
        (ORIGIN, True),
        ("x" * 255, True),
        ("x" * 256, False),
        ("", False),
        ("a b", False),
        ("a+b", False),
        ("a\nb", False),
        ("a\u00a0b", False),
        ("a\x00", False),
    ],
)
def test_origins(text, good):
    assert is_origin(text) is good
