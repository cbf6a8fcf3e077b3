"""Public keys of every kind, made once."""

import json
from functools import cache

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


def _pem(key) -> str:
    return str(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())


class PublicKeys:
    @staticmethod
    @cache
    def rsa(bits: int) -> str:
        # 1024 bits are made on purpose: they must be refused.
        return _pem(rsa.generate_private_key(65537, bits))

    @staticmethod
    @cache
    def ec() -> str:
        return _pem(ec.generate_private_key(ec.SECP256R1()))

    @staticmethod
    @cache
    def ed25519() -> str:
        return _pem(ed25519.Ed25519PrivateKey.generate())

    def __call__(self, *, rsa: int, ec: bool) -> str:
        return json.dumps({"rsa": self.rsa(rsa)} | ({"ec": self.ec()} if ec else {}))


@pytest.fixture(scope="session")
def public_keys() -> PublicKeys:
    return PublicKeys()
