"""Measure what telling thousands costs a server: `python -m bench.fanout`.

Runs serve.py with N open WebSockets, and in turns with it a loop of send() in C, the floor: CPU
per notification, memory per socket, CPU per handshake, the time to the last browser; then GET
/data and the long poll. `--other-servers` puts other servers to the same test, in the same run.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.bytes_on_wire import WrongResponse
from bench.environment import about
from bench.fanout import servers
from bench.fanout.crowd import crowd
from bench.fanout.experiments import Figure, Floor, Subject, held, push, requests, streams
from bench.fanout.floor import floor
from bench.fanout.report import OURS, Report
from bench.processes import ROOT, NotRunning, cores

RESULTS = ROOT / "docs" / "results"
COMMAND = "python -m bench.fanout"

#: Long polls that wait when a reading is published.
LONG_POLLS = 1000

PUSHLAB = Subject(
    OURS, [sys.executable, "serve.py", "--port", "0", "--far", "none", "--source", "http"]
)


class FanoutRun:
    """One run: what it has found out so far, and who had to leave it."""

    def __init__(self) -> None:
        self.figures: list[Figure] = []
        self.subjects = [PUSHLAB]
        self.versions: dict[str, str] = {}
        self.unavailable: dict[str, str] = {}

    def invite(self, names: Sequence[str]) -> None:
        """Have these servers take part."""
        for server in (one for one in servers.OTHER_SERVERS if one.name in names):
            _say(f"{server.name}: installed on demand")
            try:
                self.subjects.append(servers.install(server))
                self.versions.update(self.subjects[-1].versions)
            except servers.Unavailable as reason:
                self.unavailable[server.name] = str(reason)

    def attempt(
        self, what: str, experiment: Callable[[Subject], list[Figure]], subject: Subject
    ) -> None:
        """Make an experiment with this server; another that fails is out, with a reason."""
        _say(f"{subject.name}: {what}")
        try:
            self.figures += experiment(subject)
        except (WrongResponse, NotRunning, OSError) as error:
            if subject is PUSHLAB:
                raise
            self.unavailable[subject.name] = f"{what}: {error}"
            self.subjects.remove(subject)


def measure(
    clients: Sequence[int],
    *,
    rounds: int,
    long_polls: int = LONG_POLLS,
    max_sockets: int = 0,
    names: Sequence[str] = (),
    command: str = COMMAND,
) -> Report:
    """Measure our server, and the other servers of these names, with so many clients each.

    The command is what made it measure, as the report is to say.
    """
    run = FanoutRun()
    run.invite(names)
    with standing_on() as (ground, language):
        for count in sorted(clients):
            for subject in tuple(run.subjects):
                run.attempt(
                    f"{count:,} WebSockets",
                    lambda who, n=count: push(who, n, ground, rounds=rounds),  # type: ignore[misc]
                    subject,
                )
    with standing_on() as (ground, language):
        for subject in [subject for subject in run.subjects if subject.http]:
            run.attempt(
                f"GET /data, and {long_polls:,} long polls",
                lambda who: requests(who, long_polls, ground, rounds=rounds),
                subject,
            )
        run.attempt(
            f"{long_polls:,} event streams",
            lambda who: streams(who, long_polls, ground, rounds=rounds),
            PUSHLAB,
        )
    if max_sockets:
        run.attempt(
            f"{max_sockets:,} WebSockets", lambda who: held(who, max_sockets, rounds=10), PUSHLAB
        )
    return Report(
        run.figures,
        run.unavailable,
        {
            "command": command,
            **about(**run.versions),
            "rounds": rounds,
            "floor": language,
            "pinned": "server and crowd on a core each"
            if cores()
            else "cores chosen by the system",
        },
    )


@contextmanager
def standing_on() -> Iterator[tuple[Floor, str]]:
    """Have a floor, and the language that it is written in."""
    pair = cores()
    with (
        floor() as (process, language),
        crowd(process.port, "floor", core=pair[1] if pair else None) as there,
    ):
        yield Floor(process, there), language


def _say(progress: str) -> None:
    sys.stderr.write(progress + "\n")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--clients", type=int, nargs="+", default=[1000, 5000], metavar="N",
        help="open so many WebSockets (1000 5000)")  # fmt: skip
    add("--rounds", type=int, default=30, help="rounds of server and floor (%(default)s)")
    add(
        "--long-polls",
        "--waiting",
        type=int,
        default=LONG_POLLS,
        metavar="N",
        help="long polls (%(default)s)",
    )
    add("--max-sockets", "--most", type=int, default=0, metavar="N",
        help="at last hold so many sockets, as 18000, and tell them all")  # fmt: skip
    add(
        "--other-servers",
        "--peers",
        nargs="*",
        metavar="NAME",
        choices=[server.name for server in servers.OTHER_SERVERS],
        help="measure others, too, all of them unless named: %(choices)s",
    )
    add("--json", type=Path, metavar="FILE", help="write every sample there")
    add(
        "--update-docs",
        "--write",
        action="store_true",
        help="write docs/results/fanout.json; `make figures` then renews the docs",
    )
    options = parser.parse_args(arguments)
    if min(*options.clients, options.rounds, options.long_polls) < 1 or options.max_sockets < 0:
        parser.error("there must be at least one of each")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the tables, write what was asked for."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parse(arguments)
    names = options.other_servers
    if names is not None:
        names = names or [server.name for server in servers.OTHER_SERVERS]
    try:
        report = measure(
            options.clients,
            rounds=options.rounds,
            long_polls=options.long_polls,
            max_sockets=options.max_sockets,
            names=names or (),
            command=" ".join([COMMAND, *arguments]),
        )
    except (WrongResponse, NotRunning) as error:
        sys.exit(f"{COMMAND}: {error}")
    sys.stdout.write(report.text() + "\n")
    if options.json:
        options.json.write_text(report.as_json())
    if options.update_docs:
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / "fanout.json").write_text(report.as_json())
