"""This machine's addresses on its networks, found without sending anything."""

import ipaddress
import socket
from contextlib import suppress

import psutil

#: Addresses for documentation (RFC 5737, RFC 3849): the route to them is the default route.
_ELSEWHERE = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}


def addresses(host: str) -> list[str]:
    """Return where other machines reach a server on `host`.

    If it listens on every interface, the address of the one with the default route is the first.
    Loopback and link-local IPv6 addresses are left out: no other machine's browser can use them.
    """
    try:
        listening = ipaddress.ip_address(host)
    except ValueError:
        return [host]
    if not listening.is_unspecified:
        return [host]
    family = socket.AF_INET6 if listening.version == 6 else socket.AF_INET
    is_up = {name: stats.isup for name, stats in psutil.net_if_stats().items()}
    found = [
        each.address
        for name, interface in psutil.net_if_addrs().items()
        for each in interface
        if each.family == family and is_up.get(name, True) and _is_reachable(each.address)
    ]
    best = _default_address(family)
    return sorted(dict.fromkeys(found), key=lambda address: address != best)


def _is_reachable(address: str) -> bool:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    return not (parsed.is_loopback or (parsed.version == 6 and parsed.is_link_local))


def _default_address(family: socket.AddressFamily) -> str:
    """Return the default route's address; "" without one."""
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as unsent:
        unsent.connect((_ELSEWHERE[family], 9))  # sends nothing: a datagram socket only notes it
        return str(unsent.getsockname()[0])
    return ""
