"""An authority for one certificate: made with it, and its private key forgotten at once.

Nobody can have it sign another one, and nothing but the certificate's own key has to be kept. The next certificate has
the next authority.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# Clocks differ.
EARLY: Final = timedelta(minutes=5)

# X.520's upper bound of a common name; longer names stand in the alternative names alone.
_COMMON_NAME_CHARS: Final = 64


@dataclass(frozen=True, slots=True)
class Issued:
    """A serving certificate with its key and the authority that vouches for it, each in PEM."""

    certificate: bytes
    key: bytes
    authority: bytes

    def read(self) -> "Reading":
        """What people ask about it. Raises ValueError where the three are not what they should be, or do not fit."""
        leaf = x509.load_pem_x509_certificate(self.certificate)
        leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(self.authority))
        key = load_pem_private_key(self.key, password=None)
        if key.public_key() != leaf.public_key():
            raise ValueError("the key does not belong to the certificate")
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return Reading(
            names=frozenset([*names.get_values_for_type(x509.DNSName), *map(str, _addresses(names))]),
            not_before=leaf.not_valid_before_utc,
            not_after=leaf.not_valid_after_utc,
        )


@dataclass(frozen=True, slots=True)
class Reading:
    """What a certificate says."""

    names: frozenset[str]
    not_before: datetime
    not_after: datetime


def issue(names: Sequence[str], *, now: datetime, lifetime: timedelta) -> Issued:
    """Make a certificate for a server of these names (the first is its common one) and an authority. ECDSA, P-256."""
    begins, ends = now - EARLY, now + lifetime
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    # Another name each time: who has two of them in a bundle finds the right one by it.
    stamp = f"{now:%Y-%m-%dT%H:%M:%SZ}-{x509.random_serial_number() % 16**8:08x}"
    issuer = _name(f"mutation-firewall authority {stamp}")
    identifier = x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key())
    authority = (
        x509.CertificateBuilder()
        .subject_name(issuer)
        .issuer_name(issuer)
        .public_key(authority_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    common = names[0] if len(names[0]) <= _COMMON_NAME_CHARS else "mutation-firewall"
    leaf = (
        x509.CertificateBuilder()
        .subject_name(_name(common))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_alternative(name) for name in names]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    return Issued(
        certificate=leaf.public_bytes(Encoding.PEM),
        key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        authority=authority.public_bytes(Encoding.PEM),
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _addresses(names: x509.SubjectAlternativeName) -> Sequence[object]:
    return names.get_values_for_type(x509.IPAddress)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
