"""X-Forwarded-* headers, used only when a trusted proxy sent them.

A proxy that ends TLS passes on plain HTTP, from its own address. The scheme, host, address and path
prefix that the browser used are in X-Forwarded-Proto, -Host, -For and -Prefix. Any client can send
these fields, so they count only if they come from a trusted proxy.
"""

import ipaddress
from collections.abc import Collection
from typing import Any

from werkzeug.middleware.proxy_fix import ProxyFix

#: Stands for every client of a Unix socket: those have no address.
UNIX = "unix"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network | str

#: In the environ of a request that a trusted proxy passed on without X-Forwarded-For.
FORWARDED_MISSING = "pushlab.forwarded_missing"

_FORWARDED_FIELDS = (
    "HTTP_X_FORWARDED_FOR",
    "HTTP_X_FORWARDED_HOST",
    "HTTP_X_FORWARDED_PROTO",
    "HTTP_X_FORWARDED_PREFIX",
)


def network(text: str) -> Network:
    """Return the network of an address, such as 10.0.0.0/8.

    `unix` stands for the clients of a Unix socket.

    Raises ValueError if it names none.
    """
    return UNIX if text == UNIX else ipaddress.ip_network(text)


def apply_forwarded(environ: dict[str, Any], trusted: Collection[Network]) -> None:
    """Apply X-Forwarded-* from trusted proxies to the environ.

    REMOTE_ADDR becomes the last address in the chain that is not a trusted proxy, SCRIPT_NAME what
    X-Forwarded-Prefix says.
    """
    hops = [environ.get("REMOTE_ADDR", "")]
    hops += reversed(
        [hop.strip() for hop in environ.get(_FORWARDED_FIELDS[0], "").split(",") if hop.strip()]
    )
    proxies = 0
    for hop in hops:
        if not _is_in(hop, trusted):
            break
        proxies += 1
    if not proxies:
        return
    if len(hops) == 1:
        environ[FORWARDED_MISSING] = True
    # The proxy next to us names the host and the scheme; the one farthest out has seen the browser.
    ProxyFix(
        lambda environ, start_response: (),
        x_for=min(proxies, len(hops) - 1),
        x_proto=1,
        x_host=1,
        x_prefix=1,
    )(environ, lambda *_: lambda _: None)
    # With one slash at its start, and none at its end: "//host" would be another server's URL.
    prefix = environ.get("SCRIPT_NAME", "").strip("/")
    environ["SCRIPT_NAME"] = f"/{prefix}" if prefix else ""
    for name in _FORWARDED_FIELDS:
        environ.pop(name, None)


def parse_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Parse an address; IPv4 mapped into IPv6 becomes IPv4."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_in(text: str, networks: Collection[Network]) -> bool:
    if not text:
        return UNIX in networks
    address = parse_address(text)
    return address is not None and any(
        address in network for network in networks if not isinstance(network, str)
    )
