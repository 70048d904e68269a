"""The command line of compare.py: what to measure."""

import os
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from bench import clock, scenarios
from bench.clients.http import WrongResponse
from bench.clients.publisher import Posting, Publisher, Watching
from bench.command_line import between, listed, run, separate
from bench.fanout.servers import OTHER_SERVERS
from bench.runner import Run
from bench.scenarios import PAYLOADS, Grid, Variant
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
class Plan:
    """What a run measures, its seconds, and what it needs."""

    seconds: float
    descriptors: int
    servers: Sequence[str]
    measure: Callable[[Run], None]
    study: Study | None = None


@dataclass
class Options:
    """The command line, parsed."""

    arguments: Sequence[str]  #: all but where the output goes
    output: Path
    update_docs: bool
    plan: Plan
    url: str | None
    post: bool
    other_servers: Sequence[str]  #: "all" or names; empty if the fan-out is not to be measured
    clients: Sequence[int] | None
    chosen: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of the raw results in docs/results."""
        return self.plan.study.name if self.plan.study else "compare"

    def check(self) -> None:
        """Raise CannotMeasure if something is missing on this machine."""
        if not self.other_servers and self.url is None:
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
        if self.other_servers:
            needed = max(self.clients or [0]) + 100
        if needed > allowed:
            raise CannotMeasure(
                f"This needs {needed:,} open files in one process, and the system "
                f"allows {allowed:,}: ask for fewer --clients, or raise `ulimit -n`."
            )

    def target(self) -> Target | None:
        """Return the server at --url; None without one.

        Raises CannotMeasure if it cannot be reached, or does not respond as ours do.
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
        for *_, address in found:  # localhost may also be ::1, where a server need not listen
            try:
                return self._connected(str(address[0]), port, parts.netloc)
            except WrongResponse as error:
                problem = problem or error
        raise CannotMeasure(f"{parts.geturl()} cannot be measured: {problem}.")

    def _connected(self, host: str, port: int, name: str) -> Target:
        publisher: Publisher
        if self.post:
            token = os.environ.get("PUSHLAB_TOKEN", "")
            publisher = Posting(host, port, token=token, name=name)
            publisher.change()
        else:
            publisher = Watching(host, port, name=name)
        target = Target(publisher, host=host, port=port, name=name)
        offset = clock.offset(host, port, name=name)
        if abs(offset) > SAME_CLOCK:  # or it is the same clock, and the difference an error
            target.offset = offset
        return target


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
@click.option("--other-servers", "--peers", multiple=True, is_flag=False, flag_value="all",
    type=click.Choice(["all", *(server.name for server in OTHER_SERVERS)]), metavar="[NAME ...]",
    help="What thousands of subscribers cost, beside other servers (python -m bench.fanout): "
    f"{', '.join(server.name for server in OTHER_SERVERS)}.")  # fmt: skip
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
@click.option("--update-docs", "--write", is_flag=True,
    help="Also write to docs/results, for the figures of the docs.")  # fmt: skip
@click.pass_context
def _command(context: click.Context, /, **chosen: Any) -> Options:
    given = {name: value for name, value in chosen.items() if value not in (None, False, ())}
    _refuse_contradictions(given)
    crossing = [name for name in _CROSSING if name in given]
    servers = ["at --url"] if chosen["url"] else given.get("server", [PROGRAMS[0]])
    if study := STUDIES.get(chosen["study"]):
        plan = Plan(study.seconds, study.descriptors, [PROGRAMS[0]], study.measure, study)
    else:
        plan = _plan(servers, _grids(given, servers, crossed=bool(crossing)))
    del given["output"]
    update_docs = bool(given.pop("update_docs", False))
    return Options(
        arguments=context.obj, output=chosen["output"], update_docs=update_docs, plan=plan,
        url=chosen["url"], post=chosen["post"], other_servers=chosen["other_servers"],
        clients=chosen["clients"], chosen=given,
    )  # fmt: skip


_CROSSING = ("clients", "rtt", "pace", "changes", "period", "url")
_PRESETS = ("quick", "full", "study", "other_servers")


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
    own = crossing + (variants if preset in ("study", "other_servers") else [])
    if preset == "other_servers" and "clients" in own:
        own.remove("clients")
    if preset and own:
        refuse(f"--{preset} has its own --{own[0]}")
    unusual = crossing or variants or preset in ("quick", "full")
    if "update_docs" in given and unusual and preset != "other_servers":
        refuse("--update-docs is for the usual run, --study and --other-servers")
    if "url" in given and "server" in given:
        refuse("--url is a server already: without --server")
    if "url" in given and any(given.get("rtt", ())) and not _is_here(given["url"]):
        refuse("--rtt needs a server on this machine: the relay is here")
    if "post" in given and "url" not in given:
        refuse("--post is for the server at --url; other servers are posted to anyway")


def _grids(given: dict[str, Any], servers: Sequence[str], *, crossed: bool) -> list[Grid]:
    variants = [
        Variant(transport, PAYLOADS[payload])
        for transport in given.get("transports", TRANSPORTS)
        for payload in given.get("payloads", PAYLOADS)
    ]
    if "full" in given:
        return scenarios.full(servers, variants)
    if not crossed:
        preset = scenarios.quick if "quick" in given else scenarios.usual
        return [grid for server in servers for grid in preset(server, variants)]
    return scenarios.crossed(
        servers, variants, clients=given.get("clients", [10 if "url" in given else 100]),
        rtts=given.get("rtt", [0.0]), paces=given.get("pace", [1.0]), period=given.get("period"),
        changes=given.get("changes", 16),
    )  # fmt: skip


def _plan(servers: Sequence[str], grids: Sequence[Grid]) -> Plan:
    def measure(run: Run) -> None:
        for grid in grids:
            run.measure(grid)

    variants = max(len(grid.variants) for grid in grids)
    return Plan(
        seconds=Run.preparing_seconds(len(servers), variants) + sum(g.seconds for g in grids),
        descriptors=max(grid.descriptors for grid in grids),
        servers=servers,
        measure=measure,
    )


def _is_here(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
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
