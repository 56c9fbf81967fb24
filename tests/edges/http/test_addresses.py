"""Which addresses a target connects to, also where a name leads to them."""

import asyncio
from ipaddress import ip_address

import httpcore
import pytest

from pgqueue import App, InvalidArguments, InvalidOption
from pgqueue.http import Target, connecting, target
from pgqueue.http.addresses import Addresses
from pgqueue.testing import Jobs
from tests.edges.http.hook_server import HookServer

REFUSED = [
    "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1",
    "100.100.100.200", "168.63.129.16", "192.0.0.192", "192.0.2.1", "198.18.0.1", "198.51.100.7", "203.0.113.7",
    "192.88.99.1", "224.0.0.1", "239.1.2.3", "240.0.0.1", "255.255.255.255", "::", "::1", "::7f00:1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "fe80::1", "fe80::1%eth0", "fc00::1",
    "fd00:ec2::254", "ff02::1", "2001:db8::1", "2001::1", "3fff::1", "2002:7f00:1::", "2002:a9fe:a9fe::1",
    "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "100::1", "5f00::1", "4000::1", "localhost", "",
]  # fmt: skip
PUBLIC = ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"]


@pytest.mark.parametrize("address", REFUSED)
def test_what_is_not_public_is_refused(address: str) -> None:
    assert not Addresses().permit(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_public_is_permitted(address: str) -> None:
    assert Addresses().permit(address)


def test_a_network_is_permitted_in_each_form_of_its_addresses_and_no_other_is() -> None:
    allowed = Addresses(["10.1.0.0/16", "fd00::/8", "169.254.169.254/32"])
    for address in ("10.1.2.3", "::ffff:10.1.2.3", "fd00:ec2::254", "169.254.169.254", "8.8.8.8"):
        assert allowed.permit(address)
    for address in ("10.2.0.1", "127.0.0.1", "::ffff:10.2.0.1", "169.254.169.253", "fe80::1"):
        assert not allowed.permit(address)


@pytest.mark.parametrize("allow", [["10.1.0.1/16"], ["everything"], [7], "10.0.0.0/8"])
def test_what_is_no_network_is_refused(app: App, allow: object) -> None:
    with pytest.raises(InvalidOption, match="allow"):
        target(app, "webhook", allow=allow)  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/", "http://0x7f.1/", "http://2130706433/", "http://[::ffff:7f00:1]/", "http://[::1]:80/"]
)
def test_an_address_in_a_url_is_refused_before_anything_is_written(app: App, jobs: Jobs, url: str) -> None:
    hooks = target(app, "webhook", plain_http=True)
    with pytest.raises(InvalidArguments, match="is not public"):
        hooks.enqueue(url)
    assert jobs.all() == []


def test_a_name_that_leads_inside_is_given_up_at_once(app: App, jobs: Jobs, server: HookServer) -> None:
    hooks = target(app, "webhook", plain_http=True)
    job = hooks.enqueue(f"http://localhost:{server.port}/hook")
    assert jobs.drain().failed == 1
    assert server.received == []
    (error,) = app.get(job.id).errors
    assert "which is not public: give the target allow" in error.message


def test_a_name_is_resolved_once_and_what_was_checked_is_connected_to(
    jobs: Jobs, hooks: Target, server: HookServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a name that answers differently the second time, the second answer is never asked for."""
    asked: list[str] = []

    async def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["169.254.169.254", "127.0.0.1"] if len(asked) == 1 else ["169.254.169.254"]

    monkeypatch.setattr(connecting, "resolve", resolve)
    hooks.enqueue(f"http://rebinding.example:{server.port}/hook")
    assert jobs.drain().succeeded == 1
    assert asked == ["rebinding.example"]
    assert server.received[0].headers["host"] == f"rebinding.example:{server.port}"


def test_the_connection_is_made_to_the_address_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever connects gets an address, which it does not resolve again."""
    connected: list[str] = []

    async def connect(self: object, host: str, *given: object) -> httpcore.AsyncNetworkStream:
        connected.append(host)
        raise httpcore.ConnectError("down")

    async def resolve(host: str, port: int) -> list[str]:
        return ["10.0.0.1", "2606:4700::1111", "8.8.8.8"]

    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", connect)
    monkeypatch.setattr(connecting, "resolve", resolve)
    with pytest.raises(httpcore.ConnectError, match="down"):
        asyncio.run(connecting.Connector(Addresses()).connect_tcp("example.com", 443))
    assert connected == ["2606:4700::1111", "8.8.8.8"]
    assert all(ip_address(host).is_global for host in connected)
