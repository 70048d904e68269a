"""Measure what thousands of subscribers cost: `python -m bench.fanout`.

Runs serve.py with N clients of each transport, and in turns with it a loop of send() in C, the
floor: CPU per change or request, CPU per opening, memory, the time to the last client. Then memory
over TLS, and what other clients feel. `--other-servers` puts others to the same test, in the same
run.
"""

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import click

from bench.clients.http import WrongResponse
from bench.command_line import listed, other_servers_option, run, separate, update_docs_option
from bench.environment import about
from bench.fanout.experiments import (
    GET,
    KINDS,
    POLL,
    SOCKET,
    Figure,
    Subject,
    most,
    over_tls,
    peak,
    waiting,
)
from bench.fanout.floor import floor
from bench.fanout.report import BY_FLASK, NOT_REMEMBERED, OURS, Report
from bench.fanout.servers import OTHER_SERVERS, Unavailable, install
from bench.processes import NotRunning
from bench.results import PUBLISHED

COMMAND = "python -m bench.fanout"

_SERVE = [sys.executable, "serve.py", "--port", "0", "--far", "none", "--source", "http"]
PUSHLAB = Subject(OURS, _SERVE)
PUSHLAB_BY_FLASK = Subject(BY_FLASK, [*_SERVE, "--no-direct"])
#: Nothing that it remembers of requests is of use.
PUSHLAB_VARIED = Subject(NOT_REMEMBERED, _SERVE, is_varied=True)
VARIED = (GET, POLL)


def measure(
    clients: Sequence[int],
    *,
    rounds: int,
    max_sockets: int = 0,
    names: Sequence[str] = (),
    command: str = COMMAND,
) -> Report:
    """Measure our server, and others.

    The command is the one that the report names. Another server that cannot be installed, or that
    fails, is not measured any more.
    """
    figures: list[Figure] = []
    others: list[Subject] = []
    unavailable: dict[str, str] = {}

    def attempt(what: str, experiment: Callable[[Subject], list[Figure]], subject: Subject) -> None:
        click.echo(f"{subject.name}: {what}", err=True)
        try:
            figures.extend(experiment(subject))
        except (WrongResponse, NotRunning, OSError) as error:
            if subject not in others:
                raise
            unavailable[subject.name] = f"{what}: {error}"
            others.remove(subject)

    for server in (one for one in OTHER_SERVERS if {one.name, "all"}.intersection(names)):
        click.echo(f"{server.name}: installed on demand", err=True)
        try:
            others.append(install(server))
        except Unavailable as reason:
            unavailable[server.name] = str(reason)
    versions = {name: version for one in others for name, version in one.versions.items()}
    with floor() as ground:
        for count in sorted(clients):
            for kind in KINDS:
                experiment = partial(waiting, kind=kind, clients=count, floor=ground, rounds=rounds)
                ours = [PUSHLAB, PUSHLAB_BY_FLASK, *([PUSHLAB_VARIED] if kind in VARIED else [])]
                theirs = [one for one in others if one.http or kind is SOCKET]
                for subject in (*ours, *theirs):
                    attempt(f"{count:,} × {kind.cost}", experiment, subject)
    fewest = min(clients)
    with certificate() as files:
        secure = replace(PUSHLAB, command=[*PUSHLAB.command, *files], is_tls=True)
        attempt(f"{fewest:,} over TLS", partial(over_tls, clients=fewest), secure)
    waiting_most = 2 * max(clients)
    slowest = partial(peak, clients=waiting_most, rounds=rounds)
    attempt(f"others' requests beside {waiting_most:,} long polls", slowest, PUSHLAB)
    if max_sockets:
        attempt(f"{max_sockets:,} of each", partial(most, clients=max_sockets), PUSHLAB)
    is_pinned = sys.platform == "linux" and len(os.sched_getaffinity(0)) > 1  # see on_core
    pinned = "server and load generator on a core each" if is_pinned else "on any core"
    circumstances = {"rounds": rounds, "floor": "C", "pinned": pinned}
    return Report(figures, unavailable, {"command": command, **about(**versions), **circumstances})


@contextmanager
def certificate() -> Iterator[list[str]]:
    """Make a certificate; yields the options that name it.

    Raises NotRunning without openssl.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = {"--keyfile": f"{folder}/key.pem", "--certfile": f"{folder}/cert.pem"}
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=bench"]
        command += ["-keyout", files["--keyfile"], "-out", files["--certfile"]]
        try:
            subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - our own
        except (OSError, subprocess.CalledProcessError) as error:
            raise NotRunning(f"no certificate for TLS: {error}") from error
        yield [part for option in files.items() for part in option]


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.option("--clients", type=listed(click.IntRange(1)), multiple=True, metavar="N",
    default=["1000,5000"], help="How many clients of each transport (1000 5000).")  # fmt: skip
@click.option("--rounds", type=click.IntRange(1), default=30, show_default=True, metavar="N",
    help="Rounds of server and floor.")  # fmt: skip
@click.option("--max-sockets", "--most", type=click.IntRange(0), default=0, metavar="N",
    help="At last hold so many clients, as 18000, of each transport in turn.")  # fmt: skip
@other_servers_option("Also measure other servers")
@click.option("--json", "path", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="Write every sample there.")  # fmt: skip
@update_docs_option("Write docs/results/fanout.json; `make figures` then renews the docs.")
@click.pass_context
def benchmark(
    context: click.Context,
    /,
    clients: Sequence[Sequence[int]],
    other_servers: Sequence[str],
    path: Path | None,
    *,
    update_docs: bool,
    **numbers: int,
) -> None:
    """Measure, print the tables, write the results."""
    every = [count for counts in clients for count in counts]
    report = measure(every, names=other_servers, command=context.obj, **numbers)
    print(report.text())
    paths = [path] if path else []
    if update_docs:
        paths.append(PUBLISHED / "fanout.json")
    for each in paths:
        each.write_text(report.as_json())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark with these arguments."""
    arguments = sys.argv[1:] if arguments is None else arguments
    command = shlex.join([*COMMAND.split(), *arguments])
    parsed = separate(arguments, "--clients", "--other-servers", "--peers")
    run(benchmark, parsed, COMMAND, obj=command)
