"""Connections to addresses that were checked: a name is resolved once, and what was found is checked and connected to.

A library that resolves the name again after a check would let its owner answer differently the second time.
"""

import asyncio
import socket
from collections.abc import Iterable

import httpcore
from httpcore import SOCKET_OPTION, AsyncNetworkStream

from pgqueue.http.addresses import Addresses


class AddressRefused(Exception):
    """A host has no address to which the target may connect."""


class Connector(httpcore.AsyncNetworkBackend):
    """Opens the connections of httpcore. TLS goes on top of them, with the name of the host."""

    def __init__(self, addresses: Addresses) -> None:
        self._addresses = addresses
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SOCKET_OPTION] | None = None,
    ) -> AsyncNetworkStream:
        """Connect to the first address of a host that is permitted and answers. Raises AddressRefused."""
        found = await resolve(host, port)
        permitted = [address for address in found if self._addresses.permit(address)]
        if not permitted:
            raise AddressRefused(f"{host} is {', '.join(found)}, which is not public")
        failure: Exception | None = None
        for address in permitted:
            try:
                return await self._network.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure or httpcore.ConnectError(f"{host} has no address")


async def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host, each once, in the order of the resolver."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise httpcore.ConnectError(f"{host} cannot be resolved: {error}") from error
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
