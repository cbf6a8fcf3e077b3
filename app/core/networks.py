"""Networks that a caller may come from, and whether an address is in one."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Network = IPv4Network | IPv6Network
Networks = tuple[Network, ...]


def networks_of(texts: Iterable[str]) -> Networks:
    """Read networks written `10.0.0.0/8`, `2001:db8::/32` or as one address.

    Raises ValueError that says what is wrong.
    """
    found: list[Network] = []
    for text in texts:
        try:
            found.append(ip_network(text))
        except ValueError:
            raise ValueError(f"`{text[:80]}` is no network, such as `10.20.0.0/16` or `2001:db8::/32`") from None
    return tuple(found)


def address_of(text: str) -> IPv4Address | IPv6Address | None:
    """The address that a text is, None for another text; an IPv4 address within IPv6 is the IPv4 address."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def is_within(text: str, networks: Networks) -> bool:
    """Whether an address is in one of the networks; what is no address is in none."""
    address = address_of(text)
    return address is not None and any(address in network for network in networks)


def are_within(inner: Networks, outer: Networks) -> bool:
    """Whether each of the one networks lies in one of the others."""
    return all(
        any(
            isinstance(one, IPv4Network) == isinstance(other, IPv4Network) and one.subnet_of(other)  # type: ignore[arg-type]  # of the same version, as the line above says
            for other in outer
        )
        for one in inner
    )
