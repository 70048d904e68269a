"""ServerSettings, and the command-line options for them."""

import ipaddress
import math
import os
import re
import ssl
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import click

from pushlab import limits
from pushlab.hosting import StartupError
from pushlab.wsgi.access import AccessPolicy, normalized_origin
from pushlab.wsgi.proxy_headers import Network, network

#: The range of an option in seconds.
SHORTEST, LONGEST = 0.001, 86400.0

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class ServerSettings:
    """Where a server listens, and which requests it accepts."""

    host: str = "127.0.0.1"
    port: int = 5000  #: 0 takes any free one
    allow_origins: tuple[str, ...] = ()
    allow_hosts: tuple[str, ...] | None = ()  #: on loopback, beside its own names; None: any
    trusted_proxies: tuple[Network, ...] = ()
    max_connections: int | None = None  #: None: as many as the system allows
    header_timeout: float = limits.HEADER_TIMEOUT  #: seconds
    ping_interval: float = limits.PING_INTERVAL  #: seconds
    certfile: str | None = None
    keyfile: str | None = None
    log_level: str = "warning"
    access_log: str | None = None  #: a file, or "-" for standard error
    reuse_port: bool = False  #: whether other processes listen there, too

    def url(self, port: int, host: str = "") -> str:
        """Return the URL at `host`, or for this machine's browsers."""
        local = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104
        host = host or local.get(self.host, self.host)
        scheme = "https" if self.certfile else "http"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    def connection_options(self) -> dict[str, float]:
        """Return the options of each Connection."""
        return {"ping_interval": self.ping_interval, "ping_timeout": self.ping_interval}

    def access_policy(self) -> AccessPolicy:
        """Return the checks of requests.

        Any Host header is accepted, unless the server listens on loopback.
        """
        return AccessPolicy(
            allow_origins=self.allow_origins,
            allow_hosts=self.allow_hosts if is_loopback(self.host) else None,
            trusted_proxies=self.trusted_proxies,
        )

    def ssl_context(self) -> ssl.SSLContext | None:
        """Return the TLS context, or None for plain HTTP.

        Raises StartupError if the certificate cannot be used.
        """
        if self.certfile is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(self.certfile, self.keyfile)
        except (OSError, ssl.SSLError) as error:
            files = " and ".join(filter(None, (self.certfile, self.keyfile)))
            raise StartupError(
                f"Cannot use {files}: {error.strerror or error}. Both must be PEM files."
            ) from error
        return context


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# Types of options. Each takes the text, and raises BadParameter with one line.


def _port(_: Any, __: Any, text: str) -> int:
    if not re.fullmatch("[0-9]{1,5}", text) or int(text) > 65535:
        raise click.BadParameter(f"{text!r} is not a port number from 0 to 65535")
    return int(text)


def _count(_: Any, __: Any, text: str | None) -> int | None:
    if text is None:
        return None
    if not re.fullmatch("[0-9]{1,7}", text) or not int(text):
        raise click.BadParameter(f"{text!r} is not a number from 1 on")
    return int(text)


def _hosts(_: Any, __: Any, texts: Sequence[str]) -> tuple[str, ...]:
    for text in texts:
        if not re.fullmatch(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?", text.lower()):
            raise click.BadParameter(f"{text!r} is not a host name like pushlab.test")
    return tuple(text.lower() for text in texts)


def _networks(_: Any, __: Any, texts: Sequence[str]) -> tuple[Network, ...]:
    try:
        return tuple(map(network, texts))
    except ValueError as error:
        raise click.BadParameter(f"{error}; a network is like 10.0.0.0/8") from None


def _origins(_: Any, __: Any, texts: Sequence[str]) -> tuple[str, ...]:
    origins = tuple(normalized_origin(text.rstrip("/")) for text in texts)
    for origin, text in zip(origins, texts, strict=True):
        if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+", origin):
            raise click.BadParameter(f"{text!r} is not an origin like https://example.org:8443")
    return origins


def seconds(_: Any, __: Any, text: str | float | None) -> float | None:
    """Return an option's number of seconds; a callback for click."""
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not SHORTEST <= number <= LONGEST:
        raise click.BadParameter(
            f"{text!r} is not a number of seconds from {SHORTEST:g} to {LONGEST:g}"
        )
    return number


_PEM = click.Path(dir_okay=False)

_OPTIONS = (
    click.option(
        "--host", default=ServerSettings.host,
        help="The address to listen on. Default: 127.0.0.1, this machine alone; 0.0.0.0: any.",
    ),
    click.option(
        "--port",
        default=lambda: os.environ.get("PORT") or str(ServerSettings.port),
        callback=_port,
        help="The port; 0 takes any free one. PORT in the environment, or 5000.",
    ),
    click.option(
        "--allow-origin", "allow_origins", multiple=True, metavar="URL", callback=_origins,
        help="Accept pages of this origin, too. Repeatable.",
    ),
    click.option(
        "--allow-host", "allow_hosts", multiple=True, metavar="NAME", callback=_hosts,
        help="Accept this Host on loopback, too; --host lets others connect. Repeatable.",
    ),
    click.option(
        "--trusted-proxy", "--trusted-proxies", "trusted_proxies", multiple=True,
        metavar="ADDRESS", callback=_networks,
        help="Use X-Forwarded-* of this proxy, or network of proxies. Repeatable.",
    ),
    click.option(
        "--max-connections", "--max-clients", "max_connections", metavar="N", callback=_count,
        help="Reject further connections with 503. Default: as many as the system allows.",
    ),
    click.option(
        "--header-timeout", "--head-timeout", "header_timeout", metavar="SECONDS",
        default=limits.HEADER_TIMEOUT, callback=seconds, type=str,
        help="How long a request's headers may take.", show_default=True,
    ),
    click.option(
        "--ping-interval", metavar="SECONDS", default=limits.PING_INTERVAL, callback=seconds,
        type=str, show_default=True, help="How often a WebSocket is pinged, and may be silent.",
    ),
    click.option("--certfile", metavar="FILE", help="Serve https and wss (PEM)."),
    click.option("--keyfile", metavar="FILE", help="The private key, if not in certfile (PEM)."),
    click.option(
        "--log-level", default=ServerSettings.log_level, show_default=True,
        type=click.Choice(("debug", "info", "warning", "error")), help="info logs every request.",
    ),
    click.option(
        "--access-log", metavar="FILE",
        help="Write a line of JSON for each request to a file; - is standard error.",
    ),
)  # fmt: skip


def serving_options(command: Command) -> Command:
    """Add the options of ServerSettings to a click command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def check(options: Mapping[str, Any]) -> None:
    """Raise UsageError for options that do not go together."""
    if options["keyfile"] and not options["certfile"]:
        raise click.UsageError("--keyfile needs --certfile")


def from_config(config: Mapping[str, Any]) -> ServerSettings:
    """Return the settings that an app's configuration gives.

    `PUSHLAB_ALLOW_ORIGINS`, `PUSHLAB_ALLOW_HOSTS` (None, the default, accepts any) and
    `PUSHLAB_TRUSTED_PROXIES` are lists, or texts with commas; `PUSHLAB_PING_INTERVAL` is in
    seconds; `PUSHLAB_ACCESS_LOG` is a file, or "-" for standard error. Raises ValueError with one
    line.
    """

    def texts(name: str) -> list[str]:
        value = config.get(name) or ()
        if isinstance(value, str):
            return [each.strip() for each in value.split(",")]
        if isinstance(value, Collection) and all(isinstance(each, str) for each in value):
            return list(value)
        raise click.BadParameter(f"{value!r} is not a list of texts")

    name = "PUSHLAB_ALLOW_ORIGINS"
    try:
        origins = _origins(None, None, texts(name))
        name = "PUSHLAB_ALLOW_HOSTS"
        hosts = None if config.get(name) is None else _hosts(None, None, texts(name))
        name = "PUSHLAB_TRUSTED_PROXIES"
        proxies = _networks(None, None, texts(name))
        name = "PUSHLAB_PING_INTERVAL"
        ping_interval = seconds(None, None, config.get(name, limits.PING_INTERVAL))
    except click.BadParameter as error:
        raise ValueError(f"{name}: {error.message}") from None
    return ServerSettings(
        allow_origins=origins,
        allow_hosts=hosts,
        trusted_proxies=proxies,
        ping_interval=ping_interval or limits.PING_INTERVAL,
        access_log=config.get("PUSHLAB_ACCESS_LOG") or None,
    )


def exit_with(message: str) -> NoReturn:
    """Exit with one line and status 2."""
    print(message, file=sys.stderr)
    # gunicorn would start a worker again and again, unless it exits with gunicorn's own status.
    sys.exit(4 if "gunicorn" in os.environ.get("SERVER_SOFTWARE", "") else 2)


def run_command(command: click.Command, arguments: Sequence[str], program: str) -> Any:
    """Run a click command; exit on wrong usage."""
    try:
        result = command.main(list(arguments), prog_name=program, standalone_mode=False)
    except click.ClickException as error:
        exit_with(f"{program}: {error.format_message()} (--help lists the options)")
    if isinstance(result, int):  # of --help
        sys.exit(result)
    return result


def from_command_line(description: str, arguments: Sequence[str] | None = None) -> ServerSettings:
    """Return the settings that a program's command line gives."""

    @click.command(help=description)
    @serving_options
    def command(**options: Any) -> ServerSettings:
        check(options)
        return ServerSettings(**options)

    program = os.path.basename(sys.argv[0])  # noqa: PTH119 - a name, not a path
    settings = run_command(command, sys.argv[1:] if arguments is None else arguments, program)
    assert isinstance(settings, ServerSettings)  # noqa: S101 - click's result has no type
    return settings
