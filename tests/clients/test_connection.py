"""Addresses, keys, TLS files."""

import pytest

from polyseme import AsyncClient, Client, Tls
from polyseme.connection import Connection, is_loopback


def test_an_api_key_never_shows():
    client = Client("127.0.0.1:1", api_key="secret")

    assert "secret" not in repr(client)
    assert "secret" not in repr(Connection(target="127.0.0.1:1", api_key="secret"))
    client.close()


def test_an_api_key_does_not_leave_the_machine_unencrypted_unless_told():
    with pytest.raises(ValueError, match="unencrypted"):
        Client("example.org:443", api_key="secret")

    Client("example.org:443", api_key="secret", insecure=True).close()
    Client("example.org:443", api_key="secret", tls=Tls()).close()


@pytest.mark.parametrize("key", ["secret\n", " secret", "sécret", "se\0cret"])
def test_an_api_key_that_no_header_carries_is_refused_without_showing_it(key):
    with pytest.raises(ValueError, match="only printable ASCII") as told:
        Client("127.0.0.1:1", api_key=key)

    assert key.strip() not in str(told.value)


@pytest.mark.parametrize("target", ["localhost", ":50051", "host:", "host:http", ""])
def test_a_target_without_host_and_port_is_refused(target):
    with pytest.raises(ValueError, match="host:port"):
        Client(target)


def test_a_certificate_without_its_key_is_refused():
    with pytest.raises(ValueError, match="belong together"):
        Tls(certificate="client.pem")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("localhost", True),
        ("[::1]", True),
        ("10.0.0.1", False),
        ("example.org", False),
        ("0.0.0.0", False),
    ],
)
def test_loopback_is_this_machine_only(host, loopback):
    assert is_loopback(host) is loopback


async def test_both_clients_have_the_same_methods():
    def public(cls):
        return {name for name in vars(cls) if not name.startswith("_")}

    assert public(Client) == public(AsyncClient)
