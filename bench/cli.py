"""The command line of compare.py: what to measure."""

import os
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any
from urllib.parse import urlsplit

import click

from bench import clock, scenarios
from bench.clients.http import WrongResponse
from bench.clients.publisher import Posting, Publisher, Watching
from bench.command_line import (
    between,
    listed,
    other_servers_option,
    run,
    separate,
    update_docs_option,
)
from bench.scenarios import PAYLOADS, UNKNOWN, Grid, Variant
from bench.servers import PROGRAMS, SERVERS, missing
from bench.studies import STUDIES, Study
from bench.target import Target
from pushlab.hosting.listener import raise_descriptor_limit
from pushlab.transports import TRANSPORTS

#: Seconds that a clock may differ from ours and yet be the same.
SAME_CLOCK = 0.001


class CannotMeasure(Exception):
    """Something is missing; the message says what to do."""


@dataclass
class Comparison(Study):
    """What a run measures that nobody has published."""

    chosen: Sequence[Grid]
    name = "compare"
    title = ""

    @property
    def grids(self) -> Sequence[Grid]:
        return self.chosen


@dataclass
class Options:
    """The command line, parsed."""

    arguments: Sequence[str]  #: all but where the output goes
    output: Path
    update_docs: bool
    study: Study
    chosen: dict[str, Any]  #: the options that were given, by name

    def check(self) -> None:
        """Raise CannotMeasure if something is missing on this machine."""
        needed = self.study.descriptors
        if set(_ELSEWHERE).intersection(self.chosen):
            needed = max(self.chosen.get("clients", [0])) + 100
        for server in self.chosen.get("server", ()):
            if lacking := missing(server):
                raise CannotMeasure(f"To measure {server}, install {lacking}.")
        try:
            self.output.mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile(dir=self.output):
                pass
        except OSError as error:
            raise CannotMeasure(f"Cannot write to {self.output}: {error.strerror}.") from error
        if needed > (allowed := raise_descriptor_limit()):
            raise CannotMeasure(
                f"This needs {needed:,} open files in one process, and the system "
                f"allows {allowed:,}: ask for fewer --clients, or raise `ulimit -n`."
            )

    def target(self) -> Target | None:
        """Return the server at --url; None without one.

        Raises CannotMeasure if it cannot be reached, or does not respond as ours do.
        """
        if "url" not in self.chosen:
            return None
        parts = urlsplit(self.chosen["url"])  # which strips whitespace
        url, host, port = parts.geturl(), parts.hostname or "", parts.port or 80
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise CannotMeasure(f"{url} cannot be reached: there is no {host}.") from None
        problems = []
        for *_, address in found:  # localhost may also be ::1, where a server need not listen
            try:
                return self._connected(str(address[0]), port, parts.netloc)
            except WrongResponse as problem:
                problems.append(problem)
        raise CannotMeasure(f"{url} cannot be measured: {problems[0]}.")

    def _connected(self, host: str, port: int, name: str) -> Target:
        publisher: Publisher
        if self.chosen.get("post"):
            token = os.environ.get("PUSHLAB_TOKEN", "")
            publisher = Posting(host, port, token=token, name=name)
            publisher.change()
        else:
            publisher = Watching(host, port, name=name)
        offset = clock.offset(host, port, name=name)
        if abs(offset) <= SAME_CLOCK:  # it is the same clock, and the difference an error
            offset = 0.0
        return Target(publisher, host, port, name=name, offset=offset)


def server_url(value: str) -> str:
    """Return the value if it is like http://HOST:PORT; raises BadParameter."""
    try:
        parts = urlsplit(value)
        fits = parts.hostname and parts.port != 0 and parts.path in ("", "/")
    except ValueError:
        fits = False
    if not fits or parts.query or parts.fragment or "@" in parts.netloc:
        raise click.BadParameter(f"{value!r} is not like http://localhost:5000")
    if parts.scheme != "http":
        raise click.BadParameter(
            f"{value!r}: bytes are counted at the socket, so it must be http, without TLS"
        )
    return value


_PACE = between(0.01, 3600)


@click.command(
    help="Measure every transport side by side: verified first, then timed, counted and charged. "
    "Without options it takes about three minutes."
)
@click.option("--quick", is_flag=True, help="Twenty seconds, for a first look.")
@click.option("--full", is_flag=True, help="The whole grid, for half an hour.")
@click.option("--study", "--paper", type=click.Choice(list(STUDIES)),
    help="Repeat what others have measured.")  # fmt: skip
@other_servers_option(
    "What thousands of subscribers cost, beside other servers (python -m bench.fanout)"
)
@click.option("--workers", type=listed(click.IntRange(1, 64)), metavar="NUMBERS",
    help="What more processes bring, as in 1,2, and what Redis costs.")  # fmt: skip
@click.option("--transports", type=listed(click.Choice(list(TRANSPORTS))), metavar="NAMES",
    help=f"Some of {', '.join(TRANSPORTS)}. [default: all]")  # fmt: skip
@click.option("--payloads", type=listed(click.Choice(list(PAYLOADS))), metavar="NAMES",
    help=f"Some of {', '.join(PAYLOADS)}. [default: both]")  # fmt: skip
@click.option("--clients", type=listed(click.IntRange(1, 1_000_000)), metavar="NUMBERS",
    help="How many browsers, as in 10,100,1000.")  # fmt: skip
@click.option("--rtt", "--distance", type=listed(between(0, 60_000)),
    metavar="MILLISECONDS", help="Round-trip times to the server, as in 0,50,200.")  # fmt: skip
@click.option("--pace", type=listed(_PACE), metavar="SECONDS",
    help="Seconds between two changes, as in 0.25,1.")  # fmt: skip
@click.option("--period", type=_PACE, metavar="SECONDS",
    help="Seconds between two short polls. [default: half of the pace]")  # fmt: skip
@click.option("--changes", type=click.IntRange(1, 10_000), metavar="N",
    help="How many changes of each. [default: 16]")  # fmt: skip
@click.option("--server", type=listed(click.Choice(list(SERVERS))), metavar="NAMES",
    help=f"Some of {', '.join(SERVERS)}. [default: {PROGRAMS[0]}]")  # fmt: skip
@click.option("--url", type=server_url, metavar="URL",
    help="A server that is running, as http://localhost:5000. "
    "Its CPU and memory are then not measured.")  # fmt: skip
@click.option("--post", is_flag=True, help="Change the data at --url with POST /data (and "
    "PUSHLAB_TOKEN), instead of waiting for changes.")  # fmt: skip
@click.option("--output", type=click.Path(path_type=Path), default=Path("comparison"),
    show_default=True, metavar="FOLDER", help="For report, plots and raw results.")  # fmt: skip
@update_docs_option("Also write to docs/results, for the figures of the docs.")
@click.pass_context
def _command(context: click.Context, /, **chosen: Any) -> Options:
    given = {name: value for name, value in chosen.items() if value not in (None, False, ())}
    _refuse_contradictions(given)
    return Options(
        arguments=context.obj,
        output=given.pop("output"),
        update_docs=bool(given.pop("update_docs", False)),
        study=STUDIES[given["study"]] if "study" in given else Comparison(_grids(given)),
        chosen=given,
    )


_CROSSING = ("clients", "rtt", "pace", "changes", "period", "url")
_PRESETS = ("quick", "full", "study", "other_servers", "workers")
#: What other programs of the bench measure.
_ELSEWHERE = ("other_servers", "workers")


def _refuse_contradictions(given: dict[str, Any]) -> None:
    """Raise UsageError for options that exclude each other."""

    def refuse(message: str) -> None:
        raise click.UsageError(message.replace("_", "-"))

    presets = [name for name in _PRESETS if name in given]
    if len(presets) > 1:
        refuse(f"--{presets[1]} is not allowed with --{presets[0]}")
    preset = presets[0] if presets else ""
    crossing = [name for name in _CROSSING if name in given]
    variants = [name for name in ("transports", "payloads", "server") if name in given]
    own = crossing + (variants if preset in ("study", *_ELSEWHERE) else [])
    if preset in _ELSEWHERE and "clients" in own:
        own.remove("clients")
    if preset and own:
        refuse(f"--{preset} has its own --{own[0]}")
    unusual = crossing or variants or preset in ("quick", "full")
    if "update_docs" in given and unusual and preset not in _ELSEWHERE:
        refuse("--update-docs is for the usual run, --study, --other-servers and --workers")
    if "url" in given and "server" in given:
        refuse("--url is a server already: without --server")
    if "url" in given and any(given.get("rtt", ())) and not _is_here(given["url"]):
        refuse("--rtt needs a server on this machine: the relay is here")
    if "post" in given and "url" not in given:
        refuse("--post is for the server at --url; other servers are posted to anyway")


def _grids(given: dict[str, Any]) -> list[Grid]:
    at_url = "url" in given
    servers = ["at --url"] if at_url else given.get("server", [PROGRAMS[0]])
    variants = [
        Variant(transport, PAYLOADS[payload], UNKNOWN if at_url else "")
        for transport in given.get("transports", TRANSPORTS)
        for payload in given.get("payloads", PAYLOADS)
    ]
    crossing = {name: given[name] for name in _CROSSING if name in given and name != "url"}
    if not crossing and not at_url:
        preset = next((name for name in ("quick", "full") if name in given), "usual")
        return [grid for server in servers for grid in getattr(scenarios, preset)(server, variants)]
    return scenarios.crossed(servers, variants, **{"clients": [10 if at_url else 100], **crossing})


def _is_here(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


def parse(arguments: Sequence[str]) -> Options:
    """Parse the command line.

    Exits with 2 and one line if it makes no sense.
    """
    kept = [
        argument
        for before, argument in zip(("", *arguments), arguments, strict=False)
        if "--output" not in (before, argument.partition("=")[0])
    ]
    arguments = separate(arguments, "--other-servers", "--peers")
    found = run(_command, arguments, "compare.py", obj=kept)
    if not isinstance(found, Options):  # --help
        sys.exit()
    return found
