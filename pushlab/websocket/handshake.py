"""The WebSocket handshake: which requests ask for one, and which of those are refused.

Read from the WSGI environ, so that it holds on every server (RFC 6455 section 4.2).
"""

import base64
import binascii
import ipaddress
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

from wsproto.utilities import generate_accept_token

from pushlab.wsgi.proxy_headers import FORWARDED_MISSING, Network, apply_forwarded, parse_address

Environ = dict[str, Any]

#: How the headers begin that proxies add, if they do.
_FORWARDED = ("HTTP_FORWARDED", "HTTP_VIA", "HTTP_X_FORWARDED", "HTTP_X_REAL_IP",
              "HTTP_X_CLIENT_IP", "HTTP_TRUE_CLIENT_IP", "HTTP_CF_CONNECTING_IP")  # fmt: skip


class Rejection(NamedTuple):
    """An HTTP answer in place of the 101."""

    status: str
    headers: list[tuple[str, str]]
    body: bytes

    def answer(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Give it as WSGI has it; HEAD is answered without a body."""
        start_response(self.status, self.headers)
        return [self.body] if environ["REQUEST_METHOD"] != "HEAD" else []


def is_websocket_upgrade(environ: Environ) -> bool:
    """Tell whether the request asks for an upgrade to WebSocket; any other is plain HTTP."""
    return "websocket" in _tokens(environ, "UPGRADE")


class AccessPolicy:
    """Who may come in: the checks that every server makes before it asks the app."""

    def __init__(
        self,
        *,
        allow_origins: Collection[str] = (),
        allow_hosts: Collection[str] | None = None,
        trusted_proxies: Collection[Network] = (),
    ) -> None:
        """Any host is ours if `allow_hosts` is None; `trusted_proxies` are believed whom they say.

        An origin is as browsers write it in their Origin header, in lower case.
        """
        self._allow_origins = allow_origins
        self._allow_hosts = allow_hosts
        self._trusted_proxies = trusted_proxies
        self._our_hosts: set[str] = set()

    def refusal(self, environ: Environ) -> Rejection | None:
        """Return why the app is not even asked, if it is not.

        What a trusted proxy says of the request is written into the environ.
        """
        host = environ.get("HTTP_HOST")
        if environ.get("SERVER_PROTOCOL") == "HTTP/1.1" and not host:
            return missing_host()
        if host is not None and not self.is_ours(host):
            return misdirected(host)
        if self._trusted_proxies:
            apply_forwarded(environ, self._trusted_proxies)
            if (told := environ.get("HTTP_HOST")) != host and not self.is_ours(told or ""):
                return misdirected(str(told))
        if is_websocket_upgrade(environ):
            environ["HTTP_UPGRADE"] = "websocket"  # of whatever list it was in
            return refusal(environ, allow_origins=self._allow_origins)
        return None

    def is_ours(self, host: str) -> bool:
        """Tell whether this server answers to the name in a Host header."""
        if self._allow_hosts is None or host in self._our_hosts:
            return True
        if not host_allowed(host, self._allow_hosts):
            return False
        if len(self._our_hosts) < 100:
            self._our_hosts.add(host)
        return True


def refusal(environ: Environ, *, allow_origins: Collection[str] = ()) -> Rejection | None:
    """Return why the request cannot have its 101, or None if it can."""
    if environ.get("REQUEST_METHOD") != "GET":
        return reject("400 Bad Request", "a WebSocket is asked for with GET")
    if environ.get("SERVER_PROTOCOL") != "HTTP/1.1":
        return reject("400 Bad Request", "a WebSocket needs HTTP/1.1")
    if environ.get("CONTENT_LENGTH") not in (None, "", "0") or "HTTP_TRANSFER_ENCODING" in environ:
        return reject("400 Bad Request", "a WebSocket is asked for without a body")
    if "upgrade" not in _tokens(environ, "CONNECTION"):
        return reject("400 Bad Request", "the Connection header does not say Upgrade")
    if not environ.get("HTTP_HOST"):
        return missing_host()
    if environ.get("HTTP_SEC_WEBSOCKET_VERSION", "").strip() != "13":
        return reject(
            "426 Upgrade Required",
            "only version 13 is spoken here",
            ("Sec-WebSocket-Version", "13"),
        )
    if not _is_key(environ.get("HTTP_SEC_WEBSOCKET_KEY", "").strip()):
        return reject("400 Bad Request", "Sec-WebSocket-Key is not 16 bytes of base64")
    if not origin_allowed(environ, allow_origins):
        return reject("403 Forbidden", f"origin {environ['HTTP_ORIGIN']!r} is not allowed here")
    return None


def accepted(environ: Environ) -> list[tuple[str, str]]:
    """Return the headers of the 101 that answers the request."""
    key = environ["HTTP_SEC_WEBSOCKET_KEY"].strip().encode()
    return [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", generate_accept_token(key).decode()),
    ]


def answer(environ: Environ) -> bytes:
    """Return the 101 that answers the request, for whoever writes it to the socket himself."""
    lines = [f"{name}: {value}" for name, value in accepted(environ)]
    return "\r\n".join(["HTTP/1.1 101 Switching Protocols", *lines, "", ""]).encode()


def origin_allowed(environ: Environ, allow_origins: Collection[str]) -> bool:
    """Tell whether the page that sends the request is one of ours.

    Browsers let any page open a WebSocket to any host, with the user's cookies; only the server
    can refuse (RFC 6455 section 10.2). No Origin means that it is not a browser.
    """
    origin: str | None = environ.get("HTTP_ORIGIN")
    if origin is None or origin.lower() in allow_origins:
        return True
    host: str = environ.get("HTTP_HOST", "")
    return origin.lower().partition("://")[2] == host.lower() != ""


def host_allowed(host: str, allow_hosts: Collection[str]) -> bool:
    """Tell whether a Host header names this machine's loopback, or one of `allow_hosts`.

    A page from elsewhere can make its own name resolve to 127.0.0.1 and then counts as the same
    origin (DNS rebinding). Only the name gives it away.
    """
    name = re.sub(r":[0-9]*$", "", host.strip().lower()).rstrip(".")
    if name in allow_hosts or name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def is_loopback_client(environ: Mapping[str, Any]) -> bool:
    """Tell whether somebody on this machine asks, and not a proxy that says it is for another."""
    address = parse_address(environ.get("REMOTE_ADDR", ""))
    forwarded = FORWARDED_MISSING in environ or any(name.startswith(_FORWARDED) for name in environ)
    return address is not None and address.is_loopback and not forwarded


def is_loopback_request(environ: Mapping[str, Any]) -> bool:
    """Tell whether somebody on this machine asks for it by a name that only means this machine."""
    return is_loopback_client(environ) and host_allowed(environ.get("HTTP_HOST", ""), ())


def missing_host() -> Rejection:
    """Return the answer to a request that does not say for whom it is (RFC 9112 section 3.2)."""
    return reject("400 Bad Request", "the Host header is missing")


def misdirected(host: str) -> Rejection:
    """Return the answer to a request for a host that this server is not (RFC 9110 15.5.20)."""
    return reject("421 Misdirected Request", f"{host!r} is not served here; see --allow-host")


def raw_response(status: str, message: str) -> bytes:
    """Return a whole answer, for when nothing is there yet to make one."""
    body = json.dumps({"error": message}).encode()
    head = f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


#: What everybody beyond the limit is told.
FULL = raw_response("503 Service Unavailable", "this server is full; try again later")


def _tokens(environ: Environ, header: str) -> list[str]:
    return [token.strip().lower() for token in environ.get(f"HTTP_{header}", "").split(",")]


def _is_key(key: str) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False


def reject(status: str, message: str, *headers: tuple[str, str]) -> Rejection:
    """Return a refusal with `{"error": message}` as its body."""
    body = json.dumps({"error": message}).encode()
    return Rejection(
        status,
        [("Content-Type", "application/json"), ("Content-Length", str(len(body))), *headers],
        body,
    )
