"""The addresses to which requests may go: public ones, and those of networks that the target allows."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

from pgqueue.errors import InvalidOption

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

_UNICAST_6 = ip_network("2000::/3")
_NAT64 = ip_network("64:ff9b::/96")
# Not public, although some version of Python's ipaddress says so, or nobody's to call: Azure's services for a machine,
# protocol assignments (with Oracle's metadata), relays of 6to4, Teredo and its neighbours, documentation.
_REFUSED = tuple(
    ip_network(text) for text in ("168.63.129.16/32", "192.0.0.0/24", "192.88.99.0/24", "2001::/23", "3fff::/20")
)


class Addresses:
    """Decides about the very address that a connection is made to."""

    def __init__(self, allow: Iterable[str] = ()) -> None:
        if isinstance(allow, str):
            raise InvalidOption(f"allow={allow!r:.100} cannot be used: give a list of networks")
        self._allow = tuple(_network(text) for text in allow)

    def permit(self, text: str) -> bool:
        """Whether a connection to this address is allowed. A text that is no address is not."""
        try:
            given = ip_address(text)
        except ValueError:
            return False
        meant = _meant(given)
        return is_public(meant) or any(meant in network or given in network for network in self._allow)


def _network(text: object) -> Network:
    try:
        if isinstance(text, str):
            return ip_network(text)
    except ValueError:
        pass
    raise InvalidOption(f"allow has {text!r:.100}, which is no network: give such as '10.1.0.0/16' or 'fd00::/8'")


def _meant(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address leads to (mapped, 6to4, NAT64), or the address itself."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


def is_public(address: Address) -> bool:
    """Whether an address is one host of the internet: no private, shared, loopback, link-local, multicast, reserved or
    documentation address, and no service of a cloud for its own machines."""
    if not address.is_global or address.is_multicast or address.is_reserved:
        return False
    if isinstance(address, IPv6Address) and address not in _UNICAST_6:
        return False
    return not any(address in network for network in _REFUSED)
