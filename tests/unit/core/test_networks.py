"""Where a caller comes from."""

import pytest

from app.core.networks import are_within, is_within, networks_of

INSIDE = networks_of(["10.1.0.0/16", "2001:db8::/32", "192.0.2.7"])


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.1.2.3", True),
        ("10.2.0.0", False),
        ("192.0.2.7", True),
        ("192.0.2.8", False),
        ("2001:db8::1", True),
        ("2001:db9::1", False),
        ("::ffff:10.1.2.3", True),
        ("::ffff:10.2.2.3", False),
        ("2001:db8::1%eth0", True),
        ("unknown", False),
        ("", False),
        ("10.1.2", False),
    ],
)
def test_an_address_is_inside_or_it_is_not(address, expected):
    assert is_within(address, INSIDE) is expected
    assert not is_within(address, ())


@pytest.mark.parametrize("text", ["", "10.0.0.1/8", "10.0.0.0/33", "host.example", "10.0.0.0/8\n"])
def test_what_is_no_network_is_told(text):
    with pytest.raises(ValueError, match="is no network, such as"):
        networks_of([text])


@pytest.mark.parametrize(
    ("inner", "expected"),
    [
        ([], True),
        (["10.1.2.0/24"], True),
        (["10.1.2.0/24", "2001:db8:1::/48"], True),
        (["10.1.2.0/24", "10.2.0.0/24"], False),
        (["10.0.0.0/8"], False),
        (["2001::/16"], False),
        (["::ffff:10.1.0.0/112"], False),
    ],
)
def test_networks_within_networks(inner, expected):
    assert are_within(networks_of(inner), INSIDE) is expected
