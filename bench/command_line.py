"""What the bench's command lines have in common."""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from bench.clients.http import WrongResponse
from bench.environment import about
from bench.fanout.servers import OTHER_SERVERS
from bench.processes import NotRunning
from bench.results import PUBLISHED, as_json

OTHERS = [server.name for server in OTHER_SERVERS]


def run(command: click.Command, arguments: Sequence[str] | None, prog: str, **context: Any) -> Any:
    """Run a command and return what it returns.

    A usage error is one line on stderr and exit status 2; a server that does not start, or gives a
    wrong response, is one line and exit status 1.
    """
    try:
        return command.main(arguments, prog_name=prog, standalone_mode=False, **context)
    except click.ClickException as error:
        message = " ".join(error.format_message().split())
        click.echo(f"{prog}: {message}", err=True)
        sys.exit(2)
    except (NotRunning, WrongResponse, OSError) as error:
        sys.exit(f"{prog}: {error}")


def separate(arguments: Sequence[str], *options: str) -> list[str]:
    """Return the arguments with these options once per value."""
    found: list[str] = []
    last = ""
    for argument in arguments:
        if argument.startswith("-"):
            last, bare = argument, True
        elif last in options:
            found += [] if bare else [last]
            bare = False
        found.append(argument)
    return found


def between(least: float, most: float) -> Callable[[str], float]:
    """Return a type for numbers; click's lets NaN pass."""
    convert = click.FloatRange(least, most)

    def number(value: str) -> float:
        found: float = convert(value)
        if math.isnan(found):
            raise click.BadParameter(f"{value!r} is not a number")
        return found

    return number


def listed(one: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """Return a type for lists such as 10,100, without repetition."""

    def convert(value: str) -> list[Any]:
        return list(dict.fromkeys(one(part.strip()) for part in value.split(",")))

    return convert


def publish(name: str, command: str, found: Mapping[str, Any], **versions: str) -> None:
    """Write docs/results/NAME.json, with command, machine and versions."""
    origin = {"command": f"{command} --update-docs", **about(**versions)}
    (PUBLISHED / f"{name}.json").write_text(as_json({**origin, **found}))


def update_docs_option(text: str) -> Callable[..., Any]:
    """Return the option that writes results into the docs."""
    return click.option("--update-docs", "--write", is_flag=True, help=text)


def other_servers_option(text: str) -> Callable[..., Any]:
    """Return the option that names other servers, or "all"."""
    return click.option(
        "--other-servers",
        "--peers",
        type=click.Choice(["all", *OTHERS]),
        multiple=True,
        is_flag=False,
        flag_value="all",
        metavar="[NAME ...]",
        help=f"{text}: {', '.join(OTHERS)}. All of them unless named.",
    )
