"""The command line that all of the demo's servers share."""

import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import click
from click.core import ParameterSource

from lab.sources import PACED, SOURCES
from pushlab.hosting import StartupError, workers
from pushlab.hosting.settings import (
    ServerSettings,
    check,
    exit_with,
    is_loopback,
    run_command,
    seconds,
    serving_options,
)

#: The longest round trip that a far port may take, in milliseconds.
FARTHEST = 2000.0


@dataclass(frozen=True)
class Settings(ServerSettings):
    """The settings of a server of the demo."""

    source: str = "clock"  #: whose change one sees, even where the CPU is at 100 %
    pace: float | None = None  #: seconds between two changes; None: irregular
    token: str | None = None
    direct: bool = True  #: whether transports are dispatched without Flask
    far: tuple[float, ...] = (200.0,)  #: round trips in milliseconds
    workers: int = 1  #: processes that serve
    redis: str | None = None  #: the URL of a Redis that several processes share
    controls: bool | None = None  #: whether pages may change the data; None: those of this machine
    classroom: bool = False  #: whether pages are a class's, whose teacher has the controls


def _round_trips(_: Any, __: Any, texts: Sequence[str]) -> tuple[float, ...]:
    for text in texts:
        is_number = re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,3})?", text)
        if text != "none" and not (is_number and 0 < float(text) <= FARTHEST):
            raise click.BadParameter(
                f"{text!r} is neither a number of milliseconds above 0 and up to {FARTHEST:g} "
                "nor none"
            )
    if "none" in texts:
        if len(texts) > 1:
            raise click.BadParameter("none excludes every other --far")
        return ()
    return tuple(dict.fromkeys(map(float, texts))) or Settings.far


@click.command(help="Push changing data to browsers.")
@serving_options
@click.option(
    "--source",
    default=Settings.source,
    type=click.Choice(tuple(SOURCES)),
    show_default=True,
    help="What changes the data.",
)
@click.option(
    "--pace",
    "--every",
    "pace",
    metavar="SECONDS",
    callback=seconds,
    help="A fixed pace. Default: irregular, about 2 seconds.",
)
@click.option(
    "--far",
    multiple=True,
    metavar="MILLISECONDS",
    callback=_round_trips,
    help="Also open a port that is this round trip away; none opens none. Repeatable; 200.",
)
@click.option(
    "--controls/--no-controls",
    default=None,
    help="Let all pages change the data, or none. Default: those of this machine.",
)
@click.option(
    "--class",
    "classroom",
    is_flag=True,
    help="Serve a class: on the network, with the controls for the teacher alone.",
)
@click.option(
    "--workers",
    metavar="N",
    type=click.IntRange(1, 64),
    default=1,
    help="Serve with so many processes, which share the data in Redis.",
)
@click.option(
    "--redis",
    default=lambda: os.environ.get("PUSHLAB_REDIS") or None,
    metavar="URL",
    help="Share the data with other processes; may be set in PUSHLAB_REDIS.",
)
@click.option(
    "--token",
    default=lambda: os.environ.get("PUSHLAB_TOKEN") or None,
    metavar="SECRET",
    help="What POST /data must bring; better set in PUSHLAB_TOKEN.",
)
@click.option(
    "--no-direct",
    "--no-shortcut",
    "direct",
    flag_value=False,
    default=True,
    help="Have Flask dispatch GET /data and /update.",
)
def _command(**options: Any) -> Settings:
    check(options)
    if options["classroom"]:
        options["host"] = _host_of_a_class(options)
    settings = Settings(**options)
    if settings.pace is not None and settings.source not in PACED:
        raise click.UsageError(f"--pace is for load and clock; {settings.source} has its own pace")
    if settings.token and not re.fullmatch(r"[!-~]+", settings.token):
        # Whatever else is in it cannot be sent in a header, or is a line feed too much.
        raise click.UsageError("PUSHLAB_TOKEN or --token: only visible ASCII, without white space")
    if settings.redis is not None and not re.match("(rediss?|unix)://", settings.redis):
        # It may have a password, which is not for a log.
        raise click.UsageError(
            "--redis: this is not the URL of a Redis, like redis://127.0.0.1:6379"
        )
    if settings.workers > 1 and settings.redis is None:
        message = "--workers: each process would have data of its own; add --redis URL"
        raise click.UsageError(message)
    if settings.workers > 1 and settings.source == "stdin":
        raise click.UsageError("--workers: standard input is that of one process")
    if settings.source == "http" and not settings.token and not is_loopback(settings.host):
        raise click.UsageError(
            f"{settings.host} can be reached from other machines, so --source http needs a secret: "
            "set PUSHLAB_TOKEN"
        )
    return settings


def _host_of_a_class(options: Mapping[str, Any]) -> str:
    """Return the address to listen on; may raise UsageError."""
    if options["controls"] is not None:
        raise click.UsageError(
            "--class gives the controls to the teacher, so leave out --controls and --no-controls"
        )
    if options["workers"] > 1:
        raise click.UsageError(
            "--class: one process counts the pages of a class, so leave out --workers"
        )
    is_default = click.get_current_context().get_parameter_source("host") is ParameterSource.DEFAULT
    return "0.0.0.0" if is_default else str(options["host"])  # noqa: S104


def parse(arguments: Sequence[str]) -> Settings:
    """Return the settings that the arguments ask for.

    PUSHLAB_OPTIONS in the environment has options, too, for when the command line is that of
    another server, and PORT has the port; arguments have precedence over both. Exits with status 2
    and one line if an option is wrong.
    """
    program = os.path.basename(sys.argv[0])  # noqa: PTH119 - a name, not a path
    try:
        hosted = shlex.split(os.environ.get("PUSHLAB_OPTIONS", ""))
    except ValueError as error:
        exit_with(f"{program}: PUSHLAB_OPTIONS: {error} (--help lists the options)")
    settings = run_command(_command, [*hosted, *arguments], program)
    assert isinstance(settings, Settings)  # noqa: S101 - click's result has no type
    return settings


def from_command_line(name: str) -> Settings:
    """Return the settings of the program with this `__name__`.

    When another server imports the program, the command line is that server's. A program with
    several --workers is started again for each of them; this process then only looks after them.
    """
    if name != "__main__":
        settings = parse([])
        if settings.classroom:  # which prints the teacher's key
            exit_with("--class is for serve.py, serve2.py and servers/threads.py themselves")
        return settings
    settings = parse(sys.argv[1:])
    if settings.workers == 1:
        return settings
    if workers.is_worker():
        workers.end_with_supervisor()
        port = int(os.environ[workers.PORT])
        # The far ports would be those of one process.
        return replace(settings, port=port, reuse_port=True, far=())
    try:
        workers.supervise(settings.workers, settings.host, settings.port, settings.url)
    except StartupError as error:
        exit_with(str(error))
