"""What proxies say of a request, and who is believed."""

from typing import Any

import pytest

from pushlab.wsgi.access import AccessPolicy, is_loopback_request
from pushlab.wsgi.proxy_headers import apply_forwarded, network

TRUSTED = (network("127.0.0.1"), network("10.0.0.0/8"))


def environ(**changes: str) -> dict[str, Any]:
    return {
        "REQUEST_METHOD": "GET",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "127.0.0.1:5000",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "5000",
        "wsgi.url_scheme": "http",
        **changes,
    }


def forwarded(*, peer: str = "127.0.0.1", by: str) -> dict[str, Any]:
    told = environ(REMOTE_ADDR=peer, HTTP_X_FORWARDED_FOR=by, HTTP_X_FORWARDED_PROTO="https",
                   HTTP_X_FORWARDED_HOST="example.org")  # fmt: skip
    apply_forwarded(told, TRUSTED)
    return told


@pytest.mark.parametrize(
    ("by", "address"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("203.0.113.9, 10.1.2.3", "203.0.113.9"),
        ("127.0.0.1, 203.0.113.9", "203.0.113.9"),  # the browser claims to be somebody else
        ("127.0.0.1, 203.0.113.9, 10.1.2.3", "203.0.113.9"),
        ("10.1.2.3", "10.1.2.3"),
        ("127.0.0.1", "127.0.0.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("unknown", "unknown"),
    ],
)
def test_a_trusted_proxy_is_believed(by: str, address: str) -> None:
    told = forwarded(by=by)
    assert told["REMOTE_ADDR"] == address
    assert (told["wsgi.url_scheme"], told["HTTP_HOST"]) == ("https", "example.org")


@pytest.mark.parametrize("peer", ["203.0.113.7", "", "nonsense", "::1"])
def test_nobody_else_is(peer: str) -> None:
    told = forwarded(peer=peer, by="127.0.0.1")
    assert told["REMOTE_ADDR"] == peer
    assert (told["wsgi.url_scheme"], told["HTTP_HOST"]) == ("http", "127.0.0.1:5000")
    assert not is_loopback_request(told)


def test_who_is_local_behind_a_proxy() -> None:
    local = environ(HTTP_X_FORWARDED_FOR="127.0.0.1")
    apply_forwarded(local, TRUSTED)
    assert is_loopback_request(local)
    for unknown in (
        environ(HTTP_X_FORWARDED_FOR="203.0.113.9"),
        environ(),  # the proxy does not tell, so it may be anybody
        environ(HTTP_X_FORWARDED_FOR=", ,"),
        environ(HTTP_X_FORWARDED_FOR="127.0.0.1", HTTP_X_REAL_IP="203.0.113.9"),
        environ(HTTP_X_FORWARDED_FOR="127.0.0.1", HTTP_FORWARDED="for=203.0.113.9"),
    ):
        apply_forwarded(unknown, TRUSTED)
        assert not is_loopback_request(unknown)


def test_both_hosts_must_be_ours() -> None:
    """The one in the Host header, which a browser cannot forge, and the one that a proxy tells."""
    gate = AccessPolicy(allow_hosts=("example.org",), trusted_proxies=TRUSTED)
    told = {"HTTP_X_FORWARDED_FOR": "203.0.113.9"}

    def status(host: str, forwarded: str) -> str | None:
        refusal = gate.check(environ(HTTP_HOST=host, HTTP_X_FORWARDED_HOST=forwarded, **told))
        return refusal.status.split()[0] if refusal else None

    assert status("127.0.0.1:5000", "example.org") is None
    assert status("example.org", "example.org") is None
    assert status("127.0.0.1:5000", "evil.example") == "421"
    assert status("evil.example", "example.org") == "421"  # rebound, with headers of its own


def test_the_origin_is_compared_with_the_host_that_the_browser_knows() -> None:
    gate = AccessPolicy(allow_hosts=("example.org",), trusted_proxies=TRUSTED)
    asked = {
        "HTTP_UPGRADE": "websocket",
        "HTTP_CONNECTION": "Upgrade",
        "HTTP_SEC_WEBSOCKET_VERSION": "13",
        "HTTP_SEC_WEBSOCKET_KEY": "AAAAAAAAAAAAAAAAAAAAAA==",
        "HTTP_X_FORWARDED_FOR": "203.0.113.9",
        "HTTP_X_FORWARDED_HOST": "example.org",
    }
    assert gate.check(environ(**asked, HTTP_ORIGIN="https://example.org")) is None
    refusal = gate.check(environ(**asked, HTTP_ORIGIN="http://127.0.0.1:5000"))
    assert refusal
    assert refusal.status.startswith("403")
