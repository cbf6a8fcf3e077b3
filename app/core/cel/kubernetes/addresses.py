"""IP addresses and networks, as Go's `net/netip` reads them: no leading zeros, no zones, no IPv4 mapped into IPv6."""

import ipaddress
import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any, ClassVar

from app.core.cel.budget import Budget, spend
from app.core.cel.values import CelError, Opaque, no_overload

# `ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255`, with room to spare; longer texts are not looked at.
_CHARS_MAX = 64
_BITS = re.compile(r"0|[1-9][0-9]{0,2}", re.ASCII)
_PARSING = 10
_LINK_LOCAL_MULTICAST = ipaddress.IPv4Network("224.0.0.0/24")


@dataclass(frozen=True, slots=True)
class Ip(Opaque):
    """An address."""

    address: IPv4Address | IPv6Address
    type_name: ClassVar[str] = "net.IP"

    def text(self) -> str:
        """Write the one canonical form (RFC 5952)."""
        return str(self.address)


@dataclass(frozen=True, slots=True)
class Cidr(Opaque):
    """A network as it was written: the address may have bits behind the prefix."""

    address: IPv4Address | IPv6Address
    bits: int
    type_name: ClassVar[str] = "net.CIDR"

    def text(self) -> str:
        """Write address and length."""
        return f"{self.address}/{self.bits}"

    def contains(self, address: IPv4Address | IPv6Address) -> bool:
        """Tell whether the network has an address; one of another family it never has."""
        shift = self.address.max_prefixlen - self.bits
        return address.version == self.address.version and int(address) >> shift == int(self.address) >> shift


def parse_ip(text: str) -> Ip:
    """Read an address.

    Raises:
        CelError: it is none.
    """
    return Ip(_address(text, "an IP address"))


def parse_cidr(text: str) -> Cidr:
    """Read a network.

    Raises:
        CelError: it is none.
    """
    address_text, slash, bits = text[: _CHARS_MAX * 2].rpartition("/")
    if not slash:
        raise CelError("a network is written as `10.0.0.0/8`")
    address = _address(address_text, "the address of a network")
    if _BITS.fullmatch(bits) is None or int(bits) > address.max_prefixlen:
        raise CelError(f"the length of the network is no number from 0 to {address.max_prefixlen}")
    return Cidr(address, int(bits))


def _address(text: str, what: str) -> IPv4Address | IPv6Address:
    if len(text) > _CHARS_MAX:
        raise CelError(f"{what} has at most {_CHARS_MAX} characters")
    if "%" in text:
        raise CelError(f"{what} has no zone")
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise CelError(f"{what} is written as `10.0.0.1` or `2001:db8::1`") from None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        raise CelError(f"{what} is not an IPv4 address mapped into IPv6")
    return address


# --- functions ------------------------------------------------------------------------------------------------------


def ip(value: Any, budget: Budget) -> Ip:
    """`ip(text)`, and `network.ip()`."""
    if type(value) is Cidr:
        return Ip(value.address)
    if type(value) is not str:
        raise no_overload("ip", value)
    spend(budget, _PARSING)
    return parse_ip(value)


def is_ip(text: Any, budget: Budget) -> bool:
    """`isIP(text)`."""
    if type(text) is not str:
        raise no_overload("isIP", text)
    try:
        ip(text, budget)
    except CelError:
        return False
    return True


def is_canonical(text: Any, budget: Budget) -> bool:
    """`ip.isCanonical(text)`: whether it is how the address would be written."""
    if type(text) is not str:
        raise no_overload("ip.isCanonical", text)
    return ip(text, budget).text() == text


def cidr(text: Any, budget: Budget) -> Cidr:
    """`cidr(text)`."""
    if type(text) is not str:
        raise no_overload("cidr", text)
    spend(budget, _PARSING)
    return parse_cidr(text)


def is_cidr(text: Any, budget: Budget) -> bool:
    """`isCIDR(text)`."""
    if type(text) is not str:
        raise no_overload("isCIDR", text)
    try:
        cidr(text, budget)
    except CelError:
        return False
    return True


def contains_ip(network: Any, value: Any, budget: Budget) -> bool:
    """`network.containsIP(address)`: an address or its text."""
    if type(network) is not Cidr or (type(value) is not str and type(value) is not Ip):
        raise no_overload("containsIP", network, value)
    address = value if type(value) is Ip else ip(value, budget)
    return network.contains(address.address)


def contains_cidr(network: Any, value: Any, budget: Budget) -> bool:
    """`network.containsCIDR(other)`: a network or its text."""
    if type(network) is not Cidr or (type(value) is not str and type(value) is not Cidr):
        raise no_overload("containsCIDR", network, value)
    other = value if type(value) is Cidr else cidr(value, budget)
    return network.bits <= other.bits and network.contains(other.address)


def masked(network: Any) -> Cidr:
    """`network.masked()`: without the bits behind the prefix."""
    if type(network) is not Cidr:
        raise no_overload("masked", network)
    shift = network.address.max_prefixlen - network.bits
    return Cidr(type(network.address)(int(network.address) >> shift << shift), network.bits)


def prefix_length(network: Any) -> int:
    """`network.prefixLength()`."""
    if type(network) is not Cidr:
        raise no_overload("prefixLength", network)
    return network.bits


def family(value: Any) -> int:
    """`address.family()`: 4 or 6."""
    return _known("family", value).version


def is_unspecified(value: Any) -> bool:
    """`address.isUnspecified()`: `0.0.0.0` or `::`."""
    return int(_known("isUnspecified", value)) == 0


def is_loopback(value: Any) -> bool:
    """`address.isLoopback()`."""
    return _known("isLoopback", value).is_loopback


def is_link_local_multicast(value: Any) -> bool:
    """`address.isLinkLocalMulticast()`: 224.0.0.0/24, and the scope 2 of IPv6 (RFC 4291, section 2.7)."""
    address = _known("isLinkLocalMulticast", value)
    if isinstance(address, IPv4Address):
        return address in _LINK_LOCAL_MULTICAST
    return (int(address) >> 112) & 0xFF0F == 0xFF02


def is_link_local_unicast(value: Any) -> bool:
    """`address.isLinkLocalUnicast()`: 169.254.0.0/16 and fe80::/10."""
    return _known("isLinkLocalUnicast", value).is_link_local


def is_global_unicast(value: Any) -> bool:
    """`address.isGlobalUnicast()`: private addresses are global in this sense."""
    address = _known("isGlobalUnicast", value)
    if int(address) == 0 or (address.version == 4 and int(address) == (1 << 32) - 1):
        return False
    return not (address.is_loopback or address.is_multicast or address.is_link_local)


def _known(name: str, value: Any) -> IPv4Address | IPv6Address:
    if type(value) is Ip:
        return value.address
    raise no_overload(name, value)
