"""The command line of compare.py: what is to be measured, and whether that can be done here."""

import argparse
import math
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from bench import clock, scenarios
from bench.bytes_on_wire import WrongResponse
from bench.clients.publisher import Posting, Publisher, Watching
from bench.fanout.servers import OTHER_SERVERS
from bench.runner import Run
from bench.scenarios import PAYLOADS, Grid, Variant
from bench.servers import PROGRAMS, SERVERS, missing
from bench.studies import STUDIES, Study
from bench.target import Target
from pushlab.hosting.listener import raise_descriptor_limit
from pushlab.transports import TRANSPORTS

#: The most that a list of options may ask for: beyond it, it is a mistake.
MOST_CLIENTS = 1_000_000
LONGEST_PACE = 3600.0
FARTHEST = 60_000.0
MOST_CHANGES = 10_000
#: Seconds that a clock may be away from ours and yet be the same.
SAME_CLOCK = 0.001


class CannotMeasure(Exception):
    """What was asked for cannot be done here; the message says why, and what to do."""


@dataclass
class Plan:
    """What a run is to do, how long that takes, and what it needs."""

    seconds: float
    descriptors: int
    servers: Sequence[str]
    measure: Callable[[Run], None]
    study: Study | None = None


@dataclass
class Options:
    """What the command line asks for."""

    arguments: Sequence[str]  #: all but where the output goes
    output: Path
    update_docs: bool
    plan: Plan
    url: str | None
    post: bool
    other_servers: Sequence[str] | None
    clients: Sequence[int] | None
    chosen: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What its raw results are called in docs/results."""
        return self.plan.study.name if self.plan.study else "compare"

    def check(self) -> None:
        """Raise Impossible if something is missing on this machine."""
        if self.other_servers is None and self.url is None:
            for server in self.plan.servers:
                if lacking := missing(server):
                    raise CannotMeasure(f"To measure {server}, install {lacking}.")
        try:
            self.output.mkdir(parents=True, exist_ok=True)
            probe = self.output / f".{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise CannotMeasure(f"Cannot write to {self.output}: {error.strerror}.") from error
        allowed = raise_descriptor_limit()
        needed = self.plan.descriptors
        if (
            self.other_servers is not None
        ):  # each client is a connection, to another server and to the floor
            needed = 2 * max(self.clients or [0]) + 100
        if needed > allowed:
            raise CannotMeasure(
                f"This needs {needed:,} open files in one process, and the system "
                f"allows {allowed:,}: ask for fewer --clients, or raise `ulimit -n`."
            )

    def target(self) -> Target | None:
        """Return the server that is running already, None if each way is to have its own.

        Raises Impossible if it cannot be reached or does not answer as ours do.
        """
        if self.url is None:
            return None
        parts = urlsplit(self.url)
        host, port = parts.hostname or "", parts.port or 80
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise CannotMeasure(
                f"{parts.geturl()} cannot be reached: there is no {host}."
            ) from None
        problem: WrongResponse | None = None
        for *_, address in found:  # localhost may be ::1, where a server need not listen, too
            try:
                return self._reached(str(address[0]), port, parts.netloc)
            except WrongResponse as error:
                problem = problem or error
        raise CannotMeasure(f"{parts.geturl()} cannot be measured: {problem}.")

    def _reached(self, host: str, port: int, name: str) -> Target:
        publisher: Publisher
        if self.post:
            token = os.environ.get("PUSHLAB_TOKEN", "")
            publisher = Posting(host, port, token=token, name=name)
            publisher.change()
        else:
            publisher = Watching(host, port, name=name)
        target = Target(publisher, host=host, port=port, name=name)
        offset = clock.offset(host, port, name=name)
        if abs(offset) > SAME_CLOCK:  # or it is the same clock, seen through what measuring takes
            target.offset = offset
        return target


def parse(arguments: Sequence[str]) -> Options:
    """Parse the command line; exits with 2 and one line if it makes no sense."""
    parser = _Parser(
        prog="compare.py",
        allow_abbrev=False,
        description="Measure every way of telling browsers that something has changed, side by "
        "side: verified first, then timed, counted and charged.",
        epilog="Without options it takes about two minutes.",
    )
    length = parser.add_argument_group("how much").add_mutually_exclusive_group()
    length.add_argument("--quick", action="store_true", help="twenty seconds, for a first look")
    length.add_argument("--full", action="store_true", help="the whole grid, for half an hour")
    length.add_argument(
        "--study", "--paper", choices=list(STUDIES), help="what a paper measured, today"
    )
    length.add_argument(
        "--other-servers",
        "--peers",
        nargs="*",
        choices=[server.name for server in OTHER_SERVERS],
        metavar="NAME",
        help="what telling thousands costs, beside other servers: %(choices)s",
    )
    add = parser.add_argument_group("what").add_argument
    add("--transports", type=_list(str, among=TRANSPORTS), metavar="NAMES",
        help=f"some of {', '.join(TRANSPORTS)} (all)")  # fmt: skip
    add("--payloads", type=_list(str, among=PAYLOADS), metavar="NAMES",
        help=f"some of {', '.join(PAYLOADS)} (both)")  # fmt: skip
    add("--clients", type=_list(int, least=1, most=MOST_CLIENTS), metavar="NUMBERS",
        help="how many browsers, as in 10,100,1000")  # fmt: skip
    add("--rtt", "--distance", type=_list(float, least=0, most=FARTHEST), metavar="MILLISECONDS",
        help="how long a round trip to the server takes, as in 0,50,200")  # fmt: skip
    add("--pace", type=_list(float, least=0.01, most=LONGEST_PACE), metavar="SECONDS",
        help="how long it is from a change to the next, as in 0.25,1")  # fmt: skip
    add("--period", type=_one(float, least=0.01, most=LONGEST_PACE), metavar="SECONDS",
        help="how long a short poll waits for the next (half of the pace)")  # fmt: skip
    add("--changes", type=_one(int, least=1, most=MOST_CHANGES), metavar="N",
        help="how many changes of each (16)")  # fmt: skip
    add = parser.add_argument_group("where").add_argument
    add("--server", type=_list(str, among=SERVERS), metavar="NAMES",
        help=f"some of {', '.join(SERVERS)} ({PROGRAMS[0]})")  # fmt: skip
    add("--url", type=_url, help="a server that is running, as in http://localhost:5000; "
        "its own CPU and memory are then not measured")  # fmt: skip
    add(
        "--post",
        action="store_true",
        help="change the data at --url with POST /data (and PUSHLAB_TOKEN), instead of waiting",
    )
    add = parser.add_argument_group("output").add_argument
    add("--output", type=Path, default=Path("comparison"), metavar="FOLDER",
        help="where the report, plots and raw results go (%(default)s)")  # fmt: skip
    add(
        "--update-docs",
        "--write",
        action="store_true",
        help="also into docs/results, for the figures of the docs",
    )
    return _wishes(parser, parser.parse_args(arguments), _without_output(arguments))


def _without_output(arguments: Sequence[str]) -> list[str]:
    """Return what others need to make the same measurement."""
    return [
        argument
        for before, argument in zip(("", *arguments), arguments, strict=False)
        if "--output" not in (before, argument.partition("=")[0])
    ]


def _wishes(parser: "_Parser", chosen: argparse.Namespace, arguments: Sequence[str]) -> Options:
    crossing = [
        name for name in ("clients", "rtt", "pace", "changes", "period", "url")
        if getattr(chosen, name) is not None
    ]  # fmt: skip
    preset = next((name for name in ("quick", "full", "study") if getattr(chosen, name)), None)
    if chosen.other_servers is not None:
        preset = "other-servers"
        crossing = [name for name in crossing if name != "clients"]
    if preset and crossing:
        parser.error(f"--{preset} has its own --{crossing[0]}")
    if (
        chosen.update_docs
        and (
            crossing
            or chosen.quick
            or chosen.full
            or chosen.transports
            or chosen.payloads
            or chosen.server
        )
        and chosen.other_servers is None
    ):
        parser.error("--update-docs is for the usual run, --study and --other-servers")
    whose = [name for name in ("transports", "payloads", "server") if getattr(chosen, name)]
    if preset in ("study", "other-servers") and whose:
        parser.error(f"--{preset} has its own --{whose[0]}")
    if chosen.url and chosen.server:
        parser.error("--url is a server already: without --server")
    if chosen.url and any(chosen.rtt or ()) and not _is_here(chosen.url):
        parser.error("--rtt needs a server on this machine: the relay is here")
    if chosen.post and not chosen.url:
        parser.error("--post is for the server at --url; other servers are posted to anyway")
    variants = [
        Variant(transport, PAYLOADS[payload])
        for transport in chosen.transports or TRANSPORTS
        for payload in chosen.payloads or PAYLOADS
    ]
    servers = ["at --url"] if chosen.url else chosen.server or [PROGRAMS[0]]
    if chosen.study:
        study = STUDIES[chosen.study]
        plan = Plan(study.seconds, study.descriptors, [PROGRAMS[0]], study.measure, study)
    else:
        plan = _plan(servers, _grids(chosen, servers, variants, crossed=bool(crossing)))
    return Options(
        arguments=arguments, output=chosen.output, update_docs=chosen.update_docs, plan=plan,
        url=chosen.url, post=chosen.post,
        other_servers=chosen.other_servers, clients=chosen.clients,
        chosen={
            name: value for name, value in vars(chosen).items()
            if value not in (None, False) and name not in ("output", "update_docs")
        },
    )  # fmt: skip


def _grids(
    chosen: argparse.Namespace,
    servers: Sequence[str],
    variants: Sequence[Variant],
    *,
    crossed: bool,
) -> list[Grid]:
    if chosen.full:
        return scenarios.full(servers, variants)
    if chosen.quick:
        return [one for server in servers for one in scenarios.quick(server, variants)]
    if not crossed:
        return [one for server in servers for one in scenarios.usual(server, variants)]
    return scenarios.crossed(
        servers, variants, clients=chosen.clients or [100 if not chosen.url else 10],
        distances=chosen.rtt or [0.0], paces=chosen.pace or [1.0], period=chosen.period,
        changes=chosen.changes or 16,
    )  # fmt: skip


def _plan(servers: Sequence[str], grids: Sequence[Grid]) -> Plan:
    def measure(run: Run) -> None:
        for one in grids:
            run.measure(one)

    starting = Run.preparing_seconds(len(servers), len(grids[0].variants))
    return Plan(
        seconds=starting + sum(one.seconds for one in grids),
        descriptors=max(one.descriptors for one in grids),
        servers=servers,
        measure=measure,
    )


class _Parser(argparse.ArgumentParser):
    """One that says in one line what is wrong."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def _one(
    kind: Callable[[str], Any], *, least: float = -math.inf, most: float = math.inf,
    among: Any = None,
) -> Callable[[str], Any]:  # fmt: skip
    """Return what makes a value of a text, if it is one of these, or within these bounds."""

    def value(text: str) -> Any:
        if among is not None:
            if text not in among:
                raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(among)}")
            return text
        try:
            number = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"{text} is not from {least:,} to {most:,}")
        return number

    return value


def _list(kind: Callable[[str], Any], **bounds: Any) -> Callable[[str], list[Any]]:
    """Return the same for several of them, with commas in between; each counts once."""
    one = _one(kind, **bounds)

    def values(text: str) -> list[Any]:
        return list(dict.fromkeys(one(part.strip()) for part in text.split(",")))

    return values


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
        fits = parts.hostname and parts.port != 0 and parts.path in ("", "/")
    except ValueError:
        fits = False
    if not fits or parts.query or parts.fragment or "@" in parts.netloc:
        raise argparse.ArgumentTypeError(f"{text!r} is not like http://localhost:5000")
    if parts.scheme != "http":
        raise argparse.ArgumentTypeError(
            f"{text!r}: bytes are counted at the socket, so it must be http, without TLS"
        )
    return text


def _is_here(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
