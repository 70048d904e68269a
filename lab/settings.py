"""The command line that serve.py, serve2.py and the other servers share."""

import argparse
import ipaddress
import math
import os
import re
import shlex
import ssl
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from lab.sources import PACED, SOURCES
from pushlab.websocket.connection import PING_INTERVAL
from pushlab.websocket.handshake import AccessPolicy
from pushlab.wsgi.proxy_headers import Network, network

#: Seconds that the head of a request may take.
HEAD_TIMEOUT = 10.0
#: The farthest that a port may be made to be, in milliseconds of a round trip.
FARTHEST = 2000.0
#: The paces, in seconds, that make sense; below the shortest a feed does nothing but change.
SHORTEST_PACE = 0.001
LONGEST_PACE = 86400.0


@dataclass(frozen=True)
class Settings:
    """What a server was asked to be; the defaults are those of the command line."""

    host: str = "127.0.0.1"
    port: int = 5000
    source: str = "load"
    every: float | None = None
    allow_origins: tuple[str, ...] = ()
    certfile: str | None = None
    keyfile: str | None = None
    token: str | None = None
    log_level: str = "warning"
    shortcut: bool = True
    allow_hosts: tuple[str, ...] = ()
    trusted_proxies: tuple[Network, ...] = ()
    max_clients: int | None = None
    head_timeout: float = HEAD_TIMEOUT
    ping_interval: float = PING_INTERVAL
    far: tuple[float, ...] = (200.0,)
    controls: bool | None = None  #: None: for whoever is on this machine

    def url(self, port: int) -> str:
        """Return where a browser on this machine finds the server, listening on this port."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(self.host, self.host)  # noqa: S104
        scheme = "https" if self.certfile else "http"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    def server(self) -> dict[str, Any]:
        """Return what `gevent_server.Server` is to know of this; exits if TLS cannot be had."""
        return {
            "gate": self.gate(),
            "max_clients": self.max_clients,
            "head_timeout": self.head_timeout,
            "connection_options": self.connection(),
            **({"ssl_context": context} if (context := self.tls()) else {}),
        }

    def connection(self) -> dict[str, float]:
        """Return what each `Connection` is to know of this."""
        return {"ping_interval": self.ping_interval, "ping_timeout": self.ping_interval}

    def gate(self) -> AccessPolicy:
        """Return the checks of who may come in; by any name, unless only this machine can."""
        return AccessPolicy(
            allow_origins=self.allow_origins,
            allow_hosts=self.allow_hosts if is_loopback(self.host) else None,
            trusted_proxies=self.trusted_proxies,
        )

    def tls(self) -> ssl.SSLContext | None:
        """Return what TLS needs, or None if it is not asked for; exits if it cannot be had."""
        if self.certfile is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(self.certfile, self.keyfile)
        except (OSError, ssl.SSLError) as error:
            files = " and ".join(filter(None, (self.certfile, self.keyfile)))
            sys.exit(f"Cannot use {files}: {error.strerror or error}. Both must be PEM files.")
        return context


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # gunicorn would start a worker again and again, unless it ends with a status of gunicorn's.
        is_worker = "gunicorn" in os.environ.get("SERVER_SOFTWARE", "")
        self.exit(4 if is_worker else 2, f"{self.prog}: {message} (--help lists the options)\n")


def parse(arguments: Sequence[str]) -> Settings:
    """Return the settings that the arguments ask for; exits with status 2 and one line if bad.

    The environment may say PORT, as most places that host programs do, and PUSHLAB_OPTIONS: options
    for when the command line is that of another server. The arguments count more than both.
    """
    parser = _Parser(allow_abbrev=False, description="Push changing data to browsers.")
    add = parser.add_argument
    _add_serving(add)
    add("--source", default=Settings.source, choices=SOURCES, help="what changes the data")
    add("--every", type=_pace, metavar="SECONDS", help="a fixed pace (default: irregular, about 2)")
    add("--far", action="append", type=_distance, metavar="MILLISECONDS",
        help="a port that is a round trip of this away, or none (repeatable; 200)")  # fmt: skip
    add("--controls", action=argparse.BooleanOptionalAction,
        help="let all pages steer, or none (default: those of this machine)")  # fmt: skip
    add("--token", default=os.environ.get("PUSHLAB_TOKEN") or None, metavar="SECRET",
        help="what POST /data must bring; better set in PUSHLAB_TOKEN")  # fmt: skip
    add("--no-shortcut", action="store_false", dest="shortcut",
        help="answer GET /data and the long poll by Flask, too")  # fmt: skip
    try:
        hosted = shlex.split(os.environ.get("PUSHLAB_OPTIONS", ""))
    except ValueError as error:
        parser.error(f"PUSHLAB_OPTIONS: {error}")
    options = vars(parser.parse_args([*hosted, *arguments]))
    far = options.pop("far") or Settings.far
    if None in far and len(far) > 1:
        parser.error("--far none goes with no other --far")
    options["far"] = tuple(dict.fromkeys(distance for distance in far if distance is not None))
    settings = _settings(parser, options)
    if settings.every is not None and settings.source not in PACED:
        parser.error(f"--every paces load and clock; {settings.source} has its own pace")
    if settings.source == "http" and not settings.token and not is_loopback(settings.host):
        parser.error(
            f"{settings.host} can be reached from elsewhere, so --source http needs a secret: "
            "set PUSHLAB_TOKEN"
        )
    return settings


def parse_serving(arguments: Sequence[str], description: str) -> Settings:
    """Return the settings of a program that serves an app without our data: an example."""
    parser = _Parser(allow_abbrev=False, description=description)
    _add_serving(parser.add_argument)
    return _settings(parser, vars(parser.parse_args(arguments)))


def _add_serving(add: Callable[..., Any]) -> None:
    """Add where to serve, and whom."""
    add("--host", default=Settings.host, help="the address to listen on (%(default)s)")
    add("--port", default=os.environ.get("PORT") or Settings.port, type=_port,
        help="the port; 0: any free one (PORT in the environment, or 5000)")  # fmt: skip
    add("--allow-origin", action="append", default=[], type=_origin, metavar="URL",
        help="let pages of this origin connect, too (repeatable)")  # fmt: skip
    add("--allow-host", action="append", default=[], type=_host_name, metavar="NAME",
        help="answer to this name, too, although listening on loopback (repeatable)")  # fmt: skip
    add("--trusted-proxies", action="append", default=[], type=_network, metavar="ADDRESS",
        help="believe this proxy, or network, in X-Forwarded-* (repeatable)")  # fmt: skip
    add("--max-clients", type=_count, metavar="N",
        help="refuse more connections than that with 503 (default: what it can)")  # fmt: skip
    add("--head-timeout", type=_pace, default=HEAD_TIMEOUT, metavar="SECONDS",
        help="how long a request's head may take (%(default)g)")  # fmt: skip
    add("--ping-interval", type=_pace, default=PING_INTERVAL, metavar="SECONDS",
        help="how often a WebSocket is pinged, and may be silent (%(default)g)")  # fmt: skip
    add("--certfile", metavar="FILE", help="serve https and wss with this certificate (PEM)")
    add("--keyfile", metavar="FILE", help="its private key, if the certificate's file lacks it")
    add("--log-level", default=Settings.log_level,
        choices=("debug", "info", "warning", "error"), help="info logs every request")  # fmt: skip


def _settings(parser: _Parser, options: dict[str, Any]) -> Settings:
    """Return what was parsed; exits with one line if it does not go together."""
    settings = Settings(
        allow_origins=tuple(options.pop("allow_origin")),
        allow_hosts=tuple(options.pop("allow_host")),
        trusted_proxies=tuple(options.pop("trusted_proxies")),
        **options,
    )
    if settings.keyfile and not settings.certfile:
        parser.error("--keyfile needs --certfile")
    return settings


def _port(text: str) -> int:
    if not re.fullmatch("[0-9]{1,5}", text) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port number from 0 to 65535")
    return int(text)


def _distance(text: str) -> float | None:
    if text == "none":
        return None
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,3})?", text) or not 0 < float(text) <= FARTHEST:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a number of milliseconds above 0 and up to {FARTHEST:g} nor none"
        )
    return float(text)


def _count(text: str) -> int:
    if not re.fullmatch("[0-9]{1,7}", text) or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def _host_name(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?", name := text.lower()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a host name like pushlab.test")
    return name


def _network(text: str) -> Network:
    try:
        return network(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither an address nor a network like 10.0.0.0/8"
        ) from None


def _pace(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not SHORTEST_PACE <= seconds <= LONGEST_PACE:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of seconds from {SHORTEST_PACE:g} to {LONGEST_PACE:g}"
        )
    return seconds


def _origin(text: str) -> str:
    origin = text.lower().rstrip("/")
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+", origin):
        raise argparse.ArgumentTypeError(f"{text!r} is not an origin like https://example.org:8443")
    return origin


def is_loopback(host: str) -> bool:
    """Tell whether nobody but this machine can reach a server that listens on this address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
