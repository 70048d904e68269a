"""X-Forwarded headers: trusted proxies, and what follows."""

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


def forwarded(*, sender: str = "127.0.0.1", addresses: str) -> dict[str, Any]:
    request = environ(
        REMOTE_ADDR=sender, HTTP_X_FORWARDED_FOR=addresses, HTTP_X_FORWARDED_PROTO="https",
        HTTP_X_FORWARDED_HOST="example.org",
    )  # fmt: skip
    apply_forwarded(request, TRUSTED)
    return request


@pytest.mark.parametrize(
    ("addresses", "address"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("203.0.113.9, 10.1.2.3", "203.0.113.9"),
        ("127.0.0.1, 203.0.113.9", "203.0.113.9"),  # the first address is the browser's claim
        ("127.0.0.1, 203.0.113.9, 10.1.2.3", "203.0.113.9"),
        ("10.1.2.3", "10.1.2.3"),
        ("127.0.0.1", "127.0.0.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("unknown", "unknown"),
    ],
)
def test_headers_of_trusted_proxies_apply(addresses: str, address: str) -> None:
    request = forwarded(addresses=addresses)
    assert request["REMOTE_ADDR"] == address
    assert (request["wsgi.url_scheme"], request["HTTP_HOST"]) == ("https", "example.org")


@pytest.mark.parametrize("sender", ["203.0.113.7", "", "nonsense", "::1"])
def test_headers_of_other_clients_do_not(sender: str) -> None:
    request = forwarded(sender=sender, addresses="127.0.0.1")
    assert request["REMOTE_ADDR"] == sender
    assert (request["wsgi.url_scheme"], request["HTTP_HOST"]) == ("http", "127.0.0.1:5000")
    assert not is_loopback_request(request)


def test_loopback_requests_behind_a_proxy() -> None:
    local = environ(HTTP_X_FORWARDED_FOR="127.0.0.1")
    apply_forwarded(local, TRUSTED)
    assert is_loopback_request(local)
    for unknown in (
        environ(HTTP_X_FORWARDED_FOR="203.0.113.9"),
        environ(),  # the proxy sends no address, so it may be any
        environ(HTTP_X_FORWARDED_FOR=", ,"),
        environ(HTTP_X_FORWARDED_FOR="127.0.0.1", HTTP_X_REAL_IP="203.0.113.9"),
        environ(HTTP_X_FORWARDED_FOR="127.0.0.1", HTTP_FORWARDED="for=203.0.113.9"),
    ):
        apply_forwarded(unknown, TRUSTED)
        assert not is_loopback_request(unknown)


def test_both_hosts_must_be_allowed() -> None:
    """The Host header and the proxy's X-Forwarded-Host."""
    policy = AccessPolicy(allow_hosts=("example.org",), trusted_proxies=TRUSTED)
    sender = {"HTTP_X_FORWARDED_FOR": "203.0.113.9"}

    def status(host: str, forwarded: str) -> str | None:
        rejection = policy.check(environ(HTTP_HOST=host, HTTP_X_FORWARDED_HOST=forwarded, **sender))
        return rejection.status.split()[0] if rejection else None

    assert status("127.0.0.1:5000", "example.org") is None
    assert status("example.org", "example.org") is None
    assert status("127.0.0.1:5000", "evil.example") == "421"
    assert status("evil.example", "example.org") == "421"  # DNS rebinding, with headers of its own


def test_the_origin_is_compared_with_the_forwarded_host() -> None:
    policy = AccessPolicy(allow_hosts=("example.org",), trusted_proxies=TRUSTED)
    upgrade = {
        "HTTP_UPGRADE": "websocket",
        "HTTP_CONNECTION": "Upgrade",
        "HTTP_SEC_WEBSOCKET_VERSION": "13",
        "HTTP_SEC_WEBSOCKET_KEY": "AAAAAAAAAAAAAAAAAAAAAA==",
        "HTTP_X_FORWARDED_FOR": "203.0.113.9",
        "HTTP_X_FORWARDED_HOST": "example.org",
    }
    assert policy.check(environ(**upgrade, HTTP_ORIGIN="https://example.org")) is None
    rejection = policy.check(environ(**upgrade, HTTP_ORIGIN="http://127.0.0.1:5000"))
    assert rejection
    assert rejection.status.startswith("403")
