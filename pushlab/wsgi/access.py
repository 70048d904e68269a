"""Access: which Host, Origin and client a server accepts."""

import ipaddress
import json
import logging
import re
from collections.abc import Collection, Mapping
from typing import Any

from pushlab.websocket import handshake
from pushlab.wsgi.proxy_headers import FORWARDED_MISSING, Network, apply_forwarded, parse_address
from pushlab.wsgi.remembered import remembered
from pushlab.wsgi.responses import Environ, Response, error

logger = logging.getLogger(__name__)

#: The beginnings of the header fields that proxies add.
_FORWARDED = ("HTTP_FORWARDED", "HTTP_VIA", "HTTP_X_FORWARDED", "HTTP_X_REAL_IP",
              "HTTP_X_CLIENT_IP", "HTTP_TRUE_CLIENT_IP", "HTTP_CF_CONNECTING_IP")  # fmt: skip


class AccessPolicy:
    """The checks of a request before the application sees it."""

    def __init__(
        self,
        *,
        allow_origins: Collection[str] = (),
        allow_hosts: Collection[str] | None = None,
        trusted_proxies: Collection[Network] = (),
    ) -> None:
        """Say which requests to accept.

        `allow_origins` are written as browsers send them in Origin, in lower case.
        `allow_hosts=None` accepts any Host header; a collection adds names to those of loopback.
        X-Forwarded-* headers are used only when they come from `trusted_proxies`.
        """
        self._allow_origins = allow_origins
        self._allow_hosts = allow_hosts
        self._trusted_proxies = trusted_proxies
        self.trusts_proxies = bool(trusted_proxies)  #: what some clients say of others is used
        self._accepted_hosts: set[str] = set()
        self._logged: set[str] = set()

    def check(self, environ: Environ) -> Response | None:
        """Return the response that rejects the request, or None.

        What a trusted proxy says of the request is written into the environ.
        """
        host = environ.get("HTTP_HOST")
        if environ.get("SERVER_PROTOCOL") == "HTTP/1.1" and not host:
            return missing_host()
        if host is not None and not self.accepts_host(host):
            return self._rejected(misdirected(host), host)
        if self._trusted_proxies:
            apply_forwarded(environ, self._trusted_proxies)
            forwarded = environ.get("HTTP_HOST")
            if forwarded != host and not self.accepts_host(forwarded or ""):
                return self._rejected(misdirected(str(forwarded)), str(forwarded))
        if not handshake.is_websocket_upgrade(environ):
            return None
        environ["HTTP_UPGRADE"] = "websocket"  # also where it was one of a list
        if (problem := handshake.check(environ)) is not None:
            return error(problem.status, problem.message, *problem.headers)
        if not environ.get("HTTP_HOST"):
            return missing_host()
        if not origin_allowed(environ, self._allow_origins):
            origin = environ["HTTP_ORIGIN"]
            return self._rejected(foreign(origin), origin)
        return None

    def _rejected(self, response: Response, name: str) -> Response:
        """Log a rejection once for each of a hundred names."""
        if name not in self._logged and len(self._logged) < 100:
            self._logged.add(name)
            logger.warning("rejected: %s", json.loads(b"".join(response.body))["error"])
        return response

    def accepts_host(self, host: str) -> bool:
        """Tell whether the Host header names this server."""
        if self._allow_hosts is None or host in self._accepted_hosts:
            return True
        if not host_allowed(host, self._allow_hosts):
            return False
        if len(self._accepted_hosts) < 100:
            self._accepted_hosts.add(host)
        return True


def origin_allowed(environ: Environ, allow_origins: Collection[str]) -> bool:
    """Tell whether the page that sends the request may.

    Browsers let any page open a WebSocket to any host, with the user's cookies; only the server
    can refuse (RFC 6455 section 10.2). A client that sends no Origin is not a browser.
    """
    origin: str | None = environ.get("HTTP_ORIGIN")
    if origin is None or normalized_origin(origin) in allow_origins:
        return True
    scheme, _, authority = normalized_origin(origin).partition("://")
    host: str = environ.get("HTTP_HOST", "")
    return normalized_origin(f"{scheme}://{host}") == f"{scheme}://{authority}" and authority != ""


@remembered
def normalized_origin(origin: str) -> str:
    """Return an origin without its default port.

    The two are the same origin (RFC 6454 section 4).
    """
    origin = origin.lower()
    port = {"http": ":80", "https": ":443"}.get(origin.partition("://")[0])
    return origin.removesuffix(port) if port else origin


def host_allowed(host: str, allow_hosts: Collection[str]) -> bool:
    """Tell whether a Host header names loopback or allowed hosts.

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
    """Tell whether the client is on this machine."""
    address = parse_address(environ.get("REMOTE_ADDR", ""))
    forwarded = FORWARDED_MISSING in environ or any(name.startswith(_FORWARDED) for name in environ)
    return address is not None and address.is_loopback and not forwarded


def is_loopback_request(environ: Mapping[str, Any]) -> bool:
    """Tell whether a loopback client names a loopback host."""
    return is_loopback_client(environ) and host_allowed(environ.get("HTTP_HOST", ""), ())


def missing_host() -> Response:
    """Return the 400 for RFC 9112 section 3.2: no Host."""
    return error("400 Bad Request", "the Host header is missing")


def misdirected(host: str) -> Response:
    """Return the 421 of RFC 9110 section 15.5.20."""
    name = re.sub(r":[0-9]*$", "", host.strip().lower())
    name = name if re.fullmatch(r"[a-z0-9_.-]{1,100}", name) else "NAME"
    message = (
        f"Host {host!r} is not served here: a server on loopback responds only to localhost, and "
        f"to names that it is given. If a proxy such as nginx passes requests for {name} on: "
        f"--allow-host {name}, or allow_hosts= in an app of your own. To serve a network: "
        "--host 0.0.0.0"
    )
    return error("421 Misdirected Request", message)


def foreign(origin: str) -> Response:
    """Return the 403 for a WebSocket of another origin's page."""
    how = "--allow-origin, or allow_origins= in an app of your own, adds one"
    return error("403 Forbidden", f"origin {origin!r} is not allowed here; {how}")
