"""A certificate and the authority that vouched for it once."""

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.verification import PolicyBuilder, Store

from app.cluster.authority import EARLY, issue

NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)
NAMES = ("mutation-firewall.mutation-firewall.svc", "mutation-firewall.mutation-firewall.svc.cluster.local", "10.0.0.7")


def test_who_checks_it_by_its_authority_accepts_it_for_its_names() -> None:
    issued = issue(NAMES, now=NOW, lifetime=timedelta(days=90))
    leaf = x509.load_pem_x509_certificate(issued.certificate)
    authority = x509.load_pem_x509_certificate(issued.authority)
    for name in NAMES[:2]:
        verifier = PolicyBuilder().store(Store([authority])).time(NOW).build_server_verifier(x509.DNSName(name))
        assert verifier.verify(leaf, []) == [leaf, authority]
    reading = issued.read()
    assert reading.names == set(NAMES)
    assert (reading.not_before, reading.not_after) == (NOW - EARLY, NOW + timedelta(days=90))


def test_no_two_authorities_have_a_name_in_common() -> None:
    made = [issue(NAMES, now=NOW, lifetime=timedelta(days=1)) for _ in range(3)]
    assert len({x509.load_pem_x509_certificate(one.authority).subject for one in made}) == 3
    mixed = dataclasses.replace(made[0], authority=made[1].authority)
    with pytest.raises((ValueError, InvalidSignature)):
        mixed.read()
    with pytest.raises(ValueError, match="does not belong"):
        dataclasses.replace(made[0], key=made[1].key).read()


def test_a_name_that_is_too_long_for_a_common_name() -> None:
    name = f"{'a' * 63}.{'b' * 63}.svc"
    leaf = x509.load_pem_x509_certificate(issue([name], now=NOW, lifetime=timedelta(days=1)).certificate)
    assert leaf.subject.rfc4514_string() == "CN=mutation-firewall"
